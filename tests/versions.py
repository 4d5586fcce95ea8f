"""Runs the tests on several versions of torch, and writes docs/compatibility.md: what `make versions` calls.

    python tests/versions.py 2.11.0 2.15.0 --tests tests/unit/test_ops.py

Each version gets an environment of its own, made in a temporary folder and removed afterwards, one at a time:
torch with its CUDA libraries takes 5 GB. The package is installed there as a user installs it, either built
from this checkout with that torch's headers or, with --wheel, from a wheel; the tests see that installation
and not the checkout. A version that runs again replaces its own row alone. The standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "compatibility.json"
TABLE = ROOT / "docs" / "compatibility.md"

VERSIONS = ("2.11.0", "2.12.1", "2.13.0", "2.14.1", "2.15.0")
TESTS = (
    *("rules", "generic_rule", "ops", "engine", "executor", "batches", "history", "products", "lower"),
    *("frontend", "frontend_draws", "penalty", "penalty_changes", "loss", "loss_kinds", "api", "compat"),
    *("fuzz_critics", "package", "native_build", "toolchain", "triton", "mlp_penalty"),
)
NEEDED = ("pytest", "hypothesis", "expecttest", "ninja", "wheel", "triton; sys_platform == 'linux'")

# Asked of the environment itself.
DESCRIBE = """
import json, platform, warnings
import torch
from wgangp_fast.native import load as native
warnings.simplefilter("ignore")
try:
    import triton
except ImportError:
    triton = None
import numpy
loaded = native.library()
print(json.dumps({
    "torch": torch.__version__, "python": platform.python_version(), "numpy": numpy.__version__,
    "triton": triton and triton.__version__,
    "library": native.information().get("torch_built_with") if loaded else native.status().reason,
}))
"""


def call(command: Sequence[str | Path], folder: Path, **changes: str) -> str:
    """What a command prints; its error output goes to ours. A failure ends this version."""
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    # A machine's constraints on torch would decide the version here.
    environment = {**kept, "PIP_CONSTRAINT": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **changes}
    words = list(map(str, command))
    print("+", " ".join(words), flush=True)
    return subprocess.run(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def copy_checkout(folder: Path) -> None:
    """The files that git knows, as they are now; what a build left in ``folder`` stays for the next one."""
    for name in call(["git", "ls-files", "-co", "--exclude-standard"], ROOT).splitlines():
        target = folder / name
        if (ROOT / name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)


def install(version: str, wheel: Path | None, folder: Path) -> Path:
    """An environment with this torch and the package; returns its Python."""
    call([sys.executable, "-m", "venv", folder / "venv"], folder)
    python = folder / "venv" / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "-q", "--no-compile"]
    call([*pip, f"torch=={version}", "numpy", *NEEDED], folder)
    if wheel is None:
        source, built = folder.parent / "checkout", folder / "wheel"
        copy_checkout(source)
        flags: list[str | Path] = ["-q", "--no-deps", "--no-build-isolation", "-w", built]
        changes = {
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",  # where ninja is
            "BUILD_NO_CUDA": os.environ.get("BUILD_NO_CUDA", "1"),
        }
        call([python, "-m", "pip", "wheel", *flags, source], source, **changes)
        (wheel,) = built.glob("*.whl")
    call([*pip, f"{wheel}[train]"], folder)
    return python


def run_tests(python: Path, tests: list[str], folder: Path) -> dict[str, Any]:
    """Counts, skips with their reasons, and the names of what failed."""
    copy = folder / "run"
    copy_checkout(copy)
    (package,) = (folder / "venv" / "lib").glob("python3*/site-packages/wgangp_fast")
    shutil.rmtree(copy / "wgangp_fast")
    (copy / "wgangp_fast").symlink_to(package)
    result = folder / "result.xml"
    told: dict[str, Any] = json.loads(call([python, "-c", DESCRIBE], copy).splitlines()[-1])
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={result}", *tests]
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environment = {"OMP_WAIT_POLICY": "passive", "WGANGP_FAST_CACHE": str(folder / "cache"), **kept}
    ended = subprocess.run(list(map(str, command)), cwd=copy, env=environment, check=False).returncode
    if ended not in (0, 1):  # neither passed nor failed: nothing that a table could hold
        raise subprocess.CalledProcessError(ended, "pytest")
    skipped: Counter[str] = Counter()
    failed, passed = [], 0
    for case in ElementTree.parse(result).iter("testcase"):
        skip = case.find("skipped")
        if skip is not None:
            skipped[skip.get("message", "").removeprefix("Skipped: ")] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}")
        else:
            passed += 1
    return {**told, "passed": passed, "failed": failed, "skipped": dict(sorted(skipped.items()))}


def commit() -> str:
    """The commit that is tested, marked where the tree differs in more than the table itself."""
    name = call(["git", "rev-parse", "--short", "HEAD"], ROOT).strip()
    changed = call(["git", "status", "--porcelain", "-uno", "--", ".", ":!docs/compatibility.*"], ROOT)
    return name + ("-dirty" if changed.strip() else "")


def written(rows: dict[str, dict[str, Any]]) -> str:
    """The page of all rows."""
    lines = [
        "# Compatibility",
        "",
        "Written by `make versions`. Each row is an environment with that torch, in which the package is",
        "installed; its native library is `built` there from source, or comes in a `wheel` (`make wheel`)",
        "that was built with another torch. *tests*: `all` are the files tests/*/test_NAME.py named:",
        ", ".join(TESTS) + ".",
        "",
        "| torch | Python | triton | numpy | library | tests | passed | failed | skipped | date, commit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.values():
        values = [
            *(row["torch"], row["python"], row["triton"] or "none", row["numpy"], row["library"]),
            *(row["tests"], row["passed"], len(row["failed"]), sum(row["skipped"].values())),
            f"{row['date']}, {row['commit']}",
        ]
        lines.append("| " + " | ".join(map(str, values)) + " |")
    for row in rows.values():
        if row["failed"] or row["skipped"]:
            lines += ["", f"## torch {row['torch']}, library {row['library']}", ""]
            lines += [f"- failed: `{name}`" for name in row["failed"]]
            lines += [f"- skipped {count}: {reason}" for reason, count in row["skipped"].items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"default: {' '.join(VERSIONS)}")
    parser.add_argument("--tests", nargs="+", help="test files; default: those that compatibility.md names")
    parser.add_argument("--wheel", type=Path, help="install this wheel instead of building the checkout")
    parser.add_argument("--folder", type=Path, help="work there, and leave compiled kernels for the next run")
    arguments = parser.parse_args()
    tests = arguments.tests or [str(*ROOT.glob(f"tests/*/test_{name}.py")) for name in TESTS]
    wheel = arguments.wheel and arguments.wheel.resolve()
    bad = []
    with ExitStack() as stack:
        work = arguments.folder and arguments.folder.resolve()
        work = work or stack.enter_context(tempfile.TemporaryDirectory(prefix="wgangp_fast-versions-"))
        for version in arguments.versions:
            folder = Path(work, version)
            folder.mkdir(parents=True)
            try:
                row = run_tests(install(version, wheel, folder), tests, folder)
            except subprocess.CalledProcessError as error:
                print(f"torch {version}: {error}", file=sys.stderr)
                bad.append(version)
                continue
            finally:
                shutil.rmtree(folder)
            row["tests"] = "all" if not arguments.tests else " ".join(Path(name).stem for name in tests)
            row["date"] = datetime.now(timezone.utc).date().isoformat()
            row["commit"] = commit()
            # Read only now: another run may have written meanwhile.
            rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            python = row["python"].rpartition(".")[0]
            kind = "wheel" if wheel else "built"
            row["library"] = f"{kind} with {row['library']}"
            rows[f"{version} {kind} python{python}"] = row
            rows = dict(
                sorted(rows.items(), key=lambda item: [int(n) for n in item[0].split()[0].split(".")])
            )
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
            TABLE.write_text(written(rows))
            print(f"torch {version}: {row['passed']} passed, {len(row['failed'])} failed", flush=True)
            bad += [version] if row["failed"] else []
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
