# ruff: noqa: E501 - a table of programs: a line that is broken would be another program
"""Layers, reshapes and heads for rows, sequences and images: the other half of what :mod:`fuzz_program` draws from."""

from __future__ import annotations

import math

from fuzz_program import Block, Shape


def _conv2(s: Shape, out: int, kernel: int, stride: int, pad: int, **_: object) -> Shape:
    return (out, *((n + 2 * pad - kernel) // stride + 1 for n in s[1:]))


WIDTH = {"w": (1, 2, 4, 5)}
CONV = {"out": (1, 2, 3), "kernel": (1, 2, 3), "stride": (1, 2), "pad": (0, 1)}

LAYERS = [
    Block("[o] = self.[x]([h])", out=lambda s, w: (*s[:-1], w), init=("self.[x] = nn.Linear([d], {w})",), draws=WIDTH),
    Block("[o] = F.linear([h], self.[x])", out=lambda s, w: (*s[:-1], w), draws=WIDTH,
          init=("self.[x] = nn.Parameter(torch.randn({w}, [d]))",)),
    Block("[o] = [h] @ [m] + [p]"),
    Block("[o] = F.linear([h], [m], [p])"),
    Block("[o] = self.[x]([h])", init=("self.[x] = nn.LayerNorm([d])",)),
    Block("[o] = self.[x]([h])", dims=1, init=("self.[x] = nn.utils.spectral_norm(nn.Linear([d], [d]))",)),
    Block("[o] = self.[x]([h])", init=("self.[x] = nn.utils.parametrizations.weight_norm(nn.Linear([d], [d]))",)),
    Block("[o] = self.[x]([h])", init=("self.[x] = nn.utils.parametrizations.spectral_norm(nn.Linear([d], [d]))",)),
    Block("[o] = self.[x]([h])", dims=1, init=("self.[x] = nn.BatchNorm1d([d]){mode}",), draws={"mode": ("", ".eval()")}),
    Block("[o] = self.[x]([h])", init=("self.[x] = nn.{act}()",),
          draws={"act": ("Tanh", "LeakyReLU", "SiLU", "PReLU", "GELU", "Softplus", "ReLU")}),
    Block("[o] = [h] + self.[x](torch.tanh([h]))", init=("self.[x] = nn.Linear([d], [d])",)),
    Block("[o] = self.[x]([h], [h])", init=("self.[x] = nn.Bilinear([d], [d], 3)",), out=lambda s: (*s[:-1], 3)),
    Block("[o] = F.glu(F.linear([h], self.[x]), -1)", init=("self.[x] = nn.Parameter(torch.randn(2 * [d], [d]))",)),
]  # fmt: skip

ROW_LAYERS = [
    Block("[o] = self.[x](torch.arange(n) % 3) * [h]", dims=1, init=("self.[x] = nn.Embedding(3, [d])",)),
    Block("[o] = [h].view(n, -1, {p})", dims=1, out=lambda s, p: (s[0] // p, p), draws={"p": (2,)},
          need=lambda s: s[0] % 2 == 0),
    Block("[o] = ([h].unsqueeze(1) - [h].unsqueeze(0)).abs().neg().exp().sum(1)", dims=1),
    Block("[o] = torch.cat([[h], ([h].unsqueeze(1) - [h]).abs().sum(-1).neg().exp().sum(1, keepdim=True)], 1)",
          dims=1, out=lambda s: (s[0] + 1,)),
    Block("[o] = [h].view(n, 1, [d]) * self.[x]", dims=1, out=lambda s: (3, *s),
          init=("self.[x] = nn.Parameter(torch.randn(3, [d]))",)),
    Block("[o] = torch.cat([torch.sin([h] * [p]), torch.cos([h] * [p])], -1)", dims=1, out=lambda s: (2 * s[0],)),
    Block("[o] = torch.linalg.svdvals([h].unsqueeze(2) * [h].unsqueeze(1) + [m])", dims=1),
    Block("[o] = torch.linalg.solve([h].unsqueeze(2) * [h].unsqueeze(1) + 2 * torch.eye([d], dtype=x.dtype), [p])", dims=1),
    Block("[o] = torch.linalg.eigvalsh([h].unsqueeze(2) * [h].unsqueeze(1) + [m] + [m].t())", dims=1),
    Block("[t] = F.softmax(self.[x]([h]), -1)\n[t]i = [t].topk(1, -1).indices\n"
          "[o] = [t].gather(-1, [t]i) * ([h].unsqueeze(1) @ [e][[t]i[:, 0]].unsqueeze(2)).squeeze(2) + [h]",
          dims=1, init=("self.[x] = nn.Linear([d], 5)",)),
]  # fmt: skip

SEQUENCE_LAYERS = [
    Block("[o] = self.[x]([h])[0]", dims=2, init=("self.[x] = nn.{rnn}([d], 2, batch_first=True)",),
          out=lambda s, rnn: (s[0], 2), draws={"rnn": ("LSTM", "GRU", "RNN")}),
    Block("[o] = self.[x]([h], [h], [h], need_weights=False)[0]", dims=2,
          init=("self.[x] = nn.MultiheadAttention([d], 1, batch_first=True)",)),
    Block("[o] = F.scaled_dot_product_attention([h], [k] @ [m], [h]{mask})", dims=2,
          draws={"mask": ("", ", is_causal=True")}),
    Block("[o] = torch.softmax([h] @ [h].transpose(1, 2), -1) @ [h]", dims=2),
    Block("[o] = F.conv1d([h].transpose(1, 2), self.[x], padding=1).transpose(1, 2)", dims=2,
          init=("self.[x] = nn.Parameter(torch.randn([d], [d], 3))",)),
    Block("[o] = F.softmax([e] @ [h].transpose(1, 2), -1) @ [h]", dims=2, out=lambda s: (5, s[1])),
    Block("[o] = [h].transpose(1, 2)", dims=2, out=lambda s: (s[1], s[0])),
    Block("[o] = [h].mean(1)", dims=2, out=lambda s: (s[1],)),
    Block("[o] = [h].amax(1)", dims=2, out=lambda s: (s[1],)),
    Block("[o] = [h][:, -1]", dims=2, out=lambda s: (s[1],)),
    Block("[o] = [h].flatten(1)", dims=2, out=lambda s: (math.prod(s),)),
    Block("[t] = torch.cdist([h], [h]).topk(2, -1, largest=False)[1]\n"
          "[o] = ([h][torch.arange(n)[:, None, None], [t]] - [h].unsqueeze(2)).tanh().sum(2) + [h]", dims=2),
    Block("[t] = torch.arange(n).repeat_interleave([h].shape[1])\n"
          "[o] = [h].new_zeros(n, [d]).index_add(0, [t], [h].reshape(-1, [d]))", dims=2, out=lambda s: (s[1],)),
    Block("[t] = torch.arange(n * [h].shape[1]).roll(1)\n[o] = [h] + [h].reshape(-1, [d])[[t]].view_as([h])", dims=2),
    Block("[o] = [h][torch.arange(n), [h].norm(dim=-1).argmax(1)]", dims=2, out=lambda s: (s[1],)),
]  # fmt: skip

IMAGE_LAYERS = [
    Block("[o] = F.conv2d([h], self.[x], stride={stride}, padding={pad})", dims=3, out=_conv2, draws=CONV,
          init=("self.[x] = nn.Parameter(torch.randn({out}, [c0], {kernel}, {kernel}))",), need=lambda s: min(s[1:]) >= 3),
    Block("[o] = self.[x]([h])", dims=3, out=_conv2, draws=CONV, need=lambda s: min(s[1:]) >= 3,
          init=("self.[x] = nn.Conv2d([c0], {out}, {kernel}, {stride}, {pad})",)),
    Block("[o] = self.[x]([h])", dims=3, out=_conv2, draws={**CONV, "pad": (1,), "kernel": (3,)},
          need=lambda s: min(s[1:]) >= 3,
          init=("self.[x] = nn.utils.spectral_norm(nn.Conv2d([c0], {out}, 3, {stride}, 1, padding_mode='reflect'))",)),
    Block("[o] = self.[x]([h])", dims=3, init=("self.[x] = nn.{norm}",), need=lambda s: s[1] * s[2] > 1,
          draws={"norm": ("GroupNorm(1, [c0])", "InstanceNorm2d([c0], affine=True)", "BatchNorm2d([c0])",
                          "BatchNorm2d([c0]).eval()")}),
    Block("[t] = F.conv2d([h].to(torch.complex128), torch.view_as_complex(self.[x]), padding=1)\n[o] = [t].abs()", dims=3,
          out=lambda s: (2, *s[1:]), init=("self.[x] = nn.Parameter(torch.randn(2, [c0], 3, 3, 2))",)),
    Block("[o] = F.{pool}_pool2d([h], 2)", dims=3, out=lambda s, pool: (s[0], s[1] // 2, s[2] // 2),
          draws={"pool": ("avg", "max")}, need=lambda s: min(s[1:]) >= 2),
    Block("[o] = F.pixel_unshuffle([h], 2)", dims=3, out=lambda s: (4 * s[0], s[1] // 2, s[2] // 2),
          need=lambda s: s[1] % 2 == s[2] % 2 == 0),
    Block("[o] = F.pad([h], (1, 0, 0, 1), mode='{mode}')", dims=3, out=lambda s, mode: (s[0], s[1] + 1, s[2] + 1),
          draws={"mode": ("reflect", "replicate", "constant")}, need=lambda s: min(s[1:]) >= 2),
    Block("[o] = F.interpolate([h], size=(3, 4), mode='{mode}')", dims=3, out=lambda s, mode: (s[0], 3, 4),
          draws={"mode": ("bilinear", "nearest", "bicubic")}),
    Block("[o] = self.[x]([h])", dims=3, out=lambda s, mode: (2 * s[0], *s[1:]), need=lambda s: min(s[1:]) >= 3,
          init=("self.[x] = nn.Conv2d([c0], 2 * [c0], 3, padding=2, dilation=2, groups=[c0], padding_mode='{mode}')",),
          draws={"mode": ("zeros", "reflect", "replicate", "circular")}),
    Block("[o] = self.[x]([h])", dims=3, out=lambda s, kernel, stride: (2, *((n - 1) * stride + kernel for n in s[1:])),
          init=("self.[x] = nn.ConvTranspose2d([c0], 2, {kernel}, {stride})",), draws={"kernel": (1, 3), "stride": (1, 2)},
          need=lambda s: max(s[1:]) <= 4),
    Block("[o] = F.adaptive_{pool}_pool2d([h], 2)", dims=3, out=lambda s, pool: (s[0], 2, 2), draws={"pool": ("avg", "max")}),
    Block("[o] = F.{pool}", dims=3, draws={"pool": ("lp_pool2d([h], 2, 2)", "max_pool2d([h], 2, ceil_mode=False)")},
          out=lambda s, pool: (s[0], s[1] // 2, s[2] // 2), need=lambda s: min(s[1:]) >= 2),
    Block("[o] = F.local_response_norm([h], 2)", dims=3),
    Block("[o] = F.pixel_shuffle([h], 2)", dims=3, out=lambda s: (s[0] // 4, 2 * s[1], 2 * s[2]), need=lambda s: s[0] % 4 == 0),
    Block("[o] = F.unfold([h], 2)", dims=3, out=lambda s: (4 * s[0], (s[1] - 1) * (s[2] - 1)), need=lambda s: min(s[1:]) >= 2),
    Block("[o] = F.grid_sample([h], F.affine_grid(torch.tanh(self.[x]([h].mean((2, 3)))).view(n, 2, 3), [h].shape,\n"
          "                                          align_corners=False), align_corners=False)", dims=3,
          init=("self.[x] = nn.Linear([c0], 6)",)),
    Block("[o] = [h].flatten(2).transpose(1, 2)", dims=3, out=lambda s: (s[1] * s[2], s[0])),
    Block("[o] = [h].mean((2, 3))", dims=3, out=lambda s: (s[0],)),
    Block("[o] = [h].flatten(1)", dims=3, out=lambda s: (math.prod(s),)),
    Block("[t] = ([h].var(0, unbiased=False) + 1e-8).sqrt().mean()\n"
          "[o] = torch.cat([[h], [t].expand(n, 1, *[h].shape[2:])], 1)", dims=3, out=lambda s: (s[0] + 1, *s[1:])),
    Block("[t] = self.[x]([h].mean((2, 3)))[:, :, None, None]\n[o] = [h] * torch.sigmoid([t])", dims=3,
          init=("self.[x] = nn.Linear([c0], [c0])",)),
    Block("[t] = self.[x]([h].detach().mean((2, 3)))[:, :, None, None]\n[o] = [h] * (1 + [t])", dims=3,
          init=("self.[x] = nn.Linear([c0], [c0])",)),
    Block("[o] = F.conv2d([h], self.[x].view([c0], 1, 1, 1), groups=[c0]) + self.[x].view(1, -1, 1, 1)", dims=3,
          init=("self.[x] = nn.Parameter(torch.randn([c0]))",)),
    Block("[t] = torch.fft.rfft2([h])\n[o] = torch.fft.irfft2([t] * torch.view_as_complex(self.[x]), s=[h].shape[2:])",
          dims=3, init=("self.[x] = nn.Parameter(torch.randn(*[shape][:2], [shape][2] // 2 + 1, 2))",)),
]  # fmt: skip

FUNC = [
    Block("[o] = [h] + torch.func.grad(lambda y: torch.tanh(y @ [m]).sum())([h])"),
    Block("[t], [t]b = torch.func.vjp(lambda y: torch.tanh(y @ [m]), [h])\n[o] = [h] + [t]b(torch.ones_like([t]))[0]"),
    Block("[o] = [h] + torch.func.jvp(lambda y: torch.sin(y @ [m]), ([h],), (torch.ones_like([h]),))[1]"),
    Block("[t] = torch.vmap(torch.func.jacrev(lambda y: torch.tanh([m] @ y)))([h])\n"
          "[o] = [h] * [t].diagonal(dim1=1, dim2=2).sum(1, keepdim=True)", dims=1),
    Block("[t] = torch.vmap(torch.func.jacfwd(lambda y: torch.sin([m] @ y)))([h])\n[o] = [h] + [t].sum(2)", dims=1),
    Block("[o] = torch.vmap(lambda y: torch.tanh([m] @ y) * [p])([h])", dims=1),
    Block("[t] = [k].detach().requires_grad_()\n"
          "[o] = [h] + torch.autograd.grad((torch.tanh([t] @ [m])).sum(), [t], create_graph=True)[0]"),
    Block("[o] = torch.utils.checkpoint.checkpoint(lambda y: torch.tanh(y @ [m]), [h], use_reentrant=False)"),
]  # fmt: skip

HEADS = [
    *(
        Block(f"score = {text}", init=(f"self.[x] = nn.Linear({size}, 1)",), dims=dims, out=lambda s: ())
        for text, size, dims in (
            ("self.[x]([h])", "[d]", 1),
            ("self.[x](torch.tanh([h])).squeeze(1)", "[d]", 1),
            ("self.[x]([h].flatten(1))", "math.prod([shape])", None),
            ("self.[x](F.silu([h])).squeeze(-1)", "[d]", None),
            ("self.[x](F.leaky_relu([h], 0.2)).flatten(1).sum(1)", "[d]", None),
            ("self.[x](torch.tanh([h])).mean()", "[d]", None),
        )
    ),
    Block("score = ([h] * [p]).flatten(1).tanh().sum(1)"),
    Block("score = ([h] @ [e].t()).flatten(1).square().sum(1, keepdim=True)"),
    Block("score = (F.normalize([h], dim=-1) @ [p]).view(n, -1).mean(1)"),
    Block("score = F.cosine_similarity([h], [p], dim=-1).view(n, -1).sum(1)"),
    Block("score = ([h] * [p]).flatten(1).sum(1)\nif score.requires_grad:\n    score = 2 * score"),
    Block("score = torch.logsumexp(([h] * [p]).flatten(1), 1)"),
]


def groups() -> dict[str, tuple[float, list[Block]]]:
    everywhere = LAYERS + ROW_LAYERS + SEQUENCE_LAYERS + IMAGE_LAYERS
    return {"layer": (4, everywhere), "func": (0.4, FUNC)}
