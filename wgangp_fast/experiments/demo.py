"""``wgangp-fast demo``: agreement, speed, digits and toys, in at most five minutes on two cores."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wgangp_fast.errors import UserError
from wgangp_fast.penalty import gradient_penalty
from wgangp_fast.training import Config, Interrupted, models, train
from wgangp_fast.training.quality import quality_line

PROGRAM = "wgangp-fast demo"
AGREEMENT = 1e-10  # largest relative error allowed in float64

CRITICS: dict[str, dict[str, Any]] = {
    "LeakyReLU": {},
    "LeakyReLU, layer norm": {"norm": "layer"},
    "tanh": {"activation": "tanh"},
    "gate, layer norm": {"activation": "gate", "norm": "layer"},
}


@dataclass
class Row:
    """A line of the final table."""

    stage: str
    result: str
    seconds: float


def relative_error(ours: Tensor, stock: Tensor) -> float:
    """``||ours - stock|| / ||stock||``; 0 where both are zero."""
    size = stock.norm().item()
    error = (ours - stock).norm().item()
    return error / size if size else error


def agreement(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[float, float]:
    """Relative errors of the fast penalty's value, and of all its parameter gradients as one vector.

    Args:
        critic: float64.
        real, fake: ``[N, C, H, W]``, float64. alpha: ``[N]``.
    """
    parameters = list(critic.parameters())
    results = []
    for impl in ("auto", "ref"):
        value = gradient_penalty(critic, real, fake, alpha=alpha, impl=impl)
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        results.append((value.detach(), torch.cat([g.flatten() for g in flat])))
    (value, gradient), (stock_value, stock_gradient) = results
    return relative_error(value, stock_value), relative_error(gradient, stock_gradient)


def show_agreement() -> float:
    """Print the errors for four critics; return the largest."""
    print(f"{'DCGAN-64 critic, dim 16, float64, batch 4':<44}{'value':>12}{'gradients':>12}")
    worst = 0.0
    random = torch.Generator().manual_seed(0)
    real, fake = torch.rand(2, 4, 3, 64, 64, generator=random, dtype=torch.float64) * 2 - 1
    alpha = torch.rand(4, generator=random, dtype=torch.float64)
    for name, settings in CRITICS.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            critic = models.build("dcgan64-critic", dim=16, **settings).double()
        errors = agreement(critic, real, fake, alpha)
        print(f"  {name:<42}{errors[0]:>12.1e}{errors[1]:>12.1e}", flush=True)
        worst = max(worst, *errors)
    return worst


def show_speed() -> str:
    """Run the quick benchmark, if this installation has it; return what there is to say."""
    try:
        main = importlib.import_module("wgangp_fast.bench.cli").main
    except ModuleNotFoundError as error:
        print(f"this installation has no {error.name}: no times are shown")
        return f"absent: no {error.name}"
    code = int(main(["--suite", "penalty", "--preset", "quick"]))
    return "see the table above" if code == 0 else f"FAILED with exit code {code}"


# The toys at the scale of a demo: a quarter of the paper's width, and a faster learner, because a demo has
# seconds where the paper has 100,000 iterations.
TOY = {
    "critic_dim": 128,
    "generator_dim": 128,
    "lr": 3e-3,
    "beta1": 0.0,
    "n_critic": 3,
    "ema_kimg": 50.0,
    "threads": 1,
}
TRAININGS: dict[str, dict[str, Any]] = {
    "digits": {"iters": 2000},
    "toy-8gaussians": {**TOY, "iters": 800},
    "toy-25gaussians": {**TOY, "iters": 1500},
}


def show_training(preset: str, outdir: str, penalty: Literal["fast", "stock"], seed: int) -> tuple[str, Path]:
    """Train a preset; return its quality in a sentence, and its run folder."""
    settings = TRAININGS[preset]
    steps = {"tick": settings["iters"] // 20, "snapshot": settings["iters"] // 4}
    path = train(Config(preset=preset, outdir=outdir, penalty=penalty, seed=seed, **{**steps, **settings}))
    return quality_line(
        json.loads((path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    ), path


def pictures_of(path: Path) -> list[Path]:
    """The pictures of a run that are worth a look: the data, the first and last samples, the losses."""
    fakes = sorted(path.glob("fakes_*.png"))
    return [path / "reals.png", fakes[0], fakes[-1], path / "loss.png"]


def run(outdir: str, penalty: Literal["fast", "stock"], seed: int) -> int:
    """The whole demo; 0, or 1 if the penalties disagree or the benchmark failed."""
    rows: list[Row] = []
    pictures: list[Path] = []
    began = time.perf_counter()

    def heading(text: str) -> float:
        print(f"\n== {text}", flush=True)
        return time.perf_counter()

    start = heading("1. the fast penalty and the stock one agree")
    worst = show_agreement()
    verdict = f"largest relative error {worst:.1e}" + (
        "" if worst <= AGREEMENT else f", above {AGREEMENT:g}: FAILED"
    )
    rows.append(Row("agreement, float64", verdict, time.perf_counter() - start))

    start = heading("2. their speed")
    speed = show_speed()
    rows.append(Row("benchmark", speed, time.perf_counter() - start))

    for number, preset in enumerate(TRAININGS, start=3):
        start = heading(f"{number}. training: {preset}")
        if preset.startswith("toy"):
            changed = ", ".join(f"{name} {value}" for name, value in TRAININGS[preset].items())
            print(f"(at the scale of a demo: {changed}; the preset itself is the paper's)")
        quality, path = show_training(preset, outdir, penalty, seed)
        rows.append(Row(preset, quality, time.perf_counter() - start))
        pictures += pictures_of(path)

    heading("pictures")
    print("\n".join(map(str, pictures)))
    heading("result")
    for row in rows:
        print(f"{row.stage:<20}{row.seconds:>6.0f} s  {row.result}")
    print(f"{'all':<20}{time.perf_counter() - began:>6.0f} s")
    return int(any("FAILED" in row.result for row in rows))


def main(argv: Sequence[str]) -> int:
    """The command. Exit codes: 0, 1 a check failed, 2 a mistake of the user, 130 SIGINT."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--outdir", default="demo", help="where the run folders are made (default: demo)")
    parser.add_argument("--penalty", choices=["fast", "stock"], default="fast", help="used in the training")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        return run(arguments.outdir, arguments.penalty, arguments.seed)
    except UserError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 128 + error.signal
