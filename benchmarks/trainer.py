"""The trainer as a whole, stock penalty against fast: images a second, memory, time until the first step.

Each measurement is a process of its own that trains a preset on random images for a few iterations; stock and
fast take turns, and each round counts for both. The loader is measured in the same run, on a mapped file, and
compared with what the fast step needs.

    python benchmarks/trainer.py [--rounds 3] [--row NAME ...] [--device cpu] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from wgangp_fast.bench.environment import environment
from wgangp_fast.training import Config, train
from wgangp_fast.training.data import Batches, Loader, load
from wgangp_fast.training.recorder import peak_mib

ROOT = Path(__file__).resolve().parent.parent
LOADER_SECONDS = 1.0
PENALTIES = ("stock", "fast")


class Row(NamedTuple):
    """A preset, what is changed in it, the images' shape (none: a toy), iterations and iterations a tick."""

    settings: dict[str, Any]
    shape: tuple[int, int, int] | None
    iters: int
    tick: int


# A GPU takes the presets as they are; a CPU takes batches and widths that two cores can bear.
CPU_ROWS = {
    "toy": Row({"preset": "toy-8gaussians"}, None, 60, 10),
    "digits": Row({"preset": "digits"}, (1, 8, 8), 200, 20),
    "mnist": Row({"preset": "mnist"}, (1, 28, 28), 10, 1),
    "cifar10": Row({"preset": "cifar10", "critic_dim": 64, "generator_dim": 64}, (3, 32, 32), 8, 1),
    "lsun64-dcgan": Row({"preset": "lsun64-dcgan", "batch": 16}, (3, 64, 64), 8, 1),
    "lsun64-resnet": Row(
        {"preset": "lsun64-resnet", "batch": 8, "critic_dim": 16, "generator_dim": 16}, (3, 64, 64), 6, 1
    ),
}
CUDA_ROWS = {
    "toy": Row({"preset": "toy-8gaussians"}, None, 400, 50),
    "cifar10": Row({"preset": "cifar10"}, (3, 32, 32), 60, 5),
    "lsun64-dcgan": Row({"preset": "lsun64-dcgan"}, (3, 64, 64), 60, 5),
    "lsun64-resnet": Row({"preset": "lsun64-resnet"}, (3, 64, 64), 24, 2),
}


def child(folder: Path, settings: dict[str, Any], spawned: float) -> None:
    """Train, and print what is measured as one line of JSON."""
    before = time.time() - spawned
    path = train(Config(**settings, outdir=str(folder), snapshot=10**9, holdout=0))
    ticks = [json.loads(line) for line in (path / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    ready = re.search(r"^ready after ([0-9.]+) s", (path / "log.txt").read_text(encoding="utf-8"), re.M)
    assert ready is not None
    steady = [tick["img_per_s"] for tick in ticks[len(ticks) // 3 :]]  # what is captured late is left out
    result = {
        "img_per_s": statistics.median(steady),
        "first_tick_s": before + float(ready[1]) + ticks[0]["seconds"],
        "peak_mib": peak_mib(torch.device(settings["device"])),
    }
    print("RESULT " + json.dumps(result))


def measure(row: Row, data: str, penalty: str, device: str) -> dict[str, float]:
    """One process."""
    settings = {
        **row.settings, "data": data, "penalty": penalty, "device": device, "iters": row.iters,
        "tick": row.tick,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", json.dumps(settings), "--folder", folder]
        done = subprocess.run(
            [*command, "--spawned", str(time.time())],
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    found = re.search(r"^RESULT (.*)$", done.stdout, re.M)
    if found is None:
        raise SystemExit(f"{settings['preset']}, {penalty}: no result\n{done.stdout}\n{done.stderr}")
    result: dict[str, float] = json.loads(found[1])
    return result


def loader_rate(data: str, settings: dict[str, Any], device: torch.device, placement: str) -> float:
    """Images a second of the loader alone, with flips."""
    config = Config(**settings, data=data)
    batches = Batches(load(data), config.batch, 0, flip="sample")
    loader = Loader(batches, device, placement)
    for k in range(5):
        loader(k)
    begin, k = time.perf_counter(), 5
    while time.perf_counter() - begin < LOADER_SECONDS:
        loader(k)
        k += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    rate = (k - 5) * config.batch / (time.perf_counter() - begin)
    loader.close()
    return rate


def random_images(folder: Path, shape: tuple[int, int, int]) -> str:
    path = folder / "images.npy"
    count = max(4096, 2**26 // int(np.prod(shape)))  # 64 MiB: more than the caches hold
    np.save(path, np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8))
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", action="append", help="which rows (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="write all samples as JSON")
    for name in ("--child", "--folder", "--spawned"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(Path(asked.folder), json.loads(asked.child), float(asked.spawned))
        return
    device = torch.device(asked.device)
    table = CUDA_ROWS if device.type == "cuda" else CPU_ROWS
    rows: dict[str, Any] = {}
    print(HEAD)
    for name in asked.row or table:
        row = table[name]
        with tempfile.TemporaryDirectory() as folder:
            toy = row.shape is None
            data = row.settings["preset"] if toy else random_images(Path(folder), row.shape)
            samples: dict[str, list[dict[str, float]]] = {penalty: [] for penalty in PENALTIES}
            for index in range(asked.rounds):
                for penalty in PENALTIES if index % 2 == 0 else PENALTIES[::-1]:
                    samples[penalty].append(measure(row, data, penalty, asked.device))
            placements = () if toy else ("plain", "ahead") + (("device",) if device.type == "cuda" else ())
            rates = {p: loader_rate(data, row.settings, device, p) for p in placements}
        rows[name] = {
            "settings": row.settings,
            "iters": row.iters,
            "samples": samples,
            "loader_img_per_s": rates,
        }
        print(line(name, rows[name]), flush=True)
    if asked.out:
        asked.out.write_text(
            json.dumps({"environment": environment(device), "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


HEAD = (
    "| preset | img/s stock | fast | fast / stock | min-max | first tick s, stock "
    "| fast | peak MiB, stock | fast | loader img/s | times the need |\n" + 11 * "|---" + "|"
)


def line(name: str, row: dict[str, Any]) -> str:
    """A line of the table: medians of the rounds."""
    stock, fast = (
        {key: [sample[key] for sample in row["samples"][penalty]] for key in row["samples"][penalty][0]}
        for penalty in PENALTIES
    )
    middle = statistics.median
    ratios = [b / a for a, b in zip(stock["img_per_s"], fast["img_per_s"], strict=True)]
    rates = row["loader_img_per_s"]
    best = max(rates.values(), default=0.0)
    cells = [
        name,
        f"{middle(stock['img_per_s']):.0f}",
        f"{middle(fast['img_per_s']):.0f}",
        f"{middle(ratios):.2f}",
        f"{min(ratios):.2f}-{max(ratios):.2f}",
        f"{middle(stock['first_tick_s']):.1f}",
        f"{middle(fast['first_tick_s']):.1f}",
        f"{middle(stock['peak_mib']):.0f}",
        f"{middle(fast['peak_mib']):.0f}",
        f"{best:.0f}" if rates else "",
        f"{best / middle(fast['img_per_s']):.0f}" if rates else "",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
