"""The rows of sums of dense float32 gradients on the CPU in one pass, by a few lines of C.

`sums.c` beside this file is compiled when gradprobe is installed (``hatch_build.py``). Where no library belongs to
it, `gradprobe.measure.reduction` does the same with torch's own kernels, each of which passes over the data again.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gradprobe.measure.reduction.compiled import find

SWITCH = "GRADPROBE_NATIVE"  # set to 0 in the environment: only torch's kernels are used
# a gradient, and the row of sums that it has
_KNOWN = (3.0, -4.0, 0.0, 12.0, math.inf), (math.inf, math.inf, math.inf, 1.0, 1.0)
_KNOWN_FINITE = (3.0, -4.0, 0.0, 12.0), (19.0, 13.0, 12.0, 1.0, 0.0)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None where there is none that was made from this `sums.c`, is whole, and computes."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        path = find()
        return None if path is None else _loaded(path)
    except (OSError, AttributeError):  # it may need what this system does not have, or lack the function
        return None


def _loaded(path: Path) -> ctypes.CDLL | None:
    # its threads are those of torch's own OpenMP, which is loaded already
    code = ctypes.CDLL(str(path))
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    code.gradprobe_sums.argtypes = [pointer, pointer, size, number, number, pointer]
    code.gradprobe_sums.restype = number
    return code if all(_row(code, values) == row for values, row in (_KNOWN, _KNOWN_FINITE)) else None


def _row(code: ctypes.CDLL, values: Sequence[float]) -> tuple[float, ...]:
    gradient, row = (ctypes.c_float * len(values))(*values), (ctypes.c_float * 5)()
    places, counts = (ctypes.c_void_p * 1)(ctypes.addressof(gradient)), (ctypes.c_size_t * 1)(len(values))
    failed = code.gradprobe_sums(places, counts, 1, 1, 1, row)
    return () if failed else tuple(row)


def takes(gradients: Sequence[Tensor]) -> bool:
    """Whether the compiled code exists, and all gradients are dense, contiguous, float32 and on the CPU.

    Example:
        >>> takes([torch.ones(2, dtype=torch.float64)])
        False
    """
    return library() is not None and all(map(_fits, gradients))


def sums(gradients: Sequence[Tensor], into: Tensor) -> None:
    """Rows of sums as `gradprobe.measure.reduction.Reducer` makes them, of gradients that it `takes`.

    Args:
        gradients: Of any shapes.
        into: Gets the rows: shape ``(gradients, 5)`` or, for the sum alone, ``(gradients, 1)``, contiguous.

    Raises:
        RuntimeError: If there is not enough memory, or a gradient's has been given back.

    Example:
        >>> gradients, rows = [torch.tensor([3.0, -4.0, 0.0])], torch.tensor([[7.0, 5.0, 4.0, 1.0, 0.0]])
        >>> if takes(gradients):
        ...     sums(gradients, into=rows.zero_())
        >>> rows
        tensor([[7., 5., 4., 1., 0.]])
    """
    code, count = library(), len(gradients)
    assert code is not None  # or `takes` would have returned False
    places = [gradient.data_ptr() for gradient in gradients]
    counts = [gradient.numel() for gradient in gradients]
    if not all(places):
        check_memory(gradients)
    failed = code.gradprobe_sums(
        (ctypes.c_void_p * count)(*places),
        (ctypes.c_size_t * count)(*counts),
        count,
        into.shape[1] > 1,
        torch.get_num_threads(),
        into.data_ptr(),
    )
    if failed:
        raise RuntimeError("there was no memory to measure it")


def check_memory(gradients: Sequence[Tensor]) -> None:
    """Raise RuntimeError if the memory of a gradient was given back, as FSDP does: to read it ends the process."""
    if any(gradient.numel() and not gradient.data_ptr() for gradient in gradients):
        raise RuntimeError("the memory of its gradient was given back")


def _fits(gradient: Tensor) -> bool:
    ordinary = type(gradient) is Tensor and gradient.dtype is torch.float32 and gradient.is_cpu
    dense = ordinary and gradient.layout is torch.strided and gradient.is_contiguous()
    return dense and not gradient._is_zerotensor()  # zeros of torch's own without memory
