"""The penalty on a GPU against the stock one in float64 on the CPU: another device, another precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import wgangp_fast
from wgangp_fast import backend, reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def gradients(critic: nn.Module) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in critic.parameters()]


# Smooth, so that rounding cannot move a sample across a kink and change its gradient by a finite step.
CRITICS = {
    "convolutions": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 5, 2, 2), nn.Tanh(), nn.Conv2d(8, 16, 3, 2, 1), nn.Softplus()),
        *(nn.Flatten(), nn.Linear(256, 1)),
    ),
    "norms": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 5, 2, 2), nn.GroupNorm(1, 8), nn.SiLU(), nn.Conv2d(8, 16, 3, 2, 1)),
        *(nn.InstanceNorm2d(16, affine=True), nn.GELU(), nn.Flatten(), nn.LayerNorm(256), nn.Linear(256, 1)),
    ),
    "mlp": lambda: nn.Sequential(
        *(nn.Flatten(), nn.Linear(768, 96), nn.Tanh(), nn.Linear(96, 40), nn.Tanh(), nn.Linear(40, 1)),
    ),
}


@pytest.mark.parametrize("impl", ["auto", "cuda", "triton"])
@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_cuda_equals_float64_on_the_cpu(
    dtype: torch.dtype, layout: torch.memory_format, name: str, impl: str
) -> None:
    reason = backend.missing(impl) if impl != "auto" else None
    if reason:
        pytest.skip(reason)  # says what these kernels lack here (nvcc, Triton), and the remedy
    truth = CRITICS[name]().double()
    real, fake, alpha = torch.randn(8, 3, 16, 16), torch.randn(8, 3, 16, 16), torch.rand(8)
    critic = copy.deepcopy(truth).to("cuda", dtype).to(memory_format=layout)

    wide = [t.double() for t in (real, fake, alpha)]
    expected = reference.gradient_penalty(truth, wide[0], wide[1], wide[2].view(8, 1, 1, 1))
    expected.backward()
    near = [t.to("cuda", dtype) for t in (real, fake)]
    actual = wgangp_fast.gradient_penalty(
        critic, *(t.contiguous(memory_format=layout) for t in near), alpha=alpha.to("cuda", dtype), impl=impl
    )
    actual.backward()

    # Sums of up to 8 * 8 * 8 * 16 products whose rounding errors add up like a random walk.
    tolerance = 50 * torch.finfo(dtype).eps
    assert actual.device.type == "cuda"
    assert abs(actual.item() - expected.item()) <= tolerance * abs(expected.item())
    scale = max(g.abs().max() for g in gradients(truth))
    for got, want in zip(gradients(critic), gradients(truth), strict=True):
        assert (got.cpu().double() - want).abs().max() <= tolerance * scale
