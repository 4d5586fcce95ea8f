"""What every kernel file shares: loads in the accumulation type, layouts seen as tiles, and the launch.

Index arithmetic: an offset that can pass 2^31 is int64 from the start, that is, the program's part of it.
Lanes within a program, and the divisions among them, stay int32, which a GPU divides several times faster.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import ctypes
from typing import Any

import torch
import triton
import triton.language as tl

FILL = 1 if triton.knobs.runtime.interpret else 264
"""Programs that fill a GPU: two for each of an H100's 132 multiprocessors;
the interpreter has none to fill."""


@triton.jit
def load(pointer, offsets, mask):
    """Values in the type of accumulation (float64 for float64, else float32), 0 outside ``mask``."""
    values = tl.load(pointer + offsets, mask=mask, other=0.0)
    if values.dtype == tl.float64:
        return values
    else:
        return values.to(tl.float32)


@triton.jit
def store(pointer, offsets, values, mask):
    """Rounded once, to the type of the tensor."""
    tl.store(pointer + offsets, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def square_root(x):
    """Correctly rounded: ``tl.sqrt`` of a float32 is an approximation."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def tile(rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    """This program's part of a [rows, cols] array: row and column indices (int64) and their mask.

    Shapes [ROWS, 1], [1, COLS], [ROWS, COLS]. The grid is one-dimensional: the other axes end at 65,535.
    """
    column_blocks = tl.cdiv(cols, COLS)
    pid = tl.program_id(0)
    row = (pid // column_blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    col = (pid % column_blocks).to(tl.int64) * COLS + tl.arange(0, COLS)[None, :]
    return row, col, (row < rows) & (col < cols)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``, and 1."""
    return 1 << max(n - 1, 0).bit_length()


def tile_sizes(rows: int, cols: int, itemsize: int) -> tuple[int, int]:
    """``(ROWS, COLS)`` of an elementwise kernel of four warps, which reads up to five tensors."""
    # 8 elements a lane, 16 of a 2-byte type: two 16-byte loads of every tensor are in flight, and five
    # tensors still fit the registers.
    elements = 2048 if itemsize == 2 else 1024
    columns = min(power_of_two(cols), elements)
    return min(power_of_two(rows), elements // columns), columns


def programs(rows: int, cols: int, tile_rows: int, tile_cols: int) -> int:
    """How many programs :func:`tile` wants."""
    return -(-rows // tile_rows) * -(-cols // tile_cols)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_dense(x: torch.Tensor) -> bool:
    """Whether the elements of ``x`` fill one block of memory, each once, in any order of dimensions."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def batch_outermost(x: torch.Tensor) -> torch.Tensor:
    """``x`` [N, ...] if it is dense and each sample is one block of memory, else a contiguous copy."""
    n = x.shape[0]
    return x if (n <= 1 or x.stride(0) == x.numel() // n) and is_dense(x) else x.contiguous()


def like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``other`` with the strides of the dense tensor ``x``."""
    if other.stride() == x.stride() or (x.is_contiguous() and other.is_contiguous()):
        return other
    return torch.empty_like(x, dtype=other.dtype).copy_(other)


def plane(x: torch.Tensor, dim: int) -> tuple[int, int, int, bool]:
    """A dense ``x`` as a matrix in which an index along ``dim`` is an index of rows, or of columns.

    Returns:
        ``(rows, cols, count, by_column)``: along ``dim`` the element (row, col) has index ``row % count``,
        or ``col``.
    """
    count = x.shape[dim]
    inner = x.stride(dim) if count != 1 else x.numel()
    if inner == 1:
        return x.numel() // max(count, 1), count, count, True
    return x.numel() // max(inner, 1), inner, count, False


def words(value: int) -> tuple[int, int]:
    """The low and the high 32 bits of a 64-bit integer, each as a signed one.

    A launch compiles again for every integer type, and a Python integer's type depends on its value.
    """
    low, high = value & 0xFFFFFFFF, (value >> 32) & 0xFFFFFFFF
    return (low ^ 0x80000000) - 0x80000000, (high ^ 0x80000000) - 0x80000000


def halves(value: float) -> tuple[float, float]:
    """Two float32 numbers whose sum is ``value`` to 48 bits: a launch passes floats as float32."""
    high = ctypes.c_float(value).value
    return high, value - high


def launch(kernel: Any, count: int, on: torch.Tensor, *arguments: Any, **constants: Any) -> None:
    """Run ``count`` programs of ``kernel`` on the device of ``on``; Triton launches on the current one."""
    if on.is_cuda and on.device.index != torch.cuda.current_device():
        with torch.cuda.device(on.device):
            kernel[(count,)](*arguments, **constants)
    else:
        kernel[(count,)](*arguments, **constants)
