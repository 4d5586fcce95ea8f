"""The package as a package: its cost to import, who may import whom, how long files and functions are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from paths import PACKAGE, ROOT

import wgangp_fast

# From bottom to top. A file may import from the layers below its own, and from its own unit (the file
# or the folder named here), nothing else. A new file or folder goes into this table first. A file of a folder
# may stand in a layer of its own.
LAYERS = (
    ("errors", "lazy"),
    ("engine.lookups",),
    ("engine.torch_internals",),
    ("optional_dependencies", "files", "console", "interrupts"),
    ("native", "cli_arguments"),
    ("backend", "checks", "options", "rng", "wrappers"),
    ("reference",),
    ("cuda_graphs.capture", "cuda_graphs.guards"),
    ("kernels",),
    ("ops",),
    ("rules",),
    ("engine", "engine.effects"),
    ("engine.ir", "engine.codegen"),
    ("engine.derive",),
    ("engine.capture",),
    ("engine.passes", "engine.executors"),
    ("engine.plan", "engine.score_plan"),
    ("plain_tensors", "request"),
    ("autograd", "verify"),
    ("run",),
    ("penalty", "acceleration"),
    ("loss", "compat"),
    ("cuda_graphs",),
    ("explanation",),
    ("autotune",),
    # applications of the core
    ("training.models", "training.data"),
    ("training.metrics",),
    ("training",),
    ("train", "models", "data"),  # short names
    ("bench",),
    ("experiments", "doctor"),
    ("cli",),
    ("__main__", "__init__"),
)
LAYER_OF = {unit: level for level, units in enumerate(LAYERS) for unit in units}

MAX_LINES = 450
MAX_LINES_OF_A_FUNCTION = 60


def module_name(path: Path) -> str:
    """``wgangp_fast/engine/plan.py`` to ``engine.plan``; a folder's ``__init__.py`` to the folder."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def sources() -> dict[str, Path]:
    """Every module of the package, name within the package to path."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(name: str, source: str, is_package: bool, known: set[str]) -> Iterator[str]:
    """Names within the package that ``source``, the module ``name``, imports anywhere in its text.

    Imports inside functions count: postponing an import does not turn a layer around.
    """
    here = [] if name == "__init__" else name.split(".")
    folder = here if is_package else here[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                if top == "wgangp_fast":
                    yield rest or "__init__"
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = folder[: len(folder) - (node.level - 1)]
            elif node.module and node.module.split(".")[0] == "wgangp_fast":
                base = []
            else:
                continue
            module = (node.module or "").split(".") if node.module else []
            base = base + (module if node.level else module[1:])
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                if not base and alias.name == "__version__":
                    continue  # a constant; whoever asks for it runs after the package is loaded
                yield inner if inner in known else (".".join(base) or "__init__")


def unit_of(name: str) -> str:
    """The entry of the table that ``name`` belongs to: its own, else that of the innermost folder in it."""
    while name not in LAYER_OF and "." in name:
        name = name.rpartition(".")[0]
    return name


def layering_faults(texts: dict[str, str], packages: set[str]) -> list[str]:
    """What in ``texts`` (module name to source) breaks :data:`LAYERS`, a sentence each."""
    faults = []
    graph: dict[str, set[str]] = {}
    for name, text in texts.items():
        unit = unit_of(name)
        if unit not in LAYER_OF:
            faults.append(f"{name}: not in the table LAYERS of tests/unit/test_package.py")
            continue
        targets = set(imported_modules(name, text, name in packages, set(texts)))
        # A folder's __init__ re-exports its files' names; the order that counts is the files'.
        graph[name] = {t for t in targets if t not in packages and t != name}
        for target in targets:
            other = unit_of(target)
            if other not in LAYER_OF:
                faults.append(f"{name} imports {target}: not in the table LAYERS")
            elif other != unit and LAYER_OF[other] >= LAYER_OF[unit]:
                faults.append(f"{name} imports {target}, which is not in a layer below it")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        faults.append("imports in a circle: " + " -> ".join(error.args[1]))
    return faults


def test_layering() -> None:
    files = sources()
    packages = {name for name, path in files.items() if path.name == "__init__.py"}
    assert not layering_faults({name: path.read_text() for name, path in files.items()}, packages)


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        ({"stray": ""}, "stray: not in the table"),
        ({"ops.a": "from ..rules import r", "rules": ""}, "ops.a imports rules, which"),
        ({"ops.a": "def f():\n    import wgangp_fast.penalty", "penalty": ""}, "ops.a imports penalty"),
        ({"ops.a": "from wgangp_fast import gradient_penalty", "__init__": ""}, "ops.a imports __init__"),
        ({"penalty": "from .training.models import c", "training.models": ""}, "penalty imports training"),
        ({"ops.a": "from . import b", "ops.b": "from .a import x"}, "circle"),
        ({"engine.ir": "from . import plan", "engine.plan": ""}, "engine.ir imports engine.plan"),
    ],
)
def test_layering_faults_are_found(texts: dict[str, str], fault: str) -> None:
    packages = {"rules", "__init__"} & set(texts)
    (found,) = layering_faults(texts, packages)
    assert fault in found


def test_layering_allows_what_is_below() -> None:
    texts = {
        "engine.plan": "from ..rules import registry\nfrom .. import backend, __version__\nimport torch",
        "rules": "",
        "rules.registry": "from ..ops.a import f",
        "ops.a": "",
        "backend": "",
    }
    assert layering_faults(texts, {"rules"}) == []


def test_no_long_files() -> None:
    suffixes = {".py", ".cpp", ".cu", ".h", ".cuh", ".sh"}
    folders = [PACKAGE, ROOT / "tests", ROOT / "benchmarks", ROOT / "csrc"]
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in suffixes
    }
    assert "wgangp_fast/__init__.py" in lengths
    too_long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert not too_long


def long_functions(source: str) -> list[tuple[str, int]]:
    """Functions of more than :data:`MAX_LINES_OF_A_FUNCTION` lines, without signature and docstring."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1
            if length > MAX_LINES_OF_A_FUNCTION:
                found.append((node.name, length))
    return found


def test_no_long_functions() -> None:
    """Kernels apart, which are one computation from top to bottom."""
    texts = {name: path.read_text() for name, path in sources().items() if not name.startswith("kernels")}
    assert {name: found for name, text in texts.items() if (found := long_functions(text))} == {}


@pytest.mark.parametrize(("lines", "found"), [(60, []), (61, [("f", 61)])])
def test_long_functions_are_found(lines: int, found: list[tuple[str, int]]) -> None:
    body = "\n".join(["    pass"] * lines)
    assert long_functions(f'def f():\n    """Two\n    lines."""\n{body}\n') == found


OPTIONAL = (
    "PIL clang_format cpuinfo cupy hypothesis jax lmdb matplotlib ninja pytest rich safetensors "
    "scipy skimage sklearn tensorboard torchvision tqdm triton tyro"
)

WITHOUT_EXTRAS = f'''
import subprocess, sys
sys.path.insert(0, {str(ROOT)!r})

class Without:
    """A finder that does not find the extras, so that looking for one is no error, as where it is absent."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL.split()!r}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
'''

IMPORT_ALONE = f"""
{WITHOUT_EXTRAS}
import torch, numpy
before = set(sys.modules)

def no_process(*args, **keywords):
    raise AssertionError("importing wgangp_fast started a process: " + repr(args))

subprocess.Popen.__init__ = no_process
import wgangp_fast
assert 'wgangp_fast.penalty' not in sys.modules, 'names are imported when they are used'
assert wgangp_fast.gradient_penalty and wgangp_fast.explain
assert not torch.cuda.is_initialized(), "importing wgangp_fast initialised CUDA"
new = set(sys.modules) - before
stdlib = sys.stdlib_module_names
print(*sorted(name for name in new if name.split(".")[0] not in stdlib))
"""


def output_of(program: str) -> str:
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_import_needs_torch_and_numpy_alone() -> None:
    """In a fresh interpreter that lacks every extra: no CUDA, no compiler, no Dynamo."""
    new = output_of(IMPORT_ALONE).split()
    assert "wgangp_fast.penalty" in new
    heavy = ("torch._dynamo", "torch._inductor", "torch._functorch.aot", "torch.utils.cpp_extension")
    assert not [name for name in new if name.startswith(heavy)]
    assert {name.split(".")[0] for name in new} <= {"wgangp_fast", "torch", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["--workload", "ctgan", "--batch", "4"], ["ctgan", "4"]),
        (["--critic", "models:toy-critic", "--shape", "4,2"], ["models:toy-critic", "critic_step", "4"]),
    ],
)
def test_bench_needs_torch_and_numpy_alone(arguments: list[str], begins: list[str]) -> None:
    """Whole: measured, judged, printed without rich."""
    program = (
        WITHOUT_EXTRAS + "from wgangp_fast.bench.cli import main\n"
        f"sys.exit(main({[*arguments, '--rounds', '1', '--memory']!r}))"
    )
    lines = [line.split() for line in output_of(program).splitlines()]
    for contestant in ("stock", "ours"):
        assert [*begins, contestant] in [line[: len(begins) + 1] for line in lines]


def test_version_is_the_one_packaging_reads() -> None:
    assert wgangp_fast.__version__[0].isdigit()
    assert 'version = { attr = "wgangp_fast.__version__" }' in (ROOT / "pyproject.toml").read_text()
