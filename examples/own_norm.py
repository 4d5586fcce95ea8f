"""A penalty of your own: the gradient's largest component, instead of its Euclidean norm."""

import torch
from torch import nn

from wgangp_fast import input_gradient


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    critic = nn.Sequential(
        nn.Linear(20, 64), nn.Softplus(), nn.Linear(64, 64), nn.Softplus(), nn.Linear(64, 1)
    )
    x = torch.randn(32, 20)

    # The gradient of critic(x).sum() with respect to x. It is an ordinary tensor: compute anything from it.
    gradient = input_gradient(critic, x)
    largest = gradient.abs().amax(dim=1)  # the maximum norm of each sample, [32]
    penalty = (largest - 1).square().mean()
    penalty.backward()
    print(f"penalty  {penalty.item():.10f}")

    # The same by autograd, which differentiates its own backward pass.
    own = [parameter.grad for parameter in critic.parameters()]
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    stock = (gradient.abs().amax(dim=1) - 1).square().mean()
    print(f"autograd {stock.item():.10f}")
    expected = torch.autograd.grad(stock, list(critic.parameters()), allow_unused=True)
    torch.testing.assert_close(penalty, stock)
    torch.testing.assert_close(own, list(expected))
    print("equal: the value, and the gradient of every parameter")


if __name__ == "__main__":
    main()
