"""What runs for a critic, and why: one row for each operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import checks, options, wrappers
from .backend import compile_boundary
from .engine.ir import DerivedNode, Leaf, args_of
from .engine.torch_internals import schema_of
from .errors import CaptureError
from .ops.registry import Kernels
from .plain_tensors import points_like, samples
from .rules.nodes import info_of
from .run import Wanted
from .wrappers import Critic, Output

if TYPE_CHECKING:  # it brings Dynamo with it
    from .engine.plan import Plan

PRODUCTS = ("convolution", "linear", "mm", "bmm", "mv", "dot")


@dataclass(frozen=True)
class Row:
    """One operator of the critic.

    Attributes:
        op: ATen operator.
        rule: the family that differentiates it; ``Generic`` differentiates the node with autograd;
            ``constant`` takes no part.
        sweep4: whether it runs in sweep 4 (False where its second-order term is zero).
        flops: of its forward pass, where a multiply-add counts as two; 0 for operators bound by memory.
        bytes: read and written by its forward pass.
        shape: of its result.
        reason: why the generic rule took it.
        kernel: what runs it, if not torch's own operator: an operation of the package with its backend and
            what it was made of, or the library that was chosen for a product.
    """

    op: str
    rule: str
    sweep4: bool
    flops: int
    bytes: int
    shape: tuple[int, ...]
    reason: str = ""
    kernel: str = ""


@dataclass(frozen=True)
class Explanation:
    """The plan of a critic; ``str()`` and ``print`` show it as a table.

    Attributes:
        rows: one for each operator of the critic.
        path: ``"engine"``, or ``"stock"`` with the ``reason``.
        subject: what is explained: ``"penalty"`` or ``"critic loss"``.
        apart: for a critic loss: why real, fake and the penalty points each need a pass of their own, or an
            empty string if one pass serves all. If it is not empty, the rest describes the penalty alone.
        verified: what the comparison of the plan's first call with stock code has shown.
        executor: what runs the plan, and why if it is not what was asked for.
        launches: calls that start a kernel on a GPU (views do not), ``(forward, backward)``.
        forward_units: arithmetic of the products (matrix products, convolutions) in all sweeps, over that of
            one forward pass. About 4 for piecewise-linear critics and 6 for smooth ones, where stock code
            spends 6 and more; for a critic loss 10 and 12, where stock code spends 12 and more. Small critics
            need less, because the first and the last layer take part in fewer sweeps.
        products: calls of a matrix product or convolution, ``(sweeps 1 and 2, sweeps 3 and 4)``.
        saved_bytes: of the tensors kept between forward and backward.
        code: ``(sweeps 1 and 2, sweeps 3 and 4)`` as Python.
    """

    path: str
    reason: str = ""
    subject: str = "penalty"
    apart: str = ""
    verified: str = ""
    executor: str = "eager"
    rows: tuple[Row, ...] = ()
    forward_units: float = 0.0
    products: tuple[int, int] = (0, 0)
    launches: tuple[int, int] = (0, 0)
    saved_bytes: int = 0
    code: tuple[str, str] = ("", "")
    generic: tuple[Row, ...] = field(default=())

    def __str__(self) -> str:
        if self.path == "stock":
            return f"stock path: {self.reason}"
        head = f"{'op':<34}{'rule':<22}{'sweep 4':<9}{'MFLOP':>10}{'KiB':>10}  {'result':<22}kernel"
        lines = [head, "-" * len(head)]
        for row in self.rows:
            sweep4 = "yes" if row.sweep4 else "-"
            lines.append(
                f"{row.op.removeprefix('aten.'):<34}{row.rule:<22}{sweep4:<9}{row.flops / 1e6:>10.2f}"
                f"{row.bytes / 1024:>10.1f}  {list(row.shape)!s:<22}{row.kernel}".rstrip()
            )
        flops, moved = sum(row.flops for row in self.rows), sum(row.bytes for row in self.rows)
        lines.append("-" * len(head))
        lines.append(f"{'one forward pass':<65}{flops / 1e6:>10.2f}{moved / 1024:>10.1f}")
        if self.apart:
            lines.append(f"real and fake are scored in passes of their own: {self.apart}")
        what = "penalty" if self.apart else self.subject
        lines.append(
            f"the {what} and its gradient: {self.forward_units:.2f} forward-units in {sum(self.products)} "
            f"products ({self.products[0]} in sweeps 1 and 2, {self.products[1]} in sweeps 3 and 4) and "
            f"{sum(self.launches)} launches; "
            f"{self.saved_bytes / 2**20:.2f} MiB saved between them"
        )
        lines.append(f"first call: {self.verified}")
        if self.executor != "eager":
            lines.append(f"executor: {self.executor}")
        for row in self.generic:
            lines.append(f"generic rule: {row.op.removeprefix('aten.')}: {row.reason}")
        return "\n".join(lines)


@compile_boundary
def explain(
    critic: Critic,
    x: Tensor,
    *,
    output: Output | None = None,
    loss: bool = False,
    executor: str = "eager",
) -> Explanation:
    """Capture ``critic`` at ``x`` and show what its gradient penalty runs, or its whole loss.

    Args:
        critic: any callable, as in :func:`wgangp_fast.gradient_penalty`.
        x: ``[N, ...]``, floating point; only shape, dtype, layout and device matter.
        output: picks the score out of what the critic returns.
        loss: explain :func:`wgangp_fast.critic_loss`, not the penalty alone.
        executor: run the plan once with this executor (``"inductor"`` compiles it first), and say what ran
            it, and why if that was another one.

    Example:
        >>> import torch, wgangp_fast
        >>> critic = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> found = wgangp_fast.explain(critic, torch.zeros(4, 2))
        >>> found.path, f"{found.forward_units:.2f} forward-units in {sum(found.products)} products"
        ('engine', '2.67 forward-units in 4 products')
    """
    checks.samples("x", x)
    from .engine.capture import critic_step, dynamo, refusals

    how = options.checked(False, executor)
    kernels = Kernels.of("auto", x.device.type)
    subject, apart = "critic loss" if loss else "penalty", ""
    bare, x = wrappers.unwrap(critic), samples(x).detach()
    points = points_like(x).requires_grad_()
    dynamo.entry(bare).refusals.clear()  # forget old refusals: can it be captured now?
    try:
        with torch.enable_grad():
            if loss:
                bound = critic_step.bind(bare, output, points, points.detach())
                if isinstance(bound, dynamo.Binding):
                    found = Wanted(bare, output, False, kernels, how, critic_step=True).make(bound.captured)
                    return _explain(found, torch.cat([x] * 3), bound.leaves, subject, apart)
                apart = bound
            binding = dynamo.bind(bare, output, points)
            found = Wanted(bare, output, False, kernels, how).make(binding.captured)
    except CaptureError as error:
        return Explanation("stock", refusals.with_remedy(error), subject, apart)
    return _explain(found, x, binding.leaves, subject, apart)


def _explain(found: Plan, x: Tensor, leaves: tuple[Leaf, ...], subject: str, apart: str) -> Explanation:
    from torch.utils.flop_counter import FlopCounterMode

    sweeps = found.sweeps
    rows = tuple(_row(info, found.kernels) for info in sweeps.nodes)
    copies = tuple(_copy(leaf) for leaf in leaves)
    if found.options.executor != "eager":
        with torch.no_grad():
            gradient, saved, numbers = found.forward(x.detach(), copies)
            if sweeps.backward is not None:
                found.backward([_seed(found, gradient)], saved, numbers)
    ran = str(found.executor)  # noted now: counting operators below makes Python run the plan
    with torch.no_grad(), FlopCounterMode(display=False) as first:
        gradient, saved, numbers = found.forward(x.detach(), copies)
        kept = sum(t.numel() * t.element_size() for t in saved if not any(t is leaf for leaf in copies))
    total = first.get_total_flops()
    if sweeps.backward is not None:
        with torch.no_grad(), FlopCounterMode(display=False) as second:
            found.backward([_seed(found, gradient)], saved, numbers)
        total += second.get_total_flops()
    flops = sum(row.flops for row in rows)
    return Explanation(
        "engine",
        subject=subject,
        apart=apart,
        verified=found.verified or "not compared with the stock code yet",
        executor=ran,
        rows=rows,
        forward_units=round(total / flops, 4) if flops else 0.0,
        products=(count_products(sweeps.forward), count_products(sweeps.backward)),
        launches=(
            LAUNCHES["interpolate"] + LAUNCHES["norm_penalty"] + count_launches(sweeps.forward),
            count_launches(sweeps.backward) + (1 if sweeps.backward is not None else 0),
        ),
        saved_bytes=kept,
        code=(sweeps.forward.code, sweeps.backward.code if sweeps.backward is not None else ""),
        generic=tuple(row for row in rows if row.rule == "Generic"),
    )


def _seed(plan: Plan, result: Any) -> Any:
    """Something to begin sweeps 3 and 4 with, of the right shapes."""
    if isinstance(result, Tensor):
        return torch.ones_like(result)
    gradient, score = result
    return torch.ones_like(gradient), plan.cotangent(score.shape, score.dtype, score.device)


def _copy(leaf: Leaf) -> Leaf:
    """Explaining must not update a buffer (a running mean)."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def count_products(module: torch.fx.GraphModule | None) -> int:
    """Matrix products and convolutions in a sweep's code."""
    if module is None:
        return 0
    names = [_name(node.target) for node in module.graph.nodes if node.op == "call_function"]
    return sum(1 for name in names if name in (*PRODUCTS, "convolution_backward", "_linear_pointwise"))


#: launches of the operations that need more than one: partial sums, and what adds them in order
LAUNCHES = {"interpolate": 1, "norm_penalty": 2}
VIEWS = (
    *("getitem", "narrow", "reshape", "t", "transpose", "permute", "empty_like", "detach", "chunk", "unbind"),
)


def count_launches(module: torch.fx.GraphModule | None) -> int:
    """Calls in a sweep's code that compute something: no views, no allocations."""
    if module is None:
        return 0
    return sum(_launches(node) for node in module.graph.nodes if node.op == "call_function")


def _launches(node: torch.fx.Node) -> int:
    schema = schema_of(node.target)
    if schema is not None and any(r.alias_info and not r.alias_info.is_write for r in schema.returns):
        return 0
    name = _name(node.target)
    affine = name in ("norm_act_vjp", "norm_act_adjoint") and node.args[-1] is True
    return 0 if name in VIEWS else LAUNCHES.get(name, 2 if affine else 1)


def _name(target: object) -> str:
    schema = schema_of(target)
    return schema.name.split("::")[1] if schema is not None else getattr(target, "__name__", "")


def _kernel(node: torch.fx.Node, kernels: Kernels) -> str:
    name = _name(node.target)
    info = info_of(node)
    if info.kernel_of:
        return f"{kernels.backend_of(name)}: {name} [{info.kernel_of}]"
    return info.library


def _row(info: DerivedNode, kernels: Kernels) -> Row:
    values = [n.meta["val"] for n in info.node.all_input_nodes]
    result = info.node.meta["val"]
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    tensors = [v for v in (*values, *results) if isinstance(v, Tensor)]
    shape = tuple(results[0].shape) if isinstance(results[0], Tensor) else ()
    flops = _flops(_name(info.node.target), info.node, shape)
    return Row(
        info.op,
        info.rule,
        info.sweep4,
        flops,
        sum(t.numel() * t.element_size() for t in tensors),
        shape,
        info.reason,
        _kernel(info.node, kernels),
    )


def _flops(name: str, node: torch.fx.Node, shape: tuple[int, ...]) -> int:
    """Forward FLOPs of a product: two for each multiply-add, padding counted."""
    if name not in PRODUCTS:
        return 0
    arguments = args_of(node)
    a, b = (list(arg.meta["val"].shape) for arg in arguments[:2])
    size = 1
    for s in shape:
        size *= s
    if name == "convolution":
        transposed = arguments[6]
        kernel = 1
        for s in b[1:]:
            kernel *= s
        if transposed:  # every input element meets the kernel once
            size = 1
            for s in a:
                size *= s
        return 2 * size * kernel
    return 2 * size * a[-1]
