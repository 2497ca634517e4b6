"""The rows of sums of dense float32 gradients on the CPU in one pass, by a few lines of C.

`sums.c` beside this file is compiled when gradprobe is installed (``hatch_build.py``). Where there was no compiler
`gradprobe.reduction` does the same with torch's own kernels, of which each passes over the data again.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

LIBRARY = Path(__file__).with_name("_sums.so")
OFF = "GRADPROBE_NATIVE"  # =0 in the environment: only torch's kernels


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None where there is none or it does not fit to this torch."""
    if os.environ.get(OFF) == "0" or not LIBRARY.exists():
        return None
    try:
        compiled = ctypes.CDLL(
            str(LIBRARY)
        )  # its threads are those of torch's own OpenMP, which is loaded already
    except OSError:
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    compiled.gradprobe_sums.argtypes = [pointer, pointer, size, number, number, pointer]
    return compiled


def sums(gradients: Sequence[Tensor], *, every: bool) -> Tensor | None:
    """Rows of sums as `gradprobe.reduction.Reducer` makes them.

    Args:
        gradients: Of any shapes.
        every: Whether all five are wanted, or the first alone.

    Returns:
        Shape ``(gradients, 5)`` or ``(gradients, 1)``; None where this code is not there, or one of them is not
        dense, contiguous, float32 and on the CPU.

    Example:
        >>> rows = sums([torch.tensor([3.0, -4.0, 0.0])], every=True)
        >>> rows is None or rows.tolist() == [[7, 5, 4, 1, 0]]
        True
    """
    compiled = library()
    if compiled is None or not all(map(_fits, gradients)):
        return None
    count = len(gradients)
    rows = torch.empty(count, 5 if every else 1)
    done = compiled.gradprobe_sums(
        (ctypes.c_void_p * count)(*[gradient.data_ptr() for gradient in gradients]),
        (ctypes.c_size_t * count)(*[gradient.numel() for gradient in gradients]),
        count,
        every,
        torch.get_num_threads(),
        rows.data_ptr(),
    )
    return rows if done == 0 else None


def _fits(gradient: Tensor) -> bool:
    ordinary = type(gradient) is Tensor and gradient.dtype is torch.float32 and gradient.is_cpu
    return ordinary and gradient.layout is torch.strided and gradient.is_contiguous()
