"""The operations around the sweeps, each beside the plain reference that defines its meaning."""

from .interpolate import interpolate, interpolate_ref
from .norm_penalty import norm_penalty, norm_penalty_ref

__all__ = ["interpolate", "interpolate_ref", "norm_penalty", "norm_penalty_ref"]
