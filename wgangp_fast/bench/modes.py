"""Arithmetic that all contestants of a run share: float32, TF32, or bfloat16 by autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mode:
    """How a loss is computed; parameters and inputs are float32 in every mode.

    Attributes:
        autocast: run the forward passes, and the penalty's gradient, under bfloat16 autocast.
        tf32: allow TF32 (True) or forbid it (False) in products and convolutions; None: torch's defaults.
    """

    name: str
    about: str
    autocast: bool = False
    tf32: bool | None = None

    def loss(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """The context in which a loss is computed; its backward runs outside, as torch's recipes say."""
        if not self.autocast:
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    @contextlib.contextmanager
    def flags(self) -> Iterator[None]:
        """The process's flags for as long as anything of this mode runs."""
        before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        if self.tf32 is not None:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.tf32
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


MODES = {
    mode.name: mode
    for mode in (
        Mode("float32", "float32 with torch's own TF32 flags (convolutions may use TF32 on a GPU)"),
        Mode("fp32", "float32, TF32 forbidden", tf32=False),
        Mode("tf32", "float32, TF32 allowed in products and convolutions (a GPU's)", tf32=True),
        Mode("bf16-autocast", "bfloat16 autocast around the loss", autocast=True),
    )
}
FLOAT32 = MODES["float32"]
