"""The kernels that read gradients once on an accelerator, in Triton; imported only where there is one.

A gradient is read in pieces, each by one program: `pieces` leaves the row of each, `fold` joins those of one
gradient. Squares are summed in three ranges, so that those of 1e-30 do not vanish and those of 1e30 do not
overflow (Blue 1978, as in Anderson, "Algorithm 978: Safe Scaling in the Level 1 BLAS", ACM TOMS 2017).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

KINDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}

NARROW: tl.constexpr = tl.constexpr(2.0**-48)  # below it squares may vanish in float32
WIDE: tl.constexpr = tl.constexpr(2.0**48)  # above it they may overflow
UP: tl.constexpr = tl.constexpr(2.0**90)
UP_TAKEN_BACK: tl.constexpr = tl.constexpr(2.0**-90)
DOWN: tl.constexpr = tl.constexpr(2.0**-80)
DOWN_TAKEN_BACK: tl.constexpr = tl.constexpr(2.0**80)
INFINITE: tl.constexpr = tl.constexpr(float("inf"))
BLOCK: tl.constexpr = tl.constexpr(1024)  # elements that a program reads at once
FOLDED: tl.constexpr = tl.constexpr(256)  # rows that it joins at once


@triton.jit(do_not_specialize=["listed", "address", "count", "piece"])  # type: ignore[untyped-decorator]
def pieces(
    table: tl.tensor,
    listed: tl.tensor,
    address: tl.tensor,
    count: tl.tensor,
    piece: tl.tensor,
    into: tl.tensor,
    kind: tl.constexpr,
    aligned: tl.constexpr,
    every: tl.constexpr,
) -> None:
    """The row of sums of each piece.

    Args:
        table: Addresses and numbers of elements of the pieces, in turns.
        listed: Whether it counts; else they are the pieces of one gradient.
        address: Of the one gradient.
        count: Its elements.
        piece: Elements of each piece but the last.
        into: Gets the rows.
        kind: The data type.
        aligned: Whether every address is a multiple of 16 bytes.
        every: Whether a row has everything, or the sum of absolute values alone.
    """
    program = tl.program_id(0)
    start = program.to(tl.int64) * piece
    at = address.to(tl.int64) + start * (kind.primitive_bitwidth // 8)
    left = tl.minimum(count - start, piece)
    if listed:
        at = tl.load(table + 2 * program)
        left = tl.load(table + 2 * program + 1)
    elements = at.to(tl.pointer_type(kind))
    if aligned:
        elements = tl.multiple_of(elements, 16)
    if every:
        store_all(elements, left.to(tl.int32), into + 5 * program)
    else:
        store_sum(elements, left.to(tl.int32), into + program)


@triton.jit  # type: ignore[untyped-decorator]
def store_sum(elements: tl.tensor, left: tl.tensor, row: tl.tensor) -> None:
    """The sum of absolute values of a piece."""
    lanes = tl.arange(0, BLOCK)
    whole = left // BLOCK * BLOCK  # a mask would keep several elements from being read at once
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, whole, BLOCK):
        total += tl.abs(tl.load(elements + start + lanes).to(tl.float32))
    last = whole + lanes
    total += tl.abs(tl.load(elements + last, last < left, other=0.0).to(tl.float32))
    tl.store(row, tl.sum(total, 0))


@triton.jit  # type: ignore[untyped-decorator]
def store_all(elements: tl.tensor, left: tl.tensor, row: tl.tensor) -> None:
    """The whole row of a piece."""
    lanes = tl.arange(0, BLOCK)
    whole = left // BLOCK * BLOCK
    nothing = tl.zeros([BLOCK], tl.float32)
    total, peak, filled, nonfinite = nothing, nothing, nothing, nothing
    small, middle, large = nothing, nothing, nothing
    for start in range(0, whole, BLOCK):
        sizes = tl.abs(tl.load(elements + start + lanes).to(tl.float32))
        total, peak, filled, nonfinite = with_sizes(sizes, total, peak, filled, nonfinite)
        small, middle, large = with_squares(sizes, small, middle, large)
    last = whole + lanes
    sizes = tl.abs(tl.load(elements + last, last < left, other=0.0).to(tl.float32))
    total, peak, filled, nonfinite = with_sizes(sizes, total, peak, filled, nonfinite)
    small, middle, large = with_squares(sizes, small, middle, large)
    norm = root(tl.sum(small, 0), tl.sum(middle, 0), tl.sum(large, 0))
    zeros = left.to(tl.float32) - tl.sum(filled, 0)
    store_row(row, tl.sum(total, 0), norm, tl.max(peak, 0), zeros, tl.sum(nonfinite, 0))


@triton.jit  # type: ignore[untyped-decorator]
def with_sizes(
    sizes: tl.tensor, total: tl.tensor, peak: tl.tensor, filled: tl.tensor, nonfinite: tl.tensor
) -> tuple[tl.tensor, ...]:
    """Sums, maxima and counts with some more absolute values."""
    filled += tl.where(sizes != 0, 1.0, 0.0)
    nonfinite += tl.where(sizes < INFINITE, 0.0, 1.0)
    return total + sizes, tl.maximum(peak, sizes), filled, nonfinite


@triton.jit  # type: ignore[untyped-decorator]
def with_squares(sizes: tl.tensor, small: tl.tensor, middle: tl.tensor, large: tl.tensor) -> tuple[tl.tensor, ...]:
    """The squares in three ranges with some more."""
    is_small, is_large = sizes < NARROW, sizes > WIDE
    scaled = sizes * tl.where(is_small, UP, tl.where(is_large, DOWN, 1.0))
    squares = scaled * scaled
    small += tl.where(is_small, squares, 0.0)
    middle += tl.where(is_small | is_large, 0.0, squares)
    return small, middle, large + tl.where(is_large, squares, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def root(small: tl.tensor, middle: tl.tensor, large: tl.tensor) -> tl.tensor:
    """The root of squares that were summed in three ranges."""
    of_small = tl.sqrt(small) * UP_TAKEN_BACK
    of_both = tl.sqrt(middle + small * UP_TAKEN_BACK * UP_TAKEN_BACK)
    with_large = tl.sqrt(large + middle * DOWN * DOWN) * DOWN_TAKEN_BACK
    return tl.where(large == 0, tl.where(middle == 0, of_small, of_both), with_large)


@triton.jit  # type: ignore[untyped-decorator]
def store_row(
    row: tl.tensor, total: tl.tensor, norm: tl.tensor, peak: tl.tensor, zeros: tl.tensor, nonfinite: tl.tensor
) -> None:
    """Store a row; a maximum may leave NaN out, which a sum of absolute values cannot."""
    is_nan = total != total
    tl.store(row, total)
    tl.store(row + 1, tl.where(is_nan, total, norm))
    tl.store(row + 2, tl.where(is_nan, total, peak))
    tl.store(row + 3, zeros)
    tl.store(row + 4, nonfinite)


@triton.jit(do_not_specialize=["offset", "listed", "address", "count"])  # type: ignore[untyped-decorator]
def fold(
    table: tl.tensor,
    offset: tl.tensor,
    listed: tl.tensor,
    address: tl.tensor,
    count: tl.tensor,
    into: tl.tensor,
    every: tl.constexpr,
) -> None:
    """The row of each gradient from the rows of its pieces.

    Args:
        table: From the offset on, address and number of the rows of each gradient's pieces, in turns.
        offset: Where these begin.
        listed: Whether the table counts; else there is one gradient.
        address: Of the rows of the one gradient's pieces.
        count: How many these are.
        into: Gets the rows.
        every: Whether a row has everything, or the sum of absolute values alone.
    """
    gradient = tl.program_id(0)
    at = address.to(tl.int64)
    number = count.to(tl.int64)
    if listed:
        at = tl.load(table + offset + 2 * gradient)
        number = tl.load(table + offset + 2 * gradient + 1)
    parts = at.to(tl.pointer_type(tl.float32))
    count = number.to(tl.int32)
    if every:
        total = column(parts, count, 5)
        peak = highest(parts + 2, count)
        norm = joined_norm(parts + 1, count)
        zeros = column(parts + 3, count, 5)
        store_row(into + 5 * gradient, total, norm, peak, zeros, column(parts + 4, count, 5))
    else:
        tl.store(into + gradient, column(parts, count, 1))


@triton.jit  # type: ignore[untyped-decorator]
def column(parts: tl.tensor, count: tl.tensor, width: tl.constexpr) -> tl.tensor:
    """The sum of a column of rows."""
    lanes = tl.arange(0, FOLDED)
    total = tl.zeros([FOLDED], tl.float32)
    for start in range(0, count, FOLDED):
        total += tl.load(parts + width * (start + lanes), start + lanes < count, other=0.0)
    return tl.sum(total, 0)


@triton.jit  # type: ignore[untyped-decorator]
def highest(parts: tl.tensor, count: tl.tensor) -> tl.tensor:
    """The largest number in a column of whole rows."""
    lanes = tl.arange(0, FOLDED)
    peak = tl.zeros([FOLDED], tl.float32)
    for start in range(0, count, FOLDED):
        peak = tl.maximum(peak, tl.load(parts + 5 * (start + lanes), start + lanes < count, other=0.0))
    return tl.max(peak, 0)


@triton.jit  # type: ignore[untyped-decorator]
def joined_norm(parts: tl.tensor, count: tl.tensor) -> tl.tensor:
    """The norm of everything whose norms are in a column of whole rows."""
    scale = highest(parts, count)
    scale = tl.where((scale > 0) & (scale < INFINITE), scale, 1.0)
    lanes = tl.arange(0, FOLDED)
    squares = tl.zeros([FOLDED], tl.float32)
    for start in range(0, count, FOLDED):
        norms = tl.load(parts + 5 * (start + lanes), start + lanes < count, other=0.0) / scale
        squares += norms * norms
    return tl.sqrt(tl.sum(squares, 0)) * scale
