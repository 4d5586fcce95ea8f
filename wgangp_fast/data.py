"""What ``wgangp_fast.training.data`` holds, by its short name."""

from .training.data import *  # noqa: F403 - all of its names
