"""More critics as public code writes them: on rows, sequences, sets and graphs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from zoo import ROWS, SEQUENCE, Critic
from zoo_public import add

# rows --------------------------------------------------------------------------------------------


def _binned(m: Any, x: Tensor) -> Tensor:
    bins = torch.bucketize(x, m.edges)
    rest = (torch.sigmoid(x[:, 0]) * 4.99).long()
    return m.o(torch.tanh(m.a(x) + m.e(bins).sum(1) * m.table[rest]))


class Pac(nn.Module):
    """CTGAN's: several rows as one, dropout left out; the width comes from numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.pac = np.int64(2)
        self.width = np.prod((6, 2))
        self.seq = nn.Sequential(nn.Linear(int(self.width), 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, rows: Tensor) -> Tensor:
        assert rows.size()[0] % self.pac == 0
        return self.seq(rows.view(-1, self.width))


def _by_hand(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    h = h * torch.where(h > 0, torch.ones_like(h), m.slope)
    return m.o(torch.relu(h) - m.other * torch.relu(-h))


def _prototypes(m: Any, x: Tensor) -> Tensor:
    near = F.cosine_similarity(m.a(x).unsqueeze(1), m.p.unsqueeze(0), dim=-1)
    return (torch.softmax(near / m.t, 1) * near).sum(1)


class Experts(nn.Module):
    """Each row goes to its two best experts; their answers are added where they belong."""

    def __init__(self) -> None:
        super().__init__()
        self.route = nn.Linear(6, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(3)
        )
        self.o = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = torch.softmax(self.route(x), -1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        mask = F.one_hot(chosen, 3).to(x.dtype)
        total = torch.zeros(x.shape[0], 2, dtype=x.dtype)
        for i, expert in enumerate(self.experts):
            total = total + expert(x) * (weights * mask[..., i]).sum(-1, keepdim=True)
        return self.o(total)


def _codebook(m: Any, x: Tensor) -> Tensor:
    z = torch.tanh(m.a(x))
    far = z.square().sum(1, keepdim=True) - 2 * z @ m.book.t() + m.book.square().sum(1)
    code = m.book[far.argmin(1)]
    straight = z + (code - z).detach()
    commit = (code.detach() - z).square().mean(1, keepdim=True) + (code - z.detach()).square().mean(
        1, keepdim=True
    )
    return m.o(straight) + commit


class HashGrid(nn.Module):
    """Instant-NGP's: corners of a grid hashed into a table, interpolated."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.Parameter(torch.randn(2, 16, 2))
        self.o = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        points, found = torch.sigmoid(x[:, :2]), []
        for level in range(2):
            scaled = points * (3 * 2**level)
            low = scaled.floor()
            part, total = scaled - low, 0
            for corner in range(4):
                step = torch.tensor([corner & 1, corner >> 1])
                spot = low.long() + step
                index = (spot[:, 0] ^ (spot[:, 1] * 2654435761)) % 16
                weight = torch.where(step.bool(), part, 1 - part).prod(1, keepdim=True)
                total = total + weight * self.tables[level][index]
            found.append(total)
        return self.o(torch.cat(found, 1))


class Discrimination(nn.Module):
    """Salimans et al.: distances between samples of a batch, through a tensor of kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.t, self.o = nn.Parameter(torch.randn(6, 3, 2)), nn.Linear(9, 1)

    def forward(self, x: Tensor) -> Tensor:
        m = x.mm(self.t.view(6, -1)).view(-1, 3, 2).unsqueeze(0)
        norm = torch.abs(m - m.permute(1, 0, 2, 3)).sum(3)
        near = torch.exp(-norm).sum(0) - 1
        return self.o(torch.cat([x, near], 1))


def _rotated(m: Any, x: Tensor) -> Tensor:
    turn = torch.zeros(2, 2, dtype=x.dtype)
    turn[0, 0] = m.angle.cos()
    turn[0, 1] = -m.angle.sin()
    turn[1, 0] = m.angle.sin()
    turn[1, 1] = m.angle.cos()
    scale = torch.eye(2, dtype=x.dtype)
    scale.diagonal().copy_(m.s.exp())
    return m.o(torch.tanh(x.view(-1, 3, 2) @ turn @ scale).flatten(1))


def _divergence(m: Any, x: Tensor) -> Tensor:
    jacobian = torch.vmap(torch.func.jacrev(m.field))(x)
    return m.o(x) + jacobian.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)


def _fourier(m: Any, x: Tensor) -> Tensor:
    z = 2 * math.pi * x @ m.b
    return m.o(torch.tanh(m.a(torch.cat([z.sin(), z.cos()], -1))))


add("binned data", lambda: Critic(
    _binned, a=nn.Linear(6, 5), e=nn.Embedding(6, 5), table=torch.randn(5, 5), o=nn.Linear(5, 1),
    edges=nn.Buffer(torch.linspace(-1, 1, 5)),
), ROWS, smooth=False)  # fmt: skip
add("CTGAN", Pac, ROWS)
add("PReLU by hand", lambda: Critic(
    _by_hand, a=nn.Linear(6, 5), slope=torch.rand(5), other=torch.rand(1), o=nn.Linear(5, 1)
), ROWS)  # fmt: skip
add("cosine prototypes", lambda: Critic(
    _prototypes, a=nn.Linear(6, 4), p=torch.randn(3, 4), t=torch.tensor(0.7)
), ROWS)  # fmt: skip
add("mixture of experts", Experts, ROWS)
add("VQ codebook", lambda: Critic(
    _codebook, a=nn.Linear(6, 4), book=torch.randn(5, 4), o=nn.Linear(4, 1)
), ROWS, smooth=False)  # fmt: skip
add("hash grid", HashGrid, ROWS)
add("minibatch discrimination", Discrimination, ROWS)
add("rotation matrix", lambda: Critic(
    _rotated, angle=torch.tensor(0.3), s=torch.randn(2), o=nn.Linear(6, 1)
), ROWS)  # fmt: skip
add("torch.func divergence", lambda: Critic(
    _divergence, field=nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6)), o=nn.Linear(6, 1)
), ROWS)  # fmt: skip
add("Fourier features", lambda: Critic(
    _fourier, a=nn.Linear(8, 5), o=nn.Linear(5, 1), b=nn.Buffer(torch.randn(6, 4) * 0.1)
), ROWS)  # fmt: skip
add("orthogonal by Cayley", lambda: nn.Sequential(
    parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="cayley"), nn.Softplus(), nn.Linear(6, 1)
), ROWS)  # fmt: skip


# sequences, sets, graphs -------------------------------------------------------------------------


class Packed(nn.Module):
    """Sequences of unequal length."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.o = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 1)
        self.lengths = [5, 3, 4]

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor((self.lengths * x.shape[0])[: x.shape[0]])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.o(out[torch.arange(x.shape[0]), lengths - 1])


class Spectral(nn.Module):
    """A layer of a Fourier neural operator: low modes by a complex weight, the others nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.skip, self.o = nn.Conv1d(5, 3, 1), nn.Conv1d(3, 3, 1), nn.Linear(3, 1)
        self.weight = nn.Parameter(torch.rand(3, 3, 2, dtype=torch.cdouble))
        self.pairs = nn.Parameter(torch.rand(3, 3, 2, 2))

    def _modes(self, h: Tensor, weight: Tensor) -> Tensor:
        z = torch.fft.rfft(h)
        out = torch.zeros(h.shape[0], 3, h.size(-1) // 2 + 1, dtype=torch.cdouble)
        out[:, :, :2] = torch.einsum("bix,iox->box", z[:, :, :2], weight)
        return torch.fft.irfft(out, n=h.size(-1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        h = F.gelu(self._modes(h, self.weight) + self.skip(h))
        h = F.gelu(self._modes(h, torch.view_as_complex(self.pairs)) + self.skip(h))
        return self.o(h.mean(-1))


def _graph(m: Any, x: Tensor) -> Tensor:
    """Nodes of all graphs in rows: neighbours by a global index, pooled with one made from the batch size."""
    n, nodes = x.shape[:2]
    batch = torch.arange(n).repeat_interleave(nodes)
    h = x.reshape(n * nodes, -1)
    source = (m.edges[0] + nodes * torch.arange(n)[:, None]).reshape(-1)
    target = (m.edges[1] + nodes * torch.arange(n)[:, None]).reshape(-1)
    degree = h.new_zeros(n * nodes).index_add(0, target, h.new_ones(target.shape[0])).clamp(min=1)
    h = torch.tanh(m.a(h) + h.new_zeros(n * nodes, 5).index_add(0, target, m.b(h)[source]) / degree[:, None])
    return m.o(h.new_zeros(n, 5).index_add(0, batch, h))


class Pooled(nn.Module):
    """The number of graphs read out of the batch index, as torch_geometric does without ``size=``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(4, 5), nn.Linear(5, 1)
        self.register_buffer("batch", torch.arange(3).repeat_interleave(5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x.reshape(-1, 4)))
        return self.o(h.new_zeros(int(self.batch.max()) + 1, 5).index_add(0, self.batch, h))


def _edges(m: Any, x: Tensor) -> Tensor:
    """DGCNN's: features of the nearest neighbours."""
    near = torch.cdist(x, x).topk(3, -1, largest=False)[1]
    of = x[torch.arange(x.shape[0])[:, None, None], near]
    return m.o(torch.tanh(m.a(torch.cat([of - x[:, :, None], of], -1))).amax(2).mean(1))


def _scan(m: Any, x: Tensor) -> Tensor:
    """minGRU's, in logarithms."""
    gate, value = m.g(x).chunk(2, -1)
    keep = -F.softplus(gate)
    log_value = torch.where(value >= 0, (F.relu(value) + 0.5).log(), -F.softplus(-value)) - F.softplus(-gate)
    total = keep.cumsum(1)
    return m.o((total + (log_value - total).logcumsumexp(1)).exp()).mean(1)


def _set(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.a(x))
    h = torch.tanh(m.b(h) - m.c(h.mean(1, keepdim=True)))
    return m.o(torch.cat([h.sum(1), h.amax(1), (h**2).mean(1).sqrt()], 1))


def _masked(m: Any, x: Tensor) -> Tensor:
    """Short tokens give way to a learned one; the padded ones are not attended to."""
    hidden = x.norm(dim=-1, keepdim=True) < 1.2
    h = torch.where(hidden, m.token, x) + m.place
    score = (h @ m.w @ h.transpose(1, 2)).masked_fill(m.pad, float("-inf"))
    return m.o((torch.softmax(score, -1) @ h).mean(1))


add("packed sequences", Packed, SEQUENCE)
add("Fourier neural operator", Spectral, (3, 5, 6))
add("graph pooling", lambda: Critic(
    _graph, a=nn.Linear(4, 5), b=nn.Linear(4, 5), o=nn.Linear(5, 1),
    edges=nn.Buffer(torch.tensor([[0, 1, 2, 3, 4, 1], [1, 2, 3, 4, 0, 3]])),
), SEQUENCE)  # fmt: skip
add("graph pooling without a size", Pooled, SEQUENCE)
add("DGCNN", lambda: Critic(_edges, a=nn.Linear(8, 5), o=nn.Linear(5, 1)), SEQUENCE)
add("minGRU", lambda: Critic(_scan, g=nn.Linear(4, 6), o=nn.Linear(3, 1)), SEQUENCE)
add("deep sets", lambda: Critic(
    _set, a=nn.Linear(4, 5), b=nn.Linear(5, 4), c=nn.Linear(5, 4, bias=False), o=nn.Linear(12, 1)
), SEQUENCE)  # fmt: skip
add("masked tokens", lambda: Critic(
    _masked, token=torch.randn(4), place=torch.randn(5, 4), w=torch.randn(4, 4), o=nn.Linear(4, 1),
    pad=nn.Buffer(torch.arange(5) == 4),
), SEQUENCE)  # fmt: skip
