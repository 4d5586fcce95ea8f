"""The experiment ``overfitting``: its curves are the negative critic losses, and its rules are as stated."""

from types import SimpleNamespace

import pytest
import torch
from experiment_settings import smoke_run

from wgangp_fast.errors import UserError
from wgangp_fast.experiments import images, overfitting
from wgangp_fast.experiments.cli import open_study


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, one_thread):
    return smoke_run("overfitting", tmp_path_factory.mktemp("overfitting"))


def test_the_page_is_complete(smoke):
    study, results = smoke
    text = (study.path / "README.md").read_text()
    for name in ("large-set.png", "small-set.png"):
        assert (study.path / name).stat().st_size > 5_000
        assert f"]({name})" in text
    assert [claim["held"] for claim in results["claims"]] == [None] * 3
    assert len(results["tables"][0]["rows"]) == 4
    assert [row["critic"] for row in results["kernels"]] == ["mnist-critic, dim 8, 8 x 8"]


def test_the_curves_are_the_negative_losses_of_the_rows(smoke):
    study, results = smoke
    iterations, training, validation = results["numbers"]["curve small wgan-gp"]
    state = torch.load(study.parts / "small-wgan-gp.pt", weights_only=False)
    assert iterations == [row["iteration"] for row in state["rows"]] == list(range(3, 25, 3))
    for row, a, b in zip(state["rows"], training, validation, strict=True):
        # mean r - mean f - lambda GP
        assert a == pytest.approx(row["wasserstein"] - 10 * row["penalty"], rel=1e-4, abs=1e-5)
        assert b == -row["held_out_critic_loss"]


def test_the_validation_loss_is_that_of_images_that_no_training_saw(smoke):
    study, results = smoke
    digits = images.image_set(study, study.settings.size, "")
    full, validation, small = overfitting._sets(digits, 128, 64)
    trainer = overfitting._train(study, "small", "wgan-gp", small, validation).trainer
    total, count = 0.0, 128 // 32
    for k in range(count):
        real, fake, alpha = trainer._batch("held out", trainer.held_out, k)
        assert all(_among(image, validation) and not _among(image, full) for image in _pixels(real[:4]))
        x = (alpha.view(-1, 1, 1, 1) * real + (1 - alpha.view(-1, 1, 1, 1)) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(trainer.critic(x).sum(), x)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        with torch.no_grad():
            total += float(trainer.critic(real).mean() - trainer.critic(fake).mean() - 10 * penalty)
    assert results["numbers"]["curve small wgan-gp"][2][-1] == pytest.approx(total / count, rel=1e-4)


def _pixels(batch):
    return (batch * 255).round().to(torch.uint8)


def _among(image, part):
    rows = part.take(torch.arange(part.size), torch.Generator())
    return bool((rows == image).flatten(1).all(1).any())


def test_parts_are_disjoint_and_the_small_set_is_a_part_of_the_large_one():
    every = images.Stored("numbers", torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1))
    full, validation, small = overfitting._sets(every, 20, 7)
    found = [set(part.take(torch.arange(part.size), torch.Generator()).flatten().tolist())
             for part in (full, validation, small)]  # fmt: skip
    assert [len(part) for part in found] == [30, 20, 7]
    assert found[0] | found[1] == set(range(50))
    assert found[2] <= found[0]
    with pytest.raises(UserError, match="has 50 images; this experiment needs 60"):
        images.split(every, 30, 30)


def test_change_and_summary():
    # The best line of 0, 1, 5 over 0, 1, 2 has slope (5 - 0) / 2.
    assert overfitting.change([0, 1, 2], [0, 1, 5]) == pytest.approx(5.0)
    assert overfitting.change([10, 20, 40], [1, 3, 7]) == pytest.approx(6.0)
    assert overfitting.change([3], [1]) == 0
    found = overfitting.summary(range(1, 9), [9, 8, 7, 6, 1, 2, 3, 4], [9, 9, 9, 9, 4, 3, 2, 1])
    assert found == pytest.approx({
        "training": 3.5, "validation": 1.5, "gap": 2.0, "training_change": 3.0, "validation_change": -3.0,
        "training_level": 2.5, "peak": 9.0,
    })  # fmt: skip


END = {"gap": 0.1, "training_change": 0.0, "validation_change": -1.0, "training_level": 1.0, "peak": 4.0,
       "validation": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "method", "value", "held"),
    [
        (None, None, {}, [True, True, True]),
        ("small", "wgan", {"gap": 0.05}, [False, True, True]),
        ("small", "wgan-gp", {"gap": 0.05}, [False, True, False]),
        ("small", "wgan-gp", {"training_change": -0.2}, [True, False, True]),
        ("small", "wgan-gp", {"training_change": -0.05}, [True, True, True]),
        ("small", "wgan-gp", {"validation_change": 0.1}, [True, False, True]),
        ("full", "wgan-gp", {"validation": 2.5}, [True, True, False]),
    ],
)
def test_claims_follow_the_numbers(part, method, value, held):
    ends = {(p, m): {**END, "gap": 0.5 if p == "small" else 0.1} for p in ("full", "small")
            for m in overfitting.METHODS}  # fmt: skip
    if part:
        ends[part, method] |= value
    said = []
    study = SimpleNamespace(scale="cpu", claim=lambda *row: said.append(row[-1]))
    overfitting._claims(study, ends, {})
    assert said == held
    said.clear()
    overfitting._claims(study, ends, {("full", "wgan"): True})
    assert said == [None] * 3


def test_paper_scale_is_the_released_networks_and_wants_data(tmp_path):
    study = open_study("overfitting", "paper", tmp_path / "paper", device="cpu")
    with pytest.raises(UserError, match=r"--data PATH: MNIST"):
        overfitting.run(study)
    for method, norm, rate in (("wgan-gp", "none", 1e-4), ("wgan", "batch", 5e-5)):
        config = overfitting._config(study, "small", method)
        assert (config.iters, config.batch, config.lr, config.n_critic) == (20_000, 50, rate, 5)
        assert (config.critic_norm, config.generator_norm, config.clip, config.beta1) == (
            norm,
            norm,
            0.01,
            0.5,
        )
    critic, generator = overfitting._networks(study, "wgan-gp", 1)
    counts = [sum(p.numel() for p in network.parameters()) for network in (critic, generator)]
    assert counts == [1_030_145, 1_554_177]  # of the released script, counted by hand


def test_images_are_resized_and_keep_their_labels(tmp_path):
    study = open_study("overfitting", "smoke", tmp_path / "a", device="cpu")
    small, large = (images.image_set(study, size, "") for size in (8, 16))
    assert large.shape == (1, 16, 16)
    assert large.samples.dtype == torch.uint8
    assert torch.equal(large.all_labels, small.all_labels)
    means = [part.samples.float().mean((1, 2, 3)) for part in (small, large)]
    assert (means[0] - means[1]).abs().max() < 12  # of 255: interpolation keeps the brightness
