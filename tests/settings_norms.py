"""Settings of the rules of softmax, norms and statistics; see ``rule_settings``."""

from __future__ import annotations

import torch
from rule_settings import case, enter, last, mask, pos, r

aten = torch.ops.aten

_holes = r(3, 5).masked_fill(mask(3, 5), -torch.inf)
_holes[0] = -torch.inf
for _h, _dim in (
    (r(3, 5), 1),
    (r(3, 5) * 4, -1),
    (r(2, 3, 4), 0),
    (r(2, 4, 3).mT, 1),
    (r(3, 1), 1),
    (r(0, 3), 1),
    (r(), 0),
):
    enter(aten._softmax.default, case(aten._softmax.default, _h, _dim, False))
    enter(aten._log_softmax.default, case(aten._log_softmax.default, _h, _dim, False))
    enter(aten._safe_softmax.default, case(aten._safe_softmax.default, _h, _dim))
enter(aten._safe_softmax.default, case(aten._safe_softmax.default, _holes, 1))

_input = [["input"]]
for _h, _inner in (
    (r(3, 5), [5]),
    (r(2, 3, 4), [3, 4]),
    (r(2, 4, 3).mT, [4]),
    (r(1, 6), [6]),
    (r(3, 2, 2, 4), [4]),
):
    for _weight, _bias in ((r(*_inner), r(*_inner)), (None, None), (r(*_inner), None), (None, r(*_inner))):
        _op = aten.native_layer_norm.default
        enter(_op, case(_op, _h * 2 + 1, _inner, _weight, _bias, 1e-5, active=_input))
for _h, _groups in (
    (r(2, 4, 3, 3), 2),
    (r(2, 4, 3, 3), 1),
    (r(1, 3, 5), 3),
    (r(3, 6), 2),
    (last(2, 4, 3, 3), 2),
    (r(2, 2, 2, 2, 2), 1),
):
    _n, _c = _h.shape[:2]
    for _weight, _bias in ((r(_c), r(_c)), (None, None), (r(_c), None)):
        _op = aten.native_group_norm.default
        _size = (_n, _c, _h.numel() // (_n * _c))
        enter(_op, case(_op, _h * 2 + 1, _weight, _bias, *_size, _groups, 1e-5, active=_input))
_running = {"active": _input, "fixed": ("running_mean", "running_var")}
for _h in (r(4, 3, 2, 2), r(4, 3), r(2, 3, 5), last(3, 2, 4, 4), r(2, 1, 2, 2, 2)):
    _c = _h.shape[1]
    for _weight, _bias in ((r(_c), r(_c)), (None, None), (r(_c), None)):
        for _train in (True, False):
            _rest = (_weight, _bias, r(_c), pos(_c))
            for _op in (aten.native_batch_norm.default, aten._native_batch_norm_legit_functional.default):
                enter(_op, case(_op, _h, *_rest, _train, 0.1, 1e-5, **_running))
            # the mutating form would move the statistics between two runs of a test
            enter(
                aten._native_batch_norm_legit.default,
                case(aten._native_batch_norm_legit.default, _h, *_rest, _train, 0.0, 1e-5, **_running),
            )
        enter(
            aten._native_batch_norm_legit_no_training.default,
            case(aten._native_batch_norm_legit_no_training.default, _h, *_rest, 0.1, 1e-5, **_running),
        )
        enter(
            aten._native_batch_norm_legit.no_stats,
            case(aten._native_batch_norm_legit.no_stats, _h, _weight, _bias, True, 0.1, 1e-5, active=_input),
        )
for _op in (aten.var.correction, aten.std.correction):
    for _h, _dims in (
        (r(3, 4), [1]),
        (r(3, 4), None),
        (r(2, 3, 4), [0, -1]),
        (r(4, 3).t(), [0]),
        (r(5, 2, 3), [0]),
    ):
        for _correction, _keep in ((1, False), (0, True), (None, False), (0.5, True)):
            enter(_op, case(_op, _h, _dims, correction=_correction, keepdim=_keep))
enter(
    aten.std.correction,
    case(aten.std.correction, torch.cat([r(2, 4), torch.ones(1, 4).double()]), [1], correction=0),
)
for _h, _dims, _keep in (
    (r(3, 4), [1], False),
    (r(3, 4), None, False),
    (r(2, 3, 4), [0, -1], True),
    (r(4, 3).t(), [0], True),
    (r(), None, False),
):
    enter(aten.linalg_vector_norm.default, case(aten.linalg_vector_norm.default, _h, 2, _dims, _keep))
enter(
    aten.linalg_vector_norm.default,
    case(aten.linalg_vector_norm.default, torch.cat([r(2, 4), torch.zeros(1, 4).double()]), 2.0, [1]),
)
