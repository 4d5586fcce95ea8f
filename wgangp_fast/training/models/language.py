"""Character networks: residual one-dimensional convolutions (Gulrajani et al. 2017, gan_language.py).

A batch of lines is ``[N, channels, size]``: ``channels`` characters of the vocabulary (one-hot where the line
is real, probabilities where it is generated), ``size`` positions. The released code has the last two axes
the other way round.
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import conv1d, linear
from .residual import CharacterBlock


class LanguageCritic(nn.Module):
    """``[N, channels, size] -> [N]``: 1x1 convolution, ``depth`` blocks of ``dim`` channels, linear."""

    def __init__(self, *, channels: int = 100, size: int = 32, dim: int = 512, depth: int = 5) -> None:
        super().__init__()
        blocks = [CharacterBlock(dim) for _ in range(depth)]
        self.features = nn.Sequential(conv1d(channels, dim, 1), *blocks)
        self.score = linear(size * dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.features(x).flatten(1)).squeeze(1)


class LanguageGenerator(nn.Module):
    """``[N, latent] -> [N, channels, size]``, at every position a softmax over the vocabulary.

    The critic sees the probabilities themselves; ``argmax(1)`` decodes them.
    """

    low = 0.0

    def __init__(
        self, *, channels: int = 100, size: int = 32, dim: int = 512, depth: int = 5, latent: int = 128
    ) -> None:
        super().__init__()
        self.start = (dim, size)
        self.project = linear(latent, dim * size)
        blocks = [CharacterBlock(dim) for _ in range(depth)]
        self.layers = nn.Sequential(*blocks, conv1d(dim, channels, 1), nn.Softmax(dim=1))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.project(z).unflatten(1, self.start))
