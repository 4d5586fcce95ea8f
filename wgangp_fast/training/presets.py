"""Default settings: what a preset says, what a loss says, and which wins.

A value is taken from the first place that has it: the user, the loss (unless it is wgan-gp, which the
presets are written for), the preset, the common values. The numbers are those of the released code of
Gulrajani et al. 2017 where the paper and the code differ; each preset names its script.
"""

from __future__ import annotations

from typing import Any

# Algorithm 1 of the paper, and what a run needs besides.
COMMON: dict[str, Any] = {
    "data": "",
    "loss": "wgan-gp",
    "one_sided": False,
    "lambda_gp": 10.0,
    "acgan_critic": 1.0,
    "acgan_generator": 0.1,
    "clip": 0.01,
    "n_critic": 5,
    "optimizer": "adam",
    "lr": 1e-4,
    "lr_decay": "none",
    "beta1": 0.0,
    "beta2": 0.9,
    "batch": 64,
    "generator_batch": 0,
    "accumulate": 1,
    "precision": "float32",
    "ema_kimg": 10.0,
    "latent": 128,
    "critic_norm": "none",
    "generator_norm": "batch",
    "padding": "symmetric",
    "size": 0,
    "holdout": -1,
    "flip": "none",
    "dequantize": False,
    "placement": "auto",
    "seed": 0,
    "penalty": "fast",
    "graphs": True,
    "device": "auto",
    "threads": 0,
    "tick": 50,
    "snapshot": 500,
    "keep": 3,
    "loss_limit": 1e6,
    "on_divergence": "stop",
    "tensorboard": False,
}

_TOY: dict[str, Any] = {
    "critic": "toy-critic",
    "generator": "toy-generator",
    "critic_dim": 512,
    "generator_dim": 512,
    "generator_norm": "none",
    "latent": 2,
    "batch": 256,
    "iters": 100_000,
    "lambda_gp": 0.1,
    "beta1": 0.5,
    "tick": 200,
    "snapshot": 2000,
}

# gan_64x64.py; the release feeds ImageNet, the paper bedrooms.
_LSUN64: dict[str, Any] = {
    "critic_dim": 64,
    "generator_dim": 64,
    "critic_norm": "layer",
    "size": 64,
    "iters": 200_000,
    "snapshot": 2000,
}

# gan_cifar_resnet.py
_CIFAR_RESNET: dict[str, Any] = {
    "critic_dim": 128,
    "generator_dim": 128,
    "size": 32,
    "lr": 2e-4,
    "lr_decay": "linear",
    "generator_batch": 128,
    "dequantize": True,
    "iters": 100_000,
    "snapshot": 1000,
}

PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        "data": "digits",
        "critic": "digits-critic",
        "generator": "digits-generator",
        "critic_dim": 32,
        "generator_dim": 64,
        "latent": 32,
        "iters": 3000,
        # Three critic steps give at least as good digits as five, a third sooner.
        "n_critic": 3,
        "lr": 2e-3,
        # These networks are too small to share: a second thread costs more than it brings.
        "threads": 1,
    },
    "lsun64-dcgan": {**_LSUN64, "critic": "dcgan64-critic", "generator": "dcgan64-generator"},
    "lsun64-resnet": {**_LSUN64, "critic": "good64-critic", "generator": "good64-generator"},
    # experiments/wgan/wgan_imagenet128.py of the first author's lab
    "lsun128": {
        "critic": "lsun128-critic",
        "generator": "lsun128-generator",
        "critic_dim": 128,
        "generator_dim": 64,
        "critic_norm": "layer",
        "size": 128,
        "flip": "batch",
        "lr_decay": "linear",
        "iters": 200_000,
        "snapshot": 2000,
    },
    # gan_cifar.py
    "cifar10": {
        "critic": "cifar-critic",
        "generator": "cifar-generator",
        "critic_dim": 128,
        "generator_dim": 128,
        "size": 32,
        "beta1": 0.5,
        "iters": 200_000,
        "snapshot": 1000,
    },
    # without labels, and with them, as the script is released
    "cifar10-resnet": {
        **_CIFAR_RESNET,
        "critic": "cifar-resnet-critic",
        "generator": "cifar-resnet-generator",
    },
    "cifar10-resnet-acgan": {
        **_CIFAR_RESNET,
        "critic": "cifar-resnet-acgan-critic",
        "generator": "cifar-resnet-acgan-generator",
    },
    # gan_mnist.py; images in [0, 1], as its generator ends in a sigmoid
    "mnist": {
        "critic": "mnist-critic",
        "generator": "mnist-generator",
        "critic_dim": 64,
        "generator_dim": 64,
        "generator_norm": "none",
        "size": 28,
        "batch": 50,
        "beta1": 0.5,
        "iters": 200_000,
        "snapshot": 1000,
    },
    # gan_toy.py; any of the three sets with --data
    "toy": {**_TOY, "data": "toy-8gaussians"},
    "toy-8gaussians": {**_TOY, "data": "toy-8gaussians"},
    "toy-25gaussians": {**_TOY, "data": "toy-25gaussians"},
    "toy-swissroll": {**_TOY, "data": "toy-swissroll"},
}

# Paper section 2.1. RMSprop is PyTorch's (decay .99, eps outside the root), as in the WGAN authors' code.
LOSS_SETTINGS: dict[str, dict[str, Any]] = {
    "wgan-gp": {},
    "wgan": {"optimizer": "rmsprop", "lr": 5e-5, "n_critic": 5},
    "gan": {"optimizer": "adam", "lr": 2e-4, "beta1": 0.5, "beta2": 0.999, "n_critic": 1},
    "gan-gp": {},
    "lsgan": {"optimizer": "rmsprop", "lr": 1e-4, "n_critic": 1},
}
