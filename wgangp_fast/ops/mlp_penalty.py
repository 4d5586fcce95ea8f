"""The whole gradient penalty of an MLP critic: one launch forward, one backward.

Gulrajani et al. 2017, equation 3: ``(||grad_x D(x)||_2 - 1)^2`` at ``x = fake + alpha*(real - fake)``,
for a critic ``D`` of 1 to 6 linear layers with one piecewise-linear or tanh activation between them, and
dropout masks that are given. Layer l, counted from 0, of L::

    u_l = a_{l-1} W_l^T + b_l      h_l = f(u_l)      a_l = h_l * mask_l      a_{-1} = x      score = u_{L-1}

``R`` is the number of rows (``N / pac``), ``D0 = pac * D`` the first layer's input width, ``S`` the sum of
the hidden widths. Tensors ``[R, S]`` hold the hidden layers' columns side by side, the first layer's first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import backend
from ..errors import BackendError
from .interpolate import uniform
from .registry import acc, implementation, operation

IDENTITY, RELU, LEAKY_RELU, TANH = range(4)
MAX_LAYERS = 6
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class MlpPenalty(NamedTuple):
    """What :func:`mlp_penalty` returns; acc is float64 for float64, else float32."""

    value: Tensor  #: acc; ``[R]`` (reduction 0) or ``[]``
    norm: Tensor  #: acc ``[R]``, of the gradient
    slope: Tensor  #: acc ``[R]``: d value / d gradient = slope * gradient (reduction 2: divided by R)
    alpha: Tensor  #: ``[R]``, the weights of the real rows that were used
    x: Tensor  #: ``[R, D0]``
    gradient: Tensor  #: ``[R, D0]``, of the score
    h: Tensor  #: ``[R, S]``, ``f(u_l)`` BEFORE the mask
    g: Tensor  #: ``[R, S]``, cotangents of ``u_l``; the score's is 1


def mlp_penalty(
    real: Tensor,
    fake: Tensor,
    alpha: Tensor | None,
    seed: int,
    offset: int,
    pac: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
    act: int,
    negative_slope: float = 0.01,
    target: float = 1.0,
    one_sided: bool = False,
    reduction: int = 2,
    *,
    impl: str = "auto",
) -> MlpPenalty:
    """Penalty, input gradient and what the backward needs, of an MLP critic.

    Args:
        real: ``[N, D]``, contiguous, one floating dtype; ``pac`` rows in a row make one sample.
        fake: shape and dtype of ``real``.
        alpha: ``[R]``, dtype of ``real``; None draws it from Philox at ``seed`` and ``offset``, one a row.
        weights: L tensors ``[W_l, W_{l-1}]``, contiguous, ``W_{-1} = D0``; the last has one row.
        biases: L tensors ``[W_l]`` or None; the last moves the score alone and is not read.
        masks: L-1 multipliers ``[R, W_l]`` behind the activations (dropout, already scaled), or None; a
            last one, behind the score, may be there and is None.
        act: 0 identity, 1 relu, 2 leaky_relu, 3 tanh.
        negative_slope: of leaky_relu; at least 0, so that the sign of ``h`` tells the side.
        target: the norm that costs nothing.
        one_sided: penalise only norms above ``target``.
        reduction: 0 none, 1 sum, 2 mean.
        impl: ``"ref"``, ``"cuda"``, ``"triton"``, or ``"auto"``, which takes the reference for float64 and
            on a CPU.

    Raises:
        ValueError: a shape, dtype, device or setting that is not as above; names the argument.
        BackendError: a backend asked for by name has no kernel for these tensors.
    """
    check_arguments(real, fake, alpha, pac, weights, biases, masks, act, negative_slope, reduction)
    run = implementation("mlp_penalty", _backend("mlp_penalty", impl, real))
    outputs = run(
        real, fake, alpha, seed, offset, pac, weights, biases, masks, act, negative_slope, target, one_sided,
        reduction,
    )  # fmt: skip
    return MlpPenalty(*outputs)


def mlp_penalty_backward(
    incoming: Tensor,
    slope: Tensor,
    gradient: Tensor,
    h: Tensor,
    g: Tensor,
    weights: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    act: int,
    negative_slope: float = 0.01,
    *,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Tangents and adjoints of :func:`mlp_penalty`; the caller makes the weight gradients of them.

    Args:
        incoming: cotangent of the value, ``[]`` or ``[R]``, any floating dtype.
        slope: as :func:`mlp_penalty` returned it.
        gradient: as :func:`mlp_penalty` returned it.
        h: as :func:`mlp_penalty` returned it.
        g: as :func:`mlp_penalty` returned it.
        weights: those that :func:`mlp_penalty` was given.
        masks: those that :func:`mlp_penalty` was given.
        act: that of the forward pass.
        negative_slope: that of the forward pass.

    Returns:
        ``t [R, D0 + S]``: the seed ``gradient * slope * incoming``, then the tangent of ``a_l`` for each
        hidden layer; ``c [R, S]``: the adjoints of ``u_l`` for tanh, ``[0]`` for the others, whose second
        derivative is zero. With ``t_{-1}`` the seed, ``g_{L-1} = 1`` and ``c_{L-1} = 0``:
        ``dW_l = g_l^T t_{l-1} + c_l^T a_{l-1}``, ``db_l = sum c_l``.
    """
    check_layers(gradient.shape[0], gradient, weights, masks, act, negative_slope)
    run = implementation("mlp_penalty_backward", _backend("mlp_penalty_backward", impl, gradient))
    return run(incoming, slope, gradient, h, g, weights, masks, act, negative_slope)


@operation(
    "mlp_penalty(Tensor real, Tensor fake, Tensor? alpha, int seed, int offset, int pac, Tensor[] weights, "
    "Tensor?[] biases, Tensor?[] masks, int act, float negative_slope, float target, bool one_sided, "
    "int reduction) -> (Tensor value, Tensor norm, Tensor slope, Tensor alpha, Tensor x, Tensor gradient, "
    "Tensor h, Tensor g)"
)
def mlp_penalty_ref(
    real: Tensor,
    fake: Tensor,
    alpha: Tensor | None,
    seed: int,
    offset: int,
    pac: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
    act: int,
    negative_slope: float,
    target: float,
    one_sided: bool,
    reduction: int,
) -> tuple[Tensor, ...]:
    """The meaning of :func:`mlp_penalty`, in torch's operators."""
    wide = acc(real.dtype)
    rows = real.shape[0] // pac
    width = real.shape[1] * pac
    real, fake = real.reshape(rows, width), fake.reshape(rows, width)
    if alpha is None:
        alpha = uniform(seed, offset, rows, real.dtype, real.device)
    r, f = real.to(wide), fake.to(wide)
    x = (f + alpha.to(wide)[:, None] * (r - f)).to(real.dtype)

    hidden = len(weights) - 1
    a, h = x, []
    for weight, bias, mask in zip(weights[:hidden], biases[:hidden], masks[:hidden]):
        h.append(_activation(torch.nn.functional.linear(a, weight, bias), act, negative_slope))
        a = h[-1] if mask is None else h[-1] * mask

    cotangent, g = weights[-1].expand(rows, -1), []
    for weight, mask, y in reversed(list(zip(weights[:hidden], masks[:hidden], h))):
        cotangent = cotangent if mask is None else cotangent * mask
        g.append(cotangent * _derivative(y, act, negative_slope))
        cotangent = g[-1] @ weight

    gradient = cotangent.contiguous()
    norm = gradient.to(wide).square().sum(1).sqrt()
    if target == 0:
        penalty, slope = norm.square(), torch.full_like(norm, 2.0)
    else:
        excess = (norm - target).clamp(min=0) if one_sided else norm - target
        penalty, slope = excess.square(), (2 * excess / norm).masked_fill(norm == 0, 0)
    if reduction == 2:
        slope = slope / rows
    value = (penalty, penalty.sum(), penalty.mean())[reduction]
    none = real.new_empty(rows, 0)
    blocks = torch.cat([*h, none], 1), torch.cat([*reversed(g), none], 1)
    return value, norm, slope, alpha.clone(), x, gradient, *blocks


@operation(
    "mlp_penalty_backward(Tensor incoming, Tensor slope, Tensor gradient, Tensor h, Tensor g, "
    "Tensor[] weights, Tensor?[] masks, int act, float negative_slope) -> (Tensor t, Tensor c)"
)
def mlp_penalty_backward_ref(
    incoming: Tensor,
    slope: Tensor,
    gradient: Tensor,
    h: Tensor,
    g: Tensor,
    weights: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    act: int,
    negative_slope: float,
) -> tuple[Tensor, Tensor]:
    """The meaning of :func:`mlp_penalty_backward`, in torch's operators."""
    factor = slope * incoming.to(slope.dtype)
    tangent = (gradient.to(slope.dtype) * factor[:, None]).to(gradient.dtype)
    hidden = len(weights) - 1
    widths = [weight.shape[0] for weight in weights[:hidden]]
    layers = list(zip(weights, masks, h.split(widths, 1), g.split(widths, 1))) if hidden else []

    t, curvature = [tangent], []
    for weight, mask, y, cotangent in layers:
        moved = torch.nn.functional.linear(tangent, weight)
        # f''/f' = -2y for tanh, and g_l already has f': no division
        curvature.append(-2 * y * cotangent * moved)
        tangent = moved * _derivative(y, act, negative_slope)
        tangent = tangent if mask is None else tangent * mask
        t.append(tangent)
    if act != TANH:
        return torch.cat(t, 1), gradient.new_empty(0)

    c: list[Tensor] = []
    for index in reversed(range(hidden)):
        adjoint = curvature[index]
        if c:
            _, mask, y, _ = layers[index]
            carried = c[-1] @ weights[index + 1]
            carried = carried if mask is None else carried * mask
            adjoint = adjoint + carried * _derivative(y, act, negative_slope)
        c.append(adjoint)
    return torch.cat(t, 1), torch.cat([*reversed(c), gradient.new_empty(gradient.shape[0], 0)], 1)


def _activation(u: Tensor, act: int, negative_slope: float) -> Tensor:
    if act == LEAKY_RELU:
        return torch.nn.functional.leaky_relu(u, negative_slope)
    return (u, u.relu(), u, u.tanh())[act]


def _derivative(y: Tensor, act: int, negative_slope: float) -> Tensor:
    """f'(u) from y = f(u)."""
    if act == IDENTITY:
        return torch.ones_like(y)
    if act == TANH:
        return 1 - y * y
    return torch.full_like(y, 0.0 if act == RELU else negative_slope).masked_fill(y > 0, 1.0)


def _backend(name: str, impl: str, tensor: Tensor) -> str:
    """The backend to run: kernels exist for GPUs and :data:`KERNEL_DTYPES`; ``auto`` falls back."""
    impl, source = backend.named(impl)
    fits = tensor.dtype in KERNEL_DTYPES and impl != "cpu"
    if impl == "auto" and (not fits or tensor.device.type == "cpu"):
        return "ref"
    if impl not in ("auto", "ref") and not fits:
        raise BackendError(
            f"{source}={impl!r}: {name} has kernels of 'cuda' and 'triton', for float32, float16 and "
            f"bfloat16; got {tensor.dtype} on {tensor.device}. Use impl='auto' or impl='ref'."
        )
    return backend.pick(name, impl, tensor.device)


def check_arguments(
    real: Tensor,
    fake: Tensor,
    alpha: Tensor | None,
    pac: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
    act: int,
    negative_slope: float,
    reduction: int,
) -> None:
    """Raise ValueError where an argument is not as :func:`mlp_penalty` says."""
    if real.dim() != 2 or not real.is_floating_point():
        raise ValueError(f"real must be [N, D] of a floating dtype; got {_describe(real)}")
    _expect("fake", fake, real.shape, real)
    if pac < 1 or real.shape[0] % pac:
        raise ValueError(f"pac must divide the batch; got pac={pac} for {real.shape[0]} samples")
    rows = real.shape[0] // pac
    if alpha is not None:
        _expect("alpha", alpha, (rows,), real)
    if reduction not in (0, 1, 2):
        raise ValueError(f"reduction must be 0 (none), 1 (sum) or 2 (mean); got {reduction}")
    check_layers(rows, real.new_empty(0, real.shape[1] * pac), weights, masks, act, negative_slope)
    if len(biases) != len(weights):
        raise ValueError(f"biases must have an entry a layer, {len(weights)}; got {len(biases)}")
    for index, (weight, bias) in enumerate(zip(weights, biases)):
        if bias is not None:
            _expect(f"biases[{index}]", bias, (weight.shape[0],), real)


def check_layers(
    rows: int,
    like: Tensor,
    weights: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    act: int,
    negative_slope: float,
) -> None:
    """Raise ValueError where the layers do not fit ``like [*, D0]`` and ``rows``."""
    if not 1 <= len(weights) <= MAX_LAYERS:
        raise ValueError(f"weights must have 1 to {MAX_LAYERS} layers; got {len(weights)}")
    hidden = len(weights) - 1
    if len(masks) not in (hidden, hidden + 1) or any(mask is not None for mask in masks[hidden:]):
        raise ValueError(f"masks must have an entry a hidden layer, {hidden}; got {len(masks)}")
    if act not in range(4):
        raise ValueError(f"act must be 0 identity, 1 relu, 2 leaky_relu or 3 tanh; got {act}")
    if act == LEAKY_RELU and negative_slope < 0:
        raise ValueError(f"negative_slope must be at least 0; got {negative_slope}")
    width = like.shape[1]
    for index, weight in enumerate(weights):
        out = weight.shape[0] if weight.dim() == 2 and index < len(weights) - 1 else 1
        _expect(f"weights[{index}]", weight, (out, width), like)
        width = out
    for index, mask in enumerate(masks):
        if mask is not None:
            _expect(f"masks[{index}]", mask, (rows, weights[index].shape[0]), like)


def _expect(name: str, tensor: Tensor, shape: Sequence[int], like: Tensor) -> None:
    same = tensor.dtype == like.dtype and tensor.device == like.device
    if tuple(tensor.shape) != tuple(shape) or not same or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be a contiguous {list(shape)} of {like.dtype} on {like.device}; "
            f"got {_describe(tensor)}"
        )


def _describe(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {tensor.dtype} on {tensor.device}, strides {list(tensor.stride())}"
