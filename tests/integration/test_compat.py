"""wgangp_fast.compat against literal transcriptions of the code it replaces.

Same seed, float64: value, gradients of every parameter, of the generator behind ``fake``, and the state of
the random generator afterwards must agree.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from compat_checks import (
    Penalty,
    agree,
    case,
    given,
    imitations,
    on_graph,
    outcome,
    same,
    transitions,
)
from compat_originals import (
    CRITICS,
    LABELS,
    Generator,
    aladdinpersson,
    aladdinpersson_conditional,
    amp,
    caogang,
    ctgan,
    gail,
    lynnho,
    mlp,
    mmagic,
    paper,
    pix2pix,
    progan,
    pytorch_gan,
    r3gan,
    torchgan,
    torchgan_train_ops,
)
from torch import Tensor, nn

from wgangp_fast import compat

pytestmark = pytest.mark.filterwarnings("error::wgangp_fast.StockPathWarning")

MASK = torch.rand(4, 1, 5, 5, dtype=torch.float64) + 0.1

CASES = [
    *case(compat.compute_gradient_penalty, pytorch_gan, "table vector image relu patch tuple audio volume"),
    *case(
        given(compat.compute_gradient_penalty, LABELS),
        given(pytorch_gan, LABELS),
        "labels",
        "pytorch_gan_labels",
    ),
    *case(
        given(compat.compute_gradient_penalty, labels=LABELS, device="cpu"),
        given(pytorch_gan, LABELS),
        "labels",
        "pytorch_gan_labels_by_name",
    ),
    *case(given(compat.compute_gradient_penalty, "cuda:0"), pytorch_gan, "image", "pytorch_gan_other_device"),
    *case(compat.gradient_penalty, aladdinpersson, "image relu patch"),
    *case(
        given(compat.gradient_penalty, torch.device("cpu")), aladdinpersson, "image", "aladdinpersson_device"
    ),
    *case(
        given(compat.gradient_penalty, device="cuda"), aladdinpersson, "image", "aladdinpersson_other_device"
    ),
    *case(
        lambda D, real, fake: compat.gradient_penalty(D, LABELS, real, fake, "cpu"),
        lambda D, real, fake: aladdinpersson_conditional(D, LABELS, real, fake),
        "labels",
        "aladdinpersson_conditional",
    ),
    *case(
        lambda D, real, fake: compat.gradient_penalty(D, LABELS, real, fake=fake),
        lambda D, real, fake: aladdinpersson_conditional(D, LABELS, real, fake),
        "labels",
        "aladdinpersson_conditional_by_name",
    ),
    *case(compat.calc_gradient_penalty, caogang, "table image volume", attached=False),
    *case(
        given(compat.calc_gradient_penalty, LAMBDA=0.1),
        given(caogang, 0.1),
        "table",
        "caogang_lambda",
        attached=False,
    ),
    *case(given(compat.cal_gradient_penalty, "cpu"), given(pix2pix, "cpu"), "table image patch", "pix2pix"),
    *case(
        given(compat.cal_gradient_penalty, None, "mixed", constant=0.5, lambda_gp=2.0),
        given(pix2pix, "cpu", "mixed", 0.5, 2.0),
        "patch",
        "pix2pix_options",
    ),
    *case(
        given(compat.cal_gradient_penalty, "cpu", "fake"),
        given(pix2pix, "cpu", "fake"),
        "image",
        "pix2pix_fake",
    ),
    *case(
        given(compat.cal_gradient_penalty, "cpu", type="real"),
        given(pix2pix, "cpu", "real"),
        "image",
        "pix2pix_real",
        attached=False,
    ),
    *[
        case(
            given(compat.lynnho_gradient_penalty, gp_mode, sample_mode),
            given(lynnho, gp_mode, sample_mode),
            kind,
            f"lynnho_{gp_mode}_{sample_mode}",
            attached=False,
        )[0]
        for gp_mode, sample_mode, kind in [
            ("1-gp", "line", "image"),
            ("1-gp", "real", "audio"),
            ("1-gp", "fake", "image"),
            ("1-gp", "dragan", "image"),
            ("0-gp", "line", "table"),
            ("0-gp", "real", "relu"),
            ("lp", "line", "patch"),
            ("lp", "dragan", "patch"),
        ]
    ],
    *case(given(compat.ctgan_calc_gradient_penalty, "cpu", 4), given(ctgan, "cpu", 4), "pac", "ctgan"),
    *case(
        given(compat.ctgan_calc_gradient_penalty, pac=4, lambda_=1.5, device="cuda"),
        given(ctgan, "cpu", 4, 1.5),
        "pac",
        "ctgan_lambda",
    ),
    *case(compat.gradient_penalty_loss, mmagic, "table image audio", "basicsr", attached=False),
    *case(
        given(compat.gradient_penalty_loss, MASK),
        given(mmagic, MASK),
        "image",
        "basicsr_weight",
        attached=False,
    ),
    *case(
        given(compat.gradient_penalty_loss, norm_mode="HWC"),
        given(mmagic, None, "HWC"),
        "image",
        "mmagic_HWC",
        attached=False,
    ),
    *case(
        given(compat.gradient_penalty_loss, MASK, "HWC"),
        given(mmagic, MASK, "HWC"),
        "image",
        "mmagic_mask_HWC",
        attached=False,
    ),
    *case(
        given(compat.gradient_penalty_loss, mask=MASK, norm_mode="pixel"),
        given(mmagic, MASK, "pixel"),
        "patch",
        "mmagic_mask_by_name",
        attached=False,
    ),
    *case(transitions(compat.compute_grad_pen), transitions(amp), "table vector", "amp", attached=False),
    *case(
        transitions(compat.compute_grad_pen, 0.3),
        transitions(amp, 0.3),
        "table",
        "amp_lambda",
        attached=False,
    ),
    *case(compat.paper_gradient_penalty, paper, "table image volume"),
    *case(
        given(compat.progan_gradient_penalty, 0.25, 1),
        given(progan, 0.25, 1),
        "faded",
        "progan",
        attached=False,
    ),
    *case(
        given(compat.progan_gradient_penalty, alpha=0.5, train_step=0, device="cuda"),
        given(progan, 0.5, 0),
        "faded",
        "progan_by_name",
        attached=False,
    ),
    *case(imitations(compat.gail_compute_grad_pen), imitations(gail), "imitator", "gail"),
    *case(imitations(compat.gail_compute_grad_pen, 0.3), imitations(gail, 0.3), "imitator", "gail_lambda"),
    *case(on_graph(compat.wasserstein_gradient_penalty), on_graph(torchgan), "image patch", "torchgan"),
    *case(
        on_graph(compat.WassersteinGradientPenalty("sum", lambd=7.0)),
        on_graph(partial(torchgan, reduction="sum")),
        "table",
        "torchgan_loss",
    ),
    *case(on_graph(compat.ZeroCenteredGradientPenalty), on_graph(r3gan), "image patch", "r3gan"),
]


@pytest.mark.parametrize(("ours", "original", "kind", "attached"), CASES)
def test_equals_the_original(ours: Penalty, original: Penalty, kind: str, attached: bool) -> None:
    truth = same(ours, original, kind)
    # Where the original detaches, the generator must stay untouched; elsewhere it must learn.
    assert (truth["generator"] is not None) == attached


def test_r3gan_is_one_number_a_sample() -> None:
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    assert compat.ZeroCenteredGradientPenalty(x, x.square().sum((1, 2, 3))).shape == (3,)


@pytest.mark.parametrize("kind", ["table", "pac"])
def test_amp_and_ctgan_are_methods_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    critic = type(CRITICS[kind][0]())
    monkeypatch.setattr(critic, "compute_grad_pen", compat.compute_grad_pen, raising=False)
    monkeypatch.setattr(critic, "calc_gradient_penalty", compat.ctgan_calc_gradient_penalty, raising=False)
    if kind == "table":
        same(lambda D, s, _: D.compute_grad_pen(s[:, :3], s[:, 3:], 3), transitions(amp, 3), kind)
    else:
        same(lambda D, s, t: D.calc_gradient_penalty(s, t, "cpu", 4, 3), given(ctgan, "cpu", 4, 3), kind)


class Maker(nn.Module):
    """A generator as torchgan wants it."""

    encoding_dims, num_classes = 6, 3

    def __init__(self, label_type: str) -> None:
        super().__init__()
        self.label_type = label_type
        self.weight = nn.Parameter(torch.randn(6, 50))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return (z @ self.weight + (0 if labels is None else labels.view(-1, 1))).view(-1, 2, 5, 5)


@pytest.mark.parametrize("types", [("none", "none"), ("required", "required"), ("generated", "required")])
def test_torchgan_train_ops(types: tuple[str, str]) -> None:
    results = []
    for ours in (True, False):
        torch.manual_seed(3)
        critic = CRITICS["image" if types[1] == "none" else "labels"][0]().double()
        make, critic.label_type = Maker(types[0]), types[1]
        optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
        real = torch.randn(4, 2, 5, 5, dtype=torch.float64)
        loss = compat.WassersteinGradientPenalty(lambd=3.0)
        call = loss.train_ops if ours else partial(torchgan_train_ops, 3.0)
        value = call(make, critic, optimizer, real, "cpu", LABELS)
        state = {name: p.detach() for name, p in critic.named_parameters()}
        results.append(state | {"generator": make.weight.grad, "loss": torch.tensor(value)})
    agree(results[0], results[1])
    assert results[1]["generator"].abs().max() > 0


def test_torchgan_override() -> None:
    loss = compat.WassersteinGradientPenalty(override_train_ops=lambda *arguments: arguments)
    given_on = loss.train_ops("G", "D", "optimizer", "real", "cpu", "labels")
    assert given_on == (loss, "G", "D", "optimizer", "real", "labels")


def test_pix2pix_epsilon_moves_a_critic_without_gradient() -> None:
    """At zero gradient the 1e-16 gives the norm a direction, and so the parameters."""
    critic = mlp(6).double()
    nn.init.zeros_(critic[2].weight)
    generator, real = Generator((8, 6)), torch.randn(8, 6, dtype=torch.float64)
    truth = outcome(given(pix2pix, "cpu"), critic, real, generator)
    assert truth["critic 2.weight"].abs().max() > 1e-3
    agree(outcome(given(compat.cal_gradient_penalty, "cpu"), critic, real, generator), truth)


def untouchable(x: Tensor) -> Tensor:
    raise AssertionError("the critic ran")


@pytest.mark.parametrize("lambda_gp", [0, 0.0, -1.0])
def test_pix2pix_without_weight_does_nothing(lambda_gp: float) -> None:
    state = torch.get_rng_state()
    result = compat.cal_gradient_penalty(
        untouchable, torch.ones(2, 2), torch.ones(2, 2), "cpu", lambda_gp=lambda_gp
    )
    assert result == (0.0, None)
    assert isinstance(result[0], float)
    assert torch.equal(torch.get_rng_state(), state)


def test_pix2pix_leaves_the_samples_alone() -> None:
    real = torch.randn(4, 6)
    compat.cal_gradient_penalty(mlp(6), real, None, "cpu", "real")
    assert not real.requires_grad


def test_lynnho_none() -> None:
    state = torch.get_rng_state()
    penalty = compat.lynnho_gradient_penalty(untouchable, torch.ones(2, 2).double(), None, "none", "line")
    assert torch.equal(penalty, lynnho(untouchable, torch.ones(2, 2).double(), None, "none", "line"))
    assert penalty.dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), state)


def test_mixed_dtypes_promote_as_in_the_original() -> None:
    """Under autocast a generator returns half precision and the data are float32."""
    critic, real, fake = CRITICS["image"][0](), torch.randn(4, 2, 5, 5), torch.randn(4, 2, 5, 5).bfloat16()
    values = []
    for penalty in (compat.compute_gradient_penalty, pytorch_gan):
        torch.manual_seed(1)
        values.append(penalty(critic, real, fake))
    assert values[0].dtype == values[1].dtype == torch.float32
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=0)


X = torch.ones(4, 6)
BAD = [
    ("compute_gradient_penalty", (3, X, X), "^D must"),
    ("compute_gradient_penalty", (untouchable, None, X), "^real_samples must"),
    ("compute_gradient_penalty", (untouchable, X, X[:2]), "^fake_samples must"),
    ("compute_gradient_penalty", (untouchable, X, X, "gpu 7"), "^device must"),
    ("gradient_penalty", (untouchable, X.int(), X), "^real must"),
    ("gradient_penalty", (untouchable, LABELS, X, X[:, :2], "cpu"), "^fake must"),
    ("gradient_penalty", (untouchable, X), "'fake'"),
    ("calc_gradient_penalty", ("netD", X, X), "^netD must"),
    ("calc_gradient_penalty", (untouchable, X, X, 10), "positional"),
    ("cal_gradient_penalty", (untouchable, X, X, "cpu", "mix"), "^type must"),
    ("cal_gradient_penalty", (untouchable, X, X, "cpu", "mixed", "1"), "^constant must"),
    ("cal_gradient_penalty", (untouchable, X, X, "cpu", "mixed", 1.0, float("nan")), "^lambda_gp must"),
    ("cal_gradient_penalty", (untouchable, X, None, "cpu", "fake"), "^fake_data must"),
    ("lynnho_gradient_penalty", (untouchable, X, X, "2-gp", "line"), "^gp_mode must"),
    ("lynnho_gradient_penalty", (untouchable, X, X, "lp", "lines"), "^sample_mode must"),
    ("lynnho_gradient_penalty", (untouchable, X, None, "lp", "line"), "^fake must"),
    ("ctgan_calc_gradient_penalty", (untouchable, X, X), "^pac must divide the 4 rows"),
    ("ctgan_calc_gradient_penalty", (untouchable, X[None], X[None]), "^real_data must be a table"),
    ("gradient_penalty_loss", (untouchable, X, X, torch.ones(3, 6)), "^weight must"),
    ("gradient_penalty_loss", (untouchable, X, X, None, "WHC"), "^norm_mode must"),
    ("gradient_penalty_loss", (untouchable, X[:, 0], X[:, 0]), "^real_data must be .N, C"),
    ("paper_gradient_penalty", (untouchable, X, [X]), "^fake must"),
    ("compute_grad_pen", (untouchable, X, X[:2]), "^expert_next_state must"),
    ("compute_grad_pen", (untouchable, X, X, None), "^lambda_ must"),
    ("stylegan2_gradient_penalty", (X, X), "^images must require"),
    ("stylegan2_gradient_penalty", (X.clone().requires_grad_(), X), "^output must"),
    ("stylegan2_gradient_penalty", (X.clone().requires_grad_(), X, 10, None), "^center must"),
    ("magvit2_gradient_penalty", (X, 3), "^images must require"),
    ("muse_maskgit_gradient_penalty", (X, X, "10"), "^weight must"),
    ("gigagan_gradient_penalty", (X, [X, X], [1.0]), "^grad_output_weights must hold .* 2 outputs"),
    ("gigagan_gradient_penalty", (X.clone().requires_grad_(), [X, 3]), "outputs.0. must"),
    ("gigagan_gradient_penalty", (X, X, None, 10, 0.0, None, "small"), "^eps must"),
    ("lucidrains_gradient_penalty", (X, X, 10, float("nan")), "^center must"),
    ("progan_gradient_penalty", (untouchable, X, X[:2], 0.5, 1), "^fake must"),
    ("gail_compute_grad_pen", (untouchable, X, X, X, X[:2]), "^policy_action must"),
    ("gail_compute_grad_pen", (untouchable, X, X, X, X[:, :2]), "^policy_state and policy_action must"),
    ("wasserstein_gradient_penalty", (X, X, "max"), "^reduction must"),
    ("WassersteinGradientPenalty", ("mean", "ten"), "^lambd must"),
    (
        "ZeroCenteredGradientPenalty",
        (X.clone().requires_grad_(), X.clone().requires_grad_()),
        "^Critics must",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD, ids=[f"{n}-{m}" for n, _, m in BAD])
def test_bad_arguments_raise_before_any_work(name: str, arguments: tuple[Any, ...], message: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(compat, name)(*arguments)
    assert torch.equal(torch.get_rng_state(), state)


def test_weight_and_mask_are_one_argument() -> None:
    with pytest.raises(TypeError, match="mask: "):
        compat.gradient_penalty_loss(untouchable, X, X, X, mask=X)


def test_labels_given_twice() -> None:
    with pytest.raises(TypeError, match="labels: "):
        compat.compute_gradient_penalty(untouchable, X, X, LABELS, labels=LABELS)
