"""The usual gradient penalty beside wgangp_fast's: the same number, and the same gradients."""

import torch
from torch import nn

from wgangp_fast import gradient_penalty


def stock_penalty(
    critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor
) -> torch.Tensor:
    """What most WGAN-GP code does: differentiate the backward pass of the critic."""
    weight = alpha.view(-1, *[1] * (real.dim() - 1))
    x = (weight * real + (1 - weight) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)  # so that "equal" means to 10 digits and more
    critic = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.SiLU(), nn.Flatten(),
        nn.Linear(32 * 8 * 8, 1),
    )  # fmt: skip
    real, fake, alpha = torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32), torch.rand(8)
    parameters = list(critic.parameters())

    before = stock_penalty(critic, real, fake, alpha)
    gradients_before = torch.autograd.grad(before, parameters, allow_unused=True)

    after = gradient_penalty(critic, real, fake, alpha=alpha)  # leave alpha out to have it drawn
    gradients_after = torch.autograd.grad(after, parameters, allow_unused=True)

    print(f"before {before.item():.12f}")
    print(f"after  {after.item():.12f}")
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(gradients_after, gradients_before)
    print("equal: the value, and the gradient of every parameter")


if __name__ == "__main__":
    main()
