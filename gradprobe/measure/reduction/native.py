"""The rows of sums of dense float32 gradients on the CPU in one pass, by a few lines of C.

`sums.c` beside this file is compiled when gradprobe is installed (``hatch_build.py``). If there was no compiler,
`gradprobe.measure.reduction` does the same with torch's own kernels, each of which passes over the data again.
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
SWITCH = "GRADPROBE_NATIVE"  # set to 0 in the environment: only torch's kernels are used


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None where there is none or it does not match this torch."""
    if os.environ.get(SWITCH) == "0" or not LIBRARY.exists():
        return None
    try:
        # its threads are those of torch's own OpenMP, which is loaded already
        compiled = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    compiled.gradprobe_sums.argtypes = [pointer, pointer, size, number, number, pointer]
    return compiled


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
        RuntimeError: If there is not enough memory.

    Example:
        >>> gradients, rows = [torch.tensor([3.0, -4.0, 0.0])], torch.tensor([[7.0, 5.0, 4.0, 1.0, 0.0]])
        >>> if takes(gradients):
        ...     sums(gradients, into=rows.zero_())
        >>> rows
        tensor([[7., 5., 4., 1., 0.]])
    """
    compiled, count = library(), len(gradients)
    assert compiled is not None  # or `takes` would have returned False
    failed = compiled.gradprobe_sums(
        (ctypes.c_void_p * count)(*[gradient.data_ptr() for gradient in gradients]),
        (ctypes.c_size_t * count)(*[gradient.numel() for gradient in gradients]),
        count,
        into.shape[1] > 1,
        torch.get_num_threads(),
        into.data_ptr(),
    )
    if failed:
        raise RuntimeError("there was no memory to measure it")


def _fits(gradient: Tensor) -> bool:
    ordinary = type(gradient) is Tensor and gradient.dtype is torch.float32 and gradient.is_cpu
    return ordinary and gradient.layout is torch.strided and gradient.is_contiguous()
