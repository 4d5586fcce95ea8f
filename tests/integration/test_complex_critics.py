"""Critics with complex numbers inside, in float64 against the stock penalty and the stock loss.

autograd's convention (conjugate Wirtinger gradients; a real argument of a complex operation gets the real
part) decides every sign here, so nothing but stock code can say what is right.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from penalty_checks import build, compare, points
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast.errors import StockPathWarning

Forward = Callable[["Complex", Tensor], Tensor]


class Complex(nn.Module):
    """``[N, 8]``; complex parameters, real ones that are seen as complex, and real ones."""

    def __init__(self, body: Forward) -> None:
        super().__init__()
        self.body = body
        self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 1)
        kind = torch.complex(torch.empty(0), torch.empty(0)).dtype
        self.c = nn.Parameter(torch.randn(8, 8, dtype=kind) / 3)
        self.pairs = nn.Parameter(torch.randn(8, 2) / 2)
        self.kernel = nn.Parameter(torch.randn(2, 1, 3, 2) / 2)
        self.phase = nn.Parameter(torch.randn(8))
        self.register_buffer("turn", torch.polar(torch.ones(8), torch.linspace(0, 3, 8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self, self.inner(x))))


def conv(s: Complex, h: Tensor) -> Tensor:
    return F.conv1d(h[:, None].to(s.c.dtype), torch.view_as_complex(s.kernel), padding=1).abs().sum(1)


def conv2d(s: Complex, h: Tensor) -> Tensor:
    image = torch.complex(h.reshape(-1, 1, 2, 4), h.flip(1).reshape(-1, 1, 2, 4))
    weight = torch.view_as_complex(s.kernel)[:, :, None]
    return F.conv2d(image, weight, padding=(0, 1)).abs().sum(1).flatten(1)


def transposed(s: Complex, h: Tensor) -> Tensor:
    weight = torch.view_as_complex(s.kernel).transpose(0, 1)
    return F.conv_transpose1d(h[:, None].to(s.c.dtype), weight, padding=1).abs().sum(1)


def stft(s: Complex, h: Tensor) -> Tensor:
    window = torch.hann_window(4, dtype=h.dtype)
    z = torch.stft(h, 4, 2, window=window, return_complex=True)
    gain = torch.polar(torch.ones_like(s.phase[:3]), s.phase[:3])
    return (z * gain[:, None] + z.abs()).abs().flatten(1)[:, :8]


def spectrum(s: Complex, h: Tensor) -> Tensor:
    z = torch.fft.rfft(h) * torch.view_as_complex(s.pairs)[:5]
    return torch.cat([z.abs(), z.angle()[:, 1:4]], 1)


def fourier_operator(s: Complex, h: Tensor) -> Tensor:
    z = torch.fft.rfft(h)
    out = torch.zeros(h.shape[0], 5, dtype=z.dtype)
    out[:, :3] = torch.einsum("bi,io->bo", z[:, :3], s.c[:3, :3])
    return torch.fft.irfft(out, n=8)


def views(s: Complex, h: Tensor) -> Tensor:
    z = torch.view_as_complex(h.reshape(-1, 4, 2)).conj()
    return torch.view_as_real(z.resolve_conj()).flatten(1).sin()


def critic_step(s: Complex, h: Tensor) -> Tensor:
    weights = torch.view_as_complex(s.pairs)[:4].expand(len(h), 4)
    return torch.where(h > 0, torch.cat([h[:, 4:] * s.turn[:4], weights], 1), h + 0j).abs()


def detached(s: Complex, h: Tensor) -> Tensor:
    z = h * torch.view_as_complex(s.pairs)
    return (z * z.detach().conj()).real


def assigned(s: Complex, h: Tensor) -> Tensor:
    z = torch.zeros(len(h), 8, 8, dtype=s.c.dtype)
    z[:, 1] = h * s.turn
    z[:, 2:4, 0] = torch.view_as_complex(s.pairs)[:2]
    z[:, 5, 3:6] = h[:, :3]  # real numbers into a complex tensor
    z.diagonal(dim1=1, dim2=2).mul_(s.c[0])
    return (z @ s.c).abs().sum(1)


def eigenvectors(s: Complex, h: Tensor) -> Tensor:
    a = h[:, :, None] * s.c
    a = a + a.mH + torch.diag(torch.arange(8.0, dtype=h.dtype) * 4)
    values, vectors = torch.linalg.eigh(a)
    return values + vectors.abs().square().sum(1) * vectors[:, 0].abs()


def singular_vectors(s: Complex, h: Tensor) -> Tensor:
    u, values, _ = torch.linalg.svd(h[:, :, None] * s.c + torch.diag(s.turn * torch.arange(2, 10)))
    return values + u[:, 0].abs()


def normalised(s: Complex, h: Tensor) -> Tensor:
    z = torch.complex(h, h @ s.c.real)
    z = (z - z.mean(0)) / z.abs().square().mean(0).sqrt()
    return z.real * z.imag


BODIES: dict[str, Forward] = {
    "convolution": conv,
    "convolution of images": conv2d,
    "transposed convolution": transposed,
    "stft": stft,
    "spectrum": spectrum,
    "fourier operator": fourier_operator,
    "assigned": assigned,
    "eigenvectors": eigenvectors,
    "singular vectors": singular_vectors,
    "normalised": normalised,
    "eigenvalues": lambda s, h: torch.linalg.eigvals(h[:, :, None] * s.c).abs().sort().values,
    "matrix product": lambda s, h: (h.to(s.c.dtype) @ s.c).abs(),
    "linear": lambda s, h: F.linear(h.to(s.c.dtype), s.c, torch.view_as_complex(s.pairs)).real,
    "real times complex parameter": lambda s, h: (h * torch.view_as_complex(s.pairs)).angle(),
    "real times complex buffer": lambda s, h: (h * s.turn).imag * s.phase,
    "real parameter times complex": lambda s, h: (s.phase * torch.complex(h, h.roll(1, 1))).abs(),
    "plus a complex number": lambda s, h: (h + 1j).abs() * s.phase,
    "times a complex number": lambda s, h: (h * (0.3 + 1j)).imag * s.phase,
    "real divided by complex": lambda s, h: (h / (torch.view_as_complex(s.pairs) + 3)).real,
    "exp of a phase": lambda s, h: torch.exp(1j * h * s.phase).real + torch.exp(-1j * h).imag,
    "complex()": lambda s, h: torch.complex(h, s.phase.expand_as(h)).pow(3).imag,
    "polar": lambda s, h: (torch.polar(h.abs() + s.phase.exp(), h * s.phase) * s.turn).real,
    "views": views,
    "conjugate": lambda s, h: (torch.complex(h, h.cos()).conj() * torch.view_as_complex(s.pairs)).imag,
    "cat and where": critic_step,
    "modReLU": lambda s, h: (lambda z: (F.relu(z.abs() + s.phase) * z / (z.abs() + 0.1)).real)(h * s.turn),
    "sgn and tanh": lambda s, h: torch.tanh(torch.sgn(torch.complex(h, s.phase + h))).real,
    "detached phase": detached,
}


@pytest.mark.parametrize("name", BODIES)
def test_penalty_of_complex_critics(name: str) -> None:
    compare(lambda: Complex(BODIES[name]), points((5, 8)))


@pytest.mark.filterwarnings(f"error::{StockPathWarning.__module__}.{StockPathWarning.__qualname__}")
@pytest.mark.parametrize("name", ["convolution", "stft", "real times complex parameter", "polar"])
def test_loss_of_complex_critics(name: str) -> None:
    real, fake, alpha = points((5, 8))
    found = []
    for impl in ("auto", "ref"):
        critic = build(lambda: Complex(BODIES[name]))
        wgangp_fast.critic_loss(critic, real, fake, alpha=alpha, impl=impl).loss.backward()
        found.append({key: p.grad for key, p in critic.named_parameters()})
    for key, stock in found[1].items():
        ours = found[0][key]
        assert (ours is None) == (stock is None), key
        if stock is not None and ours is not None:
            torch.testing.assert_close(ours, stock, rtol=1e-9, atol=1e-9, msg=key)
