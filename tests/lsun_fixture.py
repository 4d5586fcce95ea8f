"""Sets of real photographs in the layouts that users have, LSUN's LMDB, folder, zip, CIFAR, IDX; and caches.

The photographs are those that scikit-learn and, where it is there, scikit-image ship.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib
import io
import pickle
import random
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wgangp_fast.training.data import Cache, prepare

POOL = 24  # encoded pictures, used over and over: encoding WebP is slow


def quick(source: Path, dest: Path, **settings: Any) -> Cache:
    """Prepared small, in this process, silently."""
    return prepare(source, dest, **{"size": 16, "workers": 1, "quiet": True, **settings})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a cache but the header, which has a date."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "header.json"}


def photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    images = [Image.fromarray(array) for array in load_sample_images().images]
    try:
        data = importlib.import_module("skimage.data")
        images += [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea")]
    except (ImportError, OSError):
        pass
    return images


def crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """A piece of random shape whose short side is 256, as LSUN's pictures are."""
    width, height = rng.choice([(256, 256), (341, 256), (256, 320), (257, 256), (256, 299)])
    left, top = rng.randint(0, image.width - width), rng.randint(0, max(0, image.height - height))
    return image.crop((left, top, left + width, top + height))


def encode(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=80)
    return stream.getvalue()


@functools.cache
def encoded(seed: int = 0) -> list[bytes]:
    """Photographs as WebP and JPEG, in turns."""
    rng = random.Random(seed)
    images = photographs()
    return [encode(crop(rng.choice(images), rng), "WEBP" if k % 2 else "JPEG") for k in range(POOL)]


def broken_values(seed: int = 0) -> list[bytes]:
    """What does not decode: a JPEG that ends early, noise, nothing."""
    return [encoded(seed)[0][:3000], random.Random(seed).randbytes(500), b""]


def lsun_rows(count: int, broken: int = 3, seed: int = 0) -> dict[bytes, bytes]:
    """Key to value, in the order of the keys; ``broken`` rows more than ``count`` do not decode."""
    values = [encoded(seed)[k % POOL] for k in range(count)]
    values += [broken_values(seed)[k % 3] for k in range(broken)]
    rows = {hashlib.sha1(f"{seed} {k}".encode()).hexdigest().encode(): v for k, v in enumerate(values)}
    return dict(sorted(rows.items()))


def write_lsun(folder: Path, count: int, broken: int = 3, seed: int = 0) -> list[str]:
    """A database in LSUN's layout; the keys of the rows that decode, in order."""
    import lmdb

    rows = lsun_rows(count, broken, seed)
    environment = lmdb.open(str(folder), map_size=1 << 30)
    with environment.begin(write=True) as transaction:
        for key, value in rows.items():
            transaction.put(key, value)
    environment.close()
    bad = set(broken_values(seed))
    return [key.decode() for key, value in rows.items() if value not in bad]


def write_folder(folder: Path, count: int, classes: tuple[str, ...] = (), seed: int = 0) -> list[str]:
    """Photographs as files, in turns below each of ``classes``; relative names in order."""
    names = []
    for k in range(count):
        below = classes[k % len(classes)] + "/" if classes else ""
        name = f"{below}{k:04d}.{'webp' if k % 2 else 'jpg'}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(seed)[k % POOL])
        names.append(name)
    return sorted(names)


def write_zip(path: Path, folder: Path) -> None:
    """All files below ``folder``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, file.relative_to(folder))


def write_idx(path: Path, array: np.ndarray) -> None:
    """uint8 of any shape; gzipped where the name says so."""
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def cifar_batches(rows: int = 6, seed: int = 0) -> dict[str, dict[bytes, object]]:
    """CIFAR-10's files as dictionaries."""
    rng = np.random.default_rng(seed)
    names = [f"data_batch_{k}" for k in range(1, 6)]
    batches: dict[str, dict[bytes, object]] = {}
    for k, name in enumerate([*names, "test_batch"], start=1):
        batches[name] = {
            b"batch_label": b"testing batch 1 of 1"
            if name == "test_batch"
            else b"training batch %d of 5" % k,
            b"labels": [int(label) for label in rng.integers(0, 10, rows)],
            b"data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8),
            b"filenames": [b"some_%d.png" % row for row in range(rows)],
        }
    return batches


def write_cifar(path: Path, contents: dict[str, bytes]) -> None:
    """A tarball with ``contents`` (name to bytes) in CIFAR-10's folder."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def pickled(batches: dict[str, dict[bytes, object]], protocol: int = 2) -> dict[str, bytes]:
    return {name: pickle.dumps(batch, protocol=protocol) for name, batch in batches.items()}
