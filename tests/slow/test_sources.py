"""What prepare can read: every kind of source against Pillow or numpy, and what it refuses."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import lsun_fixture as fixture
import numpy as np
import pytest
import torch
from lsun_fixture import quick

from wgangp_fast.errors import UserError
from wgangp_fast.training.data.sources import open_source, read_array

lmdb = pytest.importorskip("lmdb")
pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")


def reference(content: bytes, size: int) -> np.ndarray:
    """``[3, size, size]``: the largest square in the middle, by hand."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    array = np.asarray(image)
    side = min(array.shape[:2])
    top, left = (array.shape[0] - side) // 2, (array.shape[1] - side) // 2
    square = Image.fromarray(array[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def refused(source: Path, dest: Path, words: str, **settings: object) -> None:
    """One line, and nothing under the final name nor beside it."""
    with pytest.raises(UserError, match=words) as caught:
        quick(source, dest, **settings)
    assert "\n" not in str(caught.value)
    assert not dest.exists()
    assert not dest.with_name(dest.name + ".partial").exists()


def test_an_lsun_database_row_by_row(tmp_path: Path) -> None:
    source = tmp_path / "bedroom_train_lmdb"
    good = fixture.write_lsun(source, 30)
    rows = fixture.lsun_rows(30)
    cache = quick(source, tmp_path / "c", size=32)
    assert cache.images.dtype == np.uint8
    expected = np.stack([reference(rows[key.encode()], 32) for key in good])
    np.testing.assert_array_equal(cache.images, expected)
    assert cache.labels is None
    np.testing.assert_array_equal(np.load(tmp_path / "c" / "images.npy", mmap_mode="r"), expected)
    listed = [line.split("\t") for line in (tmp_path / "c" / "skipped.txt").read_text().splitlines()]
    keys = [key.decode() for key in rows]
    assert [(int(row), key) for row, key, _ in listed] == [
        (row, key) for row, key in enumerate(keys) if key not in good
    ]
    assert cache.header["skipped"] == len(listed) == 3
    reasons = {rows[key.encode()]: reason for _, key, reason in listed}
    early, noise, nothing = fixture.broken_values()
    assert "truncated" in reasons[early]
    assert reasons[noise] == "not a picture of a known format"
    assert reasons[nothing] == "empty"


def test_a_database_given_by_its_file_or_as_a_single_file(tmp_path: Path) -> None:
    fixture.write_lsun(tmp_path / "a_lmdb", 5, broken=0)
    whole = quick(tmp_path / "a_lmdb", tmp_path / "a")
    assert quick(tmp_path / "a_lmdb" / "data.mdb", tmp_path / "b").header["digest"] == whole.header["digest"]
    (tmp_path / "single.mdb").write_bytes((tmp_path / "a_lmdb" / "data.mdb").read_bytes())
    assert quick(tmp_path / "single.mdb", tmp_path / "c").header["digest"] == whole.header["digest"]
    assert quick(tmp_path / "a_lmdb" / "..", tmp_path / "d").header["count"] == 5  # the only set below it


@pytest.mark.parametrize(("part", "words"), [(0.5, "truncated"), (0.999, "truncated"), (0.0002, "LMDB|kind")])
def test_a_truncated_database_is_an_error_not_a_crash(tmp_path: Path, part: float, words: str) -> None:
    source = tmp_path / "bedroom_train_lmdb"
    fixture.write_lsun(source, 40)
    data = (source / "data.mdb").read_bytes()
    (source / "data.mdb").write_bytes(data[: int(len(data) * part)])
    refused(source, tmp_path / "c", words)


def test_a_database_whose_download_was_never_finished(tmp_path: Path) -> None:
    """All its bytes are there, and the later ones are zero: LMDB aborts the process that walks it."""
    source = tmp_path / "bedroom_train_lmdb"
    environment = lmdb.open(str(source), map_size=1 << 30)
    with environment.begin(write=True) as transaction:
        for key in range(2000):
            transaction.put(f"{key:040x}".encode(), bytes(100))
    environment.close()
    data = (source / "data.mdb").read_bytes()
    (source / "data.mdb").write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))
    refused(source, tmp_path / "c", "damaged: LMDB cannot walk its keys")


def test_databases_of_other_shapes(tmp_path: Path) -> None:
    source = tmp_path / "x_lmdb"
    source.mkdir()
    refused(source, tmp_path / "c", "no data.mdb")
    (source / "data.mdb").write_bytes(b"hello" * 4000)
    refused(source, tmp_path / "c", "not a readable LMDB database")
    (source / "data.mdb").unlink()
    lmdb.open(str(source)).close()
    refused(source, tmp_path / "c", "without rows")


def test_a_database_of_something_else_is_given_up_early(tmp_path: Path) -> None:
    source = tmp_path / "x_lmdb"
    with (
        lmdb.open(str(source), map_size=1 << 28) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key in range(1500):
            transaction.put(f"{key:040x}".encode(), b"no picture")
    refused(source, tmp_path / "c", "first 10[0-9][0-9] rows is a picture .not a picture of a known format")


def test_a_folder_of_classes_and_the_same_as_a_zip(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    names = fixture.write_folder(source, 9, ("cat", "dog", "ant"))
    (source / "dog" / "notes.txt").write_text("no picture")
    (source / "dog" / ".hidden.jpg").write_bytes(b"no picture")
    (source / "cat" / "0000.jpg").write_bytes(b"no picture")
    names.remove("cat/0000.jpg")
    cache = quick(source, tmp_path / "c")
    expected = np.stack([reference((source / name).read_bytes(), 16) for name in names])
    np.testing.assert_array_equal(cache.images, expected)
    order = ["ant", "cat", "dog"]
    assert cache.labels is not None
    assert cache.labels.dtype == np.int64
    assert cache.labels.tolist() == [order.index(name.split("/")[0]) for name in names]
    assert cache.header["classes"] == order
    fixture.write_zip(tmp_path / "photos.zip", source)
    zipped = quick(tmp_path / "photos.zip", tmp_path / "z")
    assert zipped.header["digest"] == cache.header["digest"]
    assert (tmp_path / "z" / "skipped.txt").read_text().split("\t")[:2] == ["3", "cat/0000.jpg"]


def test_a_flat_folder_has_no_labels_and_lists_what_is_broken(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    fixture.write_folder(source, 4)
    (source / "0001b.JPG").write_bytes(fixture.encoded()[0][:2000])
    (source / "0001c.png").symlink_to(tmp_path / "nowhere.png")
    cache = quick(source, tmp_path / "c")
    assert cache.labels is None
    assert not (tmp_path / "c" / "labels.npy").exists()
    listed = [line.split("\t")[:2] for line in (tmp_path / "c" / "skipped.txt").read_text().splitlines()]
    assert listed == [["2", "0001b.JPG"], ["3", "0001c.png"]]


def test_a_damaged_member_of_a_zip_is_skipped_and_a_damaged_zip_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for k in range(3):
            archive.writestr(f"{k}.jpg", fixture.encoded()[2 * k])
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(fixture.encoded()[2]) + 5000] ^= 255
    (tmp_path / "a.zip").write_bytes(content)
    cache = quick(tmp_path / "a.zip", tmp_path / "c")
    assert (cache.header["count"], cache.header["skipped"]) == (2, 1)
    assert "CRC" in (tmp_path / "c" / "skipped.txt").read_text()
    (tmp_path / "a.zip").write_bytes(content[:-100])
    refused(tmp_path / "a.zip", tmp_path / "d", "not a readable zip")
    with zipfile.ZipFile(tmp_path / "lsun.zip", "w") as archive:
        archive.writestr("bedroom_train_lmdb/data.mdb", b"x")
    refused(tmp_path / "lsun.zip", tmp_path / "d", "unzip it first")


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_in_order(tmp_path: Path, protocol: int, packed: bool) -> None:
    batches = fixture.cifar_batches()
    contents = fixture.pickled(batches, protocol)
    source = tmp_path / "cifar-10-batches-py"
    if packed:
        source = tmp_path / "any.name"
        fixture.write_cifar(source, dict(reversed(contents.items())))
    else:
        source.mkdir()
        for name, content in contents.items():
            (source / name).write_bytes(content)
    for split, names in (("train", list(batches)[:5]), ("test", ["test_batch"])):
        images = read_array(source, split)
        assert images is not None
        expected = np.concatenate([batches[name][b"data"] for name in names]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(images.pixels, expected)
        assert images.labels.tolist() == [label for name in names for label in batches[name][b"labels"]]
        cache = quick(source, tmp_path / split, size=32, split=split)
        np.testing.assert_array_equal(cache.images, expected)
        np.testing.assert_array_equal(cache.labels, images.labels)


def test_a_pickle_that_calls_anything_is_refused_uncalled(tmp_path: Path) -> None:
    called = tmp_path / "called"

    class Calls:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (called,))

    batches = fixture.cifar_batches()
    batches["data_batch_3"][b"labels"] = Calls()
    fixture.write_cifar(tmp_path / "c.tar.gz", fixture.pickled(batches))
    refused(
        tmp_path / "c.tar.gz",
        tmp_path / "c",
        "data_batch_3 is no CIFAR batch and was not loaded: it asks for",
    )
    pickle.loads(pickle.dumps(Calls()))  # the trap does work
    assert called.exists()
    batches["data_batch_3"][b"labels"] = np.array([object()] * 6)
    fixture.write_cifar(tmp_path / "d.tar.gz", fixture.pickled(batches))
    refused(tmp_path / "d.tar.gz", tmp_path / "c", "array of O8")


def test_cifar_that_is_not_whole(tmp_path: Path) -> None:
    contents = fixture.pickled(fixture.cifar_batches(rows=60))
    source = tmp_path / "c.tar.gz"
    for name in ("data_batch_2", "data_batch_5"):
        fixture.write_cifar(source, {key: value for key, value in contents.items() if key != name})
        refused(source, tmp_path / "c", f"lacks {name}")
    fixture.write_cifar(source, {**contents, "data_batch_1": contents["data_batch_1"][:-900]})
    refused(source, tmp_path / "c", "data_batch_1 is truncated")
    fixture.write_cifar(source, contents)
    source.write_bytes(source.read_bytes()[:-9000])
    refused(source, tmp_path / "c", "truncated or damaged")
    fixture.write_cifar(source, {"readme.txt": b"hello"})
    refused(source, tmp_path / "c", "no train batches of CIFAR")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folders_and_files(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    source = tmp_path / "mnist"
    source.mkdir()
    sets = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels = rng.integers(0, 256, (12, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, 12, dtype=np.uint8)
        fixture.write_idx(source / f"{prefix}-images-idx3-ubyte{suffix}", pixels)
        fixture.write_idx(source / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
        sets[split] = (pixels, labels)
    for split, (pixels, labels) in sets.items():
        images = read_array(source, split)
        assert images is not None
        np.testing.assert_array_equal(images.pixels[:, 0], pixels)
        assert images.labels.tolist() == labels.tolist()
        assert images.labels.dtype == np.int64
        cache = quick(source, tmp_path / split, size=32, split=split, filter="bicubic")
        expected = [Image.fromarray(p).resize((32, 32), Image.Resampling.BICUBIC) for p in pixels]
        np.testing.assert_array_equal(cache.images[:, 0], np.stack([np.asarray(p) for p in expected]))
        assert cache.header["enlarged"] == 12
    (source / f"t10k-labels-idx1-ubyte{suffix}").unlink()
    alone = read_array(source / f"t10k-images-idx3-ubyte{suffix}")
    assert alone is not None
    assert alone.labels is None
    np.testing.assert_array_equal(alone.pixels[:, 0], sets["test"][0])


def test_idx_files_that_are_not_right(tmp_path: Path) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    fixture.write_idx(file, np.zeros((4, 28, 28), np.uint8))
    whole = file.read_bytes()
    for content, words in (
        (whole[:-1], "truncated"),
        (whole + b"x", "damaged"),
        (whole[:10], "truncated: it ends within its header"),
        (whole[:3] + b"\x04" + whole[4:], "damaged|truncated"),
        (gzip.compress(whole)[:-20], "truncated"),
    ):
        file.write_bytes(content)
        refused(file, tmp_path / "c", words)
    fixture.write_idx(file, np.zeros(4, np.uint8))
    refused(file, tmp_path / "c", "labels, not images")
    fixture.write_idx(file, np.zeros((4, 28, 28), np.uint8))
    fixture.write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(5, np.uint8))
    refused(file, tmp_path / "c", r"\[5\] labels for 4 images")
    refused(tmp_path, tmp_path / "c", "no test images", split="test")


def test_arrays_that_networks_do_not_take_can_still_be_prepared(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 30, 41, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    with pytest.raises(UserError, match="square"):
        read_array(tmp_path / "x.npy")
    cache = quick(tmp_path / "x.npy", tmp_path / "c")
    for made, original in zip(cache.images, pixels):
        stream = io.BytesIO()
        Image.fromarray(original).save(stream, "PNG")
        np.testing.assert_array_equal(made, reference(stream.getvalue(), 16))
    grey = quick(tmp_path / "x.npy", tmp_path / "g", channels=1)
    assert grey.images.shape == (5, 1, 16, 16)
    fixture.write_idx(tmp_path / "a-images-idx3-ubyte", np.zeros((4, 8, 12), np.uint8))
    with pytest.raises(UserError, match="square"):
        read_array(tmp_path / "a-images-idx3-ubyte")


def test_photographs_are_no_array_and_points_are(tmp_path: Path) -> None:
    fixture.write_folder(tmp_path / "photos", 2)
    assert read_array(tmp_path / "photos") is None
    np.save(tmp_path / "points.npy", np.ones((4, 2)))
    images = read_array(tmp_path / "points.npy")
    assert images is not None
    assert images.pixels.shape == (4, 2)
    refused(tmp_path / "points.npy", tmp_path / "c", "expected uint8 images")


def test_what_is_nothing_of_this(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", tmp_path / "c", "no data at .*nowhere; expected an LMDB folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "c", "holds no pictures")
    (tmp_path / "x.txt").write_text("hello")
    refused(tmp_path / "x.txt", tmp_path / "c", "no known kind; expected an LMDB folder")
    (tmp_path / "x.txt").write_bytes(b"")
    refused(tmp_path / "x.txt", tmp_path / "c", "no known kind")
    (tmp_path / "x.jpg").write_bytes(fixture.encoded()[0])
    refused(tmp_path / "x.jpg", tmp_path / "c", "a single picture")
    (tmp_path / "lsun").mkdir()
    for name in ("a_lmdb", "b_lmdb"):
        fixture.write_lsun(tmp_path / "lsun" / name, 2)
    refused(tmp_path / "lsun", tmp_path / "c", "holds 2 sets: give one of a_lmdb, b_lmdb")
    refused(tmp_path / "lsun" / "a_lmdb", tmp_path / "c", "without splits", split="test")


def test_a_source_can_be_walked_by_hand(tmp_path: Path) -> None:
    fixture.write_lsun(tmp_path / "a_lmdb", 5, broken=0)
    with open_source(tmp_path / "a_lmdb") as source:
        blocks = list(source.blocks(1, 3))
        assert [(block.start, block.count) for block in blocks] == [(1, 3), (4, 1)]
        read = [row for block in blocks for row in source.reader.read(block)]
    assert [(key.encode(), value) for key, value in read] == list(fixture.lsun_rows(5, 0).items())[1:]


def test_a_worker_does_not_wait_for_torch(tmp_path: Path) -> None:
    """Its imports are Pillow, numpy and the source's: two seconds and 200 MB less for each."""
    from wgangp_fast.training.data.subprocesses import command

    code = "import wgangp_fast.training.data.workers, sys; print('torch' in sys.modules)"
    done = subprocess.run(command(code), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert torch.__name__ in sys.modules


def test_the_header_says_where_it_comes_from(tmp_path: Path) -> None:
    fixture.write_folder(tmp_path / "photos", 2)
    quick(tmp_path / "photos", tmp_path / "c", crop="stretch", filter="box")
    header = json.loads((tmp_path / "c" / "header.json").read_text())
    assert header["source"] == str(tmp_path / "photos")
    assert (header["request"]["crop"], header["request"]["filter"]) == ("stretch", "box")
    assert (header["count"], header["channels"], header["size"], header["version"]) == (2, 3, 16, 1)
