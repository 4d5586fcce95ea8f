"""The library built at first use, once a machine: a folder for each key, safe with many processes.

``CACHE/KEY/_C.so`` is the library; its object files wait in ``CACHE/objects`` for the next one, which
shares most of them where one source changed. ``CACHE/KEY/failed.txt`` is what a build that failed said: it
is not tried again until the sources, the compiler or torch change (another key) or that file is removed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .recipe import Recipe, Step, run_step, run_steps
from .toolchain import BuildError


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """``WGANGP_FAST_CACHE``, else wgangp_fast in ``XDG_CACHE_HOME``, else in ~/.cache."""
    own = environment.get("WGANGP_FAST_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wgangp_fast"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among processes; the system frees it when its holder dies."""
    import fcntl

    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find(recipe: Recipe, cache: Path) -> Path | None:
    """The library for this recipe, if it was built before."""
    path = cache / recipe.key() / "_C.so"
    return path if path.exists() else None


def remembered_failure(recipe: Recipe, cache: Path) -> str | None:
    """What an earlier attempt said, if it failed."""
    failed = cache / recipe.key() / "failed.txt"
    if not failed.exists():
        return None
    return f"{failed.read_text(encoding='utf-8')}\n(from an earlier attempt; remove {failed} to try again)"


def _run_or_reuse(recipe: Recipe, step: Step, objects: Path) -> None:
    """Take the object file that an earlier build left, or compile it and leave it."""
    if step.output.suffix != ".o":
        run_step(step)
        return
    objects.mkdir(exist_ok=True)
    kept = objects / f"{step.output.stem}-{recipe.step_key(step)}.o"
    if kept.exists():
        os.utime(kept)
        shutil.copyfile(kept, step.output)
        return
    run_step(step)
    beside = step.output.with_suffix(".keep")
    shutil.copyfile(step.output, beside)
    os.replace(beside, kept)


def _sweep(objects: Path, days: float = 30) -> None:
    """Remove object files that no build took for so long."""
    old = time.time() - days * 86400
    for path in objects.glob("*.o"):
        with suppress(OSError):
            if path.stat().st_mtime < old:
                path.unlink()


def build(recipe: Recipe, cache: Path) -> tuple[Path, bool]:
    """Return the library's path, and whether this call built it.

    Raises:
        BuildError: it does not compile, here and now or when it was last tried.
        OSError: the cache cannot be written.
    """
    folder = cache / recipe.key()
    library, failed = folder / "_C.so", folder / "failed.txt"
    if library.exists():
        return library, False
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        if library.exists():
            return library, False
        failure = remembered_failure(recipe, cache)
        if failure:
            raise BuildError(failure)
        print(
            f"wgangp_fast: compiling its native kernels, once, into {folder} "
            "(WGANGP_FAST_NATIVE=0 does without)",
            file=sys.stderr,
        )
        work = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
        try:
            run_steps(
                [*recipe.compile_steps(work), recipe.link_step(work, work / "_C.so")],
                lambda step: _run_or_reuse(recipe, step, cache / "objects"),
            )
            os.replace(work / "_C.so", library)
            _sweep(cache / "objects")
        except BuildError as error:
            failed.write_text(str(error), encoding="utf-8", errors="backslashreplace")
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return library, True
