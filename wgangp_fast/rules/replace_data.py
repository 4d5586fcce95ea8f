"""An in-place change that autograd does not record, as an operator: new numbers, the old history.

``h.clamp_(max=2)`` under ``torch.no_grad()``, ``h.detach().mul_(2)`` and ``h.data = ...`` change the numbers
of ``h``; its derivative stays that of what it was made of. ``F.cosine_similarity`` clamps its norms in this
way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .linear_map import LinearMap
from .registry import add_rule

_library = torch.library.Library("wgangp_fast", "FRAGMENT")
_library.define("replace_data(Tensor self, Tensor data) -> Tensor")
_library.impl("replace_data", lambda self, data: data.clone(), "CompositeExplicitAutograd")

#: ``(self, data) -> `` the numbers of ``data`` with the derivative of ``self``; both of one shape and dtype
replace_data = torch.ops.wgangp_fast.replace_data.default


def replaced(history: Tensor, data: Tensor) -> Tensor:
    """The same under autograd. If no gradient comes back, it gives None, not zeros."""
    result = history.clone()
    result.data = data.detach()
    return result


add_rule(LinearMap(lambda site, g: g, lambda site, t: t, complex_too=True), replace_data)
