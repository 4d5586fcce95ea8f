# ruff: noqa: E501 - a table of programs: a line that is broken would be another program
"""What people write in critics, for values of any shape: the lines that :mod:`fuzz_program` draws from."""

from __future__ import annotations

from fuzz_program import Block

PLAIN = [
    *(
        f"[o] = torch.{name}([h])"
        for name in ("tanh", "sigmoid", "sin", "atan", "erf", "relu", "abs", "sinc")
    ),
    *(
        f"[o] = F.{name}([h])"
        for name in ("silu", "gelu", "elu", "selu", "mish", "softplus", "softsign", "logsigmoid", "hardswish")
    ),
    *("[o] = F.leaky_relu([h], 0.2)", "[o] = F.hardtanh([h])", "[o] = F.celu([h], 0.7)"),
    *("[o] = F.softmax([h], -1)", "[o] = F.log_softmax([h], -1)", "[o] = F.normalize([h], dim=-1)"),
    *("[o] = [h] * torch.sigmoid([k])", "[o] = torch.tanh([h]) * torch.sigmoid([k])"),
    *("[o] = [h] + [k]", "[o] = [h] - 0.5 * [k]", "[o] = [h] * [p] + [k]", "[o] = [h] @ [m]"),
    *("[o] = torch.addcmul([h], torch.tanh([k]), [p])", "[o] = torch.addcdiv([h], [k], [p].exp())"),
    *("[o] = torch.maximum([h], [p])", "[o] = torch.minimum([h], [k] * 2 + 1)", "[o] = [h].clamp(-1, 1)"),
    *("[o] = torch.lerp([h], [k] * 2, [s])", "[o] = [h] / (1 + [k].square())", "[o] = [h].pow(3) * 0.1"),
    *("[o] = [h] ** 2 + [p]", "[o] = ([h].square() + 0.1).sqrt()", "[o] = torch.rsqrt([h].square() + 1)"),
    *("[o] = [h].cumsum(-1)", "[o] = [h].logcumsumexp(-1)", "[o] = torch.cumprod(torch.sigmoid([h]), -1)"),
    *("[o] = [h].flip(-1)", "[o] = [h].roll(1, -1)", "[o] = [h].sort(-1).values", "[o] = [h].cummax(-1)[0]"),
    *("[o] = [h] - [h].mean(0, keepdim=True)", "[o] = [h] - [h].amax(-1, keepdim=True)"),
    *("[o] = [h] * torch.logsumexp([k], -1, keepdim=True)", "[o] = [h] / ([h].std(-1, keepdim=True) + 1)"),
    *("[o] = [h] + F.cosine_similarity([h], [p].expand_as([h]), dim=-1).unsqueeze(-1)",),
    *("[o] = F.layer_norm([h], ([d],), [p1], [p2])", "[o] = F.rms_norm([h], ([d],), [p])"),
    *("[o] = F.prelu([h], [s])", "[o] = [h] * [s]", "[o] = [h] * F.softmax([p], 0)", "[o] = [h] + [f]"),
    *("[o] = torch.einsum('...i,ij,...j->...i', [h], [m], torch.tanh([k]))", "[o] = torch.hypot([h], [p])"),
    *("[o] = torch.stack([[h], [k]], 0).logsumexp(0)", "[o] = torch.stack(([h], [k])).prod(0) + [p]"),
    *("[o] = torch.cat([[h], [k]], -1)[..., :[d]]", "[o] = torch.atan2([h], [p].exp())"),
    "[o] = [h].new_tensor([0.5]) * [h]",
]

DETACHED = [
    *("[o] = [h] * torch.sigmoid([k].detach())", "[o] = [h] * ([k].detach() @ [m])"),
    *("[o] = [h] / ([h].detach().norm(dim=-1, keepdim=True) * [p].exp() + 0.1)",),
    *("[o] = [h] * torch.sigmoid(F.linear(x.detach().flatten(1).mean(1, keepdim=True), [p].unsqueeze(1)))"
      ".view(n, *[1] * ([h].dim() - 2), [d])",),
    *("[o] = torch.tanh([h]) * torch.sigmoid([h].detach() * [p])", "[o] = [h] - [h].mean(0).detach() * [p]"),
    *("[o] = [h] + (torch.round([h]) - [h]).detach()", "[o] = [h] + ([h].sign() * [p] - [h]).detach()"),
    *("[o] = [h] + ([k] - [h]).detach() * [p]", "[o] = [h] * [p].detach() + [p]", "[o] = [h].detach() * [p] + [h]"),
    *("[o] = [h] @ [m] + torch.tanh([h]) @ [m].detach()", "[o] = [h] * F.linear([k].detach(), [m], [p])"),
    *("[o] = [h] * [k].data * [p]", "[o] = [h] * torch.exp(-[k].detach().square() * [s])"),
    *("[o] = torch.where([h].detach() > 0, [h], [p] * [k].detach())", "[o] = [h] * [p] + [k].detach()"),
    *("[o] = torch.cat([[h][..., :1], [k].detach()[..., 1:] * [p][1:]], -1)",),
    *("[o] = [h] * F.layer_norm([k].detach(), ([d],), [p1], [p2])", "[o] = [h] * F.softmax([k].detach() @ [m], -1)"),
    *("[o] = torch.lerp([h], [k].detach(), torch.sigmoid([p]))", "[o] = [h] * torch.atan2([k].detach(), [p])"),
    "[t] = [k].detach().clone()\n[t] += [p]\n[o] = [h] * [t]",
]  # fmt: skip

NO_GRAD = [
    "with torch.no_grad():\n    [t] = torch.tanh([k])\n[o] = [h] * ([t] @ [m])",
    "with torch.no_grad():\n    [t] = [k] * [p1]\n[o] = [h] * torch.sigmoid([t] + [p2])",
    "with torch.no_grad():\n    [t] = [k].abs().mean() + 1\n[o] = [h] / [t] + [p]",
    "[o] = [h] @ [m]\nwith torch.no_grad():\n    [o].clamp_(max=0.7)",
    "[o] = [h] * [p]\nwith torch.no_grad():\n    [o].mul_(0.9)",
    "[o] = [h] * 1.5\nwith torch.no_grad():\n    [o].add_([p])",
    "[o] = [h] * 2\nwith torch.no_grad():\n    [o][..., 0] = 0.3",
    "[o] = [h] + 1\nwith torch.no_grad():\n    [o].copy_(torch.tanh([o]))",
    "[o] = [h] * [p]\nwith torch.no_grad():\n    torch.nan_to_num_([o])",
    "[t] = [h].square().sum(-1, keepdim=True)\nwith torch.no_grad():\n    [t].clamp_(min=0.5)\n[o] = [h] / [t].sqrt()",
    "[o] = [h] * [p]\nwith torch.no_grad():\n    [t] = [o].flatten(1)\n    [t][:, 0] += 1",
    "with torch.no_grad():\n    [t] = [h] @ [m]\n    with torch.enable_grad():\n        [o] = [h] * [t] * [p]",
    "with torch.no_grad():\n    [b].mul_(0.9).add_(0.1 * [k].reshape(-1, [d]).mean(0))\n[o] = [h] - [b] * [p]",
    "with torch.no_grad():\n    [t] = torch.zeros_like([h])\n    [t][..., 0] = 1\n[o] = [h] * ([t] * [p] + 1)",
    "torch.set_grad_enabled(False)\n[t] = [h] * [p1]\ntorch.set_grad_enabled(True)\n[o] = [h] * ([t] + [p2])",
    "with torch.no_grad():\n    [t] = [m] / [m].norm()\n[o] = [h] @ ([t] + [m])",
]

MASKS = [
    *("[o] = [h] * torch.where([h] > 0, torch.ones_like([h]), [p])", "[o] = torch.where([h] > 0, [h], [p] * [h])"),
    *("[o] = [h] * (([k] > 0).to([h].dtype) @ [m])", "[o] = [h] * (([k] > 0) * [p])", "[o] = [h] + ([k] > 0.1) * [p]"),
    *("[o] = [h].masked_fill([h] < 0, 0.3)", "[o] = [h].masked_fill([k] > [h], [s])", "[o] = [h] * ([h].abs() < 1)"),
    *("[o] = torch.where([h] > [k].mean(), [p], [h])", "[o] = [h] * ([k].sign() * [p])", "[o] = [h] + [k].floor() * [p]"),
    *("[o] = [h] * (torch.ones_like([k]) * [p])", "[o] = [h] * (torch.zeros_like([k]) + [p])"),
    *("[o] = [h] * ([h].new_zeros([h].shape) + [p])", "[o] = [h] * [p].expand_as([k])", "[o] = [h] * [f].expand_as([k])"),
    *("[o] = [h] * torch.heaviside([k].detach(), [p].detach()) * [p]", "[o] = [h] + torch.isfinite([k]) * [p]", "[o] = F.threshold([h], 0.1, 0.2) * [p]"),
    *("[o] = [h] * ([k] == [k].amax(-1, keepdim=True)) * [p]", "[o] = [h] * (([k] > 0) & ([k] < 1)).to([h].dtype) + [p]"),
    *("[o] = torch.where(torch.logical_not([k] > 0), [h] * [p1], [p2])", "[o] = [h] * torch.full_like([k], 0.7).mul([p])"),
    *("[t] = ([k].detach() > 0).type_as([h])\n[o] = [t] * [h] + (1 - [t]) * [p]",),
    *("[o] = [h] * F.relu([h] - [p]).bool().to([h].dtype) + [p]", "[o] = [h] * torch.sign([k]).mul([p]).cumsum(-1)"),
    *("[o] = [h] * torch.triu(torch.ones([d], [d], dtype=[h].dtype)).mul([m]).sum(0)",),
    *("[o] = [h] * (torch.arange([d], dtype=[h].dtype) * [p])", "[o] = [h] * torch.rand_like([h]).lt(2) * [p]"),
    *("[o] = [h] * torch.tensor([[1.0]], dtype=[h].dtype) + torch.zeros(n, *[1] * ([h].dim() - 1), dtype=x.dtype) * [p]",),
]  # fmt: skip

LOOKUPS = [
    "[t] = torch.bucketize([k].detach().sigmoid(), torch.linspace(0.2, 0.8, 4, dtype=x.dtype))\n[o] = [h] * [e][[t]].mean(-2)",
    "[t] = ([k].sigmoid() * 4.99).long()\n[o] = [h] * F.embedding([t][..., 0], [e])",
    "[t] = [k].argmax(-1)\n[o] = [h] * [m][[t]]",
    "[t] = [k].argmax(-1)\n[o] = [h] + F.one_hot([t], [d]).to([h].dtype) @ [m]",
    "[t] = ([k].detach().tanh() * 2.4 + 2.5).to(torch.int64)\n[o] = [h] * [e].index_select(0, [t].flatten()).view(*[t].shape, [d]).sum(-2)",
    "[t] = [k].argsort(-1)\n[o] = [h].gather(-1, [t]) * [p]",
    "[t] = torch.take_along_dim([p].expand_as([h]), [k].argsort(-1), -1)\n[o] = [h] * [t]",
    "[o] = [h] * [p][[k].argmin(-1)].unsqueeze(-1)",
    "[o] = [h][..., [id]] * [p]",
    "[o] = [h].index_select(-1, [id])",
    "[o] = [h] * [m][[id]].sum(0)",
    "[o] = torch.zeros_like([h]).scatter_add(-1, [k].argsort(-1), [h] * [p])",
    "[o] = torch.zeros_like([h]).index_add(-1, [id], [h]) + [p]",
    "[t] = torch.cdist([h].reshape(-1, [d]), [e]).argmin(-1)\n[o] = [h] + ([e][[t]].view_as([h]) - [h]).detach()",
    "[t] = [e][torch.cdist([h].detach().reshape(-1, [d]), [e]).argmin(-1)].view_as([h])\n[o] = [h] + ([t] - [h]).detach() + 0.5 * ([t] - [h].detach()).square()",
    "[t], [t]i = [h].topk(1, -1)\n[o] = [h] * [t] * [p][[t]i]",
    "[t] = torch.searchsorted([b].sort().values, [k].contiguous())\n[o] = [h] * torch.cat([[p], [s][None]])[[t]]",
    "[t] = F.one_hot(([k].sigmoid() * 4.99).long(), 5).to([h].dtype)\n[o] = [h] * ([t] @ [e]).mean(-2)",
    "[t] = F.softmax([h] @ [e].t(), -1)\n[t] = F.one_hot([t].argmax(-1), 5) - [t].detach() + [t]\n[o] = [h] + [t] @ [e]",
    "[o] = [h] * torch.ones(int([id].max()) + 1, dtype=x.dtype) + [p]",
    "[t] = torch.arange(n) % 5\n[o] = [h] * [e][[t]].view(n, *[1] * ([h].dim() - 2), [d])",
    "[o] = [h] + self.[x]([k].abs().mul(3).long().clamp(max=4)).sum(-2)",
]

IN_PLACE = [
    *("[o] = [h].clone()\n[o].mul_([p])", "[o] = [h].clone()\n[o][..., 0] = torch.tanh([k][..., 0])"),
    *("[o] = [h] * 1\n[o][..., 0] *= [s]", "[o] = [h] + 0.1\n[o].add_([k], alpha=0.5)", "[o] = [h] * 2\nF.relu_([o])"),
    *("[o] = [h] @ [m]\n[o].clamp_(-1, 1)", "[o] = [h] + 0\n[o].masked_fill_([k] > 0.5, 0.2)", "[o] = [h] * 1\n[o] += [p]"),
    *("[o] = torch.zeros_like([h])\n[o][...] = [h] * [p]", "[o] = [h].new_empty([h].shape)\n[o].copy_([h])"),
    *("[o] = torch.zeros_like([h])\n[o][..., 0] = [k][..., 0] * [s]\n[o] = [o] + [h]",),
    *("[o] = [h] * 1\n[t] = [o][..., 0]\n[t].mul_(2)", "[o] = [h].clone()\n[t] = [o].view(-1)\n[t].sin_()"),
    *("[o] = [h] + 1\n[o].zero_().add_([h] * [p])", "[o] = F.leaky_relu([h], 0.2, inplace=True)", "[o] = [h].mul_(1.5)"),
    *("[o] = [h].clone()\n[o].index_add_(-1, [id], [k])", "[o] = [h].clone()\n[o].scatter_(-1, [k].argsort(-1), [h])"),
    *("[o] = [h].clone()\n[o][[k] > 0] = 0.1", "[o] = [h].clone()\n[o][..., -1].fill_(0.5)", "[o] = [h].clone().sin_()"),
    *("[o] = [h].clone()\n[o].unsqueeze(0).add_([p])", "[o] = [h].clone()\n[o].transpose(0, -1)[0] *= 2"),
    *("[o] = torch.empty_like([h])\nfor i in range([d]):\n    [o][..., i] = [h][..., i] * (i + 1) + [p][i]",),
    *("[o] = [h] @ [m]\n[o].tanh_()", "[o] = [h] * [p]\n[o].pow_(2)", "[o] = [h].clone()\n[o][0] = 0"),
    *("[o] = [h].clone()\n[o][:, 0] -= 0.3", "[o] = [h].detach().clone()\n[o].add_([h])", "[o] = [h].clone()\n[o][[h].abs() < 0.5] *= 3"),
]  # fmt: skip

DATA = [
    "self.[x].data = 0.9 * self.[x].data + 0.1 * [k].detach().reshape(-1, [d]).mean(0)\n[o] = [h] - self.[x] * [p]",
    "self.[x].data.mul_(0.9)\n[o] = [h] * self.[x] + [p]",
    "self.[x].data.copy_([k].detach().reshape(-1, [d]).std(0, unbiased=False))\n[o] = [h] * (1 + self.[x])",
    "self.[x] = self.[x] * 0.5 + 0.1\n[o] = [h] * self.[x]",
    "self.[x] += 0.1\n[o] = [h] * self.[x]",
    "self.[x].add_(1)\n[o] = [h] / self.[x].square().add(1)",
    "[m].data.clamp_(-0.3, 0.3)\n[o] = [h] @ [m]",
    "[m].data = F.normalize([m].data, dim=1)\n[o] = F.linear([h], [m])",
    "[m].data.div_([m].data.norm() + 0.1)\n[o] = [h] @ [m] + [h]",
    "[o] = [h] @ [m]\n[m].data.mul_(0.9)",
    "with torch.no_grad():\n    [p].mul_(0.9)\n[o] = [h] * [p]",
    "[o] = [h] * [p]\n[o].data.clamp_(max=0.7)",
    "[o] = [h] * 1\n[o].data[..., 0] = 0.2",
    "[o] = [h] + 1\n[o].data = torch.tanh([o].data)\n[o] = [o] * [p]",
    "self.[x].data = F.normalize([m].data.t() @ self.[x].data, dim=0)\n[t] = self.[x].dot([m].mv(self.[x]))\n[o] = [h] @ ([m] / [t])",
    "with torch.no_grad():\n    self.[x].copy_(F.normalize([m] @ self.[x], dim=0))\n[o] = [h] @ ([m] / (self.[x] @ [m] @ self.[x]))",
    "if self.training:\n    self.[x].mul_(0.9).add_([k].data.reshape(-1, [d]).mean(0), alpha=0.1)\n[o] = [h] - self.[x]",
]

COMPLEX = [
    *("[o] = torch.complex([h], [k]).abs()", "[o] = torch.complex([h], torch.sin([k])).angle()"),
    *("[o] = torch.view_as_real(torch.complex([h], [p].expand_as([h])) * [c]).sum(-1)", "[o] = ([h] * [c]).abs()"),
    *("[o] = ([h] * [c]).imag + [h]", "[o] = torch.fft.ifft(torch.fft.fft([h]) * [c]).real", "[o] = torch.fft.fft([h]).abs()"),
    *("[o] = torch.fft.irfft(torch.fft.rfft([h]) * [c][: [d] // 2 + 1], n=[d])", "[o] = ([h].to([c].dtype) * [c]).real"),
    *("[t] = torch.view_as_complex(torch.stack([[h], [p].expand_as([h])], -1).contiguous())\n[o] = ([t] * [t].conj()).real",),
    *("[t] = torch.complex([p1], [p2])\n[o] = ([h] * [t]).abs()", "[t] = torch.polar([p1].exp(), [p2])\n[o] = ([h] * [t]).real + [h]"),
    *("[t] = torch.view_as_complex(torch.stack([[p1], [p2]], -1))\n[o] = (torch.fft.fft([h]) * [t]).abs()",),
    *("[t] = [h] + 1j * [k]\n[o] = ([t] @ torch.complex([m1], [m2])).abs()", "[o] = torch.exp(1j * [h]).real * [p]"),
    *("[t] = torch.fft.fft([h])\n[t] = torch.zeros_like([t]).index_copy(-1, torch.tensor([0]), [t][..., :1] * [s])\n[o] = torch.fft.ifft([t]).real",),
    *("[t] = torch.fft.rfft([h])\n[o] = torch.fft.irfft([t] * ([t].abs() > 0.5), n=[d])", "[o] = torch.fft.fftshift(torch.fft.fft([h]).detach().abs() * [p] + [h])"),
    *("[t] = torch.fft.fft([h])\n[t].mul_([c])\n[o] = [t].real", "[t] = torch.complex([h], [k])\n[o] = ([t] / ([t].abs() + 1)).imag * [p]"),
    *("[t] = torch.zeros(*[h].shape, dtype=torch.complex128)\n[t][..., 0] = [h][..., 0] * [c][0]\n[o] = torch.fft.ifft([t]).real + [h]",),
    "[o] = torch.complex([h], [k]).sgn().real + torch.complex([k], [h]).pow(2).imag",
]  # fmt: skip

ROLES = [
    *("[o] = F.linear(torch.tanh(F.linear([h], [m])), [m].t())", "[o] = [h] @ [m] + torch.tanh([h]) @ [m].t()"),
    *("[o] = F.linear([h], [m], [m][0])", "[o] = [h] * [m].diagonal()", "[o] = [h] @ torch.tanh([m]) @ [m].t()"),
    *("[o] = F.softmax([h] @ [e].t(), -1) @ [e]", "[o] = [h] + F.linear([p], [m])", "[o] = [h] * ([p] @ [m]) + [p]"),
    *("[o] = [h] * F.normalize([p], dim=0) + [p].norm()", "[o] = [h] @ ([m] / [m].norm()) * [m][:, 0]", "[o] = [h] @ torch.linalg.matrix_exp([m] - [m].t())"),
    *("[t] = [m] + [m].t()\n[o] = [h] @ [t] @ [m]", "[o] = [h] * [p] + [p] * [k]", "[o] = F.layer_norm([h] + [p], ([d],), [p], [p])"),
    *("[o] = F.linear([h], [m], [p]) * [p]", "[o] = torch.addmm([p], [h].reshape(-1, [d]), [m]).view_as([h])"),
    *("[o] = torch.cat([[p].expand(n, *[h].shape[1:-1], [d]), [h]], -1)[..., ::2][..., :[d]]",),
    *("[o] = [h] @ torch.linalg.solve(torch.eye([d], dtype=x.dtype) * 3 + [m] @ [m].t(), [m])", "[o] = [h] @ torch.inverse(torch.eye([d], dtype=x.dtype) * 3 + [m].tanh())"),
    *("[o] = [h] @ torch.linalg.qr([m])[0]", "[o] = [h] @ torch.linalg.cholesky([m] @ [m].t() + torch.eye([d], dtype=x.dtype))"),
    *("[o] = torch.lerp([p].expand_as([h]), [h], torch.sigmoid([p]))", "[o] = F.prelu([h], [s]) * [s]", "[o] = [h].pow(2) * [p].pow(2)"),
]  # fmt: skip

WRITTEN = [
    "[t] = torch.zeros([d], [d], dtype=x.dtype)\n[t][0, 0] = [s].cos()\n[t][-1, 0] = -[s].sin()\n[o] = [h] @ [t] + [h]",
    "[t] = torch.eye([d], dtype=x.dtype)\n[t].diagonal().copy_([p])\n[o] = [h] @ [t]",
    "[t] = [m].clone()\n[t][0] = 0\n[o] = [h] @ [t]",
    "[t] = torch.zeros([d], dtype=x.dtype)\n[t][[id]] = [p]\n[o] = [h] * [t]",
    "[t] = torch.zeros([d], [d], dtype=x.dtype)\n[t][torch.arange([d]), [id]] = [p]\n[o] = [h] @ [t]",
    "[t] = torch.zeros([d], [d], dtype=x.dtype).masked_scatter(torch.eye([d]) > 0, [p])\n[o] = [h] @ [t]",
    "[t] = torch.empty(2, [d], dtype=x.dtype)\n[t][0] = [p1]\n[t][1] = [p2].exp()\n[o] = [h] * [t].prod(0)",
    "[t] = torch.diag_embed([p])\n[t] = [t] + [m].tril(-1)\n[o] = [h] @ [t]",
    "[t] = [m].clone()\n[t].fill_diagonal_(1.0)\n[o] = [h] @ [t]",
    "[t] = torch.zeros([d], [d], dtype=x.dtype)\n[t].index_put_((torch.arange([d]), [id]), [p], accumulate=True)\n[o] = [h] @ [t]",
    "[t] = torch.ones([d], dtype=x.dtype)\n[t][0] *= [s]\n[o] = [h] * [t]",
    "[t] = torch.stack([torch.cat([[s].cos()[None], [p][1:]]), [p]])\n[o] = [h] * [t].sum(0)",
    "[t] = [p].clone()\nwith torch.no_grad():\n    [t].clamp_(0.1)\n[o] = [h] * [t]",
    "[t] = [h].new_zeros([h].shape[1:])\n[t][..., 0] = [s]\n[o] = [h] * [t] + [h]",
]

NUMPY = [
    "[o] = [h] * self.[x]",
    "[o] = [h] * self.[x] if self.[x] != 1 else [h]",
    "[o] = [h] * np.sqrt(2)",
    "[o] = [h] * float(np.float32(0.7)) + [p] * np.float64(0.3)",
    "[o] = [h].reshape(n, int(np.prod([h].shape[1:]))).view_as([h]) * [p]",
    "[o] = [h].reshape(n, np.prod([h].shape[1:])).view_as([h]) * [p]",
    "[o] = [h] * torch.linspace(0, 1, int(self.[x] * 0) + [d], dtype=x.dtype)",
    "[o] = [h] + torch.from_numpy(np.arange([d]) * 0.5) * [p]",
    "[o] = [h] * torch.tensor(self.[x], dtype=x.dtype)",
    "[o] = [h] * torch.as_tensor(np.ones([d]) * 0.4) + [p]",
]

BRANCHES = [
    *("[o] = 2 * [h] if x.requires_grad else [h]", "[o] = [h] * [p] if [h].requires_grad else [h]"),
    *("[o] = [h] * [p]\nif [o].requires_grad:\n    [o] = [o] + 1", "[o] = [h] * 2 if torch.is_grad_enabled() else [h]"),
    *("[o] = [h] * [p] if [p].requires_grad else [h]", "[o] = [h] if x.is_leaf else [h] * 1.5", "[o] = [h] * (1 + 0.1 * n)"),
    *("[o] = [h] + 1\nif [o].requires_grad:\n    [o].register_hook(lambda g: 2 * g)", "[o] = [h] * [p] if x.shape[0] > 2 else [h]"),
    *("self.[x] = getattr(self, '[x]', 0) + 1\n[o] = [h] * [p]", "[o] = [h] * 1\nif [h].grad_fn is not None:\n    [o] = [o] * [p]"),
    *("[o] = [h] * float([k].detach().abs().max())", "[o] = [h] * 2 if [k].sum() > 0 else [h] * [p]"),
    *("with Quiet():\n    [o] = [h] * [p]", "with warnings.catch_warnings():\n    warnings.simplefilter('ignore')\n    [o] = [h] * 2"),
    *("[o] = [h].requires_grad_() * [p]", "assert [h].isfinite().all()\n[o] = [h] * [p]", "[o] = [h] / [k].detach().std().item()"),
]  # fmt: skip

RANDOM = ["[o] = F.dropout([h].contiguous(), 0.3)", "[o] = [h] + 0.1 * torch.randn_like([h]) * [p]"]


def _blocks(lines: list[str], init: tuple[str, ...] = (), random: bool = False) -> list[Block]:
    return [Block(line, init=init if "[x]" in line else (), random=random) for line in lines]


GAINS = ("np.float32(1.3)", "np.sqrt(2)", "np.float64(0.4)", "np.int64(2)", "1.5", "np.array(0.7)")


def blocks() -> dict[str, tuple[float, list[Block]]]:
    """Groups that fit any shape: how often each is drawn, and its blocks."""
    numbers = [Block(line, init=("self.[x] = {gain}",), draws={"gain": GAINS}) for line in NUMPY]
    return {
        "plain": (3, _blocks(PLAIN)),
        "detached": (1, _blocks(DETACHED)),
        "no_grad": (1, _blocks(NO_GRAD)),
        "mask": (1, _blocks(MASKS)),
        "lookup": (1, _blocks(LOOKUPS, ("self.[x] = nn.Embedding(5, [d])",))),
        "in place": (1, _blocks(IN_PLACE)),
        "data": (0.7, _blocks(DATA, ('self.register_buffer("[x]", torch.ones([d]))',))),
        "complex": (0.8, _blocks(COMPLEX)),
        "roles": (1, _blocks(ROLES)),
        "written": (0.6, _blocks(WRITTEN)),
        "numpy": (0.4, numbers),
        "branch": (0.4, _blocks(BRANCHES)),
        "operator": (1.5, []),  # of fuzz_operators
        "random": (0.15, _blocks(RANDOM, random=True)),
    }
