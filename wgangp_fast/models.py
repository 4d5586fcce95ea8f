"""What ``wgangp_fast.training.models`` holds, by its short name."""

from .training.models import *  # noqa: F403 - all of its names
