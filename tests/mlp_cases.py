"""MLP critics for the tests of mlp_penalty: settings, inputs, and the stock penalty of autograd."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = {"identity": 0, "relu": 1, "leaky_relu": 2, "tanh": 3}
SLOPE = 0.2


@dataclass(frozen=True)
class Case:
    """One critic and its penalty; ``widths`` are the hidden layers'."""

    act: str = "leaky_relu"
    features: int = 5
    widths: tuple[int, ...] = (16, 33)
    batch: int = 20
    pac: int = 1
    masks: bool = False
    bias: bool = True
    given_alpha: bool = True
    target: float = 1.0
    one_sided: bool = False
    reduction: int = 2

    @property
    def rows(self) -> int:
        return self.batch // self.pac

    def __str__(self) -> str:
        parts = [self.act, "x".join(map(str, (self.features, *self.widths))), f"b{self.batch}p{self.pac}"]
        parts += ["masks"] * self.masks + ["nobias"] * (not self.bias) + ["drawn"] * (not self.given_alpha)
        parts += [f"t{self.target:g}"] * (self.target != 1) + ["onesided"] * self.one_sided
        return "-".join([*parts, f"r{self.reduction}"])


REFERENCE_CASES = (
    *(Case(act=act) for act in ACTIVATIONS),
    *(Case(act=act, widths=(16, 9), masks=True, batch=40, pac=10) for act in ACTIVATIONS),
    *(Case(act="tanh", widths=(7,) * hidden, masks=hidden > 2) for hidden in range(6)),
    Case(act="relu", widths=()),
    Case(act="relu", widths=(16, 7, 12), target=0.0, reduction=1),
    Case(act="tanh", target=0.0, reduction=0, masks=True),
    Case(act="leaky_relu", target=0.1, one_sided=True, reduction=0),
    Case(act="tanh", target=0.4, one_sided=True, reduction=1),
    Case(act="relu", given_alpha=False, bias=False),
    Case(act="tanh", given_alpha=False, masks=True, batch=30, pac=10),
)


def arguments(case: Case, dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The arguments of mlp_penalty; every dtype gets the same numbers, rounded to bfloat16 first."""
    draw = torch.Generator().manual_seed(1234 + len(str(case)))

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=draw).to(torch.bfloat16)
        return values.to(device, dtype)

    sizes = [case.pac * case.features, *case.widths, 1]
    weights = [(normal(out, width) * (1.4 / width**0.5)) for width, out in pairwise(sizes)]
    weights = [weight.to(torch.bfloat16).to(dtype) for weight in weights]
    biases = [normal(width) * 0.5 if case.bias else None for width in sizes[1:]]
    masks: list[Tensor | None] = [None] * len(case.widths)
    if case.masks:  # the last hidden layer has none where there are several, so both kinds meet
        count = max(1, len(masks) - 1)
        masks[:count] = [(normal(case.rows, width) > -0.6).to(dtype) * 1.25 for width in case.widths[:count]]
    return {
        "real": normal(case.batch, case.features),
        "fake": normal(case.batch, case.features) * 0.5,
        "alpha": torch.rand(case.rows, generator=draw).to(torch.bfloat16).to(device, dtype)
        if case.given_alpha
        else None,
        "seed": -0x1234567890ABCDEF,
        "offset": 0x1_0000_0007,
        "pac": case.pac,
        "weights": weights,
        "biases": biases,
        "masks": masks,
        "act": ACTIVATIONS[case.act],
        "negative_slope": SLOPE,
        "target": case.target,
        "one_sided": case.one_sided,
        "reduction": case.reduction,
    }


def incoming_of(case: Case, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    draw = torch.Generator().manual_seed(77)
    shape = (case.rows,) if case.reduction == 0 else ()
    return (torch.randn(shape, generator=draw) + 0.5).to(device, dtype)


def weight_gradients(
    settings: dict[str, Any], outputs: tuple[Tensor, ...], t: Tensor, c: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """(dW, db) as the docstring of mlp_penalty_backward assembles them."""
    weights, masks = settings["weights"], [*settings["masks"], None]
    _, _, _, _, x, _, h, g = outputs
    widths = [weight.shape[0] for weight in weights[:-1]]
    tangents = t.split([weights[0].shape[1], *widths], 1)
    activations = (
        [x, *(y if m is None else y * m for y, m in zip(h.split(widths, 1), masks))] if widths else [x]
    )
    cotangents = [*(g.split(widths, 1) if widths else ()), torch.ones_like(x[:, :1])]
    smooth = settings["act"] == ACTIVATIONS["tanh"] and bool(widths)
    adjoints: list[Any] = [*(c.split(widths, 1) if smooth else [None] * len(widths)), None]
    dw, db = [], []
    for tangent, activation, cotangent, adjoint, weight in zip(
        tangents, activations, cotangents, adjoints, weights
    ):
        product = cotangent.T @ tangent
        dw.append(product if adjoint is None else product + adjoint.T @ activation)
        db.append(weight.new_zeros(len(weight)) if adjoint is None else adjoint.sum(0))
    return dw, db


def stock(settings: dict[str, Any], alpha: Tensor, incoming: Tensor) -> dict[str, Any]:
    """Value, input gradient and parameter gradients by double backward, in the settings' dtype."""

    def leaf(tensor: Tensor | None) -> Any:
        return None if tensor is None else tensor.detach().clone().requires_grad_()

    weights, biases = [leaf(w) for w in settings["weights"]], [leaf(b) for b in settings["biases"]]
    rows = len(alpha)
    real, fake = (settings[name].reshape(rows, -1) for name in ("real", "fake"))
    x = (alpha[:, None] * real + (1 - alpha[:, None]) * fake).requires_grad_()
    a = x
    functions = [
        lambda u: u,
        torch.relu,
        lambda u: torch.nn.functional.leaky_relu(u, settings["negative_slope"]),
        torch.tanh,
    ]
    for weight, bias, mask in zip(weights[:-1], biases[:-1], settings["masks"]):
        a = functions[settings["act"]](torch.nn.functional.linear(a, weight, bias))
        a = a if mask is None else a * mask
    score = torch.nn.functional.linear(a, weights[-1], biases[-1])
    (gradient,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    norm = gradient.norm(dim=1)
    excess = norm - settings["target"]
    if settings["one_sided"] and settings["target"] != 0:
        excess = excess.clamp(min=0)
    penalty = excess**2
    value = (penalty, penalty.sum(), penalty.mean())[settings["reduction"]]
    leaves = [leaf for leaf in [*weights, *biases] if leaf is not None]
    grads = list(
        torch.autograd.grad((value * incoming).sum(), leaves, allow_unused=True, materialize_grads=True)
    )
    dw = [grads.pop(0) for _ in weights]
    db = [grads.pop(0) if bias is not None else None for bias in biases]
    return {"value": value, "norm": norm, "gradient": gradient, "x": x, "dw": dw, "db": db}
