"""Single products on this CPU: torch's own choice against what plans may choose instead, interleaved.

The numbers behind ``wgangp_fast/rules/products.py`` and the weight gradients of ``rules/bilinear.py``.

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
ROUNDS = 40
GEOMETRY = ([2, 2], [2, 2], [1, 1], False, [0, 0], 1)
backward = torch.ops.aten.convolution_backward.default
Pair = dict[str, Callable[[], Any]]


def linear(rows: int, inner: int, columns: int) -> Pair:
    """``a @ w.T``: MKL and oneDNN."""
    a, w = torch.randn(rows, inner), torch.randn(columns, inner)
    return {"library": lambda: torch._C._nn.linear(a, w), "chosen": lambda: products.onednn(a, w)}


def convolution(n: int, inner: int, columns: int, size: int) -> Pair:
    """5 x 5, stride 2: the library's convolution, and one product of unfolded rows."""
    x, w = torch.randn(n, inner, size, size), torch.randn(columns, inner, 5, 5)
    unfold = ops.implementation("unfold_rows", "cpu")

    def rows() -> torch.Tensor:
        y = products.onednn(unfold(x, 5, 5, 2, 2, 2, 2, 1, 1), w.reshape(columns, -1))
        return y.reshape(n, -1, columns).transpose(1, 2).reshape(n, columns, size // 2, size // 2)

    return {"library": lambda: torch.convolution(x, w, None, *GEOMETRY), "chosen": rows}


def weight_gradient(n: int, inner: int, columns: int, size: int) -> Pair:
    """The two terms of a weight gradient: two calls and their sum, and one call on concatenated pairs."""
    x, w = torch.randn(2, n, inner, size, size), torch.randn(columns, inner, 5, 5)
    g = torch.randn(2, n, columns, size // 2, size // 2)

    def one(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return backward(g, x, w, None, *GEOMETRY, [False, True, False])[1]

    return {
        "library": lambda: one(x[0], g[0]).add_(one(x[1], g[1])),
        "chosen": lambda: one(torch.cat([x[0], x[1]]), torch.cat([g[0], g[1]])),
    }


CASES: dict[str, tuple[Callable[..., Pair], tuple[int, ...]]] = {
    "linear 256 x 512 x 512": (linear, (256, 512, 512)),
    "linear 1024 x 512 x 1024": (linear, (1024, 512, 1024)),
    "linear 50 x 1000 x 256": (linear, (50, 1000, 256)),
    "linear 50 x 256 x 256": (linear, (50, 256, 256)),
    "convolution 16 x 256 x 8 x 8 to 512": (convolution, (16, 256, 512, 8)),
    "convolution 16 x 128 x 8 x 8 to 256": (convolution, (16, 128, 256, 8)),
    "convolution 16 x 128 x 16 x 16 to 256": (convolution, (16, 128, 256, 16)),
    "weight gradient 16 x 256 x 8 x 8 to 512": (weight_gradient, (16, 256, 512, 8)),
    "weight gradient 16 x 64 x 32 x 32 to 128": (weight_gradient, (16, 64, 128, 32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the samples as JSON")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(CPU), "rows": []}
    for name, (make, sizes) in CASES.items():
        torch.manual_seed(0)
        calls = make(*sizes)
        found, expected = calls["chosen"](), calls["library"]()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        samples = interleave({key: (call, warm_up(call, CPU)) for key, call in calls.items()}, CPU, ROUNDS)
        ratio = spread(paired_ratios(samples["library"], samples["chosen"]))
        result["rows"].append({"case": name, "seconds": samples, "ratio": ratio})
        ms = {key: 1e3 * spread(values)["median"] for key, values in samples.items()}
        print(
            f"{name:<42}library {ms['library']:8.3f} ms  chosen {ms['chosen']:8.3f} ms  ratio "
            f"{ratio['median']:.2f} ({ratio['p10']:.2f}-{ratio['p90']:.2f})"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
