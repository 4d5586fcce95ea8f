"""The three toy distributions in the plane (paper section 4), and the centres of their modes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

EIGHT_SCALE = 1.414
GRID_SCALE = 2.828
ROLL_SCALE = 7.5
GRID_SET_SIZE = 100_000


class Modes(NamedTuple):
    """Where the mass of a toy distribution is.

    centres: ``[K, 2]``, float32. mode: ``[K]``, int64, the mode that each centre belongs to. sigma: the
    deviation of the noise around a centre along one axis.
    """

    centres: Tensor
    mode: Tensor
    sigma: float


def eight_gaussians(count: int, generator: torch.Generator) -> Tensor:
    """``[count, 2]`` from eight Gaussians on a circle of radius 1.414, sigma .0141."""
    centres = eight_modes().centres
    chosen = torch.randint(0, 8, (count,), generator=generator)
    return centres[chosen] + torch.randn(count, 2, generator=generator) * (0.02 / EIGHT_SCALE)


def eight_modes() -> Modes:
    angle = torch.arange(8) * (math.pi / 4)
    centres = 2.0 * torch.stack([angle.cos(), angle.sin()], dim=1) / EIGHT_SCALE
    return Modes(centres, torch.arange(8), 0.02 / EIGHT_SCALE)


def twenty_five_gaussians(generator: torch.Generator) -> Tensor:
    """The fixed set ``[100000, 2]``: 4000 points around each of the 25 grid points, shuffled once."""
    centres = grid_modes().centres.repeat_interleave(GRID_SET_SIZE // 25, dim=0)
    points = centres + torch.randn(GRID_SET_SIZE, 2, generator=generator) * (0.05 / GRID_SCALE)
    return points[torch.randperm(GRID_SET_SIZE, generator=generator)]


def grid_modes() -> Modes:
    axis = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
    centres = torch.cartesian_prod(axis, axis) / GRID_SCALE
    return Modes(centres, torch.arange(25), 0.05 / GRID_SCALE)


def swiss_roll(count: int, generator: torch.Generator) -> Tensor:
    """``[count, 2]``: scikit-learn's roll seen from the side, noise .25, divided by 7.5."""
    turn = torch.rand(count, generator=generator)
    return _roll(turn) + torch.randn(count, 2, generator=generator) * (0.25 / ROLL_SCALE)


def roll_modes(segments: int = 20, points: int = 2000) -> Modes:
    """The spiral as ``points`` centres in ``segments`` stretches of equal probability."""
    turn = (torch.arange(points) + 0.5) / points
    return Modes(_roll(turn), torch.arange(points) * segments // points, 0.25 / ROLL_SCALE)


def _roll(turn: Tensor) -> Tensor:
    t = 1.5 * math.pi * (1 + 2 * turn)
    return torch.stack([t * t.cos(), t * t.sin()], dim=1) / ROLL_SCALE
