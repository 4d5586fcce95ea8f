"""The gradient penalties of existing code, written as their projects write them: the truth of test_compat.

On stock autograd alone. Alpha's shape follows the samples' dimensions where a project fixes four. Below
them, critics of every kind that such code meets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, autograd, nn


def stock_grad(score: Tensor, x: Tensor) -> Tensor:
    return autograd.grad(
        outputs=score,
        inputs=x,
        grad_outputs=torch.ones_like(score),
        create_graph=True,
        retain_graph=True,
        only_inputs=True,
    )[0]


def alpha_like(real: Tensor) -> Tensor:
    return torch.rand([real.size(0)] + [1] * (real.dim() - 1))


def pytorch_gan(D, real_samples, fake_samples, *labels):
    alpha = alpha_like(real_samples)
    interpolates = (alpha * real_samples + ((1 - alpha) * fake_samples)).requires_grad_(True)
    d_interpolates = D(interpolates, *labels)
    if isinstance(d_interpolates, tuple):
        d_interpolates, _ = d_interpolates
    gradients = stock_grad(d_interpolates, interpolates)
    gradients = gradients.view(gradients.size(0), -1)
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean()


def aladdinpersson(critic, real, fake, device="cpu"):
    BATCH_SIZE, C, H, W = real.shape
    alpha = torch.rand((BATCH_SIZE, 1, 1, 1)).repeat(1, C, H, W).to(device)
    interpolated_images = real * alpha + fake * (1 - alpha)
    mixed_scores = critic(interpolated_images)
    gradient = stock_grad(mixed_scores, interpolated_images)
    gradient = gradient.view(gradient.shape[0], -1)
    gradient_norm = gradient.norm(2, dim=1)
    return torch.mean((gradient_norm - 1) ** 2)


def aladdinpersson_conditional(critic, labels, real, fake, device="cpu"):
    return aladdinpersson(lambda x: critic(x, labels), real, fake, device)


def caogang(netD, real_data, fake_data, LAMBDA=10):
    BATCH_SIZE = real_data.size(0)
    alpha = torch.rand(BATCH_SIZE, 1)
    alpha = alpha.expand(BATCH_SIZE, real_data.nelement() // BATCH_SIZE).contiguous().view(real_data.shape)
    interpolates = alpha * real_data + ((1 - alpha) * fake_data)
    interpolates = autograd.Variable(interpolates, requires_grad=True)
    gradients = stock_grad(netD(interpolates), interpolates)
    gradients = gradients.view(gradients.size(0), -1)
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean() * LAMBDA


def pix2pix(netD, real_data, fake_data, device, type="mixed", constant=1.0, lambda_gp=10.0):
    if lambda_gp > 0.0:
        if type == "real":
            interpolatesv = real_data
        elif type == "fake":
            interpolatesv = fake_data
        elif type == "mixed":
            alpha = torch.rand(real_data.shape[0], 1, device=device)
            alpha = alpha.expand(real_data.shape[0], real_data.nelement() // real_data.shape[0])
            alpha = alpha.contiguous().view(*real_data.shape)
            interpolatesv = alpha * real_data + ((1 - alpha) * fake_data)
        interpolatesv.requires_grad_(True)
        gradients = stock_grad(netD(interpolatesv), interpolatesv)
        gradients = gradients.view(real_data.size(0), -1)
        penalty = (((gradients + 1e-16).norm(2, dim=1) - constant) ** 2).mean() * lambda_gp
        return penalty, gradients
    return 0.0, None


def lynnho(f, real, fake, gp_mode, sample_mode):
    def line(real, fake):
        alpha = torch.rand([real.size(0)] + [1] * (real.dim() - 1), device=real.device)
        return real + alpha * (fake - real)

    def dragan(real, fake):
        beta = torch.rand_like(real)
        return line(real, real + 0.5 * real.std() * beta)

    samples = {"line": line, "real": lambda r, f: r, "fake": lambda r, f: f, "dragan": dragan}
    penalties = {
        "1-gp": lambda norm: ((norm - 1) ** 2).mean(),
        "0-gp": lambda norm: (norm**2).mean(),
        "lp": lambda norm: (torch.max(torch.zeros_like(norm), norm - 1) ** 2).mean(),
    }
    if gp_mode == "none":
        return torch.tensor(0, dtype=real.dtype, device=real.device)
    x = samples[sample_mode](real, fake).detach()
    x.requires_grad = True
    grad = stock_grad(f(x), x)
    return penalties[gp_mode](grad.view(grad.size(0), -1).norm(p=2, dim=1))


def ctgan(self, real_data, fake_data, device="cpu", pac=10, lambda_=10):
    alpha = torch.rand(real_data.size(0) // pac, 1, 1, device=device)
    alpha = alpha.repeat(1, pac, real_data.size(1))
    alpha = alpha.view(-1, real_data.size(1))
    interpolates = alpha * real_data + ((1 - alpha) * fake_data)
    gradients = stock_grad(self(interpolates), interpolates)
    gradients_view = gradients.view(-1, pac * real_data.size(1)).norm(2, dim=1) - 1
    return ((gradients_view) ** 2).mean() * lambda_


def mmagic(discriminator, real_data, fake_data, mask=None, norm_mode="pixel"):
    """BasicSR's is this with ``weight`` for ``mask`` and "pixel" alone."""
    batch_size = real_data.size(0)
    alpha = alpha_like(real_data).to(real_data)
    interpolates = alpha * real_data + (1.0 - alpha) * fake_data
    interpolates = autograd.Variable(interpolates, requires_grad=True)
    gradients = stock_grad(discriminator(interpolates), interpolates)
    if mask is not None:
        gradients = gradients * mask
    if norm_mode == "pixel":
        gradients_penalty = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
    elif norm_mode == "HWC":
        gradients_penalty = ((gradients.reshape(batch_size, -1).norm(2, dim=1) - 1) ** 2).mean()
    if mask is not None:
        gradients_penalty /= torch.mean(mask)
    return gradients_penalty


def paper(critic, real, fake):
    alpha = alpha_like(real)
    differences = fake - real
    interpolates = (real + (alpha * differences)).requires_grad_(True)
    gradients = stock_grad(critic(interpolates), interpolates)
    slopes = torch.sqrt(torch.sum(torch.square(gradients.flatten(1)), dim=1))
    return torch.mean((slopes - 1.0) ** 2)


def amp(self, expert_state, expert_next_state, lambda_=10):
    expert_data = torch.cat([expert_state, expert_next_state], dim=-1)
    expert_data.requires_grad = True
    grad = stock_grad(self(expert_data), expert_data)
    return lambda_ * (grad.norm(2, dim=1) - 0).pow(2).mean()


def gail(self, expert_state, expert_action, policy_state, policy_action, lambda_=10):
    alpha = torch.rand(expert_state.size(0), 1)
    expert_data = torch.cat([expert_state, expert_action], dim=1)
    policy_data = torch.cat([policy_state, policy_action], dim=1)
    mixup_data = alpha.expand_as(expert_data) * expert_data + (1 - alpha.expand_as(expert_data)) * policy_data
    grad = stock_grad(self.trunk(mixup_data), mixup_data)
    return lambda_ * (grad.norm(2, dim=1) - 1).pow(2).mean()


def progan(critic, real, fake, alpha, train_step, device="cpu"):
    batch, channels, height, width = real.shape
    beta = torch.rand((batch, 1, 1, 1)).repeat(1, channels, height, width).to(device)
    images = (real * beta + fake.detach() * (1 - beta)).requires_grad_(True)
    gradient = stock_grad(critic(images, alpha, train_step), images).view(batch, -1)
    return torch.mean((gradient.norm(2, dim=1) - 1) ** 2)


def stylegan2_1_9(images, output, weight=10, center=0.0):
    gradients = stock_grad(output, images).reshape(images.shape[0], -1)
    return weight * ((gradients.norm(2, dim=1) - center) ** 2).mean()


def muse_maskgit(images, output, weight=10):
    gradients = stock_grad(output, images).reshape(images.shape[0], -1)
    return weight * ((gradients.norm(2, dim=1) - 1) ** 2).mean()


def magvit2_0_5(images, output, center=0.0):
    gradients = stock_grad(output, images).reshape(images.shape[0], -1)
    return ((gradients.norm(2, dim=1) - center) ** 2).mean()


def gigagan_0_3(images, outputs, grad_output_weights=None, weight=10, center=0.0, scaler=None, eps=1e-4):
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    if scaler is not None:
        outputs = [scaler.scale(output) for output in outputs]
    if grad_output_weights is None:
        grad_output_weights = (1,) * len(outputs)
    gradients, *_ = autograd.grad(
        outputs=outputs,
        inputs=images,
        grad_outputs=[torch.ones_like(o) * w for o, w in zip(outputs, grad_output_weights)],
        create_graph=True,
    )
    if scaler is not None:
        gradients = gradients * (1.0 / max(scaler.get_scale(), eps))
    gradients = gradients.reshape(images.shape[0], -1)
    return weight * ((gradients.norm(2, dim=1) - center) ** 2).mean()


def torchgan(interpolate, d_interpolate, reduction="mean"):
    gradient_penalty = (stock_grad(d_interpolate, interpolate).norm(2) - 1) ** 2
    return {"mean": torch.mean, "sum": torch.sum, "none": lambda x: x}[reduction](gradient_penalty)


def torchgan_train_ops(lambd, generator, discriminator, optimizer_discriminator, real_inputs, device, labels):
    batch_size = real_inputs.size(0)
    noise = torch.randn(batch_size, generator.encoding_dims, device=device)
    if generator.label_type == "generated":
        label_gen = torch.randint(0, generator.num_classes, (batch_size,), device=device)
    optimizer_discriminator.zero_grad()
    if generator.label_type == "none":
        fake = generator(noise)
    elif generator.label_type == "required":
        fake = generator(noise, labels)
    else:
        fake = generator(noise, label_gen)
    eps = torch.rand(1).item()
    interpolate = eps * real_inputs + (1 - eps) * fake
    if discriminator.label_type == "none":
        d_interpolate = discriminator(interpolate)
    elif generator.label_type == "generated":
        d_interpolate = discriminator(interpolate, label_gen)
    else:
        d_interpolate = discriminator(interpolate, labels)
    loss = torchgan(interpolate, d_interpolate)
    weighted_loss = lambd * loss
    weighted_loss.backward()
    optimizer_discriminator.step()
    return loss.item()


def r3gan(Samples, Critics):
    (Gradient,) = autograd.grad(outputs=Critics.sum(), inputs=Samples, create_graph=True)
    return Gradient.square().sum([1, 2, 3])


# critics -----------------------------------------------------------------------------------------


def mlp(columns: int) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, 8), nn.Tanh(), nn.Linear(8, 1))


class Conditional(nn.Module):
    """Labels become one more channel, as in the conditional WGAN-GP tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 25)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Conv2d(4, 1, 2))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.body(torch.cat([x, self.embed(labels).view(-1, 1, 5, 5)], dim=1))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(50, 8), nn.Softplus())
        self.score, self.classes = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.score(h), self.classes(h)


class Faded(nn.Module):
    """A progressive critic: two resolutions, faded by ``alpha`` from the second step on."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(36, 1))
        self.coarse = nn.Sequential(
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)
        )

    def forward(self, x: Tensor, alpha: float, step: int) -> Tensor:
        coarse = self.coarse(x)
        return coarse if step == 0 else alpha * self.fine(x) + (1 - alpha) * coarse


class Imitator(nn.Module):
    """GAIL's discriminator: it has no forward, its trunk is what scores."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = mlp(6)


class Packing(nn.Module):
    """CTGAN's discriminator."""

    def __init__(self, columns: int = 3, pac: int = 4) -> None:
        super().__init__()
        self.width = columns * pac
        self.seq = nn.Sequential(
            nn.Linear(self.width, 8), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Linear(8, 1), nn.Tanh()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x.view(-1, self.width))


CRITICS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "table": (lambda: mlp(6), (8, 6)),
    "vector": (lambda: nn.Sequential(mlp(6), nn.Flatten(0)), (8, 6)),  # [N]
    "image": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(36, 1)),
        (4, 2, 5, 5),
    ),
    "relu": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(36, 1)),
        (4, 2, 5, 5),
    ),
    "patch": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, 1, 1), nn.InstanceNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3)
        ),
        (4, 2, 5, 5),
    ),
    "tuple": (TwoHeads, (4, 2, 5, 5)),
    "audio": (lambda: nn.Sequential(nn.Conv1d(2, 4, 5, 2), nn.Tanh(), nn.Conv1d(4, 1, 4)), (4, 2, 16)),
    "volume": (
        lambda: nn.Sequential(nn.Conv3d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(24, 1)),
        (4, 1, 4, 4, 4),
    ),
    "labels": (Conditional, (4, 2, 5, 5)),
    "pac": (Packing, (24, 3)),
    "faded": (Faded, (4, 2, 5, 5)),
    "imitator": (Imitator, (8, 6)),
}

LABELS = torch.tensor([0, 2, 1, 2])


class Generator(nn.Module):
    """``[N, ...]`` out of a fixed noise: enough for gradients to flow back to."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.noise = torch.randn(shape, dtype=torch.float64)
        self.scale = nn.Parameter(torch.randn(shape[1:], dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.noise * self.scale
