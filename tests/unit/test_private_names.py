"""One file touches what is private to torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
import torch
from paths import PACKAGE
from torch import nn

INTERNALS = PACKAGE / "engine" / "torch_internals.py"

#: file and what it may touch: not torch's, but of a Lightning module, and Python's list of finalizers
EXCEPTED = {
    ("wrappers.py", "module._strategy"),
    ("engine/capture/dynamo.py", "weakref.finalize._registry"),
}
#: private names of Python's own objects
PYTHONS = {"os._exit", "sys._getframe", "_asdict", "_replace", "_fields"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_private_path(path: str) -> bool:
    """Whether a dotted name within torch is private; operators may be called as they like."""
    parts = path.split(".")
    if path.startswith("torch.ops."):
        return False
    return any(map(is_private, parts)) or path.startswith("torch.fx.experimental")


def private_to_torch() -> set[str]:
    """The private attributes of what torch hands out."""
    linear = nn.Linear(1, 1)
    graph = torch.fx.symbolic_trace(linear)
    things = [
        torch.empty(1), linear, graph, graph.graph, next(iter(graph.graph.nodes)), torch.ops.aten.add,
        torch.ops.aten.add.Tensor, torch.empty(1).untyped_storage(), torch.optim.SGD(linear.parameters()),
        nn.parallel.DistributedDataParallel, torch.nn.modules.module,
    ]  # fmt: skip
    return {name for thing in things for name in dir(thing) if is_private(name)}


def own_names(trees: list[ast.Module]) -> set[str]:
    """Private names that the package itself gives to functions, classes and attributes."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if ast.unparse(node.value) == "self" else "")
    return {name for name in found if is_private(name)} - private_to_torch()


def touched(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """What a file takes of torch that is private: imports, attributes, ``getattr``, names in strings."""
    names = {"torch": "torch"}  # what a name of this file means
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    names[alias.asname or "torch"] = alias.name if alias.asname else "torch"
                    yield from [alias.name] if is_private_path(alias.name) else []
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                path = names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield from [path] if is_private_path(path) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, *rest = ast.unparse(node).split(".")
            path = ".".join([names.get(root, root), *rest])
            if re.fullmatch(r"torch\.[\w.]+", path):
                yield from [path] if is_private_path(path) else []
            elif is_private(node.attr) and root not in ("self", "cls", "aten") and node.attr not in own:
                yield path
        elif isinstance(node, ast.Call):
            function, strings = ast.unparse(node.func), [a for a in node.args if isinstance(a, ast.Constant)]
            for text in (str(constant.value) for constant in strings):
                if function in ("getattr", "hasattr", "setattr", "delattr") and is_private(text):
                    path = f"{ast.unparse(node.args[0])}.{text}"
                    yield from [] if path.startswith("torch.ops.") or text in own else [path]
                if "import" in function or "resolve" in function:
                    yield from [text] if text.startswith("torch.") and is_private_path(text) else []


def faults(texts: dict[str, str]) -> list[str]:
    trees = {name: ast.parse(text) for name, text in texts.items()}
    own = own_names(list(trees.values()))
    return [
        f"{name}: {path}"
        for name, tree in trees.items()
        for path in touched(tree, own)
        if not any(name == file and path.startswith(what) for file, what in EXCEPTED)
        and path not in PYTHONS
        and path.rpartition(".")[2] not in PYTHONS
    ]


def test_one_file_touches_what_is_private_to_torch() -> None:
    texts = {
        str(p.relative_to(PACKAGE)): p.read_text() for p in sorted(PACKAGE.rglob("*.py")) if p != INTERNALS
    }
    assert "engine/capture/dynamo.py" in texts
    assert faults(texts) == []
    assert len(faults({"engine/x.py": INTERNALS.read_text()})) > 5


@pytest.mark.parametrize(
    "planted",
    [
        "import torch._dynamo",
        "import torch._dynamo as d",
        "from torch._C import parse_schema",
        "from torch import _C",
        "from torch.fx.experimental.proxy_tensor import make_fx",
        "from torch.utils import _pytree as pytree",
        "import torch\ntorch._C._set_grad_enabled(True)",
        "import torch as t\nt.utils._pytree.tree_leaves(1)",
        "from torch import fx\nfx.experimental.proxy_tensor.make_fx(f)",
        "def f(op):\n    return op._schema",
        "def f(op):\n    return getattr(op, '_schema', None)",
        "def f(x):\n    return x.untyped_storage()._cdata",
        "import importlib\nimportlib.import_module('torch._inductor.config')",
    ],
)
def test_a_private_name_is_found(planted: str) -> None:
    assert faults({"engine/x.py": planted})


def test_what_is_public_is_no_fault() -> None:
    text = """
import torch
from torch.fx.proxy import GraphAppendingTracer
x = torch.ops.aten._unsafe_view.default, hasattr(torch.ops.mkldnn, "_linear_pointwise"), torch.__version__
class A:
    def __init__(self): self._own = 1
def f(a): return a._own, getattr(a, "_own")
"""
    assert faults({"engine/x.py": text}) == []
