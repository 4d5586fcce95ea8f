"""What the tests of the trainer share: a small run, and how two runs are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from wgangp_fast.training import Config, checkpoint, data, train
from wgangp_fast.training.parallel import Group
from wgangp_fast.training.trainer import Trainer

for package in ("tyro", "sklearn", "matplotlib", "PIL"):
    pytest.importorskip(package)

CPU = torch.device("cpu")
SMALL = {
    "batch": 8,
    "critic_dim": 4,
    "generator_dim": 4,
    "latent": 3,
    "tick": 2,
    "snapshot": 4,
    "penalty": "stock",
    "device": "cpu",
    "threads": 1,
}


def small(preset: str = "digits", **changes: Any) -> Config:
    values = {**SMALL, **changes}
    if preset.startswith("toy"):
        values["latent"] = 2
    return Config(preset=preset, **values)


def trainer_of(config: Config, kind: type[Trainer] = Trainer) -> Trainer:
    train, held_out = data.hold_out(data.load(config.data, config.seed), 32)
    return kind(config, train, held_out, Group(CPU))


def whole_run(outdir: Path) -> Path:
    """Eight iterations on the digits, never interrupted."""
    return train(small(iters=8, outdir=str(outdir)))


def final_state(path: Path) -> dict[str, Any]:
    state = torch.load(checkpoint.listing(path)[-1], weights_only=True)
    del state["seconds"]
    return state


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    elif isinstance(a, Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def ticks(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in tick.items() if k not in ("seconds", "img_per_s")} for tick in lines]
