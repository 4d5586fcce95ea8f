"""Samples of a toy distribution: which modes they cover, and how many lie on one.

A mode counts as covered when at least ``1 / (10 K)`` of the samples are in it, K being the number of modes:
a tenth of its fair share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wgangp_fast.training.data.toy import Modes

from .coverage import covered

SIGMAS = 3.0  # a sample farther from every mode than this is of no mode (Srivastava et al. 2017, VEEGAN)


def mode_coverage(samples: Tensor, modes: Modes) -> dict[str, Any]:
    """Modes covered, and the share of samples that lie on a mode.

    Args:
        samples: ``[N, 2]``. A sample is of high quality, and belongs to the mode of the nearest centre,
            when it is within 3 sigma of that centre.

    Returns:
        modes, modes_covered (a tenth of their fair share), modes_hit (at least one sample), high_quality
        (share of N), samples.
    """
    # cdist's matrix product loses the digits that a mode of width .014 needs.
    distance = torch.cdist(
        samples.double().cpu(), modes.centres.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest, index = distance.min(dim=1)  # [N], [N]
    good = nearest <= SIGMAS * modes.sigma
    total = int(modes.mode.max()) + 1
    counts = torch.bincount(modes.mode[index[good]], minlength=total)
    return {
        "modes": total,
        "modes_covered": covered(counts, len(samples)),
        "modes_hit": int((counts > 0).sum()),
        "high_quality": float(good.double().mean()),
        "samples": len(samples),
    }
