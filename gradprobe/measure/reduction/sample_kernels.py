"""The kernel that describes samples of what layers return, in Triton; imported only where there is an accelerator.

A sample is small, at most 16 rows of some 256 elements, so one program reads it, three times over: for its largest
value and the counts, for its squares and how far its rows differ, and for the range of each unit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gradprobe.measure.reduction.kernels import INFINITE

NAN: tl.constexpr = tl.constexpr(float("nan"))
LANES: tl.constexpr = tl.constexpr(128)  # elements that a program reads at once
WIDTH: tl.constexpr = tl.constexpr(5)  # numbers in the table for each sample


@triton.jit  # type: ignore[untyped-decorator]
def describe(table: tl.tensor, into: tl.tensor, highest: tl.tensor, nearest: tl.tensor) -> None:
    """The statistics of each sample, and the range of each of its units.

    Args:
        table: Of each sample the address, the rows, the units, the positions, and where its units begin.
        into: Gets six numbers of each sample: `gradprobe.measure.reduction.samples.STATISTICS`.
        highest: Gets the largest value of each unit.
        nearest: Gets the smallest absolute value of each unit.
    """
    program = tl.program_id(0)
    entry = table + WIDTH * program
    values = tl.load(entry).to(tl.pointer_type(tl.float32))
    rows, units = tl.load(entry + 1).to(tl.int32), tl.load(entry + 2).to(tl.int32)
    positions, first = tl.load(entry + 3).to(tl.int32), tl.load(entry + 4)
    store_statistics(values, rows, units * positions, into + 6 * program)
    store_ranges(values, rows, units, positions, highest + first, nearest + first)


@triton.jit  # type: ignore[untyped-decorator]
def store_statistics(values: tl.tensor, rows: tl.tensor, columns: tl.tensor, into: tl.tensor) -> None:
    """Store the statistics of a sample, whose rows lie one after the other."""
    lanes = tl.arange(0, LANES)
    nothing = tl.zeros([LANES], tl.float32)
    peak, zeros, beyond_3, beyond_5, nonfinite = nothing, nothing, nothing, nothing, nothing
    count = rows * columns
    for start in range(0, count, LANES):
        there = start + lanes < count
        sizes = tl.abs(tl.load(values + start + lanes, there, other=1.0))
        is_finite = sizes < INFINITE
        peak = tl.maximum(peak, tl.where(there & is_finite, sizes, 0.0))
        zeros += tl.where(there & (sizes == 0), 1.0, 0.0)
        beyond_3 += tl.where(there & (sizes > 3), 1.0, 0.0)
        beyond_5 += tl.where(there & (sizes > 5), 1.0, 0.0)
        nonfinite += tl.where(there & ~is_finite, 1.0, 0.0)
    largest = tl.max(peak, 0)
    scale = tl.where(largest > 0, largest, 1.0)  # squares leave the range of float32 long before the values do
    squares, apart = nothing, nothing
    for start in range(0, columns, LANES):
        there = start + lanes < columns
        mean = nothing
        for row in range(rows):
            mean += tl.load(values + row * columns + start + lanes, there, other=0.0) / scale
        mean = mean / rows
        for row in range(rows):
            scaled = tl.load(values + row * columns + start + lanes, there, other=0.0) / scale
            squares += scaled * scaled
            apart += tl.where(there, (scaled - mean) * (scaled - mean), 0.0)
    is_spoiled = tl.sum(nonfinite, 0) > 0
    mean_square = tl.sum(squares, 0) / count
    variance = tl.sum(apart, 0) / columns / (rows - 1)
    spread = tl.where(is_spoiled | (rows < 2), NAN, tl.sqrt(variance / mean_square))
    tl.store(into, spread)
    tl.store(into + 1, tl.where(is_spoiled, NAN, tl.sqrt(mean_square) * scale))
    tl.store(into + 2, tl.sum(zeros, 0) / count)
    tl.store(into + 3, tl.sum(beyond_3, 0) / count)
    tl.store(into + 4, tl.sum(beyond_5, 0) / count)
    tl.store(into + 5, tl.sum(nonfinite, 0) / count)


@triton.jit  # type: ignore[untyped-decorator]
def store_ranges(
    values: tl.tensor,
    rows: tl.tensor,
    units: tl.tensor,
    positions: tl.tensor,
    highest: tl.tensor,
    nearest: tl.tensor,
) -> None:
    """Store the range of each unit; one with NaN somewhere is within every range."""
    lanes = tl.arange(0, LANES)
    for start in range(0, units, LANES):
        there = start + lanes < units
        high, near = tl.full([LANES], -INFINITE, tl.float32), tl.full([LANES], INFINITE, tl.float32)
        for row in range(rows):
            for position in range(positions):
                place = (row * units + start + lanes) * positions + position
                value = tl.load(values + place, there, other=0.0)
                is_nan = value != value
                high = tl.maximum(high, tl.where(is_nan, INFINITE, value))
                near = tl.minimum(near, tl.where(is_nan, 0.0, tl.abs(value)))
        tl.store(highest + start + lanes, high, there)
        tl.store(nearest + start + lanes, near, there)
