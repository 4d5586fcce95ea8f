"""A small WGAN-GP: a generator learns eight Gaussians on a circle, with the critic's loss in one call."""

import torch
from torch import nn

from wgangp_fast import CriticLoss


def mlp(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


def samples(count: int) -> torch.Tensor:
    """Points ``[count, 2]`` near the eight centres."""
    angle = torch.randint(8, (count,)) * (torch.pi / 4)
    return torch.stack([angle.cos(), angle.sin()], dim=1) + 0.05 * torch.randn(count, 2)


def main(steps: int = 300, batch: int = 128, n_critic: int = 3) -> None:
    torch.manual_seed(0)
    critic, generator = mlp(2, 1), mlp(8, 2)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.9))
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.9))
    # mean D(fake) - mean D(real) + lambda * penalty; a module, so that DistributedDataParallel can wrap it
    critic_loss = CriticLoss(critic, lambda_gp=1.0)

    for step in range(steps):
        for _ in range(n_critic):
            fake = generator(torch.randn(batch, 8)).detach()
            out = critic_loss(samples(batch), fake)
            critic_optimizer.zero_grad()
            out.loss.backward()
            critic_optimizer.step()

        generator_optimizer.zero_grad()
        (-critic(generator(torch.randn(batch, 8))).mean()).backward()
        generator_optimizer.step()

        if step % 50 == 0 or step == steps - 1:
            print(
                f"step {step:3d}  distance {out.wasserstein.item():6.3f}  penalty {out.penalty.item():.4f}  "
                f"gradient norm {out.grad_norm.mean().item():.3f}"
            )


if __name__ == "__main__":
    main()
