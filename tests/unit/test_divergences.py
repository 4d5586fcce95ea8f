"""Distances of discrete distributions against hand-computed values, brute force and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch

from wgangp_fast.training.metrics import divergences as D
from wgangp_fast.training.metrics.curves import median_filter
from wgangp_fast.training.metrics.transport import exact_wasserstein, optimal_coupling

pytest.importorskip("scipy")


pytestmark = pytest.mark.usefixtures("one_thread")


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_distribution(count: int, seed: int) -> torch.Tensor:
    x = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.sum()


def test_values_by_hand():
    p, q = t(0.5, 0.5, 0.0), t(0.25, 0.25, 0.5)
    assert D.total_variation(p, q) == pytest.approx(0.5)
    assert D.kl_divergence(p, q) == pytest.approx(math.log(2))
    assert D.kl_divergence(q, p) == math.inf
    # m = (3/8, 3/8, 1/4): (log(4/3) + (log(2/3) + log 2) / 2) / 2
    assert D.js_divergence(p, q) == pytest.approx((math.log(4 / 3) + math.log(4 / 3) / 2) / 2)
    assert D.earth_mover_line(t(0, 1, 2), p, t(0, 1, 2), q) == pytest.approx(0.25 * 2 + 0.25 * 1)


def test_total_variation_is_the_largest_difference_over_events():
    p, q = random_distribution(7, 0), random_distribution(7, 1)
    events = itertools.product([False, True], repeat=7)
    largest = max(abs(float((p - q)[torch.tensor(event)].sum())) for event in events)
    assert D.total_variation(p, q) == pytest.approx(largest)


def test_js_against_a_loop():
    p, q = random_distribution(20, 2), random_distribution(20, 3)
    p[:5] = 0
    p /= p.sum()
    q[10:14] = 0
    q /= q.sum()
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist()):
        m = (a + b) / 2
        total += sum(x * math.log(x / m) / 2 for x in (a, b) if x > 0)
    assert D.js_divergence(p, q) == pytest.approx(total, rel=1e-12)


def test_line_and_program_agree():
    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(9, generator=g).double(), torch.randn(6, generator=g).double()
    p, q = random_distribution(9, 5), random_distribution(6, 6)
    line = D.earth_mover_line(x, p, y, q)
    assert D.earth_mover(p, q, (x[:, None] - y).abs()) == pytest.approx(line, rel=1e-9)
    from scipy.stats import wasserstein_distance

    assert line == pytest.approx(wasserstein_distance(x.numpy(), y.numpy(), p.numpy(), q.numpy()), rel=1e-12)


def test_coupling_against_all_permutations():
    g = torch.Generator().manual_seed(7)
    x, y = torch.randn(6, 3, generator=g), torch.randn(6, 3, generator=g)
    cost, order = optimal_coupling(x, y)
    costs = {
        way: sum(math.dist(x[i].tolist(), y[j].tolist()) for i, j in enumerate(way)) / 6
        for way in itertools.permutations(range(6))
    }
    best = min(costs, key=costs.__getitem__)
    assert cost == pytest.approx(costs[best], rel=1e-6)
    assert tuple(order.tolist()) == best


def test_exact_distance_of_a_shift_and_of_a_line():
    g = torch.Generator().manual_seed(8)
    x = torch.randn(50, 2, 3, generator=g)
    shift = torch.randn(2, 3, generator=g)
    assert exact_wasserstein(x, (x + shift).flip(0)) == pytest.approx(float(shift.norm()), rel=1e-5)
    a, b = torch.randn(40, 1, generator=g), torch.randn(40, 1, generator=g) * 2
    by_sorting = float((a.double().sort(0).values - b.double().sort(0).values).abs().mean())
    assert exact_wasserstein(a, b) == pytest.approx(by_sorting, rel=1e-12)


def test_assignment_and_program_agree():
    g = torch.Generator().manual_seed(9)
    x, y = torch.randn(12, 2, generator=g), torch.randn(12, 2, generator=g)
    same = torch.full((12,), 1 / 12)
    distance = torch.tensor([[math.dist(a, b) for b in y.tolist()] for a in x.tolist()])
    assert D.earth_mover(same, same, distance) == pytest.approx(exact_wasserstein(x, y), rel=1e-5)


@pytest.mark.parametrize("theta", [-1.5, -0.25, 0.0, 1e-3, 1.0])
def test_parallel_lines_of_samples_are_the_closed_form(theta):
    x, y = D.line_points(0.0, 64), D.line_points(theta, 64)
    _, p, q = D.atoms(x, y)
    wanted = D.parallel_lines(theta)
    assert D.total_variation(p, q) == pytest.approx(wanted.total_variation, abs=1e-12)
    assert D.kl_divergence(p, q) == pytest.approx(wanted.kl, abs=1e-12)
    assert D.js_divergence(p, q) == pytest.approx(wanted.js, abs=1e-12)
    assert exact_wasserstein(x, y) == pytest.approx(wanted.earth_mover, abs=1e-12)


def test_parallel_lines_closed_form():
    assert D.parallel_lines(0.0) == (0.0, 0.0, 0.0, 0.0)
    assert D.parallel_lines(-2.0) == (1.0, math.inf, math.log(2), 2.0)


def test_line_points():
    assert D.line_points(0.3, 2).tolist() == [[0.3, 0.25], [0.3, 0.75]]


def test_atoms():
    points, p, q = D.atoms(t(1, 0, 1, 1)[:, None], t(2, 1)[:, None])
    assert points.flatten().tolist() == [0, 1, 2]
    assert p.tolist() == [0.25, 0.75, 0]
    assert q.tolist() == [0, 0.5, 0.5]


def test_median_filter_against_numpy():
    x = torch.randn(60, generator=torch.Generator().manual_seed(1)).double()
    found = median_filter(x, 7)
    for place in range(60):
        reach = min(3, place, 59 - place)
        assert float(found[place]) == float(np.median(x[place - reach : place + reach + 1]))
    assert torch.equal(median_filter([3.0, 1.0, 2.0], 101), t(3, 2, 2))
    assert len(median_filter([], 5)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: D.total_variation(t(0.5, 0.5), t(1.0)), "same atoms"),
        (lambda: D.js_divergence(t(0.5, 0.6), t(0.5, 0.5)), "sum 1"),
        (lambda: D.kl_divergence(t(1.5, -0.5), t(0.5, 0.5)), "at least 0"),
        (lambda: D.kl_divergence(torch.tensor([1]), t(1.0)), r"float \[K\]"),
        (lambda: D.earth_mover_line(t(0, math.nan), t(0.5, 0.5), t(0.0), t(1.0)), "finite positions"),
        (lambda: D.earth_mover(t(1.0), t(1.0), torch.zeros(1, 2)), "cost must be"),
        (lambda: D.atoms(torch.zeros(2, 2), torch.zeros(2, 3)), "samples"),
        (lambda: D.parallel_lines(math.nan), "finite"),
        (lambda: D.line_points(0.0, 0), "at least 1"),
        (lambda: optimal_coupling(torch.zeros(3, 2), torch.zeros(4, 2)), "as many"),
        (lambda: optimal_coupling(torch.zeros(3), torch.zeros(3)), "as many"),
        (lambda: optimal_coupling(torch.zeros(1, 2), torch.full((1, 2), math.inf)), "y holds"),
        (
            lambda: optimal_coupling(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2)),
            "x must be floats",
        ),
        (lambda: median_filter([1.0], 4), "odd"),
        (lambda: median_filter([1.0, math.nan], 3), "finite"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
