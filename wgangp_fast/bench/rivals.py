"""Rivals that trace, compile or capture stock code; each is a function of ``(task, mode)``.

Nothing here is this package's arithmetic: these are the ways that other people make the stock lines faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..engine.torch_internals import dynamo_options, trace_to_aten
from ..errors import Unavailable
from .modes import Mode
from .steps import Absent, Contestant, Score, Step, Task, clear_gradients, eager, give, interpolate

DETACH = torch.ops.aten.detach.default
WARM_UPS = 3
"""Calls before a capture, as torch's documentation of CUDA graphs asks."""


def with_tensors(critic: nn.Module, *tensors: Mapping[str, Tensor]) -> Score:
    """``critic`` as a function of the samples, with the parameters and buffers in ``tensors``."""
    everything = {name: tensor for part in tensors for name, tensor in part.items()}
    return lambda x: functional_call(critic, everything, (x,))


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile, drawing random numbers as eager code does, so that dropout's masks can be compared."""
    return torch.compile(function, options={"fallback_random": True})


def make_fx_compiled(task: Task, mode: Mode) -> Contestant:
    """make_fx traces forward and autograd.grad into one graph of the parameters; that is compiled."""

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        parameters, buffers = dict(critic.named_parameters()), dict(critic.named_buffers())

        def loss(
            parameters: Mapping[str, Tensor],
            buffers: Mapping[str, Tensor],
            real: Tensor,
            fake: Tensor,
            alpha: Tensor,
        ) -> Tensor:
            with mode.loss(real.device):
                return task.stock(with_tensors(critic, parameters, buffers), real, fake, alpha)

        with frozen(critic):
            graph = trace_to_aten(loss, parameters, buffers, real, fake, alpha)
        # What autograd saves is traced behind a detach, which would cut the second order off.
        for node in list(graph.graph.nodes):
            if node.target is DETACH:
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        graph.recompile()
        compiled = _compile(graph)

        def step(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
            value: Tensor = compiled(parameters, buffers, real, fake, alpha)
            value.backward()
            return value.detach()

        return step

    return contestant


@contextlib.contextmanager
def frozen(critic: nn.Module) -> Iterator[None]:
    """Undo what tracing does to buffers: it runs the critic once."""
    before = [buffer.clone() for buffer in critic.buffers()]
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
    with torch.no_grad():
        for buffer, value in zip(critic.buffers(), before, strict=True):
            buffer.copy_(value)


def trace_autograd_ops(task: Task, mode: Mode) -> Contestant:
    """torch.compile of loss and gradients with Dynamo's option ``trace_autograd_ops``."""

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        try:
            dynamo_options({"trace_autograd_ops": True}, {})
        except Unavailable as error:
            raise Absent(str(error)) from None
        parameters = list(critic.parameters())

        def whole(real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            with mode.loss(real.device):
                value = task.stock(critic, real, fake, alpha)
            return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)

        compiled = _compile(whole)

        def step(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
            with dynamo_options({"trace_autograd_ops": True}, {}):
                value, gradients = compiled(real, fake, alpha)
            give(parameters, gradients)
            return value

        return step

    return contestant


def functional(task: Task, mode: Mode, compiled: bool = True) -> Contestant:
    """torch.func.grad over parameters of a loss that holds torch.func.grad over the samples."""

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        parameters, buffers = dict(critic.named_parameters()), dict(critic.named_buffers())

        def loss(
            parameters: Mapping[str, Tensor],
            buffers: Mapping[str, Tensor],
            real: Tensor,
            fake: Tensor,
            alpha: Tensor,
        ) -> Tensor:
            score = with_tensors(critic, parameters, buffers)

            def penalty() -> Tensor:
                x = interpolate(real, fake, alpha)
                gradient = torch.func.grad(lambda x: score(x).sum())(x).reshape(x.shape[0], -1)
                return ((torch.linalg.vector_norm(gradient, dim=1) - 1) ** 2).mean()

            with mode.loss(real.device):
                found: Tensor = task.combine(score, real, fake, penalty)
            return found

        both = torch.func.grad_and_value(loss)
        run = _compile(both) if compiled else both

        def step(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
            gradients, value = run(parameters, buffers, real, fake, alpha)
            give(critic.parameters(), (gradients[name].detach() for name in parameters))
            found: Tensor = value.detach()
            return found

        return step

    return contestant


def cuda_graph(task: Task, mode: Mode) -> Contestant:
    """The whole stock step captured once and replayed; each call copies its inputs into the graph's."""

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        if real.device.type != "cuda":
            raise Absent("CUDA graphs need a CUDA device")
        step_eagerly = eager(task.stock, mode)(critic, real, fake, alpha)
        static = [tensor.clone() for tensor in (real, fake, alpha)]
        with frozen(critic):
            stream = torch.cuda.Stream(real.device)
            stream.wait_stream(torch.cuda.current_stream(real.device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    clear_gradients(critic)
                    step_eagerly(*static)
            torch.cuda.current_stream(real.device).wait_stream(stream)
            clear_gradients(critic)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                value = step_eagerly(*static)
        gradients = [parameter.grad for parameter in critic.parameters()]

        def step(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
            for old, new in zip(static, (real, fake, alpha), strict=True):
                old.copy_(new)
            graph.replay()
            give(critic.parameters(), gradients)
            return value

        return step

    return contestant
