"""Networks whose features stand for images where two sets are compared.

A distance between features means nothing without the network: each has a ``name`` that says exactly what it
is, which belongs beside every number. :mod:`.inception` has the one behind the numbers of the literature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wgangp_fast.errors import UserError
from wgangp_fast.training.data import stream

from . import weights

Outputs = tuple[Tensor, Tensor | None]
"""Features float32 ``[N, D]``, and probabilities float32 ``[N, K]`` of a network that classifies."""


class Network:
    """A feature network: call it on pixels.

    Attributes:
        name: what it is, completely.
        channels: of its images; None: 1 or 3.
        side: their height; None: any.
        device: where it runs.
    """

    name: str
    channels: int | None = None
    side: int | None = None

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def fault(self, shape: Sequence[int]) -> str | None:
        """Why images of ``shape (C, H, W)`` are not for this network, in a line; None: they are."""
        channels = (1, 3) if self.channels is None else (self.channels,)
        if len(shape) == 3 and shape[0] in channels and self.side in (None, shape[1]):
            return None
        wanted = f"[{' or '.join(map(str, channels))}, {self.side or 'any'}, any]"
        return f"{self.name}: it takes images {wanted}; these are {list(shape)}"

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Outputs:
        """Of uint8 ``pixels [N, C, H, W]`` on any device; the results are on the CPU.

        Raises:
            ValueError: another type or shape than this network was made for.
        """
        if pixels.dtype != torch.uint8:
            raise ValueError(f"images must be uint8; got {pixels.dtype}")
        if fault := self.fault(pixels.shape[1:]):
            raise ValueError(fault)
        features, probabilities = self._outputs(pixels.to(self.device).float() / 255)
        return features.cpu(), None if probabilities is None else probabilities.cpu()

    def features(self, pixels: Tensor) -> Tensor:
        """float32 ``[N, D]`` of uint8 ``pixels [N, C, H, W]``."""
        return self(pixels)[0]

    def _outputs(self, images: Tensor) -> Outputs:
        """Of float32 ``images [N, C, H, W]`` in [0, 1] on the network's device."""
        raise NotImplementedError


class RandomConvolutions(Network):
    """Convolutions that nobody trained: features of any data, without a file and without labels.

    Up to four layers of 3 x 3 convolutions and ReLU with He et al.'s initial weights, each after the first of
    stride 2. The features are every layer's means over the four quadrants of the image, about 512.

    Args:
        channels: of the images. size: their height.
        seed: of the weights, which are the same on every machine.
        device: where it runs.
    """

    WIDTH = 512

    def __init__(self, channels: int, size: int, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.channels, self.side = channels, size
        layers = max(1, min(4, size.bit_length() - 2))  # the last one still has 4 x 4 places
        width = self.WIDTH // (4 * layers)
        generator = stream(seed, "random convolutions")
        self.weights: list[Tensor] = []
        for inputs in [channels] + [width] * (layers - 1):
            weight = torch.randn(width, inputs, 3, 3, generator=generator) * math.sqrt(2 / (9 * inputs))
            self.weights.append(weight.to(self.device))
        self.name = (
            f"random convolutions, not trained ({layers} layers, {4 * width * layers} features, "
            f"{channels} x {size} x {size}, seed {seed})"
        )

    def _outputs(self, images: Tensor) -> Outputs:
        x, found = 2 * images - 1, []
        for depth, weight in enumerate(self.weights):
            x = F.conv2d(x, weight, stride=2 if depth else 1, padding=1).relu()
            found.append(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return torch.cat(found, 1), None


class Classifier(Network):
    """A small convolutional classifier, trained on labelled images: see :meth:`train` and :meth:`load`.

    Its features are the 128 values in front of the last layer. Runs are comparable when the same classifier
    judged them, so keep its file.
    """

    FORMAT = "wgangp_fast classifier 1"
    BATCH = 128
    HELD_OUT = 10_000
    LEAST = 20

    def __init__(
        self, about: dict[str, Any], state: dict[str, Tensor], device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(device)
        self.about = about
        self.channels, self.side = about["shape"][0], about["shape"][1]
        self.network = _Layers(about["shape"], about["classes"])
        self.network.load_state_dict(state)
        self.network.requires_grad_(False).to(self.device)
        self.name = (
            f"conv classifier trained on {about['trained_on']:,} labelled images, "
            f"held-out accuracy {about['accuracy']:.3f}"
        )

    def _outputs(self, images: Tensor) -> Outputs:
        features = self.network.features(images)
        return features, self.network.last(features).softmax(1)

    @classmethod
    def train(
        cls, images: Tensor, labels: Tensor, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> Classifier:
        """Train on nine tenths of the images, and measure the accuracy on the others (10,000 at most).

        About four passes, between 600 and 4000 steps of Adam on batches of 128: under a minute for 60,000 of
        28 x 28 on two cores.

        Args:
            images: uint8 ``[N, C, H, W]``. labels: integers ``[N]``, any values.
            seed: of the weights and of the order. device: where.

        Raises:
            ValueError: other types or shapes.
            UserError: fewer than 20 images, or fewer than 2 classes.
        """
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(f"images must be uint8 [N, C, H, W]; got {images.dtype} {list(images.shape)}")
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            shape = list(labels.shape)
            raise ValueError(f"labels must be integers [{len(images)}]; got {labels.dtype} {shape}")
        classes, target = labels.cpu().unique(return_inverse=True)
        if len(images) < cls.LEAST or len(classes) < 2:
            raise UserError(
                f"a classifier needs at least {cls.LEAST} images of at least 2 classes; the data has "
                f"{len(images)} of {len(classes)}"
            )
        order = torch.randperm(len(images), generator=stream(seed, "held out"))
        held = order[: min(cls.HELD_OUT, len(images) // 10)]
        rest = order[len(held) :]
        network = _Layers(images.shape[1:], len(classes))
        network.initialise(seed)
        network.to(device)
        _fit(network, images, target, rest, seed, torch.device(device))
        about = {
            "format": cls.FORMAT,
            "shape": list(images.shape[1:]),
            "classes": len(classes),
            "trained_on": len(rest),
            "accuracy": 0.0,
        }
        found = cls(about, network.state_dict(), device)
        right = sum(int((_classes(found, images[rows]) == target[rows]).sum()) for rows in held.split(1000))
        return cls(about | {"accuracy": right / len(held)}, network.state_dict(), device)

    def save(self, path: Path) -> None:
        """Write a file for :meth:`load`; it replaces an older one.

        Raises:
            UserError: it cannot be written.
        """
        state = {name: value.cpu() for name, value in self.network.state_dict().items()}
        weights.write(Path(path), {**self.about, "state": state})

    @classmethod
    def load(cls, path: Path, *, device: torch.device | str = "cpu") -> Classifier:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: no such file, or another kind of file.
        """
        found = weights.read(Path(path), "classifier")
        state = found.pop("state", None)
        try:
            if found["format"] != cls.FORMAT:
                raise KeyError
            wanted = _Layers(found["shape"], found["classes"]).state_dict()
            fault = weights.misfit(state, wanted)
            if fault is None:
                return cls(found, state, device)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError):
            fault = "it is of another format"
        raise UserError(f"{path} holds no classifier of this version ({fault}); remove it and train another")


def _classes(classifier: Classifier, pixels: Tensor) -> Tensor:
    probabilities = classifier(pixels)[1]
    assert probabilities is not None
    return probabilities.argmax(1)


class _Layers(nn.Module):
    """Two convolutions and two linear layers on ``[N, C, H, W]`` in [0, 1].

    Sides above 32 are first averaged down to 32.
    """

    SIDE, WIDTH, FEATURES = 32, 32, 128

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.sides = (min(self.SIDE, height), min(self.SIDE, width))
        places = math.prod(-(-side // 4) for side in self.sides)
        self.conv1 = nn.Conv2d(channels, self.WIDTH, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(self.WIDTH, 2 * self.WIDTH, 3, stride=2, padding=1)
        self.hidden = nn.Linear(2 * self.WIDTH * places, self.FEATURES)
        self.last = nn.Linear(self.FEATURES, classes)

    def initialise(self, seed: int) -> None:
        """He et al.'s weights, from ``seed`` alone."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                generator = stream(seed, "classifier", name)
                nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)

    def features(self, images: Tensor) -> Tensor:
        x = 2 * images - 1
        if tuple(x.shape[2:]) != self.sides:
            x = F.adaptive_avg_pool2d(x, self.sides)
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.hidden(x.flatten(1)).relu()

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.features(images))


def _fit(
    network: _Layers, images: Tensor, target: Tensor, rows: Tensor, seed: int, device: torch.device
) -> None:
    """Adam, its rate falling to 0, on batches of ``rows [M]``."""
    batch = min(Classifier.BATCH, len(rows))
    steps = max(600, min(4000, 4 * len(rows) // batch))
    passes = len(rows) // batch
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for step in range(steps):
        number, place = divmod(step, passes)
        if place == 0:
            order = rows[torch.randperm(len(rows), generator=stream(seed, "order", number))]
        chosen = order[place * batch : (place + 1) * batch]
        scores = network(images[chosen].to(device).float() / 255)
        optimizer.zero_grad()
        F.cross_entropy(scores, target[chosen].to(device)).backward()
        optimizer.step()
        schedule.step()
