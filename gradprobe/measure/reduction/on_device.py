"""The rows of sums of gradients on an accelerator, read once, by `kernels.py` beside this file.

Triton comes with torch's builds for CUDA and ROCm. Where it does not, or where its first result is not torch's,
`gradprobe.measure.reduction` does the same with torch's own kernels, each of which passes over the data again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradprobe.measure.reduction.native import SWITCH, check_memory
from gradprobe.measure.reduction.values import is_immediate

PIECE = 2**14  # elements that a program reads, if there are not too many of them
MOST = 2**13  # programs for one large gradient: enough for all that an accelerator runs at once
DEVICES = frozenset({"cuda", "xpu"})  # the kinds that Triton makes kernels for
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_VECTOR = 16  # bytes that are read at once where an address is a multiple of them

Found = TypeVar("Found")
"""What is measured."""

_works: dict[torch.device, bool] = {}
_works_lock = Lock()


def in_use(device: torch.device) -> str | None:
    """What measures gradients on an accelerator, ``"triton"`` or ``"torch"``; None where there is none.

    Example:
        >>> in_use(torch.device("cpu")), in_use(torch.device("mps"))
        (None, 'torch')
    """
    return None if is_immediate(device) else "triton" if works(device) else "torch"


def works(device: torch.device) -> bool:
    """Whether the kernels have been tried on a device, and were right. Waits for nothing."""
    return _works.get(device, False)


def tried(device: torch.device, are_right: Callable[[torch.device], bool]) -> None:
    """Note once in a process whether the kernels are right on a device; not where none are made for it."""
    if device.type in DEVICES and os.environ.get(SWITCH) != "0":
        with _works_lock:
            if device not in _works:
                try:
                    _works[device] = are_right(device)
                except Exception:  # whatever Triton and its compilers raise
                    _works[device] = False


def takes(gradient: Tensor) -> bool:
    """Whether a gradient is read by these kernels: on a device where they work, of a usual type, dense in memory.

    Example:
        >>> takes(torch.ones(2))
        False
    """
    if not works(gradient.device):
        return False
    ordinary = type(gradient) in (Tensor, torch.nn.Parameter) and gradient.dtype in DTYPES
    return ordinary and gradient.layout is torch.strided and not gradient._is_zerotensor() and is_dense(gradient)


def is_dense(gradient: Tensor) -> bool:
    """Whether the elements lie in memory one after the other, in whatever order.

    Example:
        >>> is_dense(torch.ones(3, 2).t()), is_dense(torch.ones(4)[::2]), is_dense(torch.ones(1).expand(3))
        (True, False, False)
    """
    if gradient.is_contiguous():
        return True
    strides = gradient.stride()
    return gradient.permute(sorted(range(gradient.dim()), key=lambda axis: -strides[axis])).is_contiguous()


def attempt(device: torch.device, measure: Callable[[], Found]) -> Found | None:
    """What kernels measure on a device; None where they do not work, or fail: then they are not used any more."""
    if not works(device):
        return None
    try:
        with _current(device):
            return measure()
    except Exception:  # Triton may have to compile again, as for addresses that are no multiple of 16
        _works[device] = False
        return None


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Start a kernel on the current stream."""
    # said outright, since Triton warns that its default will change
    kernel[(programs,)](*arguments, **constants, enable_fp_fusion=True)


class OnDevice:
    """Measures gradients that it `takes`, any number of them in one launch.

    Args:
        every: Whether rows have everything, or the sum of absolute values alone.
    """

    def __init__(self, *, every: bool) -> None:
        self._every, self._width = every, 5 if every else 1
        self._memory: dict[tuple[torch.device, int, torch.dtype], Tensor] = {}
        self._lock = Lock()  # two threads would put their pieces into the same memory

    def rows(self, gradients: Sequence[Tensor]) -> Tensor | None:
        """The rows of gradients of one data type on one device, without waiting for it.

        Returns:
            Shape ``(gradients, 5)`` or ``(gradients, 1)``, on the device; None if it does not take all of them.

        Raises:
            RuntimeError: If the memory of a gradient was given back.
        """
        return self._tried(self.rows_at_once, gradients)

    def parts(self, gradient: Tensor) -> Tensor | None:
        """The rows of the pieces of a gradient, in one kernel; `joined` makes one of them, of many gradients.

        Returns:
            Shape ``(pieces, 5)`` or ``(pieces, 1)``, on the device; None if it does not take the gradient.

        Raises:
            RuntimeError: If the memory of the gradient was given back.
        """
        return self._tried(self._parts, [gradient])

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """The rows of gradients from those of their pieces, all on one device.

        Returns:
            Shape ``(gradients, 5)`` or ``(gradients, 1)``.
        """
        places = np.array([(part.data_ptr(), len(part)) for part in parts], dtype=np.int64)
        with self._lock, _current(parts[0].device):
            for part in parts:
                used_here(part)
            rows = self._new(len(parts), parts[0].device)
            table = self._sent(places.ravel(), rows.device)
            launch(_kernels().fold, len(parts), table, 0, 1, 0, 0, rows, every=self._every)
        return rows

    def _tried(self, measure: Callable[[Sequence[Tensor]], Tensor], gradients: Sequence[Tensor]) -> Tensor | None:
        first = gradients[0]
        if not all(map(takes, gradients)) or any(_differ(first, gradient) for gradient in gradients):
            return None
        check_memory(gradients)
        with self._lock:
            return attempt(first.device, partial(measure, gradients))

    def rows_at_once(self, gradients: Sequence[Tensor]) -> Tensor:
        """The same of what it takes, without asking; raises what Triton raises."""
        first, number = gradients[0], len(gradients)
        rows = self._new(number, first.device)
        if number == 1:
            count = _pieces_of(first.numel())[0]
            parts = rows if count == 1 else self._room(first.device, torch.float32, count * self._width)
            self._measure_one(first, parts)
            if parts is not rows:
                table = self._room(first.device, torch.int64, 1)
                launch(_kernels().fold, 1, table, 0, 0, parts.data_ptr(), count, rows, every=self._every)
            return rows
        pieces, each = _listed(gradients)
        total = int(each.sum())
        # a gradient that is one piece needs nothing joined
        parts = rows if total == number else self._room(first.device, torch.float32, total * self._width)
        starts = parts.data_ptr() + 4 * self._width * (each.cumsum() - each)
        table = self._sent(np.concatenate([pieces, np.stack([starts, each], 1)]).ravel(), first.device)
        options = self._options(gradients)
        launch(_kernels().pieces, total, table, 1, 0, 0, 0, parts, **options)
        if parts is not rows:
            launch(_kernels().fold, number, table, 2 * total, 1, 0, 0, rows, every=self._every)
        return rows

    def _parts(self, gradients: Sequence[Tensor]) -> Tensor:
        [gradient] = gradients
        parts = self._new(_pieces_of(gradient.numel())[0], gradient.device)
        self._measure_one(gradient, parts)
        return parts

    def _measure_one(self, gradient: Tensor, parts: Tensor) -> None:
        number, size = _pieces_of(gradient.numel())
        table = self._room(gradient.device, torch.int64, 1)
        place = gradient.data_ptr(), gradient.numel(), size
        launch(_kernels().pieces, number, table, 0, *place, parts, **self._options([gradient]))

    def _options(self, gradients: Sequence[Tensor]) -> dict[str, Any]:
        aligned = all(gradient.data_ptr() % _VECTOR == 0 for gradient in gradients)
        return {"kind": _kernels().KINDS[gradients[0].dtype], "aligned": aligned, "every": self._every}

    def _new(self, rows: int, device: torch.device) -> Tensor:
        return torch.empty(rows, self._width, dtype=torch.float32, device=device)

    def _sent(self, table: npt.NDArray[np.int64], device: torch.device) -> Tensor:
        """A table on a device, after what that is doing."""
        room = self._room(device, torch.int64, len(table))
        room[: len(table)].copy_(_pinned(torch.from_numpy(table), device), non_blocking=True)
        return room

    def _room(self, device: torch.device, dtype: torch.dtype, least: int) -> Tensor:
        """Memory of the current stream: what uses it later comes after what uses it now."""
        key = device, stream(device), dtype
        known = self._memory.get(key)
        if known is None or len(known) < least:
            elements = max(8 * MOST, 1 << (least - 1).bit_length())
            known = self._memory[key] = torch.empty(elements, dtype=dtype, device=device)
        return known


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.dtype is not other.dtype or one.device != other.device


def _kernels() -> Any:
    import gradprobe.measure.reduction.kernels as kernels  # needs Triton

    return kernels


def _listed(gradients: Sequence[Tensor]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Address and number of elements of each piece, of shape (pieces, 2); and of each gradient how many it has."""
    read = ([gradient.data_ptr() for gradient in gradients], [gradient.numel() for gradient in gradients])
    addresses, counts = np.array(read, dtype=np.int64)
    _, size = _pieces_of(int(counts.sum()))
    each = np.maximum(1, -(-counts // size))
    owner = np.arange(len(counts)).repeat(each)
    before = (np.arange(len(owner)) - (each.cumsum() - each)[owner]) * size
    places = addresses[owner] + before * gradients[0].element_size()
    return np.stack([places, np.minimum(counts[owner] - before, size)], 1), each


def _pieces_of(elements: int) -> tuple[int, int]:
    """Into how many pieces so many elements are parted, `MOST` at most, and the elements of each.

    Example:
        >>> _pieces_of(10), _pieces_of(20_000), _pieces_of(2**28)
        ((1, 16384), (2, 16384), (8192, 32768))
    """
    least = -(-elements // MOST)
    size = max(PIECE, 1 << (least - 1).bit_length())
    return max(1, -(-elements // size)), size


def used_here(tensor: Tensor) -> None:
    """The current stream uses a tensor that another one may have made: its memory stays until that is done."""
    if tensor.is_cuda:
        tensor.record_stream(torch.accelerator.current_stream(tensor.device))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for what that is doing.

    Example:
        >>> sent(torch.ones(2), torch.device("cpu"))
        tensor([1., 1.])
    """
    return tensor if device.type == "cpu" else _pinned(tensor, device).to(device, non_blocking=True)


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    # a copy from other memory waits for the device; torch does not reuse this memory before the copy is done
    return tensor.pin_memory() if device.type in DEVICES - {"cpu"} else tensor


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a device the one that kernels are started on."""
    if device.type == "cpu":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[object] = torch.get_device_module(device).device(device)
    return context


def stream(device: torch.device) -> int:
    """The number of the stream that an accelerator is given work in; 0 for a device that has none.

    Example:
        >>> stream(torch.device("cpu"))
        0
    """
    if device.type not in DEVICES - {"cpu"}:
        return 0
    number: int = torch.accelerator.current_stream(device).stream_id
    return number
