"""Labels of a set: they follow their samples through splits, passes, processes and threads."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wgangp_fast.errors import UserError
from wgangp_fast.training import data
from wgangp_fast.training.data import Batches, Loader, Stored, hold_out

pytest.importorskip("sklearn")

CPU = torch.device("cpu")


def coded(count: int = 40, classes: int = 4, **options: Any) -> Stored:
    """Images whose left half says which sample it is, and labels that follow from it."""
    samples = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
    samples[:] = torch.arange(count)[:, None, None, None]
    return Stored("coded", samples, labels=torch.arange(count) * 7 % classes, **options)


def codes(batch: Tensor) -> Tensor:
    return ((batch[:, 0, 0, 0] + 1) * 127.5).round().long()


@pytest.mark.parametrize("placement", ["plain", "ahead", "device"])
def test_labels_follow_their_samples(placement: Any) -> None:
    """Over passes of their own order, which a thread runs ahead of."""
    train_set, held_out = hold_out(coded(), 10)
    assert isinstance(held_out, Stored)
    for part, count in ((train_set, 30), (held_out, 10)):
        assert isinstance(part, Stored)
        assert (part.size, part.classes) == (count, 4)
        loader = Loader(Batches(part, 4, 3, flip="sample"), CPU, placement)
        orders = []
        for k in range(23):
            labels, batch = loader.labels(k), loader(k)
            assert labels is not None
            assert labels.dtype == torch.int64
            assert torch.equal(labels, codes(batch) * 7 % 4)
            again = loader.labels(k)
            assert again is not None
            assert torch.equal(again, labels)
            orders.append(codes(batch).tolist())
        loader.close()
        passes = count // 4
        assert len({code for codes_of in orders[:passes] for code in codes_of}) == 4 * passes
        assert orders[:passes] != orders[passes : 2 * passes]


def test_processes_share_the_labels_of_a_batch() -> None:
    for k in (0, 3, 17):
        whole = Batches(coded(), 8, 5).labels(k)
        shares = [Batches(coded(), 8, 5, share=(rank, 2)).labels(k) for rank in range(2)]
        assert whole is not None
        assert all(share is not None for share in shares)
        assert torch.equal(torch.cat([s for s in shares if s is not None]), whole)


def test_labels_are_checked_and_may_be_missing() -> None:
    images = torch.zeros(6, 1, 8, 8)
    assert Batches(Stored("x", images), 2, 0).labels(0) is None
    assert Stored("x", images).classes == 0
    assert Batches(data.load("toy-8gaussians"), 4, 0).labels(0) is None
    with pytest.raises(ValueError, match=r"labels of x must be int64 \[6\]; got torch.int64 \[5\]"):
        Stored("x", images, labels=torch.arange(5))
    with pytest.raises(ValueError, match=r"got torch.float32 \[6\]"):
        Stored("x", images, labels=torch.zeros(6))
    with pytest.raises(UserError, match="labels of x must be at least 0; the smallest is -1"):
        Stored("x", images, labels=torch.arange(6) - 1)


def test_loaded_sets_have_the_labels_of_their_files(tmp_path: Path) -> None:
    digits = data.load("digits")
    assert isinstance(digits, Stored)
    found = digits.labels(torch.tensor([3, 1796, 5]))
    assert found is not None
    assert found.tolist() == data.digits()[1][[3, 1796, 5]].tolist()
    assert digits.classes == 10
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    labels = np.arange(12, dtype=np.uint8) * 5 % 3
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 12, 8, 8) + pixels.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 12) + labels.tobytes())
    data.prepare(folder, tmp_path / "prepared", size=8)
    for path in (folder, tmp_path / "prepared"):
        loaded = data.load(str(path))
        assert isinstance(loaded, Stored)
        rows = torch.tensor([11, 0, 4, 5])
        there = loaded.labels(rows)
        assert there is not None
        assert there.tolist() == labels[rows.numpy()].tolist()
