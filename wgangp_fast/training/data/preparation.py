"""A source of pictures to a cache that trains fast: once, resumable, the same on any number of workers."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

from ... import __version__
from ...errors import UserError
from ...optional_dependencies import require
from .cache import Cache, is_cache
from .pixels import CROPS, FILTERS, MAX_PIXELS, Converted, Recipe, colour
from .progress import Meter
from .readers import Block, Source
from .resumable_writer import Partial, differences
from .sources import open_source
from .workers import convert, usable_cores

# Rows that travel together: enough that their transport costs nothing, few enough to stop between them.
BLOCK = 64
# A worker takes part of a second to start, which pays only if it gets this many rows.
ROWS_PER_WORKER = 512
# After so many rows without one that decodes, the rest is not tried.
HOPELESS = 1000


class Stopped(KeyboardInterrupt):
    """A signal ended the work; progress is saved, and the same call continues.

    signal: its number; the command line leaves with 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


def prepare(
    source: str | Path,
    dest: str | Path,
    *,
    size: int,
    crop: str = "center",
    filter: str = "lanczos",
    max_images: int | None = None,
    workers: int | None = None,
    channels: int | None = None,
    background: str = "white",
    max_pixels: int = MAX_PIXELS,
    split: str = "train",
    restart: bool = False,
    quiet: bool = False,
) -> Cache:
    """Convert every picture of ``source`` to uint8 ``[C, size, size]`` and write a cache.

    The work happens in ``DEST.partial``, which becomes ``dest`` when it is complete. Interrupted in any way,
    the same call continues it. Rows that do not decode are skipped, counted, and listed in ``skipped.txt``.

    Args:
        source: an LMDB folder in LSUN's layout, a folder or zip of pictures, CIFAR-10 or CIFAR-100 (python
            version), IDX files or a .npy file.
        dest: the folder that will be the cache. If it is one of the same source and settings, it is returned.
        size: side in pixels, a multiple of 4, at least 8.
        crop: ``"center"``, the largest square in the middle; ``"top-left"``, the one in the corner;
            ``"resize"``, short side to ``size``, then the square in the middle; ``"stretch"``, all of it.
        filter: of the resizing, antialiased: one of Pillow's names in lower case.
        max_images: take the first so many that decode; None: all.
        workers: processes that decode; 1: this one; None: one for each core, fewer for small sources. The
            result does not depend on it.
        channels: 1 or 3; None: 3 for encoded pictures, those of the source for arrays.
        background: what transparent pictures are laid on: a colour's name or ``#rrggbb``.
        max_pixels: pictures of more pixels are skipped, as if they did not decode; 0: no limit.
        split: ``"train"`` or ``"test"``, for sources that have both.
        restart: begin anew even if a part is there.
        quiet: show no progress.

    Raises:
        UserError: a bad setting, nothing readable at ``source``, no space, or ``dest`` is taken.
        Stopped: SIGINT or SIGTERM came, where this is the main thread; progress is saved.
    """
    source, dest = Path(source), Path(dest)
    if dest.name in ("", ".."):  # the work happens beside it, under a name like its own
        dest = dest.resolve()
    _check(size, crop, filter, max_images, workers, channels)
    if max_pixels < 0:
        raise UserError(f"max_pixels must be at least 0, which is no limit; got {max_pixels}")
    background = colour(background)
    with open_source(source, split) as rows:
        recipe = Recipe(size, channels or rows.channels or 3, crop, filter, background, max_pixels)
        request = _request(rows, recipe, max_images)
        if _is_there(dest, request):
            if not quiet:
                print(f"already prepared: {dest}", file=sys.stderr)
            return Cache.open(dest)
        shape = (recipe.channels, size, size)
        wanted = min(rows.count, max_images or rows.count)
        labelled = rows.labels is not None
        with Partial(dest, request, shape, labelled=labelled, restart=restart) as partial, _signals() as stop:
            done = partial.progress
            _check_space(dest, (wanted - done.count) * (recipe.channels * size * size + 8 * labelled))
            count = _workers(workers, min(rows.count - done.rows_read, wanted - done.count))
            by_rows = max_images is None
            first = done.rows_read if by_rows else done.count
            with Meter("prepare", wanted, first, quiet=quiet) as meter:
                rows.check(rows.count if max_images is None else 2 * max_images + HOPELESS, stop.check)
                meter.begin()
                if done.count:
                    meter.say(f"continuing after {done.count:,} images")
                _fill(rows, partial, recipe, max_images, count, stop, meter)
                partial.finish(_provenance(rows, meter.rate()))
    return Cache.open(dest)


def _check(
    size: int, crop: str, filter: str, max_images: int | None, workers: int | None, channels: int | None
) -> None:
    if size < 8 or size % 4:
        raise UserError(f"size must be a multiple of 4 and at least 8; got {size}")
    if crop not in CROPS:
        raise UserError(f"crop must be one of {', '.join(CROPS)}; got {crop!r}")
    if filter not in FILTERS:
        raise UserError(f"filter must be one of {', '.join(FILTERS)}; got {filter!r}")
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 or 3; got {channels}")
    for name, value in (("max_images", max_images), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1; got {value}")


def _request(rows: Source, recipe: Recipe, max_images: int | None) -> dict[str, Any]:
    """What decides every byte of the cache."""
    return {
        "size": recipe.size,
        "channels": recipe.channels,
        "crop": recipe.crop,
        "filter": recipe.filter,
        # Arrays have no transparency, and are no files that could grow when they are decoded.
        "background": recipe.background if rows.channels is None else None,
        "max_pixels": recipe.max_pixels if rows.channels is None else None,
        "max_images": max_images,
        "kind": rows.kind,
        "split": rows.split,
        "rows": rows.count,
        "fingerprint": rows.fingerprint,
    }


def _provenance(rows: Source, rate: float) -> dict[str, Any]:
    return {
        "source": str(rows.path.resolve()),
        "classes": rows.classes,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "wgangp_fast": __version__,
        "pillow": require("PIL").__version__,
        "images_per_second": round(rate, 1),
    }


def _is_there(dest: Path, request: dict[str, Any]) -> bool:
    """Whether ``dest`` is the cache that is asked for.

    Raises:
        UserError: it is something else.
    """
    try:
        if is_cache(dest):
            difference = differences(Cache.open(dest).header["request"], request)
            if not difference:
                return True
            raise UserError(f"{dest} is a cache with {difference}: choose another name, or delete it")
        if dest.exists() and not (dest.is_dir() and not os.listdir(dest)):
            raise UserError(f"{dest} exists and is no cache: choose another name")
    except OSError as error:
        raise UserError(f"cannot read {dest} ({error.strerror})") from None
    return False


def _check_space(dest: Path, needed: int) -> None:
    free = shutil.disk_usage(dest.parent).free
    if needed > free:
        raise UserError(
            f"{dest} needs {needed / 1e9:,.2f} GB and its disk has {free / 1e9:,.2f} GB free: free some "
            "space, or use --max-images or a smaller --size"
        )


def _workers(asked: int | None, rows: int) -> int:
    if os.name != "posix":  # worker processes are talked to through pipes that threads wait for
        return 1
    if asked is None:
        return max(1, min(usable_cores(), rows // ROWS_PER_WORKER))
    return max(1, min(asked, -(-rows // BLOCK)))


class _Stop:
    """Whether a signal came: looked at between rows, so that what was written is always whole."""

    number = 0

    def check(self) -> None:
        if self.number:
            raise Stopped(self.number)


@contextmanager
def _signals() -> Iterator[_Stop]:
    """SIGINT and SIGTERM stop the work when that is safe; a second one ends it at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        stop.number = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


def _fill(
    rows: Source,
    partial: Partial,
    recipe: Recipe,
    limit: int | None,
    workers: int,
    stop: _Stop,
    meter: Meter,
) -> None:
    """Append what is missing: all rows, or until there are ``limit`` images."""
    done = partial.progress
    size = min(BLOCK, limit) if limit else BLOCK
    reason = "no rows"
    blocks = rows.blocks(done.rows_read, size) if limit is None or done.count < limit else iter(())
    told = done.enlarged > 0
    with closing(convert(blocks, rows.reader, recipe, workers, stop.check)) as converted:
        for block, made in converted:
            _append(rows, partial, block, made, limit)
            reason = made.skipped[0].reason if made.skipped else reason
            if not done.count and done.rows_read >= HOPELESS:
                raise UserError(f"none of {rows.path}'s first {done.rows_read} rows is a picture ({reason})")
            if done.enlarged and not told:
                told = True
                meter.say(f"note: some pictures are smaller than {recipe.size} pixels and are enlarged")
            meter.to(
                done.count if limit else done.rows_read, f"{done.skipped:,} skipped" * bool(done.skipped)
            )
            stop.check()
            if limit and done.count >= limit:
                break
    if not done.count:
        raise UserError(f"none of the {rows.count} rows of {rows.path} is a picture ({reason})")


def _append(rows: Source, partial: Partial, block: Block, made: Converted, limit: int | None) -> None:
    kept, end = len(made.places), block.count
    if limit is not None and partial.progress.count + kept >= limit:
        kept = limit - partial.progress.count
        end = made.places[kept - 1] + 1  # rows behind the last image are not looked at
    labels = None
    if rows.labels is not None:
        labels = rows.labels[[block.start + place for place in made.places[:kept]]]
    partial.append(
        made.pixels[:kept],
        sum(made.enlarged[:kept]),
        labels,
        [row._replace(place=block.start + row.place) for row in made.skipped if row.place < end],
        block.start + end,
    )
