"""R3GAN's loss (Huang et al. 2024: relativistic, with R1 and R2) over an accelerated critic; its code stays.

python examples/r3gan_loss.py
"""

import copy

import torch
from torch import nn
from torch.nn.functional import softplus

from wgangp_fast import accelerate


def zero_centered(samples: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """``||grad||^2`` of each sample, as R3GAN's trainer writes it."""
    (gradient,) = torch.autograd.grad(scores.sum(), samples, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def critic_step(
    critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, gamma: float = 1.0
) -> torch.Tensor:
    real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    of_real, of_fake = critic(real), critic(fake)
    adversarial = softplus(of_fake - of_real).mean()
    penalties = zero_centered(real, of_real) + zero_centered(fake, of_fake)
    return adversarial + gamma / 2 * penalties.mean()


torch.manual_seed(0)
stock = nn.Sequential(
    nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2),
    nn.Flatten(), nn.Linear(32 * 49, 1),
)  # fmt: skip
fast = accelerate(copy.deepcopy(stock))
real, fake = torch.randn(16, 1, 28, 28), torch.randn(16, 1, 28, 28)

for name, critic in (("stock", stock), ("fast", fast)):
    loss = critic_step(critic, real, fake)
    loss.backward()
    print(f"{name:6} loss {loss.item():.6f}")
for a, b in zip(stock.parameters(), fast.parameters()):
    torch.testing.assert_close(a.grad, b.grad)
print("every gradient is equal")
