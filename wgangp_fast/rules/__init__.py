"""Derivative rules of ATen operators, and :func:`rule_of`, which finds the one for a node."""

from __future__ import annotations

from torch import Tensor

from ..ops.registry import KERNELS
from . import assignment, attention, bilinear, elementwise, kernels, linear_map, norm, replace_data
from .generic import Generic
from .registry import DeriveError, Rule, Site, find

__all__ = [
    "DeriveError",
    "Generic",
    "Rule",
    "Site",
    "assignment",
    "attention",
    "bilinear",
    "elementwise",
    "kernels",
    "linear_map",
    "norm",
    "replace_data",
    "rule_of",
]


def rule_of(site: Site, outputs: frozenset[int] = frozenset()) -> Rule:
    """The written rule of ``site.op`` if it covers these arguments, else a :class:`Generic` one.

    Args:
        outputs: of several outputs, those that the score depends on. Most written rules know only the first.

    Raises:
        DeriveError: an operation of this package whose rule does not cover these arguments. Autograd knows
            nothing of these operations: the generic rule would find no derivative and say zero.
    """
    rule = find(site.op)
    if rule is not None:
        rule = rule.specialise(site)
        known = rule.every_output or outputs <= {0}
        if known and rule.accepts(site) and (rule.complex_too or not _is_complex(site)):
            return rule
    if any(site.op is kernel.call for kernel in KERNELS.values()):
        moving = ", ".join(sorted(site.active)) or "nothing"
        raise DeriveError(f"wgangp_fast.{site.op.__name__} has no rule for these arguments ({moving} moves)")
    if rule is None:
        return Generic(site, f"no rule is written for {site.op}")
    if _is_complex(site):
        return Generic(site, "complex numbers")
    return Generic(site, f"the rule of {site.op} does not cover these arguments")


def _is_complex(site: Site) -> bool:
    """Whether an argument or a result is complex. Most written rules are for real numbers: they would not
    take the real part of the cotangent for a real factor of a complex product, as autograd does."""
    results = site.result if isinstance(site.result, (tuple, list)) else [site.result]
    values = [*map(site.val, site.slots()), *(r for r in results if isinstance(r, Tensor))]
    return any(value.is_complex() for value in values)
