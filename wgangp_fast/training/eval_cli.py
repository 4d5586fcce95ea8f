"""``wgangp-fast eval``: quality of a run's samples as numbers, appended to its metrics.jsonl."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wgangp_fast.cli_arguments import Parser, mistakes, positive
from wgangp_fast.console import complain
from wgangp_fast.errors import UserError
from wgangp_fast.training import data
from wgangp_fast.training.data import Samples
from wgangp_fast.training.metrics.distances import sliced_wasserstein_points
from wgangp_fast.training.metrics.features import Classifier, Network, RandomConvolutions
from wgangp_fast.training.metrics.inception import Inception
from wgangp_fast.training.metrics.quality import judge

from . import folder
from .quality import of_samples
from .report import write_report
from .runs import Run, open_run

PROGRAM = "wgangp-fast eval"
SAMPLES = 10_000
LEAST = 32  # a covariance of fewer samples says nothing


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    found = Parser(prog=PROGRAM, description=__doc__)
    found.add_argument("--run", type=Path, required=True, help="run folder of wgangp-fast train")
    found.add_argument(
        "--num",
        type=positive(int),
        default=SAMPLES,
        help=f"samples of each side, at most (default {SAMPLES})",
    )
    found.add_argument("--data", help="real samples to compare with (default: the run's own)")
    found.add_argument(
        "--features",
        choices=("auto", "random", "classifier"),
        default="auto",
        help="auto: a classifier trained on the data's labels if it has any, else random convolutions",
    )
    found.add_argument("--classifier", type=Path, help="where it is kept (default: beside the run folders)")
    found.add_argument(
        "--inception",
        type=Path,
        help="pt_inception-2015-12-05-6726825d.pth, for the FID and the inception score of the literature",
    )
    found.add_argument("--iteration", type=int, help="which checkpoint (default: the newest)")
    found.add_argument("--last-weights", action="store_true", help="not their moving average")
    found.add_argument("--seed", type=int, default=0, help="of the latents and of the choice of samples")
    found.add_argument("--device", default="auto")
    return found


def real_samples(source: Samples, count: int, seed: int) -> Tensor:
    """``[count, ...]`` different samples: uint8, or float32 in [-1, 1]."""
    total = source.size or count
    rows = torch.randperm(total, generator=data.stream(seed, "judged"))[:count]
    return source.take(rows, data.stream(seed, "judged points"))


def network_for(source: str, shape: tuple[int, ...], asked: argparse.Namespace, run: Run) -> Network:
    """The feature network that the flags ask for.

    Raises:
        UserError: a classifier for data without labels, or a file that is no network.
    """
    if asked.inception is not None:
        return Inception(asked.inception, device=run.device)
    labelled = None if asked.features == "random" else data.labelled(source)
    if labelled is None:
        if asked.features == "classifier":
            raise UserError(f"{source} has no labels to train a classifier on; use --features random")
        return RandomConvolutions(shape[0], shape[1], device=run.device)
    path = asked.classifier or run.path.parent / f"classifier-{data.mark(source)}.pt"
    if path.exists():
        return Classifier.load(path, device=run.device)
    complain(PROGRAM, f"training a classifier on the data's labels, kept in {path}")
    found = Classifier.train(*labelled, device=run.device)
    found.save(path)
    return found


def evaluate(run: Run, asked: argparse.Namespace) -> dict[str, Any]:
    """All measures that suit the run's data.

    Raises:
        UserError: data that cannot be read, or of another shape than the samples.
    """
    config = run.config
    name = asked.data or config.data
    cache = run.path.parent / "prepared"
    source = data.load(name, config.seed, size=run.shape[-1] if run.image else 0, cache=cache)
    if tuple(source.shape) != run.shape:
        raise UserError(
            f"{name} holds samples {list(source.shape)}, the run makes {list(run.shape)}: prepare the data "
            f"with --size {run.shape[-1]}, or leave --data out"
        )
    count = min(asked.num, source.size or asked.num)
    if count < LEAST:
        raise UserError(f"{count} samples are too few to compare: at least {LEAST} of each side are needed")
    found = of_samples(name, lambda number: run.draw(number, asked.seed))
    if found:  # counted on samples of their own number
        found["counted_samples"] = found.pop("samples")
    real, fake = real_samples(source, count, asked.seed), run.draw(count, asked.seed)
    if run.image:
        found |= judge(real, fake, network_for(name, run.shape, asked, run), seed=asked.seed)
    else:
        found |= {"sliced_wasserstein": sliced_wasserstein_points(real, fake, seed=asked.seed)}
    return found


@mistakes(PROGRAM)
def main(argv: Sequence[str]) -> int:
    """The command; its last line is the result as JSON. Exit codes: 0, 2 a mistake of the user."""
    asked = parser().parse_args(argv)
    run = open_run(asked.run, device=asked.device, iteration=asked.iteration, average=not asked.last_weights)
    for text in run.complaints:
        complain(PROGRAM, f"{text}: an older checkpoint is taken")
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    found = {
        "iteration": run.iteration,
        "date": now,
        "data": asked.data or run.config.data,
        "average": run.average,
        **evaluate(run, asked),
    }
    for name, value in found.items():
        text = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{name:<28} {text}")
    try:
        folder.append_line(run.path / "metrics.jsonl", found)
        write_report([run.path], run.path / "report.html")
    except OSError as error:
        raise UserError(f"cannot write into {run.path} ({error.strerror or error})") from None
    print(json.dumps(found))
    return 0
