"""The releases that ``wgangp_fast.compat`` follows: names, defaults and centres of their projects."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import torch
from compat_checks import Penalty, Scaler, case, on_graph, on_graph_of_both, partial_of, same
from compat_originals import (
    Faded,
    gigagan_0_3,
    magvit2_0_5,
    muse_maskgit,
    progan,
    stylegan2_1_9,
    torchgan,
)

from wgangp_fast import compat

pytestmark = pytest.mark.filterwarnings("error::wgangp_fast.StockPathWarning")

# ours, the original, and the arguments behind images and output as each project's callers give them
_GRAPHS: list[tuple[Penalty, Penalty, str, tuple[Any, ...], dict[str, Any]]] = [
    (compat.stylegan2_gradient_penalty, stylegan2_1_9, "image", (), {}),
    (compat.stylegan2_gradient_penalty, stylegan2_1_9, "patch", (0.5, 1.0), {}),
    (compat.stylegan2_gradient_penalty, stylegan2_1_9, "table", (), {"center": 0.7, "weight": 2}),
    (compat.muse_maskgit_gradient_penalty, muse_maskgit, "image", (), {}),
    (compat.phenaki_gradient_penalty, muse_maskgit, "table", (0.5,), {}),
    (compat.magvit2_gradient_penalty, magvit2_0_5, "image", (), {}),
    (compat.magvit2_gradient_penalty, magvit2_0_5, "patch", (1.0,), {}),
    (compat.gigagan_gradient_penalty, gigagan_0_3, "image", (), {}),
    (compat.gigagan_gradient_penalty, gigagan_0_3, "patch", ((3.0,), 2.0, 0.5), {}),
    (compat.gigagan_gradient_penalty, gigagan_0_3, "table", (), {"scaler": Scaler()}),
    (compat.lucidrains_gradient_penalty, stylegan2_1_9, "image", (10, 0.0), {}),
    (compat.lucidrains_gradient_penalty, stylegan2_1_9, "patch", (), {"center": 1}),
]
LUCIDRAINS = [
    case(
        on_graph(partial_of(ours, *args, **named)),
        on_graph(partial_of(original, *args, **named)),
        kind,
        f"{original.__name__}_{number}",
    )[0]
    for number, (ours, original, kind, args, named) in enumerate(_GRAPHS)
] + case(
    on_graph_of_both(compat.gigagan_gradient_penalty, [1.0, 0.25], scaler=Scaler()),
    on_graph_of_both(gigagan_0_3, [1.0, 0.25], scaler=Scaler()),
    "tuple",
    "gigagan_scales",
)


@pytest.mark.parametrize(("ours", "original", "kind", "attached"), LUCIDRAINS)
def test_equals_the_release_it_follows(ours: Penalty, original: Penalty, kind: str, attached: bool) -> None:
    assert (same(ours, original, kind)["generator"] is not None) == attached


def test_a_changed_import_never_changes_a_loss_without_a_word() -> None:
    """lucidrains' projects share one name: who does not say which centre is meant is told which was taken."""
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    output = (x.tanh() * 0.01).sum(1)
    zero, one = stylegan2_1_9(x, output), stylegan2_1_9(x, output, center=1)
    assert abs(zero - one) > 1
    with pytest.warns(
        UserWarning, match="center was not given, and 0 is taken.*muse_maskgit_gradient_penalty"
    ):
        found = compat.lucidrains_gradient_penalty(x, output)
    torch.testing.assert_close(found, zero)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(compat.lucidrains_gradient_penalty(x, output, center=1.0), one)
        torch.testing.assert_close(compat.muse_maskgit_gradient_penalty(x, output), one)
        torch.testing.assert_close(compat.stylegan2_gradient_penalty(x, output), zero)


def test_a_fade_that_moves_every_step_stays_on_the_engine() -> None:
    critic = Faded().double()
    real, fake = torch.randn(2, 4, 2, 5, 5, dtype=torch.float64)
    for alpha in (0.1, 0.35, 0.6, 1):
        values = []
        for penalty in (compat.progan_gradient_penalty, progan):
            torch.manual_seed(3)
            values.append(penalty(critic, real, fake, alpha, 1))
        torch.testing.assert_close(*values, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", compat.__all__)
def test_each_function_says_what_it_follows(name: str) -> None:
    document = getattr(compat, name).__doc__
    assert "Follows" in document or name == "lucidrains_gradient_penalty"
    assert name in compat.__doc__


# What the projects call their arguments: taken from their sources, first to last.
SIGNATURES = {
    "compute_gradient_penalty": "D real_samples fake_samples",
    "progan_gradient_penalty": "critic real fake alpha train_step device",
    "calc_gradient_penalty": "netD real_data fake_data",
    "cal_gradient_penalty": "netD real_data fake_data device type constant lambda_gp",
    "lynnho_gradient_penalty": "f real fake gp_mode sample_mode",
    "ctgan_calc_gradient_penalty": "discriminator real_data fake_data device pac lambda_",
    "gradient_penalty_loss": "discriminator real_data fake_data weight",
    "compute_grad_pen": "discriminator expert_state expert_next_state lambda_",
    "gail_compute_grad_pen": "discriminator expert_state expert_action policy_state policy_action lambda_",
    "stylegan2_gradient_penalty": "images output weight center",
    "gigagan_gradient_penalty": "images outputs grad_output_weights weight center scaler eps",
    "magvit2_gradient_penalty": "images output center",
    "muse_maskgit_gradient_penalty": "images output weight",
    "phenaki_gradient_penalty": "images output weight",
    "wasserstein_gradient_penalty": "interpolate d_interpolate reduction",
    "WassersteinGradientPenalty": "reduction lambd override_train_ops",
    "ZeroCenteredGradientPenalty": "Samples Critics",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_have_their_projects_names_and_places(name: str) -> None:
    expected = SIGNATURES[name].split()
    assert list(inspect.signature(getattr(compat, name)).parameters)[: len(expected)] == expected


def test_torchgan_takes_no_reduction() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    penalty = compat.wasserstein_gradient_penalty(x, x.square().sum(1), None)
    torch.testing.assert_close(penalty, torchgan(x, x.square().sum(1)))
