"""The values of a gradient, whatever kind of tensor it is."""

from __future__ import annotations

import torch
from torch import Tensor

HOSTS = frozenset({"cpu"})  # kinds of devices whose values can be read without waiting for them


class UnmeasurableError(RuntimeError):
    """A gradient whose values cannot be read; the message is the reason that stands in the record."""


class PartialSumError(UnmeasurableError):
    """A distributed gradient whose values no rank holds."""


def local_part(gradient: Tensor) -> Tensor:
    """The ordinary tensor in a gradient: this rank's part of a distributed one, the values of a nested one.

    The sums of the ranks' parts are added up later.

    Raises:
        PartialSumError: If no rank holds the values, as they are the sum of the ranks' parts.
        UnmeasurableError: If it has no values, or its type hides them.

    Example:
        >>> ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(1)], layout=torch.jagged)
        >>> local_part(ragged)
        tensor([1., 1., 1.])
    """
    if gradient.is_nested:
        return _values_of_nested(gradient)
    if type(gradient) is not Tensor:
        gradient = _without_subclass(gradient)
    if gradient.is_meta:
        raise UnmeasurableError("its gradient is on the meta device, where there are no values")
    return gradient


def _without_subclass(gradient: Tensor) -> Tensor:
    if hasattr(gradient, "placements"):
        if any(placement.is_partial() for placement in gradient.placements):
            raise PartialSumError("its gradient is a partial sum over ranks: no rank holds the true values")
        part: Tensor = gradient.to_local()  # type: ignore[attr-defined]
        return part
    if type(gradient).__torch_dispatch__ is not Tensor.__torch_dispatch__:  # its values are not in its memory
        kind = type(gradient).__name__
        raise UnmeasurableError(f"its gradient is a {kind}, a type of tensor whose values cannot be read")
    with torch._C.DisableTorchFunctionSubclass():
        return gradient.as_subclass(Tensor)


def _values_of_nested(gradient: Tensor) -> Tensor:
    """The elements of a nested tensor, without what lies between its parts in memory."""
    if gradient.layout is torch.jagged and gradient._lengths is None:  # type: ignore[attr-defined]
        return gradient.values()
    return torch.cat([part.reshape(-1) for part in gradient.unbind()])


def stored(gradient: Tensor) -> Tensor:
    """The values that a tensor of another layout keeps: those that are not implicit zeros."""
    if gradient.is_mkldnn:
        return gradient.to_dense()
    return gradient.coalesce().values() if gradient.is_sparse else gradient.values()


def is_plain(gradient: Tensor) -> bool:
    """Whether a gradient is an ordinary dense tensor, which may be stacked with others.

    Example:
        >>> is_plain(torch.ones(2)), is_plain(torch.ones(2).to_sparse()), is_plain(torch.ones(2) * 1j)
        (True, False, False)
    """
    ordinary = type(gradient) in (Tensor, torch.nn.Parameter) and gradient.layout is torch.strided
    return ordinary and gradient.dtype.is_floating_point


def is_immediate(device: torch.device) -> bool:
    """Whether values on a device can be read without waiting for it.

    Example:
        >>> is_immediate(torch.device("cpu")), is_immediate(torch.device("cuda"))
        (True, False)
    """
    return device.type in HOSTS


def in_memory_order(gradient: Tensor) -> Tensor:
    """Its elements in the order of memory, so that a transposed or channels-last one need not be copied."""
    if gradient.is_contiguous():
        return gradient.view(-1)
    strides = gradient.stride()
    return gradient.permute(sorted(range(gradient.dim()), key=lambda axis: -strides[axis])).reshape(-1)
