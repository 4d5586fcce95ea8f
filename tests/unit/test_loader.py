"""Minibatches: each is a function of the seed and its number, whatever was asked for before, and by whom."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wgangp_fast.errors import UserError
from wgangp_fast.training import data
from wgangp_fast.training.data import Batches, Fresh, Loader, Stored, hold_out, stream, to_unit

CPU = torch.device("cpu")


def pictures(count: int = 23, side: int = 8) -> Stored:
    """uint8 images whose every pixel differs from its neighbours, so that a flip shows."""
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=stream("test"), dtype=torch.uint8)
    return Stored("pictures", pixels)


def test_streams_are_functions_of_their_whole_key() -> None:
    keys = [
        (0,),
        (1,),
        (0, 0),
        (0, 1),
        (1, 0),
        ("a",),
        ("b",),
        (0, "a"),
        ("a", 0),
        (-1,),
        (2**64,),
        (2**64 + 1,),
    ]
    numbers = [torch.rand(4, generator=stream(*key)) for key in keys]
    assert len({tuple(n.tolist()) for n in numbers}) == len(keys)
    for key, expected in zip(keys, numbers, strict=True):
        assert torch.equal(torch.rand(4, generator=stream(*key)), expected)
    # Neighbouring seeds: no correlation of what they draw first.
    first = torch.stack([torch.rand(2, generator=stream(seed, "z", 0)) for seed in range(4000)])
    assert first.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert abs(torch.corrcoef(first.T)[0, 1]) < 0.05
    assert abs(torch.corrcoef(torch.stack([first[:-1, 0], first[1:, 0]]))[0, 1]) < 0.05


def test_a_pass_shows_every_sample_once_in_a_new_order() -> None:
    batches = Batches(Stored("points", torch.arange(10.0)[:, None]), 5, 0)
    passes = [torch.cat([batches(k), batches(k + 1)])[:, 0].tolist() for k in (0, 2, 4)]
    for order in passes:
        assert sorted(order) == list(range(10))
    assert passes[0] != passes[1] != passes[2]
    kept = Batches(Stored("points", torch.arange(10.0)[:, None], shuffled=False), 4, 0)
    assert torch.cat([kept(k) for k in range(3)])[:, 0].tolist() == [*range(8), *range(4)]  # 2 are left out


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    for source in (pictures(), Fresh("toy", data.toy.swiss_roll)):
        one, other = (Batches(source, 4, 7, flip="sample", dequantize=True) for _ in range(2))
        expected = {k: one(k) for k in range(12)}
        for k in (11, 3, 3, 0, 7):  # over the borders of passes, and back
            assert torch.equal(other(k), expected[k])
        assert len({value.numpy().tobytes() for value in expected.values()}) == 12


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_have_disjoint_shares_of_the_same_batches(processes: int) -> None:
    options = {"flip": "sample", "dequantize": True}
    for source in (pictures(), Fresh("toy", data.toy.eight_gaussians)):
        whole = Batches(source, 8, 3, **options)
        shares = [Batches(source, 8, 3, share=(rank, processes), **options) for rank in range(processes)]
        for k in range(5):
            assert torch.equal(torch.cat([share(k) for share in shares]), whole(k))
    with pytest.raises(UserError, match="batch 9 cannot be shared by 2 processes"):
        Batches(pictures(), 9, 0, share=(0, 2))


def flipped(batches: Batches, plain: Batches, k: int) -> list[bool]:
    """Which samples are mirror images; every one must be one or the other."""
    found = []
    for image, expected in zip(batches(k), plain(k), strict=True):
        assert torch.equal(image, expected) != torch.equal(image, expected.flip(2))
        found.append(torch.equal(image, expected.flip(2)))
    return found


def test_flips_are_of_samples_or_of_whole_batches() -> None:
    plain = Batches(pictures(), 10, 0)
    samples = [flipped(Batches(pictures(), 10, 0, flip="sample"), plain, k) for k in range(40)]
    share = sum(map(sum, samples)) / 400
    assert 0.4 < share < 0.6  # deviation .025
    assert any(0 < sum(found) < 10 for found in samples)
    whole = [flipped(Batches(pictures(), 10, 0, flip="batch"), plain, k) for k in range(40)]
    assert {sum(found) for found in whole} == {0, 10}
    assert 8 < sum(all(found) for found in whole) < 32


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_pixels_are_scaled_as_the_papers_say(low: float) -> None:
    source = Stored("pictures", torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8), shuffled=False)
    plain = Batches(source, 4, 0, low=low)(0).flatten()
    expected = torch.linspace(low, 1, 256)
    torch.testing.assert_close(plain, expected)
    noisy = Batches(source, 4, 0, low=low, dequantize=True)(0).flatten()
    left = torch.arange(256) * (1 - low) / 256 + low
    excess = (noisy - left) / ((1 - low) / 256)
    assert excess.min() >= 0
    assert excess.max() <= 1 + 1e-4
    assert excess.std().item() == pytest.approx(12**-0.5, rel=0.1)
    floats = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    torch.testing.assert_close(to_unit(floats, low=low).flatten(), torch.linspace(low, 1, 64))


def test_held_out_samples_are_the_same_for_every_seed_and_their_number_is_checked() -> None:
    source = pictures()
    train, held_out = hold_out(source, 5)
    assert (train.size, getattr(held_out, "size", None)) == (18, 5)
    again = hold_out(source, 5)[1]
    assert isinstance(held_out, Stored)
    assert isinstance(again, Stored)
    rows = torch.arange(5)
    assert torch.equal(held_out.take(rows, stream(0)), again.take(rows, stream(1)))
    assert hold_out(source, 0) == (source, None)
    with pytest.raises(UserError, match="holdout 23 leaves nothing to train on: pictures has 23"):
        hold_out(source, 23)


class Slow(Stored):
    """Notes which thread gathers, and waits until it may."""

    def __init__(self) -> None:
        super().__init__("slow", pictures().samples)
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def take(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        assert self.gate.wait(timeout=20)
        self.threads.append(threading.current_thread().name)
        return super().take(rows, generator)


def test_batches_made_ahead_are_the_same_batches() -> None:
    source = Slow()
    plain = Batches(pictures(), 4, 5, flip="sample")
    loader = Loader(Batches(source, 4, 5, flip="sample"), CPU, "ahead")
    for k in (*range(9), 3, 4, 40, 41):  # and after jumps
        assert torch.equal(loader(k), plain(k))
    assert threading.current_thread().name not in source.threads
    source.gate.clear()
    waiting = threading.Timer(0.2, source.gate.set)
    waiting.start()
    assert torch.equal(loader(60), plain(60))  # waits for a slow disk
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_what_fails_ahead_fails_where_it_is_asked_for() -> None:
    class Broken(Stored):
        def take(self, rows: Tensor, generator: torch.Generator) -> Tensor:
            raise OSError("disk gone")

    loader = Loader(Batches(Broken("broken", pictures().samples), 4, 0), CPU, "ahead")
    with pytest.raises(OSError, match="disk gone"):
        loader(0)
    loader.close()


def test_the_whole_set_can_lie_on_the_device() -> None:
    loader = Loader(Batches(pictures(), 4, 5), CPU, "device")
    assert torch.equal(loader(2), Batches(pictures(), 4, 5)(2))
    assert Loader(Batches(pictures(), 4, 5), CPU).placement == "plain"


def test_mapped_files_are_not_read_whole(tmp_path: Path) -> None:
    """A set far larger than what is touched: the file is sparse, and only its batches are paged in."""
    path = tmp_path / "large.npy"
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(2_000_000, 3, 32, 32))
    mapped[7] = 9
    del mapped
    source = data.load(str(path))
    assert source.size == 2_000_000
    assert isinstance(source, Stored)
    assert source.take(torch.tensor([7, 8]), stream(0)).float().mean().item() == 4.5
    assert path.stat().st_blocks * 512 < 50_000_000
