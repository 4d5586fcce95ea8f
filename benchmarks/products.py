"""Single products on this CPU: torch's own choice against what plans may choose instead, interleaved.

The numbers behind ``rules/products.py``, ``rules/bilinear.py`` and ``engine/passes/pool_into_conv.py``.

    python benchmarks/products.py [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wgangp_fast import ops
from wgangp_fast.bench.environment import environment
from wgangp_fast.bench.timing import interleave, paired_ratios, spread, warm_up
from wgangp_fast.rules import products

CPU = torch.device("cpu")
ROUNDS = 20
backward = torch.ops.aten.convolution_backward.default
Calls = dict[str, Callable[[], Any]]


def linear(rows: int, inner: int, columns: int) -> Calls:
    """``a @ w.T``: MKL and oneDNN."""
    a, w = torch.randn(rows, inner), torch.randn(columns, inner)
    return {"library": lambda: torch._C._nn.linear(a, w), "chosen": lambda: products.onednn(a, w)}


class Layer:
    """One convolution, its input and its cotangent, contiguous and channels_last."""

    def __init__(
        self, n: int, inner: int, columns: int, size: int, kernel: int, stride: int, padding: int
    ) -> None:
        self.x, self.w = torch.randn(n, inner, size, size), torch.randn(columns, inner, kernel, kernel)
        self.steps = (stride, stride, padding, padding, 1, 1)
        self.geometry = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
        self.g = torch.randn_like(self.convolution(self.x, self.w))
        self.last = [t.contiguous(memory_format=torch.channels_last) for t in (self.x, self.w, self.g)]
        self.own = {
            name: ops.implementation(name, "cpu") for name in ("convolve", "convolve_back", "weight_gradient")
        }

    def convolution(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.convolution(x, w, None, *self.geometry)

    def gradient(self, x: torch.Tensor, w: torch.Tensor, g: torch.Tensor, which: int) -> torch.Tensor:
        return backward(g, x, w, None, *self.geometry, [which == 0, which == 1, False])[which]


def forward(*sizes: int) -> Calls:
    """Contiguous, channels_last throughout, one product of unfolded rows, and the own kernel."""
    layer = Layer(*sizes)
    x, w = layer.x, layer.w
    window = (*w.shape[2:], *layer.steps)
    return {
        "library": lambda: layer.convolution(x, w),
        "channels_last": lambda: layer.convolution(*layer.last[:2]),
        "rows": lambda: products.convolved(x, w, None, window, list(layer.g.shape)),
        "chosen": lambda: layer.own["convolve"](x, w, None, *layer.steps),
    }


def input_gradient(*sizes: int) -> Calls:
    """The same choices for the gradient for the input."""
    layer = Layer(*sizes)
    x, w, g = layer.x, layer.w, layer.g
    window = (*w.shape[2:], *layer.steps)
    return {
        "library": lambda: layer.gradient(x, w, g, 0),
        "channels_last": lambda: layer.gradient(*layer.last, 0),
        "rows": lambda: products.convolved_back(g, w, window, list(x.shape), w.shape[0]),
        "chosen": lambda: layer.own["convolve_back"](g, w, *x.shape[2:], *layer.steps),
    }


def weight_gradient(*sizes: int) -> Calls:
    """The two terms of a weight gradient: two calls, one on concatenated pairs, and the own kernel."""
    layer = Layer(*sizes)
    x, w, g = layer.x, layer.w, layer.g
    _, _, *window = w.shape

    def term() -> torch.Tensor:
        return layer.gradient(x, w, g, 1)

    def last() -> torch.Tensor:
        x, w, g = layer.last
        return layer.gradient(torch.cat([x, x]), w, torch.cat([g, g]), 1)

    return {
        "library": lambda: term().add_(term()),
        "concatenated": lambda: layer.gradient(torch.cat([x, x]), w, torch.cat([g, g]), 1),
        "channels_last": last,
        "chosen": lambda: layer.own["weight_gradient"]([x, x], [g, g], *window, *layer.steps),
    }


def pooled(n: int, inner: int, columns: int, size: int) -> Calls:
    """3 x 3 and mean pooling, and the one strided convolution that does both, its kernel made anew."""
    x, w = torch.randn(n, inner, size, size), torch.randn(columns, inner, 3, 3)
    convolve = ops.implementation("convolve", "cpu")

    def merged() -> torch.Tensor:
        wide = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(w, (1, 1, 1, 1)), 2, 1)
        return convolve(x, wide, None, 2, 2, 1, 1, 1, 1)

    return {
        "library": lambda: torch.nn.functional.avg_pool2d(torch.conv2d(x, w, padding=1), 2),
        "chosen": merged,
    }


# n, input and output channels, side, kernel, stride, padding
LAYERS = [
    (16, 64, 128, 32, 5, 2, 2),
    (16, 128, 256, 16, 5, 2, 2),
    (16, 256, 512, 8, 5, 2, 2),
    (48, 256, 512, 8, 5, 2, 2),
    (16, 32, 64, 32, 5, 2, 2),
    (50, 128, 256, 7, 5, 2, 2),
    (64, 128, 256, 8, 4, 2, 1),
    (16, 64, 64, 16, 3, 1, 1),
]
FIRST = [(16, 3, 64, 64, 5, 2, 2), (50, 1, 64, 28, 5, 2, 2), (64, 3, 64, 32, 4, 2, 1)]


def _title(name: str, sizes: tuple[int, ...]) -> str:
    n, inner, columns, size, kernel, stride, _ = sizes
    return f"{name} {n} x {inner} x {size} x {size} to {columns}, {kernel} x {kernel} / {stride}"


CASES: dict[str, tuple[Callable[..., Calls], tuple[int, ...]]] = {
    "linear 256 x 512 x 512": (linear, (256, 512, 512)),
    "linear 1024 x 512 x 1024": (linear, (1024, 512, 1024)),
    "linear 50 x 1000 x 256": (linear, (50, 1000, 256)),
    "linear 50 x 256 x 256": (linear, (50, 256, 256)),
    **{_title("forward", sizes): (forward, sizes) for sizes in LAYERS},
    **{_title("input gradient", sizes): (input_gradient, sizes) for sizes in LAYERS + FIRST},
    **{_title("weight gradient", sizes): (weight_gradient, sizes) for sizes in LAYERS},
    "3 x 3 and pooling 16 x 32 x 32 x 32 to 64": (pooled, (16, 32, 64, 32)),
    "3 x 3 and pooling 16 x 64 x 16 x 16 to 128": (pooled, (16, 64, 128, 16)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the samples as JSON")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(CPU), "rows": []}
    for name, (make, sizes) in CASES.items():
        torch.manual_seed(0)
        calls = make(*sizes)
        expected = calls["library"]()
        for call in calls.values():
            torch.testing.assert_close(call(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        samples = interleave({key: (call, warm_up(call, CPU)) for key, call in calls.items()}, CPU, ROUNDS)
        ratio = spread(paired_ratios(samples["library"], samples["chosen"]))
        result["rows"].append({"case": name, "seconds": samples, "ratio": ratio})
        ms = {key: 1e3 * spread(values)["median"] for key, values in samples.items()}
        times = "  ".join(f"{key} {value:.3f} ms" for key, value in ms.items())
        print(
            f"{name}: {times}  ratio {ratio['median']:.2f} ({ratio['p10']:.2f}-{ratio['p90']:.2f})",
            flush=True,
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
