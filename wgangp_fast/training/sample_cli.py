"""``wgangp-fast sample``: pictures, arrays or the weights of a run's generator."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgangp_fast.cli_arguments import Parser, mistakes, positive
from wgangp_fast.console import complain
from wgangp_fast.errors import UserError
from wgangp_fast.files import write_whole
from wgangp_fast.optional_dependencies import require
from wgangp_fast.training.metrics.quality import to_pixels

from . import pictures
from .recorder import class_columns
from .runs import Run, open_run

PROGRAM = "wgangp-fast sample"
STEPS = 8  # pictures in a strip, its ends included
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    found = Parser(prog=PROGRAM, description=__doc__)
    found.add_argument("--run", type=Path, required=True, help="run folder of wgangp-fast train")
    found.add_argument(
        "--out",
        type=Path,
        help="a picture (.png: one sheet), an array (.npy), or a folder for one PNG a sample",
    )
    found.add_argument("--num", type=positive(int), default=64, help="samples, or strips (default 64)")
    found.add_argument("--seed", type=int, default=0, help="of the latents")
    found.add_argument(
        "--label", type=int, help="of all samples (default: each class in turn, if the run has classes)"
    )
    found.add_argument("--truncation", type=positive(float), help="redraw latents beyond this many sigma")
    found.add_argument(
        "--interpolate", action="store_true", help=f"NUM strips of {STEPS}, each from one latent to another"
    )
    found.add_argument("--export", type=Path, help="write the generator's weights as .safetensors")
    found.add_argument("--iteration", type=int, help="which checkpoint (default: the newest)")
    found.add_argument("--last-weights", action="store_true", help="not their moving average")
    found.add_argument("--device", default="auto")
    return found


def strips(run: Run, count: int, seed: int, truncation: float | None) -> Tensor:
    """Latents ``[count * STEPS, latent]``: each strip on the great circle from one latent to another, where
    the norms that the generator was trained on are."""
    a, b = run.latents(2 * count, seed, truncation).chunk(2)  # [count, latent] each
    share = torch.linspace(0, 1, STEPS).view(1, -1, 1)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-0.9999, 0.9999)
    angle = cosine.acos().view(-1, 1, 1)
    first, second = a.unsqueeze(1), b.unsqueeze(1)
    z = (((1 - share) * angle).sin() * first + (share * angle).sin() * second) / angle.sin()
    return z.flatten(0, 1)


def strip_labels(run: Run, count: int, label: int | None) -> Tensor | None:
    """``[count * STEPS]``: one label a strip, the given one or all in turn; None where there are no classes.

    Raises:
        UserError: a label that the generator does not know.
    """
    if label is not None:
        run.check_label(label)
        return torch.full((count * STEPS,), label)
    return (torch.arange(count) % run.classes).repeat_interleave(STEPS) if run.classes else None


def write(run: Run, samples: Tensor, out: Path, columns: int | None) -> None:
    """Write samples as the ending of ``out`` says.

    Raises:
        UserError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix.lower() == ".npy":
            write_whole(out, lambda file: np.save(file, samples.numpy()))
        elif out.suffix.lower() in PICTURES:
            if run.image:
                pictures.image_grid(out, samples, columns)
            else:
                pictures.points(out, f"{run.path.name}: iteration {run.iteration}", samples)
        elif out.suffix:
            raise UserError(
                f"--out {out}: the ending must be {', '.join(PICTURES)} or .npy, or none (a folder)"
            )
        elif not run.image:
            raise UserError(f"--out {out}: points have no folder of pictures; use .png or .npy")
        else:
            out.mkdir(exist_ok=True)
            for index, image in enumerate(to_pixels(samples)):
                pictures.write_png(out / f"{index:06d}.png", image)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error})") from None


def export(run: Run, out: Path) -> None:
    """Write the generator's weights, float32 on the CPU, with the settings that rebuild it as metadata.

    Raises:
        UserError: safetensors is not installed, or the file cannot be written.
    """
    config = run.config
    names = ("generator", "generator_dim", "generator_norm", "latent", "preset")
    metadata = {name: str(getattr(config, name)) for name in names}
    metadata |= {"shape": str(list(run.shape)), "iteration": str(run.iteration)}
    weights = {name: value.cpu().contiguous() for name, value in run.generator.state_dict().items()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        content = require("safetensors.torch").save(weights, metadata=metadata)
        write_whole(out, lambda file: file.write(content))
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error})") from None


@mistakes(PROGRAM)
def main(argv: Sequence[str]) -> int:
    """The command; prints what it wrote, a line each. Exit codes: 0, 2 a mistake of the user."""
    asked = parser().parse_args(argv)
    if asked.out is None and asked.export is None:
        raise UserError("nothing to do: give --out FILE.png, or --export FILE.safetensors")
    run = open_run(asked.run, device=asked.device, iteration=asked.iteration, average=not asked.last_weights)
    for text in run.complaints:
        complain(PROGRAM, f"{text}: an older checkpoint is taken")
    if asked.out is not None:
        if asked.interpolate:
            z = strips(run, asked.num, asked.seed, asked.truncation)
            samples = run.samples(z, strip_labels(run, asked.num, asked.label))
            columns: int | None = STEPS
        else:
            samples = run.draw(asked.num, asked.seed, asked.truncation, asked.label)
            columns = class_columns(run.classes) if asked.label is None else None
        write(run, samples, asked.out, columns)
        print(asked.out)
    if asked.export is not None:
        export(run, asked.export)
        print(asked.export)
    return 0
