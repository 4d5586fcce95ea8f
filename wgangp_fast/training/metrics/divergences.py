"""Distances between distributions with finitely many atoms, and the parallel lines (paper section 1).

All in float64 and in nats. :mod:`.transport` has the earth mover's distance of points of equal mass.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wgangp_fast.optional_dependencies import require

TOLERANCE = 1e-6  # how far the sum of probabilities may be from 1


def total_variation(p: Tensor, q: Tensor) -> float:
    """``sup_A |P(A) - Q(A)| = sum |p - q| / 2``, from 0 to 1.

    Args:
        p, q: float ``[K]``, the probabilities of the same K atoms.

    Raises:
        ValueError: other shapes, or no distributions. So for all functions of ``p`` and ``q`` here.
    """
    p, q = _distributions(p, q)
    return float((p - q).abs().sum() / 2)


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """``sum p log(p / q)``, at least 0; infinite where ``p`` has mass that ``q`` has not."""
    p, q = _distributions(p, q)
    there = p > 0
    if bool((q[there] == 0).any()):
        return math.inf
    return float((p[there] * (p[there].log() - q[there].log())).sum())


def js_divergence(p: Tensor, q: Tensor) -> float:
    """``KL(p || m) / 2 + KL(q || m) / 2`` with ``m = (p + q) / 2``, from 0 to log 2.

    The WGAN paper prints it without the halves; its value log 2 for disjoint distributions needs them.
    """
    p, q = _distributions(p, q)
    log_m = ((p + q) / 2).log()  # only taken where p or q is positive
    parts = (torch.where(x > 0, x * (x.log() - log_m), 0.0) for x in (p, q))
    return float(sum(part.sum() for part in parts) / 2)


def earth_mover_line(x: Tensor, p: Tensor, y: Tensor, q: Tensor) -> float:
    """First Wasserstein distance of two distributions on a line: the area between their two cumulative ones.

    Args:
        x: positions ``[K]`` of the atoms with probabilities ``p [K]``; y: ``[L]``, with ``q [L]``. Any order.

    Raises:
        ValueError: other shapes, no distributions, or positions that are not finite.
    """
    p, q = _distribution("p", p), _distribution("q", q)
    places = []
    for name, place, mass in (("x", x, p), ("y", y, q)):
        if place.shape != mass.shape or not bool(place.isfinite().all()):
            raise ValueError(f"{name} must hold {len(mass)} finite positions; got {list(place.shape)}")
        places.append(place.double())
    where, order = torch.cat(places).sort()
    excess = torch.cat([p, -q])[order].cumsum(0)  # P(X <= t) - Q(X <= t) behind each position
    return float((excess[:-1].abs() * where.diff()).sum())


def earth_mover(p: Tensor, q: Tensor, cost: Tensor) -> float:
    """Least cost of moving ``p`` to ``q``: the linear program ``min sum G * cost``, G with marginals p and q.

    Args:
        p: ``[K]``. q: ``[L]``. cost: ``[K, L]``, of moving a unit of mass; distances give the first
            Wasserstein distance. For a few hundred atoms; :func:`.transport.exact_wasserstein` takes more.

    Raises:
        ValueError: other shapes, no distributions, or costs that are not finite.
        UserError: scipy (which comes with scikit-learn) is not installed.
    """
    p, q = _distribution("p", p), _distribution("q", q)
    if cost.shape != (len(p), len(q)) or not bool(cost.isfinite().all()):
        raise ValueError(f"cost must be finite, [{len(p)}, {len(q)}]; got {list(cost.shape)}")
    sparse, optimize = require("scipy.sparse"), require("scipy.optimize")
    # G is one vector [K * L]; these matrices take its sums over L, [K], and over K, [L].
    rows = sparse.kron(sparse.eye(len(p)), [[1.0] * len(q)])
    columns = sparse.kron([[1.0] * len(p)], sparse.eye(len(q)))
    # Rounding must not make the marginals disagree, or no G has both.
    wanted = torch.cat([p / p.sum(), q / q.sum()])
    found = optimize.linprog(
        cost.double().flatten().numpy(),
        A_eq=sparse.vstack([rows, columns]),
        b_eq=wanted.numpy(),
        method="highs",
    )
    if not found.success:
        raise ValueError(f"the transport problem was not solved: {found.message}")
    return float(found.fun)


def atoms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two sets of samples as distributions on the same atoms: equal samples are one atom, others are not.

    Args:
        x: ``[N, D]``. y: ``[M, D]``.

    Returns:
        atoms ``[K, D]``, and the share of x and of y at each, float64 ``[K]`` both.

    Raises:
        ValueError: other shapes, or no samples.
    """
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"need samples [N, D] and [M, D]; got {list(x.shape)} and {list(y.shape)}")
    points, index = torch.cat([x, y]).unique(dim=0, return_inverse=True)
    counts = (torch.bincount(part, minlength=len(points)).double() for part in index.split([len(x), len(y)]))
    p, q = counts
    return points, p / len(x), q / len(y)


class Distances(NamedTuple):
    """Of two distributions; KL is ``KL(P || Q)``."""

    total_variation: float
    kl: float
    js: float
    earth_mover: float


def parallel_lines(theta: float) -> Distances:
    """Between ``P_0 = (0, Z)`` and ``P_theta = (theta, Z)``, Z uniform on [0, 1], in closed form.

    WGAN paper, example 1: only the earth mover's distance says how far the lines are apart.

    Raises:
        ValueError: ``theta`` is not finite.
    """
    if not math.isfinite(theta):
        raise ValueError(f"theta must be finite; got {theta}")
    if theta == 0:
        return Distances(0.0, 0.0, 0.0, 0.0)
    return Distances(1.0, math.inf, math.log(2), abs(theta))


def line_points(theta: float, count: int) -> Tensor:
    """``count`` samples of ``(theta, Z)``, float64 ``[count, 2]``: the middles of equal parts of [0, 1].

    Raises:
        ValueError: no samples.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    z = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.stack([torch.full_like(z, theta), z], dim=1)


def _distributions(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = _distribution("p", p), _distribution("q", q)
    if p.shape != q.shape:
        raise ValueError(f"p and q must be on the same atoms; got {len(p)} and {len(q)} probabilities")
    return p, q


def _distribution(name: str, p: Tensor) -> Tensor:
    if p.dim() != 1 or not p.numel() or not p.is_floating_point():
        raise ValueError(f"{name} must be float [K]; got {p.dtype} {list(p.shape)}")
    p = p.detach().double().cpu()
    if not bool((p >= 0).all()) or not abs(float(p.sum()) - 1) <= TOLERANCE:
        raise ValueError(f"{name} must hold probabilities: at least 0, sum 1; the sum is {float(p.sum()):g}")
    return p
