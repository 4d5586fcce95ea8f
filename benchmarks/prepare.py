"""Speed of ``prepare`` against a bare Pillow loop over the same pictures, one core each.

Pictures are pieces of photographs in a database in LSUN's layout, WebP and JPEG in turns, short side 256.
The loop opens, converts, crops, resizes and makes an array of each, from memory; ``prepare --workers 1``
does that and everything around it: reading the database, writing, digests, header, synchronising the disk.
Both are timed in turns, for one kind of picture after the other, and per picture.

    python benchmarks/prepare.py [--size 64] [--pictures 1500] [--rounds 9] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wgangp_fast.bench.environment import environment
from wgangp_fast.training.data import prepare

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import lsun_fixture


def bare(values: list[bytes], size: int) -> None:
    """What anybody would write."""
    for value in values:
        image = Image.open(io.BytesIO(value)).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def spread(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    tenth = len(ordered) // 10
    return {"median": statistics.median(ordered), "p10": ordered[tenth], "p90": ordered[-tenth - 1]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the samples as JSON")
    arguments = parser.parse_args()
    count, size = arguments.pictures, arguments.size

    with tempfile.TemporaryDirectory() as name:
        source, dest = Path(name) / "photographs_train_lmdb", Path(name) / "cache"
        lsun_fixture.write_lsun(source, count, broken=0)
        values = list(lsun_fixture.lsun_rows(count, broken=0).values())

        def ours() -> None:
            prepare(source, dest, size=size, workers=1, quiet=True)

        def milliseconds(function: Callable[[], None]) -> float:
            shutil.rmtree(dest, ignore_errors=True)
            begin = time.perf_counter()
            function()
            return (time.perf_counter() - begin) / count * 1e3

        pair = (lambda: bare(values, size), ours)
        for function in pair:
            milliseconds(function)
        samples = []
        for k in range(arguments.rounds):  # who begins alternates, as a loaded machine favours one
            first, second = (milliseconds(function) for function in (pair if k % 2 == 0 else pair[::-1]))
            samples.append((first, second) if k % 2 == 0 else (second, first))

    result = {
        "bare": spread([sample[0] for sample in samples]),
        "prepare": spread([sample[1] for sample in samples]),
        "speed": spread([bare_ms / ours_ms for bare_ms, ours_ms in samples]),
    }
    for who in ("bare", "prepare"):
        r = result[who]
        print(f"{who:8} {r['median']:.3f} ms a picture (p10 {r['p10']:.3f}, p90 {r['p90']:.3f})")
    print(
        "prepare's speed over the bare loop's: {median:.3f} (p10 {p10:.3f}, p90 {p90:.3f})".format(
            **result["speed"]
        )
    )
    if arguments.out:
        document = {
            "environment": environment(torch.device("cpu")),
            "pictures": count,
            "size": size,
            "milliseconds": result,
            "samples_ms": [{"bare": a, "prepare": b} for a, b in samples],
        }
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
