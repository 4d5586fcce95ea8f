"""Every experiment by name."""

from __future__ import annotations

from .study import Entry

GP = "Gulrajani et al. 2017"
WGAN = "Arjovsky et al. 2017"

EXPERIMENTS: dict[str, Entry] = {
    "distances": Entry(
        "distances",
        "Distances between distributions, and what a critic learns from them",
        f"{WGAN}, example 1, figures 1 and 2; {GP}, section 2",
        "parallel lines, two Gaussians, and every loss against values worked out by hand",
    ),
    "value-surfaces": Entry(
        "planes",
        "Value surfaces of critics trained to optimality",
        f"{GP}, section 3.1, figure 1a",
        "clipped critics are too simple, penalised ones follow the data",
        "value_surfaces",
    ),
    "toy": Entry(
        "toys",
        "Toy distributions: modes covered and distance left",
        f"{GP}, section 3.1 and gan_toy.py",
        "8 Gaussians, 25 Gaussians and a Swiss roll from noise, with an animation",
    ),
    "optimal-critic": Entry(
        "planes",
        "The optimal critic's gradient",
        f"{GP}, proposition 1 and corollary 1",
        "norm 1 on the segments between coupled points, and their direction",
        "optimal_critic",
    ),
    "gradient-norms": Entry(
        "depth",
        "Gradient norms through a deep critic",
        f"{GP}, section 3.2, figure 1b (left)",
        "12-layer critics: exponential with clipping, flat with the penalty",
        "gradient_norms",
    ),
    "weight-histogram": Entry(
        "depth",
        "Weights of clipped and penalised critics",
        f"{GP}, section 3.2, figure 1b (right)",
        "clipping piles weights up at its bounds",
        "weight_histogram",
    ),
    "robustness": Entry(
        "robustness",
        "Seven architectures by four methods",
        f"{GP}, section 5.2, figure 2 and appendix E",
        "with one setting, the penalty trains all; every other method fails on some",
        takes="images",
    ),
    "random-architectures": Entry(
        "random_architectures",
        "Random architectures: which train with WGAN-GP and which as a GAN",
        f"{GP}, section 5.1, tables 1, 2 and 5, appendices B, C and D",
        "successes by score; one- against two-sided penalty; smooth activations",
        takes="labelled images",
    ),
    "cifar": Entry(
        "cifar",
        "Small images: convergence of four methods, residual networks, labels",
        f"{GP}, sections 5.3 and 5.4, figures 3 and 6, table 3",
        "score over iterations and over seconds; then ResNets without and with labels",
        takes="labelled images",
    ),
    "inception-score": Entry(
        "inception_score",
        "The inception score, and what it can tell",
        f"{GP}, section 5.4, table 3",
        "real images, noise, one class, a trained generator; beside the published numbers",
        takes="labelled images",
    ),
    "overfitting": Entry(
        "overfitting",
        "Training and validation loss of large and small sets",
        f"{GP}, section 5.6, figure 5",
        "a critic that overfits shows in its loss curves, with the penalty and with clipping",
        takes="images",
    ),
    "wasserstein-curve": Entry(
        "wasserstein_curve",
        "Loss curves of WGAN and GAN, and the samples",
        f"{WGAN}, section 4.2, figures 3 and 4",
        "the WGAN's estimate falls as samples get better, the GAN's does not; three generators and a failure",
        takes="images",
    ),
    "mnist-wgan": Entry(
        "mnist_wgan",
        "WGAN of 32 x 32 digits with clipped weights",
        f"{WGAN}, algorithm 1; a notebook's MNIST run",
        "every parameter within the bound after every critic step; scalars by epoch, and WGAN-GP beside it",
        takes="images",
    ),
    "language": Entry(
        "language",
        "Text, character by character",
        f"{GP}, section 5.5, table 4",
        "a generator of one-hot characters without sampling; n-gram divergences",
        takes="a text file",
    ),
}
