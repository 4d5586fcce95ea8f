"""Questions about a tensor object: is it a leaf, what is it a view of, which attributes does it have.

The front end answers for the tensors that it sees. In place of x it sees a plain tensor of the same shape; in
stock code the critic gets the interpolated points, or the caller's own tensor. The answers may differ, so a
critic that asks this about x is refused. For a parameter or a buffer the answer is guarded.
"""

from __future__ import annotations

from torch import Tensor

from .. import lookups
from ..torch_internals import dynamo
from . import frontend_guards as guards
from .frontend_draws import Front
from .patching import Method, OutputGraph, Patch, Translator, Variable

_NAMES = (
    "is_leaf grad_fn _grad_fn grad _grad retains_grad output_nr _base _version name _backward_hooks "
    "_post_accumulate_grad_hooks"
)

#: what the front end calls to read an attribute of a tensor; the second from torch 2.15 on
_READS = ("var_getattr", "tp_getattro_impl")
_OF_THE_OBJECT = frozenset(_NAMES.split())


def patches(front: Front) -> list[Patch]:
    def refused(tx: Translator, name: str, whose: str) -> Exception:
        return front.blame(
            tx,
            f"the critic looks at .{name} of {whose}, which the tensor's numbers do not decide",
            "decide by an argument of the critic or an attribute of the module",
        )

    def attribute(original: Method) -> Method:
        def var_getattr(self: Variable, tx: Translator, name: str) -> Variable:
            if (name in _OF_THE_OBJECT or not hasattr(Tensor, name)) and _is_x(self, tx.output):
                raise refused(tx, name, "its input")
            result = original(self, tx, name)
            if name in _OF_THE_OBJECT and self.source is not None and result.is_python_constant():
                example = getattr(self.as_proxy().node.meta.get("grapharg"), "example", None)
                if getattr(example, name, None) != result.as_python_constant():
                    raise refused(tx, name, "a tensor")
                guards.install(dynamo.AttrSource(self.source, name), guards.equals)
            return result

        return var_getattr

    names = [name for name in _READS if name in vars(dynamo.TensorVariable)]
    if not names:
        raise lookups.unavailable("reads attributes of tensors in a way that is not known")
    return [(dynamo.TensorVariable, name, attribute) for name in names]


def _is_x(variable: Variable, output: OutputGraph) -> bool:
    """Whether this is x itself: ``x.contiguous()`` and ``x.to(x.dtype)`` may return x."""
    fake = variable.as_proxy().node.meta.get("example_value")
    return any(
        getattr(getattr(node.meta.get("grapharg"), "source", None), "local_name", None) == "x"
        and node.meta.get("example_value") is fake
        for node in output.root_tracer.graph.find_nodes(op="placeholder")
    )
