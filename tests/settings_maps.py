"""Settings of the rules of linear maps: views, sums, padding, pooling, upsampling; see ``rule_settings``."""

from __future__ import annotations

import torch
from rule_settings import case, each, enter, index, last, mask, r

from wgangp_fast.rules.replace_data import replace_data

aten = torch.ops.aten

for _op, _rows in {
    aten.view.default: [(r(2, 6), [3, 4]), (r(2, 6), [-1]), (r(2, 1, 3), [2, 3]), (r(0, 4), [0, 2, 2])],
    aten._unsafe_view.default: [(r(2, 6), [3, 4])],
    aten.reshape.default: [(r(6, 2).t(), [3, 4]), (r(2, 6), [-1])],
    aten.permute.default: [
        (r(2, 3, 4), [2, 0, 1]),
        (r(2, 3, 4), [0, -1, 1]),
        (last(2, 3, 4, 4), [0, 2, 3, 1]),
    ],
    aten.transpose.int: [(r(2, 3, 4), 0, 2), (r(2, 3, 4), -1, -3), (r(2, 3), 1, 1)],
    aten.t.default: [(r(2, 3),), (r(3),), (r(),)],
    aten.unsqueeze.default: [(r(2, 3), 1), (r(2, 3), -1), (r(), 0)],
    aten.squeeze.default: [(r(1, 2, 1, 3),), (r(2, 3),)],
    aten.squeeze.dim: [(r(1, 2, 1), -1), (r(1, 2), 1), (r(1, 2), 0)],
    aten.squeeze.dims: [(r(1, 2, 1), [0, -1]), (r(1, 2, 1), [0, 1])],
    aten.expand.default: [
        (r(3, 1), [3, 4]),
        (r(3), [2, 3]),
        (r(1, 3), [2, -1, 3]),
        (r(), [2, 2]),
        (r(2, 3), [2, 3]),
    ],
    aten.slice.Tensor: [
        *((r(6, 4), 0, 1, 5), (r(6, 4), 0, 1, None, 2), (r(6, 4), -1, -3, 2**63 - 1), (r(6, 4), 1, None, 2)),
        *((r(7, 2), 0, 0, -1, 3), (r(4, 6).t(), 0, 2, 5), (r(4, 3), 0, 3, 1)),
    ],
    aten.select.int: [(r(3, 4), 0, 1), (r(3, 4), -1, -2), (r(3), 0, 2)],
    aten.diagonal.default: [(r(3, 4),), (r(2, 3, 3), -1, 1, 2), (r(3, 2, 4), 1, 0, -1)],
    aten.unfold.default: [(r(2, 7), 1, 3, 2), (r(6, 2), -2, 2, 1), (r(8), 0, 3, 3)],
    aten.repeat.default: [(r(2, 3), [2, 1]), (r(3), [2, 2, 1]), (r(2, 1), [1, 3]), (r(), [3])],
    aten.flip.default: [(r(2, 3, 2), [0, 2]), (r(2, 3), [-1])],
    aten.roll.default: [(r(3, 4), [1], [0]), (r(3, 4), [1, -2], [0, -1]), (r(3, 4), [3], [])],
    aten.tril.default: [(r(3, 4),), (r(2, 3, 3), -1)],
    aten.triu.default: [(r(3, 4),), (r(2, 3, 3), 1)],
    aten.pixel_shuffle.default: [(r(2, 8, 3, 2), 2), (last(1, 4, 2, 2), 2)],
    aten.pixel_unshuffle.default: [(r(2, 2, 6, 4), 2), (last(1, 2, 4, 4), 2)],
    aten.index.Tensor: [
        (r(5, 4), [index(5, 6)]),
        (r(5, 4, 3), [None, index(4, 2, 2)]),
        (r(5, 4, 3), [index(5, 6), None, index(3, 6)]),
        (r(5, 4), [index(5, 3, 1), index(4, 2)]),
        (r(5, 4), [torch.tensor([True, False, True, True, False])]),
        (r(4, 5).t(), [index(5, 6) - 5]),
    ],
    aten.index_select.default: [(r(5, 4), 0, index(5, 7)), (r(5, 4), -1, index(4, 2))],
    aten.gather.default: [(r(5, 4), 0, index(5, 3, 4)), (r(5, 4), -1, index(4, 2, 6))],
    aten.cumsum.default: [(r(3, 4), 1), (r(3, 4), -2), (r(), 0)],
    aten.constant_pad_nd.default: [
        (r(2, 3), [1, 2]),
        (r(2, 3, 4, 4), [1, 0, 2, 1], 0.7),
        (r(2, 6), [-1, 2, 0, 1], -1.0),
    ],
    aten.masked_fill.Scalar: [
        (r(3, 4), mask(3, 4), 0.5),
        (r(2, 3, 3), mask(3, 3), -1e9),
        (r(3, 1), mask(1, 4), 2),
    ],
    aten.sum.default: [(r(3, 4),), (r(),), (r(0, 2),)],
    aten.mean.default: [(r(3, 4),), (r(),)],
    aten.sum.dim_IntList: [
        *(
            (r(3, 4), [1]),
            (r(3, 4), [-1, 0]),
            (r(2, 3, 4), [0, 2], True),
            (r(3, 4), None),
            (r(3, 4), [], True),
        ),
        *((r(2, 3, 4), [-2]), (last(2, 3, 2, 2), [2, 3]), (r(0, 3), [0])),
    ],
    aten.mean.dim: [(r(3, 4), [1]), (r(2, 3, 4), [0, -1], True), (r(3, 4), None), (last(2, 3, 2, 2), [2, 3])],
    aten.cat.default: [
        *(([r(2, 3), r(1, 3)],), ([r(2, 3), r(2, 1), r(2, 2)], -1), ([r(0), r(2, 3), r(1, 3)], 0)),
        *(([last(2, 3, 2, 2), last(2, 1, 2, 2)], 1), ([r(2, 3)], 1)),
    ],
    aten.stack.default: [
        ([r(2, 3), r(2, 3)],),
        ([r(2, 3), r(2, 3), r(2, 3)], -1),
        ([r(2, 3), r(3, 2).t()], 1),
    ],
    aten.split.Tensor: [(r(5, 2), 2), (r(2, 6), 3, -1)],
    aten.split_with_sizes.default: [(r(5, 2), [1, 3, 1]), (r(2, 6), [4, 2], -1)],
    aten.unsafe_split.Tensor: [(r(5, 2), 2), (r(2, 6), 3, -1)],
    aten.unsafe_split_with_sizes.default: [(r(5, 2), [1, 3, 1]), (r(2, 6), [4, 2], -1)],
    aten.unbind.int: [(r(3, 2),), (r(2, 3, 2), -2)],
    aten.slice_scatter.default: [
        *((r(5, 3), r(2, 3), 0, 1, 3), (r(5, 4), r(5, 2), -1, 0, None, 2), (r(3, 2), r(2, 2), 0, -2)),
        (r(3, 5).t(), r(2, 3), 0, None, 2),
    ],
    aten.diagonal_scatter.default: [
        (r(3, 4), r(3)),
        (r(2, 3, 4), r(2, 2), -1, 1, 2),
        (r(4, 3).t(), r(2), 2),
    ],
    aten.as_strided_scatter.default: [
        (r(3, 3), r(3), [3], [4], 0),
        (r(3, 4), r(2, 2), [2, 2], [5, 2], 1),
        (r(2, 6), r(4), [4], [1]),
    ],
    aten.select_scatter.default: [(r(3, 4), r(4), 0, 1), (r(3, 4), r(3), -1, -2)],
    aten.copy.default: [(r(3, 4), r(3, 4)), (r(3, 4), r(4)), (r(3, 4), r()), (r(2, 3, 4), r(3, 1))],
    aten.reflection_pad1d.default: [(r(2, 3, 5), [1, 2]), (r(3, 5), [0, 4])],
    aten.reflection_pad2d.default: [(r(2, 3, 4, 5), [1, 2, 0, 3]), (last(2, 3, 4, 4), [1, 1, 1, 1])],
    aten.reflection_pad3d.default: [(r(1, 2, 3, 4, 3), [1, 1, 2, 0, 1, 2])],
    aten.replication_pad1d.default: [(r(2, 3, 5), [1, 2]), (r(3, 5), [0, 6])],
    aten.replication_pad2d.default: [(r(2, 3, 4, 5), [1, 2, 0, 5]), (last(2, 3, 4, 4), [1, 1, 1, 1])],
    aten.replication_pad3d.default: [(r(1, 2, 3, 4, 3), [1, 1, 2, 0, 1, 2])],
    aten.avg_pool2d.default: [
        *((r(2, 3, 6, 6), [2, 2]), (r(2, 3, 7, 6), [3, 2], [2, 1], [1, 1], True, False)),
        *((last(2, 3, 6, 6), [3, 3], [2, 2], [1, 1]), (r(3, 5, 5), [2, 2], [2, 2], [0, 0], False, True, 3)),
    ],
    aten.avg_pool3d.default: [
        (r(1, 2, 4, 4, 5), [2, 2, 2]),
        (r(1, 2, 5, 4, 4), [3, 2, 2], [2, 1, 2], [1, 0, 1], True, False),
    ],
    aten._adaptive_avg_pool2d.default: [
        (r(2, 3, 7, 5), [3, 2]),
        (last(2, 3, 6, 6), [1, 1]),
        (r(3, 4, 4), [5, 3]),
    ],
    aten._adaptive_avg_pool3d.default: [(r(2, 3, 5, 4, 3), [2, 2, 2]), (r(2, 3, 4, 4, 4), [1, 1, 1])],
    aten.upsample_nearest1d.default: [(r(2, 3, 4), [8]), (r(2, 3, 5), [7], 1.4)],
    aten.upsample_nearest2d.default: [
        (r(2, 3, 4, 3), [8, 6]),
        (last(2, 3, 4, 4), [7, 5], 1.75, 1.25),
        (r(1, 1, 4, 4), [2, 3]),
    ],
    aten.upsample_nearest3d.default: [(r(1, 2, 3, 2, 3), [6, 4, 5])],
    aten._upsample_nearest_exact1d.default: [(r(2, 3, 4), [8]), (r(2, 3, 5), [7], 1.4)],
    aten._upsample_nearest_exact2d.default: [(r(2, 3, 4, 3), [8, 6]), (last(2, 3, 4, 4), [7, 5], 1.75, 1.25)],
    aten._upsample_nearest_exact3d.default: [(r(1, 2, 3, 2, 3), [6, 4, 5])],
    aten.upsample_linear1d.default: [
        (r(2, 3, 4), [8], False),
        (r(2, 3, 5), [7], True),
        (r(2, 3, 5), [7], False, 1.4),
    ],
    aten.upsample_bilinear2d.default: [
        (r(2, 3, 4, 3), [8, 6], False),
        (last(2, 3, 4, 4), [7, 5], True),
        (r(1, 1, 4, 4), [9, 9], False, 2.3, 2.3),
    ],
    aten.upsample_bicubic2d.default: [(r(2, 3, 4, 3), [8, 6], False), (last(2, 3, 4, 4), [7, 5], True)],
    aten.upsample_trilinear3d.default: [
        (r(1, 2, 3, 2, 3), [6, 4, 5], False),
        (r(1, 2, 3, 2, 3), [6, 4, 5], True),
    ],
    aten._upsample_bilinear2d_aa.default: [(r(2, 3, 8, 6), [3, 4], False), (r(2, 3, 5, 6), [9, 4], True)],
    aten._upsample_bicubic2d_aa.default: [(r(2, 3, 8, 6), [3, 4], False), (r(2, 3, 5, 6), [9, 4], True)],
    aten.max_pool2d_with_indices.default: [
        *((r(2, 3, 6, 6), [2, 2]), (r(2, 3, 7, 6), [3, 2], [2, 1], [1, 1], [1, 2], True)),
        *((last(2, 3, 6, 6), [3, 3], [1, 1], [1, 1]), (r(3, 5, 5), [2, 2])),
    ],
    aten.max_pool3d_with_indices.default: [
        (r(1, 2, 4, 4, 5), [2, 2, 2]),
        (r(2, 5, 4, 4), [3, 2, 2], [2, 1, 1], [1, 0, 1]),
    ],
    aten.adaptive_max_pool2d.default: [(r(2, 3, 7, 5), [3, 2]), (r(3, 6, 6), [1, 1])],
    aten.adaptive_max_pool3d.default: [(r(2, 3, 5, 4, 3), [2, 2, 2])],
}.items():
    enter(_op, [case(_op, *_row) for _row in _rows])
for _op in (aten.alias.default, aten.lift_fresh_copy.default):
    enter(_op, each(_op))
enter(
    aten.clone.default,
    each(aten.clone.default),
    case(aten.clone.default, r(2, 3, 4, 4), memory_format=torch.channels_last),
)
enter(aten.contiguous.default, each(aten.contiguous.default))
enter(aten._to_copy.default, each(aten._to_copy.default), each(aten._to_copy.default, dtype=torch.float32))
enter(aten.cumsum.default, case(aten.cumsum.default, r(3, 4), 0, dtype=torch.float32))
for _op in (aten.sum.dim_IntList, aten.mean.dim):
    enter(_op, case(_op, r(3, 4), [1], dtype=torch.float32))
for _p, _train in ((0.3, True), (0.0, True), (1.0, True), (0.3, False)):
    for _h in (r(4, 5), last(2, 3, 4, 4), r(5, 4).t()):
        enter(aten.native_dropout.default, case(aten.native_dropout.default, _h, _p, _train))

enter(
    replace_data,
    case(
        replace_data, r(3, 4), r(3, 4), active=[["self"]], fixed=["data"],
        stand_in=lambda self, data: self + (data - self).detach(),
    ),
)  # fmt: skip
