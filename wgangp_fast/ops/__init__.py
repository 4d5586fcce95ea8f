"""The package's own operations, each beside the plain reference that defines its meaning.

The public functions check little and choose an implementation by ``impl``. They are not differentiable: plans
call them. Names and arguments of the implementations are in :mod:`~wgangp_fast.ops.registry`.
"""

from .bias_act import bias_act, bias_act_adjoint, bias_act_grad
from .convolution import convolve_back_ref, convolve_ref, weight_gradient_ref
from .gate import gate
from .interpolate import interpolate
from .mlp_penalty import mlp_penalty, mlp_penalty_backward
from .norm_act import norm_act
from .norm_penalty import norm_penalty, penalty_seed
from .registry import KERNELS, implementation
from .unfold import fold_rows_ref, unfold_rows_ref

__all__ = [
    "KERNELS",
    "bias_act",
    "bias_act_adjoint",
    "bias_act_grad",
    "convolve_back_ref",
    "convolve_ref",
    "fold_rows_ref",
    "gate",
    "implementation",
    "interpolate",
    "mlp_penalty",
    "mlp_penalty_backward",
    "norm_act",
    "norm_penalty",
    "penalty_seed",
    "unfold_rows_ref",
    "weight_gradient_ref",
]
