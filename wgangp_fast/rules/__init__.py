"""Derivative rules of ATen operators, and :func:`rule_of`, which finds the one for a node."""

from __future__ import annotations

from . import attention, bilinear, elementwise, kernels, linear_map, norm, replace_data
from .generic import Generic
from .registry import Rule, Site, find

__all__ = [
    "Generic",
    "Rule",
    "Site",
    "attention",
    "bilinear",
    "elementwise",
    "kernels",
    "linear_map",
    "norm",
    "replace_data",
    "rule_of",
]


def rule_of(site: Site) -> Rule:
    """The written rule of ``site.op`` if it covers these arguments, else a :class:`Generic` one."""
    rule = find(site.op)
    if rule is not None:
        rule = rule.specialise(site)
    if rule is None:
        return Generic(site, f"no rule is written for {site.op}")
    if any(site.val(slot).is_complex() for slot in site.slots()):
        return Generic(site, "complex arguments")
    if not rule.accepts(site):
        return Generic(site, f"the rule of {site.op} does not cover these arguments")
    return rule
