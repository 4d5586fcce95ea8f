"""Feature networks, and the verdict on a set of images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wgangp_fast.errors import UserError
from wgangp_fast.training.data import stream
from wgangp_fast.training.metrics import distances
from wgangp_fast.training.metrics.features import Classifier, RandomConvolutions
from wgangp_fast.training.metrics.quality import judge, to_pixels

GOLDEN = (0.51154619, 0.43607977, -0.34464929)  # three weights of RandomConvolutions(1, 28)


def bars(count: int, side: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with a bright row or column: easy, with the labels 3 and 7."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (count, 1, side, side), generator=generator, dtype=torch.uint8)
    upright = torch.arange(count) % 2
    for image, turned, place in zip(images, upright, torch.randint(side, (count,), generator=generator)):
        image[0, place] = 200
        if turned:
            image[0] = image[0].T.clone()
    return images, 3 + 4 * upright


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.train(*bars(400))


@pytest.mark.parametrize(
    ("channels", "side", "layers"), [(1, 8, 2), (3, 32, 4), (1, 28, 3), (2, 5, 1), (3, 128, 4)]
)
def test_random_convolutions(channels: int, side: int, layers: int) -> None:
    torch.manual_seed(5)
    network = RandomConvolutions(channels, side)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))  # torch's own generator is not touched
    pixels = torch.randint(0, 256, (6, channels, side, side), dtype=torch.uint8)
    features, probabilities = network(pixels)
    assert probabilities is None
    assert features.dtype == torch.float32
    assert 256 <= features.shape[1] <= 512
    assert len(network.weights) == layers
    assert torch.equal(features, RandomConvolutions(channels, side).features(pixels))
    assert not torch.equal(features, RandomConvolutions(channels, side, seed=1).features(pixels))
    # The first layer by hand.
    x = pixels.double() / 127.5 - 1
    first = F.conv2d(x, network.weights[0].double(), padding=1).relu()
    wide = first.shape[1]
    half = side // 2 + side % 2
    quarter = first[:, :, :half, :half].mean((2, 3))
    torch.testing.assert_close(features[:, : 4 * wide : 4].double(), quarter, rtol=1e-4, atol=1e-5)
    deviation = float(network.weights[0].std())
    assert deviation == pytest.approx(math.sqrt(2 / (9 * channels)), rel=0.15)
    assert all(
        word in network.name for word in ("random", "not trained", f"{features.shape[1]} features", "seed 0")
    )


def test_random_weights_are_the_same_on_every_machine() -> None:
    first = RandomConvolutions(1, 28).weights[0].flatten()[:3]
    torch.testing.assert_close(first, torch.tensor(GOLDEN), rtol=1e-5, atol=1e-6)


def test_classifier_learns_and_says_how_well(classifier: Classifier) -> None:
    pixels, labels = bars(200, seed=1)
    features, probabilities = classifier(pixels)
    assert features.shape == (200, 128)
    assert probabilities is not None
    torch.testing.assert_close(probabilities.sum(1), torch.ones(200))
    right = float(((probabilities.argmax(1) == 1) == (labels == 7)).double().mean())
    assert right > 0.95
    assert classifier.name == "conv classifier trained on 360 labelled images, held-out accuracy 1.000"


def test_classifier_accuracy_is_of_images_it_has_not_seen() -> None:
    """Labels without meaning can be learnt by heart, not predicted."""
    images, _ = bars(300, 6)
    labels = torch.randint(0, 2, (300,), generator=torch.Generator().manual_seed(0))
    accuracy = Classifier.train(images, labels).about["accuracy"]
    assert 0.2 < accuracy < 0.8


def test_classifier_is_determined_by_its_seed() -> None:
    images, labels = bars(40, 4)
    torch.manual_seed(5)
    one = Classifier.train(images, labels)
    torch.manual_seed(6)
    two, other = Classifier.train(images, labels), Classifier.train(images, labels, seed=1)
    assert torch.equal(one.features(images), two.features(images))
    assert not torch.equal(one.features(images), other.features(images))


def test_classifier_file(classifier: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "classifier.pt"
    path.write_text("older")
    classifier.save(path)
    again = Classifier.load(path)
    pixels, _ = bars(20, seed=2)
    for a, b in zip(classifier(pixels), again(pixels)):
        assert torch.equal(a, b)
    assert again.name == classifier.name
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot write"):
        classifier.save(tmp_path / "absent" / "classifier.pt")
    with pytest.raises(UserError, match="cannot write"):
        classifier.save(tmp_path)


def changed(**changes: Any) -> dict[str, Any]:
    about = {"format": Classifier.FORMAT, "shape": [1, 8, 8], "classes": 2, "trained_on": 1, "accuracy": 0.5}
    return about | {"state": {}} | changes


@pytest.mark.parametrize(
    "content",
    [
        b"<html><body>Not found</body></html>",
        b"",
        [1, 2],
        {"weights": torch.ones(3)},
        changed(),
        changed(format="other"),
        changed(shape=[1]),
        changed(state={"last.weight": torch.ones(9, 9)}),
        changed(state=None),
        changed(classes="two"),
    ],
    ids=str,
)
def test_classifier_refuses_other_files(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError) as error:
        Classifier.load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_classifier_refuses_torn_and_missing_files(classifier: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "classifier.pt"
    classifier.save(path)
    whole = path.read_bytes()
    torch.save(torch.load(path, weights_only=True) | {"format": "another"}, path)
    with pytest.raises(UserError, match="another format"):
        Classifier.load(path)
    path.write_bytes(whole[:-2000])
    for place in (path, tmp_path, tmp_path / "absent.pt"):
        with pytest.raises(UserError):
            Classifier.load(place)


def test_classifier_refuses_data_it_cannot_learn_from() -> None:
    images, labels = bars(40)
    with pytest.raises(UserError, match="2 classes"):
        Classifier.train(images, torch.zeros_like(labels))
    with pytest.raises(UserError, match="20 images"):
        Classifier.train(images[:10], labels[:10])
    with pytest.raises(ValueError, match="labels"):
        Classifier.train(images, labels[:-1])
    with pytest.raises(ValueError, match="uint8"):
        Classifier.train(images.float(), labels)


def test_networks_refuse_other_images(classifier: Classifier) -> None:
    pixels, _ = bars(4)
    for network in (classifier, RandomConvolutions(1, 8)):
        for wrong in (pixels.float(), pixels[0], pixels.expand(-1, 3, -1, -1), pixels[:, :, 1:]):
            with pytest.raises(ValueError):
                network(wrong)


# The verdict


def test_judge_tells_good_from_bad(classifier: Classifier) -> None:
    real, _ = bars(300, seed=3)
    good, bad = (bars(200, seed=4)[0] / 127.5 - 1, torch.full((200, 1, 8, 8), -0.5))
    verdicts = [judge(real, fake, classifier) for fake in (good, bad)]
    keys = {
        "samples", "real_samples", "real_reference_samples", "features", "frechet_distance", "kid", "kid_std",
        "real_frechet_distance", "real_kid", "real_kid_std", "sliced_wasserstein", "real_sliced_wasserstein",
        "sliced_wasserstein_levels", "sliced_wasserstein_samples", "inception_type_score",
        "inception_type_score_std", "real_inception_type_score", "real_inception_type_score_std",
    }  # fmt: skip
    assert set(verdicts[0]) == keys
    a, b = verdicts
    for name in ("frechet_distance", "kid", "sliced_wasserstein"):
        assert a[name] < b[name] / 3
        assert a[name] < 3 * abs(a[f"real_{name}"]) + 0.3 * b[name]
    assert a["inception_type_score"] == pytest.approx(2, abs=0.1)
    assert b["inception_type_score"] == pytest.approx(1, abs=1e-6)
    assert a["real_inception_type_score"] == pytest.approx(2, abs=0.1)
    assert (a["samples"], a["real_samples"], a["real_reference_samples"]) == (200, 300, 150)
    assert a["features"] == classifier.name
    assert a == judge(real, good, classifier)
    assert a != judge(real, good, classifier, seed=1)


def test_judge_is_the_distances_of_the_features() -> None:
    network = RandomConvolutions(1, 8)
    real, fake = bars(50)[0], bars(40, seed=1)[0]
    found = judge(real, fake, network, batch=7)
    order = torch.randperm(50, generator=stream(0, "halves"))
    a, b = network.features(real[order]), network.features(fake)
    assert found["frechet_distance"] == pytest.approx(distances.frechet_distance(a, b), rel=1e-6)
    assert "inception_type_score" not in found
    assert "fid" not in found
    halves = found["real_frechet_distance"]
    assert 0 < halves != pytest.approx(found["frechet_distance"])


def test_judge_rounds_as_saved_pictures_are() -> None:
    real = bars(20)[0]
    network = RandomConvolutions(1, 8)
    exact = real / 127.5 - 1
    near = exact + 0.3 / 127.5  # less than half a grey level
    assert judge(real, near, network) == judge(real, real, network)
    assert torch.equal(to_pixels(near), real)
    assert to_pixels(torch.tensor([-9.0, -1.0, 0.999, 1.0, 9.0])).tolist() == [0, 0, 255, 255, 255]
    assert judge(exact, real, network) == judge(real, real, network)


def test_judge_tells_its_progress() -> None:
    told: list[tuple[int, int]] = []
    judge(bars(20)[0], bars(12)[0], RandomConvolutions(1, 8), batch=8, progress=lambda *x: told.append(x))
    assert told == [(8, 32), (16, 32), (20, 32), (28, 32), (32, 32)]


def test_judge_refuses() -> None:
    real, network = bars(20)[0], RandomConvolutions(1, 8)
    for a, b in ((real, real[:, :, 1:]), (real[:3], real), (real.int(), real), (real[0], real[0])):
        with pytest.raises(ValueError):
            judge(a, b, network)
    with pytest.raises(UserError, match="diverged"):
        judge(real, torch.full((20, 1, 8, 8), torch.nan), network)
    with pytest.raises(UserError, match="it takes images"):
        judge(real, real, RandomConvolutions(3, 8))
