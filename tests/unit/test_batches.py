# ruff: noqa: E501 - tables of functions: a line each, to be compared with the next
"""Graphs for several batches at once: equal to the graph on each batch, whatever an operator does with samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from wgangp_fast.engine.capture.batches import NotBatchable, at_batches
from wgangp_fast.engine.capture.normalize import normalise
from wgangp_fast.engine.derive.batch_match import BatchMatch

N, A, B = 4, 3, 6
Function = Callable[..., Any]

#: where the samples lie in ``h``: functions of x ``[N, A, B]``
PLACES: dict[str, Function] = {
    "first": lambda x: x,
    "middle": lambda x: x.transpose(0, 1),
    "last": lambda x: x.permute(1, 2, 0),
}


def constant() -> Tensor:
    """Numbers ``[B, B]``, made where they are used: a graph that is traced holds no tensors."""
    return torch.linspace(-1, 40, B * B).double().sin().view(B, B)


def _along(h: Tensor, d: int) -> Tensor:
    """What has a dimension, along ``d``."""
    size = h.shape[d]
    order = torch.arange(size).flip(0)
    wide = [size if i == d else 1 for i in range(h.dim())]
    places = order.view(wide).expand_as(h)
    parts = [
        h.softmax(d), h.log_softmax(d), h.cumsum(d), h.cumprod(d), h.logcumsumexp(d), h.flip(d), h.roll(1, d),
        h.sort(d).values, h.sort(d).indices.double(), h.cummax(d).values, h.gather(d, places),
        h.index_select(d, order), torch.zeros_like(h).scatter(d, places, h), h.scatter(d, places, 2.0),
        h.scatter_add(d, places, h), h.index_add(d, order, h), torch.fft.fft(h, dim=d).abs(),
        h.select(d, 1).unsqueeze(d).expand_as(h), h.slice_scatter(h.narrow(d, 0, 2) * 2, d, 1, 3),
        h.select_scatter(h.select(d, 0) * 3, d, 1), h.index_copy(d, order[:2], h.narrow(d, 0, 2) * 3),
        h.index_fill(d, order[:2], 2.0),
        h.diagonal_scatter(h.diagonal(0, d, (d + 1) % 3) * 2, 0, d, (d + 1) % 3), torch.cat([h, h * 2], d).narrow(d, 1, size),
        torch.cat([h, torch.ones_like(h)], d).narrow(d, size - 1, size),
        torch.stack([h, h * 2], d).sum(d), torch.cat(h.split(2, d)[::-1], d), torch.stack(h.unbind(d)[::-1], d),
        h.repeat_interleave(2, d).narrow(d, 1, size), h.narrow(d, 1, size - 1).amax(d, keepdim=True) + h,
        h.repeat([2 if i == d else 1 for i in range(h.dim())]).narrow(d, 1, size),
        h.unfold(d, 2, 1).sum(-1).narrow(d, 0, 1) + h, h - h.topk(2, d).values.narrow(d, 1, 1),
    ]  # fmt: skip
    reduced = [
        h.sum(d, keepdim=True), h.mean(d, keepdim=True), h.amax(d, keepdim=True), h.amin(d, keepdim=True),
        h.var(d, keepdim=True), h.std(d, keepdim=True), h.prod(d, keepdim=True), h.logsumexp(d, keepdim=True),
        h.norm(dim=d, keepdim=True), h.norm(p=3, dim=d, keepdim=True), h.max(d, keepdim=True).values,
        h.min(d, keepdim=True).indices.double(), h.argmax(d, keepdim=True).double(),
        h.median(d, keepdim=True).values, (h > 0).all(d, keepdim=True).double(),
        (h > 0).any(d, keepdim=True).double(), h.sum(d).unsqueeze(d), h.var_mean(d, keepdim=True)[1]
        if hasattr(h, "var_mean") else torch.var_mean(h, d, keepdim=True)[1], h.nansum(d, keepdim=True),
    ]  # fmt: skip
    return sum(parts) + sum(r.expand_as(h) * (i + 2) for i, r in enumerate(reduced))


def _images(x: Tensor) -> Tensor:
    return F.pad(x, (1, 2)).unsqueeze(2).repeat(1, 1, 5, 1).cumsum(2)  # [N, A, 5, 9]


def _put(h: Tensor) -> Tensor:
    out = torch.zeros(4, A, B + 2, dtype=h.dtype)
    out[:, :, 1:-1] = h
    out[:, 0] = out[:, 1] * 2
    return out


FUNCTIONS: dict[str, Function] = {
    **{
        f"along {d}, samples {place}": lambda x, d=d, put=put: _along(put(x), d)
        for place, put in PLACES.items()
        for d in range(3)
    },
    **{
        f"products, samples {place}": lambda x, put=put: _products(put(x)) for place, put in PLACES.items()
    },
    **{
        f"views, samples {place}": lambda x, put=put: _views(put(x)) for place, put in PLACES.items()
    },
    **{
        f"broadcast, samples {place}": lambda x, put=put: _broadcast(put(x)) for place, put in PLACES.items()
    },
    **{f"norms, samples {place}": lambda x, put=put: _norms(put(x)) for place, put in PLACES.items()},
    "all of a batch": lambda x: x / x.std() + x.mean() * (x.sum() + x.abs().max()),
    "squeezed": lambda x: x[:, :1].squeeze() + x[:, :1, :1].squeeze()[:, None],
    "the first two samples": lambda x: x[:2].sum(0) + x[1] + x[-1:] + x[::2].sum(0),
    "all samples": lambda x: x.narrow(0, 0, N) + x.transpose(0, 1).narrow(1, 0, N).transpose(0, 1) * 2,
    "pairs of samples": lambda x: (x[:, None] - x[None]).abs().sum((1, 3)),
    "row numbers": lambda x: x[torch.arange(N), torch.arange(N) % A] + x.flatten(0, 1)[torch.arange(3) * 2].sum(0),
    "pooled by graph": lambda x: x.new_zeros(N, B).index_add(0, torch.arange(N).repeat_interleave(A), x.flatten(0, 1)),
    "rows of another size": lambda x: x.new_zeros(2, B).index_add(0, torch.arange(N) % 2, x[:, 0]),
    "rows put": lambda x: x.new_zeros(N, B).index_put((torch.arange(N).flip(0),), x[:, 1], accumulate=True),
    "numbers of the samples": lambda x: x * torch.arange(N, dtype=x.dtype)[:, None, None] + torch.linspace(0, 1, B),
    "indices out of x": lambda x: constant()[(x.sigmoid() * 5).long()[:, 0]].sum(1) + x[:, 1].gather(1, (x[:, 0] > 0).long()),
    "embedding of bins": lambda x: F.embedding(torch.bucketize(x[:, 0], torch.linspace(-1, 1, 4)), constant()),
    "one hot": lambda x: F.one_hot((x.sigmoid() * 3).long(), 4).double().mean(1),
    "written slices": _put,
    "put across": lambda x: _across(x),
    "convolutions": lambda x: _convolutions(x),
    "pooling": lambda x: _pooling(_images(x)),
    "upsampling": lambda x: _upsampling(_images(x)),
    "padding": lambda x: _padding(_images(x)),
    "grid": lambda x: F.grid_sample(
        _images(x), F.affine_grid(x[:, :2, :3].tanh(), [N, A, 4, 4], align_corners=False), align_corners=False
    ),
    "one grid": lambda x: F.grid_sample(_images(x)[:1], x[:1, None, :, :2].tanh(), align_corners=False),
    "linear algebra": lambda x: _algebra(x),
    "norms of groups": lambda x: F.group_norm(x, 1) + F.group_norm(x, A) + F.instance_norm(x),
    "bilinear": lambda x: F.bilinear(x[:, 0], x[:, 1], constant()[None]),
    "complex": lambda x: torch.view_as_complex(torch.view_as_real(torch.complex(x, x * 2)).flip(0)).abs(),
    "spectrum": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2).tanh(),
    "detached": lambda x: x.detach() * torch.ones_like(x) + torch.full_like(x, 2) + x.new_full((N, 1, 1), 3) * x,
    "batch norm of itself": lambda x: F.batch_norm(x, None, None, training=True),
    "batch norm kept": lambda x: F.batch_norm(x, torch.ones(A).double(), torch.ones(A).double() * 2),
    "batch norm kept, samples for channels": lambda x: F.batch_norm(
        x.transpose(0, 1), torch.arange(N).double(), torch.ones(N).double() * 2, constant()[0, :N], constant()[1, :N]
    ),
    "masked": lambda x: x.masked_fill(x > 0, 2.0).masked_fill(torch.arange(N)[:, None, None] > 1, 0.0),
    "written along samples": lambda x: torch.stack([
        x.flatten().index_fill(0, torch.arange(2), 2.0), x.flatten().index_copy(0, torch.arange(2), x[0, 0, :2] * 3),
    ]),
    "tri": lambda x: x.tril(1) + x.triu() + x.transpose(0, 1).tril().transpose(0, 1),
    "diagonal": lambda x: x.diagonal(0, 1, 2) + x.diagonal(0, 0, 1).sum(),
    "diagonal longer than the samples": lambda x: x.repeat(1, 1, 3).diagonal(0, 0, 2),
    "diagonal of more columns than rows": lambda x: x.flatten(1).diagonal() + x.flatten(1).diagonal(2),
}  # fmt: skip


def _across(x: Tensor) -> Tensor:
    """The samples of the second are another dimension of the first."""
    return x.flatten(1)[:, : 2 * N].reshape(N, N, 2).select_scatter(x.flatten(1)[:, :N].t(), 2, 1)


def _products(h: Tensor) -> Tensor:
    a, b, c = h.shape
    w = constant()[:c, :b]
    left = torch.arange(a * 2.0).view(2, a).double()
    parts = [
        h @ w, F.linear(h, w.t()), (left @ h.flatten(1)).view(2, b, c) @ w, h.flatten(0, 1) @ w,
        torch.bmm(h, h.transpose(1, 2)), torch.bmm(w.t()[None].expand(a, b, c), h.transpose(1, 2)), h.flatten(1).mv(torch.ones(b * c).double()),
        h[0] @ w, w.t() @ h[:, 0].t(), h.flatten(0, 1).t() @ h.flatten(0, 1), torch.bmm(h, w[None].expand(a, c, b)),
    ]  # fmt: skip
    return torch.cat([p.flatten() for p in parts])


def _views(h: Tensor) -> Tensor:
    a, b, c = h.shape
    parts = [
        h.reshape(a, b * c), h.reshape(a * b, c), h.reshape(-1), h.reshape(1, a * b, c).sum(1), h.reshape(c, b, a),
        h.flatten(1).view(a, c, b), h.reshape(a, 1, b, c).expand(a, 2, b, c), h.permute(2, 0, 1), h[:, 0].t(),
        h.unsqueeze(1).squeeze(1), h.expand(2, a, b, c), h.repeat(2, 1, 1), h.repeat(1, 2, 1), h.reshape(1, -1),
        h[..., 1:], h[:, 1:], h[1:], h.unflatten(0, (1, a)), h.movedim(0, 2), h.split([1, b - 1], 1)[1],
        h.unsqueeze(0).squeeze(), h.reshape(a, b * c).unfold(1, 2, 1),
    ]  # fmt: skip
    return torch.cat([p.flatten() for p in parts])


def _broadcast(h: Tensor) -> Tensor:
    a, b, c = h.shape
    parts = [
        h * torch.arange(c), h + torch.arange(b)[:, None], h + torch.arange(a)[:, None, None], h * h[:1], h * h[:, :1],
        torch.where(h > 0, h, torch.arange(c).double()), torch.lerp(h, h * 2, 0.3), h[0] * torch.ones(2, 1, 1),
        h * h.mean((1, 2), keepdim=True), h * h.mean((0, 1)), torch.addcmul(h, h, h), h[:, :, :1] * torch.ones(5),
        h[..., 0] * h[:, 0, :1], F.prelu(h, torch.full((b,), 0.3).double()), F.logsigmoid(h), F.hardswish(h),
    ]  # fmt: skip
    return torch.cat([p.flatten() for p in parts])


def _norms(h: Tensor) -> Tensor:
    a, b, c = h.shape
    parts = [F.layer_norm(h, [c]), F.layer_norm(h, [b, c]), F.layer_norm(h, [a, b, c])]
    parts += [F.normalize(h, dim=1)]
    return torch.cat([p.flatten() for p in parts])


def _convolutions(x: Tensor) -> Tensor:
    c = constant()
    w = c[:2, :A, None].repeat(1, 1, 3)
    own = x[:, :, :3].reshape(N * A, 1, 3)  # a kernel for each sample
    parts = [
        F.conv1d(x, w), F.conv1d(x.transpose(0, 1), c[:2, :N, None]), F.conv_transpose1d(x, w.transpose(0, 1)),
        F.conv1d(x.reshape(1, N * A, B), own, groups=N * A), F.conv1d(x[:1], x[:2, :, :2]),
        F.conv1d(x, w, bias=x[0, 0, :2]), F.unfold(_images(x), 2), F.fold(F.unfold(_images(x), 2), (5, 9), 2),
    ]  # fmt: skip
    return torch.cat([p.flatten() for p in parts])


def _pooling(h: Tensor) -> Tensor:
    parts: list[Tensor] = []
    for v in (h, h.transpose(0, 1), h.permute(1, 2, 0, 3), h.permute(1, 2, 3, 0)):
        parts += [
            F.max_pool2d(v, 2),
            F.avg_pool2d(v, 2),
            F.adaptive_avg_pool2d(v, 2),
            F.adaptive_max_pool2d(v, 2),
        ]
    parts += [
        F.max_pool3d(h, 2),
        F.avg_pool3d(h, (1, 2, 2)),
        F.adaptive_avg_pool3d(h, 2),
        F.avg_pool1d(h[:, 0], 2),
    ]
    parts += [F.pixel_shuffle(h.repeat(1, 4, 1, 1), 2), F.pixel_unshuffle(h[..., :4, :4], 2)]
    return torch.cat([p.flatten() for p in parts])


def _upsampling(h: Tensor) -> Tensor:
    parts: list[Tensor] = []
    for mode in ("nearest", "bilinear", "bicubic", "nearest-exact"):
        places = [h, h.transpose(0, 1), h.permute(1, 2, 0, 3)]
        parts += [F.interpolate(v, size=7, mode=mode) for v in places[: 2 if "exact" in mode else 3]]
    parts += [F.interpolate(h[:, 0], size=7), F.interpolate(h[:, None], size=3, mode="trilinear")]
    return torch.cat([p.flatten() for p in parts])


def _padding(h: Tensor) -> Tensor:
    parts: list[Tensor] = []
    for v in (h, h.transpose(0, 1), h.permute(1, 2, 0, 3)):
        parts += [F.pad(v, (1, 1, 1, 1), mode=mode) for mode in ("reflect", "replicate", "constant")]
    return torch.cat(
        [p.flatten() for p in (*parts, F.pad(h, (0, 0, 0, 0, 0, 0, 1, 0)), F.pad(h, (0, 1, 0, 0, 1, 0)))]
    )


def _algebra(x: Tensor) -> Tensor:
    spd = x @ x.transpose(1, 2) + torch.eye(A).double()
    whole = x.flatten(1) @ x.flatten(1).t() + torch.eye(N).double()
    parts = [
        torch.linalg.inv_ex(spd)[0],
        torch.linalg.svdvals(spd),
        torch.linalg.eigvalsh(spd),
        torch.linalg.pinv(spd),
    ]
    return torch.cat(
        [p.flatten() for p in (*parts, torch.linalg.inv_ex(whole)[0], torch.linalg.svdvals(whole))]
    )


class Derivable(fx.Interpreter):
    """A graph as autograd differentiates it: the functional copy, for which the engine has a rule, has none."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.aten.copy.default:
            return args[1].to(args[0].dtype).expand(args[0].shape)
        return super().call_function(target, args, kwargs)


def _graph(function: Function, x: Tensor) -> fx.Graph:
    pure = torch.func.functionalize(lambda x: function(x), remove="mutations")
    return make_fx(pure, tracing_mode="fake", decomposition_table={})(x).graph


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_the_graph_on_each_batch(name: str) -> None:
    function = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3 * N, A, B, generator=generator).double()
    _check(function, _graph(function, x[:N]), x)


@pytest.mark.parametrize("place", PLACES)
def test_products_in_the_form_of_the_engine(place: str) -> None:
    """Among them ``linear``, which a trace writes as its parts."""
    x = torch.randn(3 * N, A, B).double()

    def function(x: Tensor) -> Tensor:
        return _products(PLACES[place](x))

    graph = _graph(function, x[:N])
    normalise(graph)
    assert graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    _check(function, graph, x)


def _check(function: Function, graph: fx.Graph, x: Tensor) -> None:
    graphs = [at_batches(graph, count) for count in (1, 2, 3)]
    score = next(n for n in graphs[2].nodes if n.op == "output").args[0]
    for count, found in zip((1, 2, 3), graphs):
        given = x[: count * N].clone().requires_grad_()
        theirs = torch.stack([function(part) for part in given.split(N)])
        ours = Derivable(fx.GraphModule(torch.nn.Module(), found)).run(given)
        dim = BatchMatch(*graphs).dim(next(iter(graphs[0].find_nodes(op="output"))).args[0])
        ours = torch.stack(ours.chunk(count, dim)) if theirs.dim() > 1 else ours
        ours = ours.reshape(theirs.shape)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        if theirs.requires_grad:  # the sweeps differentiate the calls of the rewritten graph
            weights = torch.randn(theirs.shape).double()
            gradients = [torch.autograd.grad(v, given, weights)[0] for v in (ours, theirs)]
            torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    assert score.meta["val"].dtype == theirs.dtype


REFUSED: dict[str, Function] = {
    "noise for all samples": lambda x: x * torch.rand(1),
    "an order of the samples": lambda x: x[torch.randperm(N)],
    "noise, and a batch's mean": lambda x: (x - x.mean(0)) * torch.rand_like(x),
    "one number of all samples": lambda x: x.flatten().select_scatter(x.sum(), 0, 3),
    "noise, and samples put across": lambda x: _across(x) * torch.rand_like(x[:, :1, :1]),
    "noise, and samples for channels": lambda x: (
        F.conv1d(x.transpose(0, 1), constant()[:N, :N, None]).transpose(0, 1) * torch.rand_like(x)
    ),
    "bilinear over samples": lambda x: F.bilinear(x[:, 0].t(), constant(), constant()[None, :N]),
    "no sample": lambda x: x[:, :0].sum(1) + x[:, 0],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_mapped_is_refused(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, A, B, generator=generator).double()
    graph = _graph(REFUSED[name], x)
    with pytest.raises(NotBatchable):
        at_batches(graph, 3)


def test_draws_are_made_for_every_sample() -> None:
    x = torch.zeros(N, A, B).double()
    graph = at_batches(_graph(lambda x: x + torch.rand(N, 1, 1) + torch.rand_like(x), x), 3)
    found = fx.GraphModule(torch.nn.Module(), graph)(torch.zeros(3 * N, A, B).double())
    assert len(set(found.flatten().tolist())) == found.numel()
