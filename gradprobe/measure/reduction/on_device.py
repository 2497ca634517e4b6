"""The rows of sums of gradients on an accelerator, read once, by `kernels.py` beside this file.

Triton comes with torch's builds for CUDA and ROCm. Where it does not, or where its first result is not torch's,
`gradprobe.measure.reduction` does the same with torch's own kernels, each of which passes over the data again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Any, NamedTuple

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
_KNOWN = (3.0, -4.0, 0.0, 12.0)  # and many times over, so that there are several pieces
_TOLERANCE = 1e-5
_VECTOR = 16  # bytes that are read at once where an address is a multiple of them

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


def prepare(devices: Iterable[torch.device]) -> None:
    """Compile the kernels for devices and compare what they measure to torch's own result, once in a process.

    Waits for the devices, so this is for before the window. Where Triton or its compiler does not work, torch's
    kernels are used.

    Example:
        >>> prepare([torch.device("cpu")])
        >>> works(torch.device("cpu"))
        False
    """
    for device in set(devices):
        if device.type in DEVICES and os.environ.get(SWITCH) != "0":
            with _works_lock:
                if device not in _works:
                    _works[device] = _are_right(device)


def _are_right(device: torch.device) -> bool:
    try:
        return all(_is_right(device, dtype) for dtype in DTYPES)
    except Exception:  # whatever Triton and its compilers raise
        return False


def _is_right(device: torch.device, dtype: torch.dtype) -> bool:
    several = torch.tensor(_KNOWN, dtype=dtype, device=device).repeat(PIECE // 2)
    infinite = several[:7].clone()
    infinite[5] = -torch.inf
    expected = torch.stack([_by_torch(several), _by_torch(infinite)])
    kernels, means = OnDevice(every=True), OnDevice(every=False)
    together, sums = kernels._rows([several, infinite]), means._rows([several, infinite])
    alone = torch.cat([kernels._rows([one]) for one in (several, infinite)])
    pairs = ((together, expected), (alone, expected), (sums, expected[:, :1]))
    return all(torch.allclose(found, right, rtol=_TOLERANCE) for found, right in pairs)


def _by_torch(gradient: Tensor) -> Tensor:
    sizes = gradient.float().abs()
    return torch.stack(
        [sizes.sum(), sizes.norm(), sizes.amax(), (sizes == 0).sum().float(), (~sizes.isfinite()).sum().float()]
    )


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


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Start a kernel on the current stream."""
    # said outright, since Triton warns that its default will change
    kernel[(programs,)](*arguments, **constants, enable_fp_fusion=True)


class _Pieces(NamedTuple):
    """How gradients are parted: the pieces are listed in a table, or all of one gradient.

    Attributes:
        number: How many there are.
        starts: Where the table says which piece is the first of each gradient; 0 if there is one gradient.
        address: Of the one gradient.
        elements: Of the one gradient.
        size: Elements of a piece.
        aligned: Whether all addresses are multiples of 16 bytes.
    """

    number: int
    starts: int
    address: int
    elements: int
    size: int
    aligned: bool


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
        first = gradients[0]
        if not all(map(takes, gradients)) or any(_differ(first, gradient) for gradient in gradients):
            return None
        check_memory(gradients)
        try:
            return self._rows(gradients)
        except Exception:  # Triton may have to compile again, as for addresses that are no multiple of 16
            _works[first.device] = False
            return None

    def _rows(self, gradients: Sequence[Tensor]) -> Tensor:
        first = gradients[0]
        with self._lock, _current(first.device):
            rows = torch.empty(len(gradients), self._width, dtype=torch.float32, device=first.device)
            if len(gradients) == 1:
                pieces, table = _of_one(first), self._room(first.device, torch.int64, 1)
            else:
                pieces, listed = _of_several(gradients)
                table = self._room(first.device, torch.int64, len(listed))
                _send(listed, table[: len(listed)])
            self._measure(pieces, table, first.dtype, rows)
        return rows

    def _measure(self, pieces: _Pieces, table: Tensor, dtype: torch.dtype, rows: Tensor) -> None:
        from gradprobe.measure.reduction import kernels

        number, starts, address, count, size, aligned = pieces
        # a gradient that is one piece needs nothing joined
        is_joined = number > len(rows)
        into = self._room(rows.device, torch.float32, number * self._width) if is_joined else rows
        options = {"kind": kernels.KINDS[dtype], "aligned": aligned, "every": self._every}
        launch(kernels.pieces, number, table, int(starts > 0), address, count, size, into, **options)
        if is_joined:
            launch(kernels.fold, len(rows), table, starts, number, into, rows, every=self._every)

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


def _of_one(gradient: Tensor) -> _Pieces:
    address, count = gradient.data_ptr(), gradient.numel()
    size = _size_of_piece(count)
    return _Pieces(max(1, -(-count // size)), 0, address, count, size, address % _VECTOR == 0)


def _of_several(gradients: Sequence[Tensor]) -> tuple[_Pieces, npt.NDArray[np.int64]]:
    """The pieces, and the table: address and number of elements of each; then the first one of each gradient."""
    read = ([gradient.data_ptr() for gradient in gradients], [gradient.numel() for gradient in gradients])
    addresses, counts = np.array(read, dtype=np.int64)
    size = _size_of_piece(int(counts.sum()))
    each = np.maximum(1, -(-counts // size))
    starts = np.concatenate([[0], each.cumsum()])
    number = int(starts[-1])
    owner = np.arange(len(counts)).repeat(each)
    before = (np.arange(number) - starts[owner]) * size
    places = addresses[owner] + before * gradients[0].element_size()
    lengths = np.minimum(counts[owner] - before, size)
    table = np.concatenate([np.stack([places, lengths], 1).ravel(), starts])
    return _Pieces(number, 2 * number, 0, 0, 0, not (addresses % _VECTOR).any()), table


def _size_of_piece(elements: int) -> int:
    """Elements of a piece, so that all are not many more than `MOST`.

    Example:
        >>> _size_of_piece(10), _size_of_piece(2**28)
        (16384, 32768)
    """
    least = -(-elements // MOST)
    return max(PIECE, 1 << (least - 1).bit_length())


def _send(table: npt.NDArray[np.int64], to: Tensor) -> None:
    """Copy a table to a device, after what it is doing."""
    to.copy_(_pinned(torch.from_numpy(table), to.device), non_blocking=True)


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
