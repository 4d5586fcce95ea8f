"""The trainer: ``train(Config(preset="digits"))``."""

from wgangp_fast.training.data import UserError

from .config import Config
from .loop import Diverged, Interrupted, train
from .parallel import ProcessLost
from .presets import PRESETS

__all__ = ["PRESETS", "Config", "Diverged", "Interrupted", "ProcessLost", "UserError", "train"]
