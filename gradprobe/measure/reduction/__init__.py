"""Gradients in, rows of sums out, in few passes over the data and without waiting for an accelerator.

Dense float32 gradients on the CPU are read once, by compiled code (`native`), and so are dense ones of the usual
types on an accelerator (`on_device`), many in one launch. All others go through a scratch buffer that stays in the
cache, and so do these where there was no compiler: small gradients of one shape are stacked in it and reduced
together; a large one is reduced piece by piece. Sums are float32 (float64 for a gradient in float64), and the rows
of one gradient are added up in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch import Tensor

from gradprobe.measure.reduction import native, on_device
from gradprobe.measure.reduction.values import (
    in_memory_order,
    is_immediate,
    local_part,
    stored,
)

SUMS, NORM, PEAK, ZEROS, NONFINITE = range(5)
ROW = 4096  # elements of a row of a large gradient
_ONE_ROW = 16 * ROW  # elements of which a float32 sum is still exact enough, so that more rows are not worth it
_CACHED = 2**19  # elements of a scratch buffer that two cores keep in their second-level caches
_LAUNCHED = 2**23  # elements that are worth a kernel launch on an accelerator
_AT_ONCE = 1024  # rows that memory is allocated for
_SMALLEST, _LARGEST = 1e-12, 1e15  # sums of a row between which its squares neither vanish nor overflow

Kind = tuple[torch.device, int, torch.dtype, torch.Size | None]
Rows = Tensor | list[Tensor]  # a matrix, or gradients of one shape which are its rows


class Reducer:
    """Reduces gradients to rows of sums.

    A row has the sum of absolute values, the L2 norm, the largest absolute value, the number of exact zeros and
    of non-finite elements; or the first alone.

    Args:
        every: Whether to compute all of them.

    Example:
        >>> reducer = Reducer()
        >>> reducer.one(torch.tensor([3.0, -4.0, 0.0, 1.0]))
        tensor([[8.0000, 5.0990, 4.0000, 1.0000, 0.0000]])
        >>> Reducer(every=False).same([torch.ones(2, 3), -torch.ones(2, 3)])
        tensor([[6.],
                [6.]])
    """

    def __init__(self, *, every: bool = True) -> None:
        self.every = every
        self._on_device = on_device.OnDevice(every=every)
        self._buffers: dict[tuple[torch.device, torch.dtype, int], Tensor] = {}
        self._single: list[Tensor] = []
        self._piece, self._used = self._piece_of(0), 0
        self._lock = Lock()  # backward passes in two threads may use the scratch buffer at the same time

    def one(self, gradient: Tensor) -> Tensor:
        """The sums of one gradient.

        Returns:
            Shape ``(1, 5)``, or ``(1, 1)``, on the gradient's device.

        Raises:
            UnmeasurableError: If its values cannot be read, or no rank holds them.
        """
        if native.takes([gradient]):
            return self._by_native([gradient])
        with torch.no_grad():
            return self._one(local_part(gradient))

    def kind(self, gradient: Tensor) -> Kind:
        """What gradients that `same` takes together have in common; no shape, if it does not count."""
        shape = None if self.takes_any(gradient) else gradient.shape
        return gradient.device, on_device.stream(gradient.device), gradient.dtype, shape

    def takes_any(self, gradient: Tensor) -> bool:
        """Whether `same` takes gradients like this one together, whatever their shapes and sizes."""
        return on_device.takes(gradient)

    def parts(self, gradient: Tensor) -> Tensor | None:
        """The sums of the pieces of a gradient, for `joined`; None if only `one` reads it."""
        if native.takes([gradient]) or not self.takes_any(gradient):
            return None
        return self._on_device.parts(gradient)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """The sums of gradients from those of their pieces, as `same` returns them."""
        return self._on_device.joined(parts)

    def same(self, gradients: list[Tensor]) -> Tensor:
        """The sums of dense gradients of one `kind`; small ones, if it is not one of which it `takes_any`.

        Returns:
            Shape ``(gradients, 5)``, or ``(gradients, 1)``, on their device.
        """
        if native.takes(gradients):
            return self._by_native(gradients)
        rows = self._on_device.rows(gradients)
        if rows is not None:
            return rows
        first = gradients[0]
        if not first.numel():  # a parameter may have no elements: they add nothing to its layer's
            return self._of_nothing(first, rows=len(gradients))
        native.check_memory(gradients)
        at_once = max(1, self.capacity(first.device) // first.numel())
        parts: list[Rows] = [gradients[i : i + at_once] for i in range(0, len(gradients), at_once)]
        with torch.no_grad():
            return self._reduced(parts, first, rows=len(gradients)).t()

    def capacity(self, device: torch.device) -> int:
        """Elements that the scratch buffer of a device holds."""
        return _CACHED if device.type == "cpu" else _LAUNCHED

    def _one(self, gradient: Tensor) -> Tensor:
        if not gradient.numel():
            return self._of_nothing(gradient, rows=1)
        if gradient.layout is not torch.strided:
            # implicit zeros count as zeros: they are what the optimizer sees
            values = stored(gradient)
            row = self.one(values)
            if self.every:
                row[:, ZEROS] += gradient.numel() - values.numel()
            return row
        if not gradient._is_zerotensor():
            native.check_memory([gradient])
        if gradient.is_complex():
            gradient = gradient.abs()
        elements = in_memory_order(gradient)
        if elements is not gradient and native.takes([elements]):
            return self._by_native([elements])
        rows = self._on_device.rows([elements])
        if rows is not None:
            return rows
        if elements.numel() <= _ONE_ROW:
            return self._reduced([elements.view(1, -1)], elements, rows=1).t()
        whole = elements.numel() // ROW
        matrix = elements[: whole * ROW].view(whole, ROW)
        pieces: list[Rows] = list(matrix.split(self.capacity(elements.device) // ROW))
        if elements.numel() % ROW:
            pieces.append(elements[whole * ROW :].view(1, -1))
        return fold_columns(self._reduced(pieces, elements, rows=whole + bool(elements.numel() % ROW)))

    def _by_native(self, gradients: list[Tensor]) -> Tensor:
        rows = self._rows(len(gradients))
        native.sums(gradients, into=rows)
        return rows

    def _rows(self, count: int) -> Tensor:
        """Memory for so many rows, out of one block for many.

        Rows live until the iteration ends. Allocated one by one they would lie between the large blocks that a
        training step frees and allocates again, and keep these from being joined: new ones cost page faults
        (docs/facts.md, 13).
        """
        with self._lock:
            if count == 1:
                # slices made ahead: amid a backward pass one takes 30 us (docs/facts.md, 13)
                self._single = self._single or list(self._piece_of(_AT_ONCE).split(1))
                return self._single.pop()
            if self._used + count > self._piece.shape[0]:
                self._piece, self._used = self._piece_of(max(count, _AT_ONCE)), 0
            self._used += count
            return self._piece[self._used - count : self._used]

    def _piece_of(self, rows: int) -> Tensor:
        # what the user set as torch's defaults must not count here
        return torch.empty(rows, 5 if self.every else 1, dtype=torch.float32, device="cpu")

    def _of_nothing(self, like: Tensor, rows: int) -> Tensor:
        return torch.zeros(rows, 5 if self.every else 1, dtype=_summed_in(like), device=like.device)

    def _reduced(self, parts: Sequence[Rows], like: Tensor, rows: int) -> Tensor:
        """The sums of every row of parts that each fit into the scratch buffer: shape ``(5 or 1, rows)``."""
        can_check = self.every and is_immediate(like.device)  # an accelerator would have to be waited for
        with self._lock:
            if not self.every:
                return self._columns(parts, like, rows, self._sum)
            columns = self._columns(parts, like, rows, self._quick if can_check else self._careful)
            if can_check and not _is_tame(columns[SUMS]):
                columns = self._columns(parts, like, rows, self._careful)
        return columns

    def _columns(
        self, parts: Sequence[Rows], like: Tensor, rows: int, measure: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        columns = self._scratch(like, 0).new_zeros(5 if self.every else 1, rows)
        start = 0
        for part in parts:
            if part_rows := len(part):
                measure(self._sizes(part), columns[:, start : start + part_rows])
                start += part_rows
        return columns

    def _sizes(self, part: Rows) -> Tensor:
        """The absolute values, in the scratch, one row for each."""
        if isinstance(part, Tensor):
            sizes = self._scratch(part, 0)[: part.numel()].view(part.shape)
            return torch.abs(part, out=sizes) if part.dtype == sizes.dtype else sizes.copy_(part).abs_()
        numel = part[0].numel()
        room = self._scratch(part[0], 0)[: len(part) * numel]
        torch.stack(part, out=room.view(len(part), *part[0].shape))
        return room.view(len(part), numel).abs_()

    @staticmethod
    def _sum(sizes: Tensor, into: Tensor) -> None:
        torch.sum(sizes, 1, out=into[SUMS])

    @staticmethod
    def _quick(sizes: Tensor, into: Tensor) -> None:
        """For rows that are tame; overwrites the absolute values."""
        total, norm, peak, zeros, _ = into.unbind()
        torch.sum(sizes, 1, out=total)
        if sizes.numel():
            torch.amax(sizes, 1, out=peak)
        torch.linalg.vector_norm(sizes, dim=1, out=norm)
        # in place, which is faster than to compare with zero
        torch.sum(sizes.sign_(), 1, out=zeros).neg_().add_(sizes.shape[1])

    def _careful(self, sizes: Tensor, into: Tensor) -> None:
        """For rows that may hold anything."""
        if not sizes.numel():
            return
        total, norm, peak, zeros, nonfinite = into.unbind()
        torch.sum(sizes, 1, out=total)
        torch.amax(sizes, 1, out=peak)
        # squares of 1e-30 vanish in float32: take out the largest value first
        info = torch.finfo(sizes.dtype)
        scale = peak.clamp(info.tiny, info.max)
        other = self._scratch(sizes, 1)[: sizes.numel()].view(sizes.shape)
        torch.linalg.vector_norm(torch.div(sizes, scale.unsqueeze(1), out=other), dim=1, out=norm).mul_(scale)
        torch.sum(torch.eq(sizes, 0, out=other), 1, out=zeros)
        nonfinite.copy_((~sizes.isfinite()).sum(1))

    def _scratch(self, like: Tensor, number: int) -> Tensor:
        dtype = _summed_in(like)
        key = (like.device, dtype, number)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(self.capacity(like.device), dtype=dtype, device=like.device)
        return self._buffers[key]


def _is_tame(sums: Tensor) -> bool:
    """Whether rows are finite and have an exact norm in float32, judging by the sums of their absolute values.

    Example:
        >>> _is_tame(torch.tensor([8.0, 0.0])), _is_tame(torch.tensor([1e-20, 8.0]))
        (True, False)
        >>> _is_tame(torch.tensor([8.0, math.nan]))
        False
    """
    low, high = torch.aminmax(sums)
    if low == 0:  # a row of zeros is fine, but the others have to be looked at
        low = sums.masked_fill(sums == 0, math.inf).amin()
    return bool(low > _SMALLEST) and bool(high < _LARGEST)


def fold_columns(columns: Tensor) -> Tensor:
    """The row of a gradient from the columns of its pieces, added up in float64.

    Example:
        >>> fold_columns(torch.tensor([[3.0, 4.0], [3.0, 4.0], [2.0, 4.0], [1.0, 0.0], [0.0, 0.0]]))
        tensor([[7., 5., 4., 1., 0.]])
    """
    wide = columns.dtype if columns.device.type == "mps" else torch.float64  # there is no float64 there
    sums = columns.sum(1, dtype=wide)
    if len(columns) > 1:
        sums[NORM] = torch.linalg.vector_norm(columns[NORM], dtype=wide)
        sums[PEAK] = columns[PEAK].amax()
    return sums.to(columns.dtype).unsqueeze(0)


def _summed_in(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype in (torch.float64, torch.complex128) else torch.float32
