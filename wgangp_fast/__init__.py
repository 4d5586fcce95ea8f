"""The WGAN-GP gradient penalty, exact and fast."""

from .penalty import gradient_penalty

__all__ = ["gradient_penalty"]
__version__ = "0.1.0.dev0"
