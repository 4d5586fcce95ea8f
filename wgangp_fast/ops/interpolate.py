"""Points between real and fake samples (Gulrajani et al. 2017, algorithm 1, line 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backend
from .registry import acc, implementation, operation, result_like

#: dtype -> bits of a uniform draw, all that its mantissa holds below one
BITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def interpolate(
    real: Tensor,
    fake: Tensor,
    alpha: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """``x_i = fake_i + alpha_i * (real_i - fake_i)``, with weights that are drawn here or given.

    Args:
        real: ``[N, ...]``, float64, float32, float16 or bfloat16; contiguous and channels_last alike.
        fake: shape, dtype and device of ``real``.
        alpha: ``[N]``, dtype of ``real``. Not given: uniform on [0, 1), one a sample, by Philox4x32-10
            from ``generator``; the same numbers from every backend.
        generator: source of the draw; default: torch's for the device.
        impl: a backend (``"ref"``, ``"cpu"``, ``"cuda"``, ``"triton"``), or ``"auto"``.

    Returns:
        ``(x, alpha)``: ``[N, ...]`` with the strides of ``real``, and ``[N]``.
    """
    seed, offset = (0, 0) if alpha is not None else draw_key(generator, real.device)
    run = implementation("interpolate", backend.pick("interpolate", impl, real.device))
    return run(real, fake, alpha, seed, offset)


def draw_key(generator: torch.Generator | None, device: torch.device) -> tuple[int, int]:
    """``(seed, offset)`` of the next draw; moves the generator on, without waiting for the device.

    A CPU generator serves tensors on any device; a CUDA generator hands over its own Philox state.
    """
    if generator is None and device.type == "cuda":
        generator = torch.cuda.default_generators[device.index or 0]
    if generator is not None and generator.device.type == "cuda":
        offset = generator.get_offset()
        generator.set_offset(offset + 4)  # the smallest step that torch's own kernels take
        return _signed(generator.initial_seed()), offset
    where = generator.device if generator is not None else "cpu"
    return int(torch.empty((), dtype=torch.int64, device=where).random_(generator=generator)), 0


def _signed(seed: int) -> int:
    """The same 64 bits as a signed integer, which an operator's ``int`` argument is."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed


def uniform(seed: int, offset: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[count]`` numbers of Philox4x32-10 (Salmon et al. 2011): key ``seed``, counter ``(i, offset)``."""
    low, i = 0xFFFFFFFF, torch.arange(count, device=device)
    words = [i & low, i >> 32, torch.full_like(i, offset & low), torch.full_like(i, (offset >> 32) & low)]
    key = [seed & low, (seed >> 32) & low]
    for _ in range(10):
        high0, low0 = _product(words[0], 0xD2511F53)
        high1, low1 = _product(words[2], 0xCD9E8D57)
        words = [high1 ^ words[1] ^ key[0], low1, high0 ^ words[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    bits = BITS[dtype]
    if bits > 32:
        return ((words[0] << 21) | (words[1] >> 11)).to(dtype) * 2.0**-bits
    return (words[0] >> (32 - bits)).to(dtype) * 2.0**-bits


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product of 32-bit numbers, without a 64-bit overflow."""
    lower, upper = a * (b & 0xFFFF), a * (b >> 16)
    return (upper + (lower >> 16)) >> 16, (lower + ((upper & 0xFFFF) << 16)) & 0xFFFFFFFF


@operation(
    "interpolate(Tensor real, Tensor fake, Tensor? alpha, int seed, int offset) -> (Tensor x, Tensor alpha)"
)
def interpolate_ref(
    real: Tensor, fake: Tensor, alpha: Tensor | None, seed: int, offset: int
) -> tuple[Tensor, Tensor]:
    """The meaning of :func:`interpolate`."""
    if alpha is None:
        alpha = uniform(seed, offset, len(real), real.dtype, real.device)
    wide = acc(real.dtype)
    a = alpha.to(wide).reshape(-1, *[1] * (real.dim() - 1))
    x = fake.to(wide) + a * (real.to(wide) - fake.to(wide))
    return result_like(real, "samples").copy_(x), alpha.clone()
