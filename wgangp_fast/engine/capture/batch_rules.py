"""When one call of an operator can serve several batches: a rule for each family of operators.

In a value that differs from batch to batch, the batches lie one after the other along the dimension
``value.dim``. A rule looks at one call. It returns the arguments that differ from those for one batch (sizes,
tensors that hold all batches) and the batch dimension of the result. Where it is not sure it must return
None: then ``torch.vmap`` maps the operator, which always gives the right values (``batches`` refuses the one
operator whose derivative it gets wrong). These rules are there for speed, and because they keep the operator,
for which the engine has a rule of differentiation.

Dimensions are counted in the value of ONE batch; ``batches.at(value, dim)`` is its node with the batches
along ``dim``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import fx

from ...rules.nodes import Argument, Operator
from ...rules.registry import OPERATOR
from ..torch_internals import schema_of

aten = torch.ops.aten

#: the arguments that change, and the batch dimension of the result (of all its members, if it is a tuple)
Placed = tuple[dict[str, Argument], "int | None"]


class Batching(Protocol):
    """What a rule asks of :class:`.batches.Batches`."""

    count: int
    rows: int
    by_batch: bool
    target: Operator

    def at(self, value: Argument, dim: int | None) -> fx.Node: ...


#: takes the batches, the arguments (tensors as :class:`.batches.Batched`), and the result for one batch
BatchRule = Callable[[Batching, dict[str, Argument], Argument], "Placed | None"]

RULES: dict[Operator, BatchRule] = {}
#: operators that draw each number of their result independently
DRAWN: dict[Operator, BatchRule] = {}
#: operators that repeat along a larger ``size``; whether that depends on the shape of ``self``
SIZED = {aten.expand.default: True}
VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)


def is_tensor(value: Argument) -> bool:
    """Whether an argument is a value of the graph, and a tensor."""
    return isinstance(getattr(value, "val", None), torch.Tensor)


def tensors_of(value: Argument) -> Iterator[Argument]:
    """The tensors in an argument."""
    if isinstance(value, (list, tuple)):
        for member in value:
            yield from tensors_of(member)
    elif is_tensor(value):
        yield value


def _overloads(names: str) -> Iterator[Operator]:
    """Operators by name, as ``sum.dim_IntList``; ``default`` may be left out, unknown ones are skipped."""
    for name in names.split():
        packet, _, overload = name.partition(".")
        found = getattr(getattr(aten, packet, None), overload or "default", None)
        if found is not None:
            yield found


def _enter(names: str, rule: BatchRule, table: dict[Operator, BatchRule] = RULES) -> None:
    table.update(dict.fromkeys(_overloads(names), rule))


def _rule(names: str) -> Callable[[BatchRule], BatchRule]:
    def enter(rule: BatchRule) -> BatchRule:
        _enter(names, rule)
        return rule

    return enter


def _only(given: dict[str, Argument], name: str) -> Argument:
    """The argument ``name``, if it is the only one that differs from batch to batch."""
    mapped = [v for value in given.values() for v in tensors_of(value) if v.mapped]
    return given[name] if mapped == [given[name]] else None


def _dims(value: int | list[int] | None, rank: int) -> list[int]:
    listed = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return [d % rank for d in listed]


# elementwise ---------------------------------------------------------------------------------------------


def pointwise(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """Tensors that are broadcast against each other: their dimensions are counted from the end."""
    tensors = [v for value in given.values() for v in tensors_of(value)]
    mapped = [v for v in tensors if v.mapped]
    result = val if isinstance(val, torch.Tensor) else val[0]
    places = {v.dim - v.val.dim() for v in mapped}
    if len(places) != 1:
        return None
    (place,) = places
    if any(v.val.shape[place] != result.shape[place] for v in mapped):
        return None  # broadcasting would go along the batch dimension

    def put(value: Argument) -> Argument:
        if isinstance(value, (list, tuple)):
            return [put(v) for v in value]
        if not is_tensor(value):
            return value
        if not value.mapped and (value.val.dim() < -place or value.val.shape[place] == 1):
            return value
        return batches.at(value, value.val.dim() + place)

    return {name: put(v) for name, v in given.items() if any(tensors_of(v))}, result.dim() + place


def rule_of(op: Operator) -> BatchRule | None:
    """The rule of an operator; None: torch.vmap maps it."""
    if op in RULES or not isinstance(op, OPERATOR):
        return RULES.get(op)
    plain = str(op).startswith("aten.") and torch.Tag.pointwise in op.tags
    return pointwise if plain and not schema_of(op).is_mutable else None


_enter(
    "detach alias clone _to_copy lift_fresh_copy copy _conj _conj_physical _neg_view hardswish _prelu_kernel "
    "log_sigmoid_forward masked_fill.Tensor zeros_like ones_like full_like empty_like special_erfcx",
    pointwise,
)


@_rule("bucketize.Tensor")
def _lookup(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    h = _only(given, "self")
    return None if h is None else ({"self": batches.at(h, h.dim)}, h.dim)


@_rule("new_zeros new_ones new_full new_empty")
def _made(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """The result depends only on the dtype and device of ``self``."""
    h = given["self"]
    return {"self": next(iter(h.made.values()), h.stacked)}, None


SIZED.update(dict.fromkeys(_overloads("zeros ones full empty.memory_format"), False))
SIZED.update(dict.fromkeys(_overloads("new_zeros new_ones new_full new_empty"), False))


def _drawn(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """Each number is drawn independently. Each batch draws its own, even if no argument differs."""
    if any(v.mapped for value in given.values() for v in tensors_of(value)):
        return pointwise(batches, given, val)
    first = val if isinstance(val, torch.Tensor) else val[0]
    if not first.dim() or first.shape[0] != batches.rows:
        return None
    if "size" in given:
        return {"size": [batches.count * batches.rows, *given["size"][1:]]}, 0
    name = "self" if "self" in given else "input"
    return {name: batches.at(given[name], 0)}, 0


_enter("rand randn randint randint.low bernoulli bernoulli.p bernoulli_.float native_dropout", _drawn, DRAWN)
_enter("rand_like randn_like randint_like randint_like.low_dtype uniform", _drawn, DRAWN)


# one dimension of several --------------------------------------------------------------------------------


@_rule(
    "sum.dim_IntList mean.dim amax amin prod.dim_int logsumexp linalg_vector_norm norm.ScalarOpt_dim "
    "norm.ScalarOpt_dim_dtype var.correction std.correction var_mean.correction max.dim min.dim median.dim "
    "argmax argmin any.dim any.dims all.dim all.dims kthvalue mode nansum"
)
def _reduction(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    h = _only(given, "self")
    dims = [] if h is None else _dims(given["dim"], h.val.dim())
    if not dims or h.dim in dims:
        return None
    left = h.dim if given.get("keepdim") else h.dim - sum(d < h.dim for d in dims)
    return {"self": batches.at(h, h.dim)}, left


@_rule(
    "_softmax _log_softmax _safe_softmax cumsum cumprod logcumsumexp cummax cummin sort sort.stable topk "
    "flip roll glu index_select _fft_r2c _fft_c2c _fft_c2r"
)
def _along(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """The operator combines numbers along ``dim`` only."""
    h = _only(given, "self")
    name = next(n for n in ("dim", "dims", "dimension") if n in given)
    dims = [] if h is None else _dims(given[name], h.val.dim())
    return None if not dims or h.dim in dims else ({"self": batches.at(h, h.dim)}, h.dim)


def _trailing(count: int, name: str = "self") -> BatchRule:
    """The operator combines numbers of the last ``count`` dimensions only."""

    def rule(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
        h = _only(given, name)
        if h is None or h.dim >= h.val.dim() - count:
            return None
        return {name: batches.at(h, h.dim)}, h.dim

    return rule


_enter("upsample_nearest1d upsample_linear1d _upsample_nearest_exact1d", _trailing(1))
_enter("reflection_pad1d replication_pad1d adaptive_avg_pool1d avg_pool1d", _trailing(1))
_enter("upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d", _trailing(2))
_enter("_upsample_bilinear2d_aa _upsample_bicubic2d_aa tril triu col2im", _trailing(2))
_enter("max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d", _trailing(2))
_enter("reflection_pad2d replication_pad2d", _trailing(2))
_enter("max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d", _trailing(3))
_enter("upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact3d", _trailing(3))
_enter("reflection_pad3d replication_pad3d im2col pixel_shuffle pixel_unshuffle", _trailing(3))
_enter("linalg_inv_ex", _trailing(2, "A"))


@_rule("constant_pad_nd")
def _padding(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    return _trailing(len(given["pad"]) // 2)(batches, given, val)


# shapes --------------------------------------------------------------------------------------------------


@_rule("view _unsafe_view reshape")
def _view(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """A view keeps the order of elements: find the dimension of the result where the batches begin."""
    h, size = given["self"], list(val.shape)
    before = math.prod(h.val.shape[: h.dim])
    places = [d for d in range(len(size)) if math.prod(size[:d]) == before]
    if not places:
        return None
    same = [d for d in places if size[d] == h.val.shape[h.dim]]
    place = same[0] if same else places[-1]
    size[place] *= batches.count
    return {"self": batches.at(h, h.dim), "size" if "size" in given else "shape": size}, place


@_rule(
    "permute transpose.int t unsqueeze squeeze.dim squeeze.dims select.int slice.Tensor split.Tensor "
    "split_with_sizes unbind.int diagonal"
)
def _strided(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """Views that move, add, drop or cut whole dimensions. The strides of a probe tensor show where the batch
    dimension went."""
    h = given["self"]
    size, mark = h.val.shape[h.dim], 1 << 40
    strides = [mark if d == h.dim else 1 for d in range(h.val.dim())]  # a diagonal adds two strides
    like = torch.empty_strided(h.val.shape, strides, device="meta")
    views = batches.target(*[like if v is h else v for v in given.values()])
    places = set()
    for view in [views] if isinstance(views, torch.Tensor) else views:
        found = [d for d in range(view.dim()) if (view.shape[d], view.stride(d)) == (size, mark)]
        if not found:
            return None
        places.add(found[-1])
    if len(places) != 1:
        return None
    changes = {"self": batches.at(h, h.dim)}
    if "end" in given and given["dim"] % h.val.dim() == h.dim:
        changes["end"] = batches.count * size  # all of it
    return changes, places.pop()


_enter("view_as_real", _trailing(0))
_enter("view_as_complex", _trailing(1))


@_rule("expand repeat")
def _expanded(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    h = given["self"]
    place = h.dim + val.dim() - h.val.dim()
    if val.shape[place] != h.val.shape[h.dim]:
        return None
    if "repeats" in given:
        return {"self": batches.at(h, h.dim)}, place
    size = [batches.count * s if d == place else s for d, s in enumerate(val.shape)]
    return {"self": batches.at(h, h.dim), "size": size}, place


@_rule("cat stack")
def _joined(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    values = given["tensors"]
    places = {v.dim for v in values if v.mapped}
    stacks = val.dim() - values[0].val.dim()  # 1 for stack
    (place,) = places if len(places) == 1 else (None,)
    if place is None or len({v.val.dim() for v in values}) != 1:
        return None
    dim = given["dim"] % val.dim()
    if not stacks and dim == place:
        return None
    return {"tensors": [batches.at(v, place) for v in values]}, place + stacks * (dim <= place)


@_rule("gather scatter.src scatter.value scatter_add scatter_reduce.two slice_scatter")
def _written(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """Tensors of one rank that are combined along ``dim``, and element by element along the others."""
    tensors = {name: v for name, v in given.items() if is_tensor(v)}
    places = {v.dim for v in tensors.values() if v.mapped}
    if len(places) != 1 or len({v.val.dim() for v in tensors.values()}) != 1:
        return None
    (place,) = places
    if len({v.val.shape[place] for v in tensors.values()}) != 1:
        return None
    changes: dict[str, Argument] = {}
    if given["dim"] % val.dim() == place:
        if "end" not in given:
            return None
        changes["end"] = batches.count * val.shape[place]  # as long as val there: all of it
    return changes | {name: batches.at(v, place) for name, v in tensors.items()}, place


@_rule("select_scatter")
def _selected(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    h, src, dim = given["self"], given["src"], given["dim"] % val.dim()
    place = h.dim if h.mapped else src.dim + (dim <= src.dim)
    if place == dim:
        place = next((d for d in range(val.dim()) if d != dim), None)
    if place is None:
        return None
    inner = place - (dim < place)
    if (h.mapped and h.dim != place) or (src.mapped and src.dim != inner):
        batches.by_batch = True
    return {"self": batches.at(h, place), "src": batches.at(src, inner)}, place


# products, norms, look-ups -------------------------------------------------------------------------------


@_rule("linear")
def _linear(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    h = _only(given, "input")
    return None if h is None or h.dim == h.val.dim() - 1 else ({"input": batches.at(h, h.dim)}, h.dim)


@_rule("mm mv bmm")
def _product(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """Batches are rows of the first factor or columns of the second; in ``bmm`` they may be its own batch."""
    names = ("self", "vec" if "vec" in given else "mat2")
    a, b = (given[name] for name in names)
    rank = a.val.dim()
    outer = rank == 3 and {v.dim for v in (a, b) if v.mapped} == {0}
    if outer:
        return {name: batches.at(given[name], 0) for name in names}, 0
    if a.mapped and not b.mapped and a.dim == rank - 2:
        return {names[0]: batches.at(a, a.dim)}, a.dim
    if b.mapped and not a.mapped and b.dim == rank - 1 and b.val.dim() == rank:
        return {names[1]: batches.at(b, b.dim)}, b.dim
    return None


@_rule("convolution grid_sampler_2d grid_sampler_3d")
def _image(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """Images, one after the other. A kernel is the same for all; each image has a grid of its own."""
    shared = [v for name in ("weight", "bias") for v in tensors_of(given.get(name))]
    own = {name: given[name] for name in ("input", "grid") if name in given}
    places = {v.dim for v in own.values() if v.mapped}
    if any(v.mapped for v in shared) or places != {0}:
        return None
    return {name: batches.at(v, 0) for name, v in own.items()}, 0


@_rule("affine_grid_generator")
def _grid(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    h = given["theta"]
    n, *size = given["size"]
    return ({"theta": batches.at(h, 0), "size": [batches.count * n, *size]}, 0) if h.dim == 0 else None


@_rule("native_layer_norm _fused_rms_norm")
def _row_norm(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    return _trailing(len(given["normalized_shape"]), "input")(batches, given, val)


@_rule("native_group_norm")
def _group_norm(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    h = _only(given, "input")
    if h is None or h.dim != 0:
        return None
    return {"input": batches.at(h, 0), "N": batches.count * given["N"]}, 0


@_rule("native_batch_norm cudnn_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training")
def _batch_norm(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """Batch norm with its running statistics, one per channel. Its other results are then empty."""
    h = _only(given, "input")
    if h is None or given.get("training", False):
        return None
    changes = {"input": batches.at(h, h.dim)}
    if h.dim == 1:
        names = [n for n in ("weight", "bias", "running_mean", "running_var") if is_tensor(given[n])]
        changes |= {name: batches.at(given[name], 0) for name in names}
    return changes, h.dim


@_rule("_trilinear")
def _trilinear(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    """Three factors are expanded to one shape, multiplied, and summed over ``sumdim``."""
    wide: dict[
        str, list[int | None]
    ] = {}  # each factor's dimensions by their place in that shape; None: expanded
    for name, made in (("i1", "expand1"), ("i2", "expand2"), ("i3", "expand3")):
        own = iter(range(given[name].val.dim()))
        rank = given[name].val.dim() + len(given[made])
        wide[name] = [None if d in given[made] else next(own) for d in range(rank)]
    places = {wide[name].index(given[name].dim) for name in wide if given[name].mapped}
    (place,) = places if len(places) == 1 else (None,)
    if place is None or place in given["sumdim"]:
        return None
    held = {name: batches.at(given[name], d[place]) for name, d in wide.items() if d[place] is not None}
    return held, place - sum(d < place for d in given["sumdim"])


@_rule("embedding")
def _embedding(batches: Batching, given: dict[str, Argument], val: Argument) -> Placed | None:
    h = _only(given, "indices")
    return None if h is None else ({"indices": batches.at(h, h.dim)}, h.dim)
