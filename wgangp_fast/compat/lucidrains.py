"""lucidrains' ``gradient_penalty``: one name in a dozen projects, centred at 1 in some and at 0 in others.

The critic has run already, so autograd differentiates the caller's graph, at stock speed unless the critic is
accelerated (:func:`wgangp_fast.accelerate`). Or call :func:`wgangp_fast.gradient_penalty` or
:func:`wgangp_fast.r1_penalty` with the critic.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import reference
from .shared import Named, check_number, kind, of_graph


def stylegan2_gradient_penalty(
    images: Tensor, output: Tensor, weight: float = 10, center: float = 0.0
) -> Tensor:
    """stylegan2-pytorch: ``weight * mean_i (||d output / d images_i|| - center)^2``, centred at 0.

    Follows stylegan2-pytorch 1.9.0 and later. Releases up to 1.8 are centred at 1, without the argument:
    pass ``center=1``.

    Args:
        images: ``[N, ...]``, requires a gradient.
        output: what the critic made of ``images``.
        weight: lambda, inside.
        center: the gradient norm that costs nothing.
    """
    return _penalty(("images", images), [("output", output)], None, weight, center)


def gigagan_gradient_penalty(
    images: Tensor,
    outputs: Tensor | Sequence[Tensor],
    grad_output_weights: Sequence[float] | None = None,
    weight: float = 10,
    center: float = 0.0,
    scaler: Any = None,
    eps: float = 1e-4,
) -> Tensor:
    """gigagan-pytorch: the gradient of a weighted sum of several outputs, centred at 0.

    Follows gigagan-pytorch 0.3.0 and later. Releases up to 0.2 are centred at 1 and have no ``center``, so
    that ``scaler`` is the fifth argument there: pass ``center=1`` and ``scaler`` by name.

    Args:
        images: ``[N, ...]``, requires a gradient.
        outputs: what the critic made of ``images``: a tensor, or the logits of all scales.
        grad_output_weights: weight of each output; None: 1 each.
        weight: lambda, inside.
        center: the gradient norm that costs nothing.
        scaler: a ``GradScaler``: outputs are scaled before the derivative and it is unscaled after, so that
            half precision does not underflow.
        eps: the least scale that is divided by.
    """
    several = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    if grad_output_weights is not None and len(grad_output_weights) != len(several):
        raise ValueError(
            f"grad_output_weights must hold a weight for each of the {len(several)} outputs; "
            f"got {len(grad_output_weights)}"
        )
    check_number("eps", eps)
    named: list[Named] = [
        (f"outputs[{i}]" if len(several) > 1 else "outputs", output) for i, output in enumerate(several)
    ]
    scale = 1.0
    if scaler is not None:
        for name, output in named:
            if not isinstance(output, Tensor):
                raise TypeError(f"{name} must be a tensor, got {kind(output)}")
        named = [(name, scaler.scale(output)) for name, output in named]
        scale = 1.0 / max(scaler.get_scale(), eps)
    return _penalty(("images", images), named, grad_output_weights, weight, center, scale)


def magvit2_gradient_penalty(images: Tensor, output: Tensor, center: float = 0.0) -> Tensor:
    """magvit2-pytorch: ``mean_i (||d output / d images_i|| - center)^2``, centred at 0, lambda outside.

    Follows magvit2-pytorch 0.5.0 and later; the third argument is ``center``, there is no weight. Releases
    up to 0.4 are centred at 1, without the argument: pass ``center=1``.

    Args:
        images: ``[N, ...]``, requires a gradient.
        output: what the critic made of ``images``.
        center: the gradient norm that costs nothing.
    """
    return _penalty(("images", images), [("output", output)], None, 1.0, center)


def muse_maskgit_gradient_penalty(images: Tensor, output: Tensor, weight: float = 10) -> Tensor:
    """muse-maskgit-pytorch, phenaki-pytorch: ``weight * mean_i (||d output / d images_i|| - 1)^2``.

    Follows muse-maskgit-pytorch up to 0.3.5 and phenaki-pytorch up to 0.5.0 (both the latest when this was
    written), and stylegan2-pytorch before 1.9. Also under the name ``phenaki_gradient_penalty``.

    Args:
        images: ``[N, ...]``, requires a gradient.
        output: what the critic made of ``images``.
        weight: lambda, inside.
    """
    return _penalty(("images", images), [("output", output)], None, weight, 1.0)


phenaki_gradient_penalty = muse_maskgit_gradient_penalty


def lucidrains_gradient_penalty(
    images: Tensor, output: Tensor, weight: float = 10, center: float | None = None
) -> Tensor:
    """``weight * mean_i (||d output / d images_i|| - center)^2`` for a project of lucidrains' that has no
    function of its own here.

    ``center`` says which release is meant. Without it 0 is taken, as in the current releases of
    stylegan2-pytorch, gigagan-pytorch and magvit2-pytorch, and a warning says so: to change an import must
    not change a loss silently.

    Args:
        images: ``[N, ...]``, requires a gradient.
        output: what the critic made of ``images``.
        weight: lambda, inside.
        center: the gradient norm that costs nothing: 0 or 1, as your project's source has it.
    """
    if center is None:
        center = 0.0
        warnings.warn(
            "lucidrains_gradient_penalty: center was not given, and 0 is taken, as in stylegan2-pytorch from "
            "1.9, gigagan-pytorch from 0.3 and magvit2-pytorch from 0.5 on. Their earlier releases, "
            "muse-maskgit-pytorch and phenaki-pytorch have 1. Pass center=0 or center=1, or import the "
            "function of your project: stylegan2_gradient_penalty, gigagan_gradient_penalty, "
            "magvit2_gradient_penalty, muse_maskgit_gradient_penalty or phenaki_gradient_penalty",
            stacklevel=2,
        )
    return _penalty(("images", images), [("output", output)], None, weight, center)


def _penalty(
    images: Named,
    outputs: Sequence[Named],
    output_weights: Sequence[float] | None,
    weight: float,
    center: float,
    scale: float = 1.0,
) -> Tensor:
    check_number("weight", weight)
    check_number("center", center)
    gradient = of_graph(images, outputs, output_weights)
    norm = reference.sample_norm(gradient if scale == 1.0 else gradient * scale)
    return weight * (norm - center).square().mean()
