"""Gradients in, rows of sums out, in few passes over the data and without waiting for an accelerator.

Small gradients of one shape are stacked into a scratch buffer that stays in the processor's cache and reduced
together; a large one goes through it in pieces. Sums are float32 (float64 for a gradient in float64), and what
several rows of one gradient hold is folded in float64.
"""

from __future__ import annotations

import math
from threading import Lock

import torch
from torch import Tensor

SUMS, NORM, PEAK, ZEROS, NONFINITE = range(5)
ROW = 4096  # elements of a row of a large gradient
_CACHED = 2**17  # elements of a scratch buffer that two cores keep in their second-level caches
_LAUNCHED = 2**23  # elements that are worth the launch of a kernel on an accelerator


class PartialSumError(TypeError):
    """A distributed gradient that is not whole on any rank."""


class Reducer:
    """Reduces gradients to rows of sums.

    A row has the sum of absolute values, the L2 norm, the largest absolute value, the number of exact zeros and
    of non-finite elements; or the first alone.

    Args:
        every: Whether all of them are wanted.

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
        self._buffers: dict[tuple[torch.device, torch.dtype, int], Tensor] = {}
        self._lock = Lock()  # two backward passes in two threads may meet in the scratch

    def one(self, gradient: Tensor) -> Tensor:
        """The sums of one gradient.

        Returns:
            Shape ``(1, 5)``, or ``(1, 1)``, on the gradient's device.

        Raises:
            PartialSumError: It is a distributed tensor that no rank has the values of.
        """
        gradient = local(gradient)
        if gradient.is_sparse:
            # implicit zeros count as zeros: they are what the optimizer sees
            values = gradient.coalesce().values()
            row = self.one(values)
            if self.every:
                row[:, ZEROS] += gradient.numel() - values.numel()
            return row
        if gradient.is_complex():
            gradient = gradient.abs()
        elements = _in_memory_order(gradient)
        with self._lock:
            if elements.numel() <= self.room(elements.device):
                return self._sums(elements.view(1, -1))
            whole = elements.numel() // ROW * ROW
            pieces = elements[:whole].split(self.room(elements.device))
            rows = [self._sums(piece.view(-1, ROW)) for piece in pieces]
            if whole < elements.numel():
                rows.append(self._sums(elements[whole:].view(1, -1)))
        return fold(torch.cat(rows))

    def same(self, gradients: list[Tensor]) -> Tensor:
        """The sums of small dense gradients that have one shape, data type and device.

        Returns:
            Shape ``(gradients, 5)``, or ``(gradients, 1)``, on their device.
        """
        first = gradients[0]
        numel = first.numel()
        with self._lock:
            scratch = self._scratch(first, 0)
            at_once = max(1, scratch.numel() // numel)
            rows = []
            for start in range(0, len(gradients), at_once):
                part = gradients[start : start + at_once]
                stack = scratch[: len(part) * numel].view(len(part), *first.shape)
                torch.stack(part, out=stack)
                rows.append(self._of_sizes(stack.view(len(part), numel).abs_()))
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def room(self, device: torch.device) -> int:
        """Elements that the scratch of a device has room for."""
        return _CACHED if device.type == "cpu" else _LAUNCHED

    def _scratch(self, like: Tensor, number: int) -> Tensor:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = (like.device, dtype, number)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(self.room(like.device), dtype=dtype, device=like.device)
        return self._buffers[key]

    def _sums(self, values: Tensor) -> Tensor:
        sizes = self._scratch(values, 0)[: values.numel()].view(values.shape)
        fits = values.dtype == sizes.dtype
        return self._of_sizes(torch.abs(values, out=sizes) if fits else sizes.copy_(values).abs_())

    def _of_sizes(self, sizes: Tensor) -> Tensor:
        """Rows of sums of a matrix of absolute values."""
        if not self.every:
            return sizes.sum(1, keepdim=True)
        if not sizes.numel():
            return sizes.new_zeros(len(sizes), 5)
        total = sizes.sum(1)
        peak = sizes.amax(1)
        # squares of 1e-30 vanish in float32: take out the largest value first
        info = torch.finfo(sizes.dtype)
        scale = peak.clamp(info.tiny, info.max)
        other = self._scratch(sizes, 1)[: sizes.numel()].view(sizes.shape)
        norm = torch.linalg.vector_norm(torch.div(sizes, scale.unsqueeze(1), out=other), dim=1) * scale
        zeros = torch.eq(sizes, 0, out=other).sum(1)
        return torch.stack([total, norm, peak, zeros, _nonfinite(sizes, total)], 1)


def _nonfinite(sizes: Tensor, total: Tensor) -> Tensor:
    # a finite sum has finite terms; only where asking does not have to wait for the device
    if sizes.device.type == "cpu" and math.isfinite(total.sum().item()):
        return torch.zeros_like(total)
    return (~sizes.isfinite()).sum(1).to(total.dtype)


def fold(rows: Tensor) -> Tensor:
    """The row of a gradient from those of its parts.

    Example:
        >>> fold(torch.tensor([[3.0, 3.0, 2.0, 1.0, 0.0], [4.0, 4.0, 4.0, 0.0, 0.0]]))
        tensor([[7., 5., 4., 1., 0.]])
    """
    wide = rows if rows.device.type == "mps" else rows.double()  # there is no float64 there
    sums = wide.sum(0)
    if rows.shape[1] > 1:
        sums[NORM] = torch.linalg.vector_norm(wide[:, NORM])
        sums[PEAK] = wide[:, PEAK].amax()
    return sums.unsqueeze(0).to(rows.dtype)


def local(gradient: Tensor) -> Tensor:
    """This rank's part of a distributed gradient (DTensor); what it counts is added up over the ranks later.

    Raises:
        PartialSumError: No rank has the values: they are what the ranks' parts add up to.
    """
    if not hasattr(gradient, "placements"):
        return gradient
    if any(placement.is_partial() for placement in gradient.placements):
        raise PartialSumError("its gradient is a partial sum over ranks: no rank holds the true values")
    part: Tensor = gradient.to_local()  # type: ignore[attr-defined]
    return part


def is_plain(gradient: Tensor) -> bool:
    """Whether a gradient is an ordinary dense tensor, which may be stacked with others.

    Example:
        >>> is_plain(torch.ones(2)), is_plain(torch.ones(2).to_sparse()), is_plain(torch.ones(2) * 1j)
        (True, False, False)
    """
    ordinary = type(gradient) in (Tensor, torch.nn.Parameter) and gradient.layout is torch.strided
    return ordinary and gradient.dtype.is_floating_point


def _in_memory_order(gradient: Tensor) -> Tensor:
    """Its elements as they lie in memory, so that a transposed or channels-last one need not be copied."""
    if gradient.is_contiguous():
        return gradient.view(-1)
    strides = gradient.stride()
    return gradient.permute(sorted(range(gradient.dim()), key=lambda axis: -strides[axis])).reshape(-1)
