"""The networks: shapes, initialisation, norms, labels, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from wgangp_fast.training import models

# Small sizes of each name; those that are not named are the defaults.
SMALL: dict[str, dict[str, Any]] = {
    "resnet101": {"size": 16, "blocks": 2},
    "good64": {"size": 16},
    "lsun128": {"size": 32},
    "language": {"channels": 7, "size": 9},
    "mnist": {"size": 20},
}
NAMES = models.names()


def generated(name: str, batch: int, **settings: Any) -> torch.Tensor:
    """Samples of the generator called ``name``, labels drawn where it takes them."""
    generator = models.build(name, **settings)
    about = models.info(name)
    z = torch.randn(batch, settings.get("latent", about.defaults["latent"]))
    made = generator(z, torch.arange(batch)) if about.classes else generator(z)
    if about.samples != "points":
        assert generator.low <= made.min()
        assert made.max() <= 1
    return made


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("critic")])
def test_critics_score_what_generators_make(name: str) -> None:
    family = name.removesuffix("-critic")
    settings = {"dim": 8, **SMALL.get(family, {})}
    about = models.info(name)
    critic_settings = settings | ({"norm": "layer"} if about.defaults["norm"] == "batch" else {})
    samples = generated(f"{family}-generator", 3, **settings)
    scores = models.build(name, **critic_settings)
    found = scores(samples)
    if about.classes:
        found, logits = found
        assert logits.shape == (3, 10)
    assert found.shape == (3,)
    # A score is of its own sample alone: changing one sample moves that score only.
    changed = samples.clone()
    changed[1] += 1
    moved = scores(changed)[0] if about.classes else scores(changed)
    assert (moved != found).tolist() == [False, True, False]


@pytest.mark.parametrize("name", NAMES)
def test_info_describes_what_is_built(name: str) -> None:
    about = models.info(name)
    assert about.role == name.rpartition("-")[2]
    assert about.norms == ("none",) or about.defaults["norm"] in about.norms
    assert ("latent" in about.defaults) == (about.role == "generator")
    assert ("size" in about.defaults) == ("channels" in about.defaults) == (about.samples != "points")
    # Every keyword is taken, as is every norm, and the rest is refused.
    small = {"dim": 8, **({"size": 16} if about.samples == "images" else {})}
    with torch.device("meta"):
        for norm in about.norms:
            network = models.build(name, **{**about.defaults, **small, "norm": norm})
        if about.role == "generator":
            z = torch.empty(2, about.defaults["latent"])
            labels = [torch.zeros(2, dtype=torch.int64)] if about.classes else []
            made = network(z, *labels)
            channels_and_side = {"points": (2,), "images": (about.shape[0], 16, 16)}
            assert made.shape[1:] == channels_and_side.get(about.samples, about.shape)
        with pytest.raises(TypeError, match="stride"):
            models.build(name, stride=2)
        for norm in {"layer", "instance", "batch", "none"} - set(about.norms):
            with pytest.raises(ValueError, match="norm must be"):
                models.build(name, norm=norm)


@pytest.mark.parametrize("size", [8, 28, 64, 128])
@pytest.mark.parametrize("name", [name for name in NAMES if models.info(name).samples == "images"])
def test_images_of_other_sizes_and_channels(name: str, size: int) -> None:
    about = models.info(name)
    settings = {"dim": 8, "size": size, "channels": 2}
    with torch.device("meta"):
        network = models.build(name, **settings)
        if about.role == "critic":
            made = network(torch.empty(2, 2, size, size))
            assert (made[0] if about.classes else made).shape == (2,)
        else:
            labels = [torch.zeros(2, dtype=torch.int64)] if about.classes else []
            made = network(torch.empty(2, about.defaults["latent"]), *labels)
            assert made.shape == (2, 2, size, size)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (n, s)
        for n in NAMES
        for s in (30, 2)
        if "fc64" not in n and "size" in models.info(n).defaults and models.info(n).samples == "images"
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be a multiple of 4; got {size}"):
        models.build(name, size=size)


@pytest.mark.parametrize("norm", ["layer", "instance"])
def test_norms_do_not_couple_samples_and_follow_the_first_layer(norm: str) -> None:
    critic = models.build("dcgan64-critic", dim=4, norm=norm)
    kinds = [type(layer).__name__ for layer in critic.features]
    name = {"layer": "GroupNorm", "instance": "InstanceNorm2d"}[norm]
    assert kinds == ["Conv2d", "LeakyReLU"] + ["Conv2d", name, "LeakyReLU"] * 3
    x = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(critic(x)[:2], critic(x[:2]))


def test_dcgan64_weights_have_the_deviation_of_the_released_script() -> None:
    critic = models.build("dcgan64-critic")
    gated = models.build("dcgan64-critic", activation="gate")
    assert critic.features[2].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert gated.features[2].weight.std().item() == pytest.approx(
        math.sqrt(4 / (64 * 25 + 256 * 25 / 4)), rel=0.02
    )


def deviations(name: str, **settings: Any) -> dict[str, float]:
    """Deviation of every weight of more than one number a channel, by name."""
    network = models.build(name, **settings)
    return {
        key: value.std().item()
        for key, value in network.state_dict().items()
        if key.endswith("weight") and value.dim() > 1
    }


def he(inputs: int, outputs: float, kernel: int = 3) -> float:
    return math.sqrt(4 / ((inputs + outputs) * kernel**2))


def glorot(inputs: int, outputs: float, kernel: int = 1) -> float:
    return math.sqrt(2 / ((inputs + outputs) * kernel**2))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("good64-critic", {}, {
            "features.0.weight": glorot(3, 64, 3), "features.1.conv1.weight": he(64, 64),
            "features.1.conv2.weight": he(64, 128), "features.1.shortcut.1.weight": glorot(64, 128)}),
        ("good64-generator", {}, {
            "blocks.3.conv1.weight": he(128, 64), "blocks.3.shortcut.1.weight": glorot(128, 64),
            "end.3.weight": he(64, 3), "project.weight": glorot(128, 8192)}),
        ("cifar-resnet-critic", {}, {
            "features.0.conv1.weight": he(3, 128), "features.0.shortcut.1.weight": glorot(3, 128),
            "features.1.shortcut.0.weight": glorot(128, 128), "score.weight": glorot(128, 1)}),
        ("cifar-resnet-generator", {}, {
            "blocks.0.conv1.weight": he(128, 128), "end.3.weight": glorot(128, 3, 3)}),
        ("lsun128-critic", {"size": 64, "dim": 64}, {
            "features.0.weight": he(3, 16, 5), "features.1.conv2.weight": he(64, 32),
            "features.1.shortcut.1.weight": glorot(64, 128)}),
        ("lsun128-generator", {}, {
            "blocks.3.conv1.weight": he(128, 64) / 2, "blocks.3.conv2.weight": he(64, 64),
            "blocks.3.shortcut.1.weight": glorot(128, 64) / 2, "end.3.weight": glorot(64, 3, 5) / 2}),
        ("resnet101-critic", {"blocks": 1}, {
            "features.0.weight": glorot(3, 32), "features.2.branch.1.weight": he(64, 32, 1),
            "features.1.shortcut.0.weight": glorot(32, 16), "features.1.branch.3.weight": he(16, 8)}),
        ("resnet101-generator", {"blocks": 1}, {
            "layers.1.shortcut.0.weight": glorot(512, 1024), "layers.1.branch.3.weight": he(64, 128),
            "layers.8.weight": glorot(32, 3)}),
        ("cifar-critic", {}, {"features.2.weight": he(128, 64, 5), "score.weight": glorot(8192, 1)}),
        ("mnist-generator", {}, {"layers.1.weight": he(64, 128, 5), "project.weight": glorot(128, 4096)}),
        ("crippled64-generator", {}, {"layers.1.weight": he(16, 64, 5), "project.weight": glorot(128, 1024)}),
        ("gated64-critic", {}, {"features.2.weight": he(64, 64, 5), "score.weight": glorot(8192, 1)}),
        ("dcgan64-generator", {}, {"project.weight": 0.02, "layers.2.weight": 0.02}),
        ("fc64-critic", {}, {"net.0.weight": math.sqrt(2 / 12288), "net.8.weight": glorot(512, 1)}),
        ("fc64-generator", {}, {"net.0.weight": math.sqrt(2 / 128), "net.8.weight": glorot(512, 12288)}),
        ("language-critic", {"dim": 64}, {
            "features.0.weight": math.sqrt(4 / 164), "features.1.conv1.weight": math.sqrt(4 / 640)}),
    ],
)  # fmt: skip
def test_initialisation_of_each_network(
    name: str, settings: dict[str, Any], expected: dict[str, float]
) -> None:
    found = deviations(name, **settings)
    for key, sigma in expected.items():
        assert found[key] == pytest.approx(sigma, rel=0.1), key


def test_biases_start_at_zero_and_norms_at_one() -> None:
    for name in NAMES:
        settings = {"dim": 8, **({"size": 16} if models.info(name).samples == "images" else {})}
        for key, value in models.build(name, **settings).named_parameters():
            if key.endswith(("bias", "offset")):
                assert not value.any(), (name, key)
            elif key.endswith("scale") or value.dim() == 1:
                assert (value == 1).all(), (name, key)


def test_labels_reach_the_conditional_generator() -> None:
    generator = models.build("cifar-resnet-acgan-generator", dim=4, size=8)
    z = torch.randn(3, 128)
    same = generator(z, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(generator(z, torch.tensor([4, 5, 6])), same)  # all classes start alike
    with torch.no_grad():
        generator.blocks[0].norm1.offset[4] += 1
    assert not torch.allclose(generator(z, torch.tensor([4, 2, 3])), same)
    torch.testing.assert_close(generator(z, torch.tensor([1, 2, 3])), same)


def test_mnist_generator_crops_eight_to_seven_and_ends_in_a_sigmoid() -> None:
    generator = models.build("mnist-generator", dim=4)
    sides: list[int] = []
    for layer in generator.layers:
        layer.register_forward_hook(lambda layer, given, made: sides.append(made.shape[-1]))
    images = generator(torch.randn(2, 128))
    assert list(dict.fromkeys(sides)) == [4, 8, 7, 14, 28]
    assert generator.low == 0
    assert isinstance(generator.layers[-1], nn.Sigmoid)
    assert images.shape == (2, 1, 28, 28)


def test_flat_batch_norm_is_of_features() -> None:
    cifar, dcgan = (models.build(f"{name}-generator", dim=4, size=32) for name in ("cifar", "dcgan64"))
    assert cifar.project[1].num_features == 256
    assert dcgan.layers[0].num_features == 16
    y = cifar.project(torch.randn(50, 128))  # [N, 256], each feature normalised
    torch.testing.assert_close(y.mean(0), torch.zeros(256), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(256), atol=1e-3, rtol=0)


def test_batch_norm_uses_the_batch_also_in_evaluation() -> None:
    generator = models.build("good64-generator", dim=4, size=8)
    z = torch.randn(4, 128)
    torch.testing.assert_close(generator.eval()(z), generator.train()(z))
    assert not list(generator.buffers())


def test_language_samples_are_distributions_over_the_vocabulary() -> None:
    made = models.build("language-generator", dim=8, channels=5, size=6)(torch.randn(3, 128))
    torch.testing.assert_close(made.sum(1), torch.ones(3, 6))


def test_101_layers() -> None:
    for role in ("critic", "generator"):
        network = models.build(f"resnet101-{role}", dim=8)
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        layers = [key for key, m in network.named_modules() if isinstance(m, kinds) and "shortcut" not in key]
        assert len(layers) == 101
    critic = models.build("resnet101-critic", dim=8, blocks=1)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(critic(x), critic.score(critic.features(x).flatten(1))[:, 0] / 5)


def test_the_same_seed_builds_the_same_network() -> None:
    torch.manual_seed(3)
    first = models.build("digits-critic")
    torch.manual_seed(3)
    second = models.build("digits-critic")
    third = models.build("digits-critic")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), third(x))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("dcgan65-critic", {}, "unknown model 'dcgan65-critic'; known: cifar-critic"),
        ("dcgan64-critic", {"norm": "spectral"}, "norm must be .*got 'spectral'"),
        ("dcgan64-critic", {"activation": "swish"}, "activation must be .*got 'swish'"),
        ("dcgan64-critic", {"padding": "valid"}, "padding must be .*got 'valid'"),
        ("dcgan64-critic", {"size": 8, "depth": 1, "extra": 1}, "extra .* depth of 2"),
        ("dcgan64-critic", {"dim": 0}, "dim of dcgan64-critic must be a whole number of at least 1; got 0"),
        ("good64-generator", {"latent": 2.5}, "latent of .*got 2.5"),
        ("crippled64-generator", {"norm": "batch"}, "no place for a norm.*got 'batch'"),
        ("cifar-resnet-acgan-generator", {"norm": "none"}, "through which labels act; got 'none'"),
        ("resnet101-critic", {"dim": 6}, "dim must be a multiple of 4; got 6"),
        ("dcgan64-generator", {"output": "relu"}, "output must be .*got 'relu'"),
        ("dcgan64-generator", {"project": "attention"}, "project must be .*got 'attention'"),
        ("dcgan64-critic", {"size": 30}, "multiple of 4; got 30"),
        ("dcgan64-critic", {"size": 24, "depth": 4}, "divisible.*size 24, depth 4"),
    ],
)
def test_refusals(name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models.build(name, **settings)


@pytest.mark.parametrize("name", [n for n in models.names() if models.info(n).samples == "images"])
def test_padding_of_the_released_code_changes_strided_convolutions_alone(name: str) -> None:
    # A kernel of 4, as in mnist32, is padded evenly by both.
    strided = {"digits", "mnist", "cifar", "dcgan64", "crippled64", "gated64", "resnet101", "lsun128"}
    if name == "lsun128-generator":  # doubles its sides by copies
        strided = set()
    outputs, shapes = [], []
    for padding in ("symmetric", "same"):
        torch.manual_seed(0)
        network = models.build(name, dim=4, padding=padding)
        random = torch.Generator().manual_seed(1)
        shape = (
            (models.info(name).defaults["latent"],)
            if models.info(name).role == "generator"
            else models.info(name).shape
        )
        inputs = [torch.randn(2, *shape, generator=random)]
        if models.info(name).classes and models.info(name).role == "generator":
            inputs.append(torch.tensor([0, 1]))
        with torch.no_grad():
            found = network(*inputs)
        outputs.append(found[0] if isinstance(found, tuple) else found)
        shapes.append([p.shape for p in network.parameters()])
    assert shapes[0] == shapes[1]
    assert outputs[0].shape == outputs[1].shape
    assert torch.equal(*outputs) == (name.rpartition("-")[0] not in strided)
    with pytest.raises(ValueError, match="padding must be one of"):
        models.build(name, dim=4, padding="valid")
