"""Training from Python by its short name: ``from wgangp_fast.train import Config, train``."""

from .training import *  # noqa: F403 - all of its names
