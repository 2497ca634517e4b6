"""The lower bound of the cost: how fast the bytes of the gradients can be read, by a C loop and by a flat sum.

Both are called many times in a row, so that small gradients lie in the caches: no bound is lower.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.cost.nets import Training, layers_of
from benchmarks.cost.timing import timed

# `reduction` lets the compiler add several elements at once without -ffast-math, which would switch denormals off
# in the whole process
SOURCE = """
#include <math.h>
#include <stddef.h>
void sums(const float **tensors, const size_t *counts, size_t n, float *out, int threads) {
    #pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t i = 0; i < n; i++) {
        const float *tensor = tensors[i];
        float sum = 0;
        #pragma omp simd reduction(+:sum)
        for (size_t j = 0; j < counts[i]; j++) sum += fabsf(tensor[j]);
        out[i] = sum;
    }
}
"""
PIECE = 2**16  # elements; longer gradients are cut, so that every thread has a part of them


class Floor(NamedTuple):
    """The least seconds that so many bytes take; None for the C loop where it does not run."""

    megabytes: float
    one_thread: float | None
    all_threads: float | None
    flat: float

    def __str__(self) -> str:
        in_c = "no C loop"
        if self.one_thread and self.all_threads:
            in_c = f"C loop {1e3 * self.one_thread:.3f} ms in one thread, {1e3 * self.all_threads:.3f} ms in all"
        return f"{self.megabytes:.1f} MB, {in_c}, flat sum {1e3 * self.flat:.3f} ms"


def floors(training: Training, device: torch.device) -> dict[str, Floor]:
    """The floor of the gradients of weights, and ("both") of outputs and weights."""
    outputs: list[int] = []

    def record(module: object, args: object, output: Tensor) -> None:
        outputs.append(output.numel())

    hooks = [layer.register_forward_hook(record) for layer in layers_of(training.model)]
    training.loss()
    for hook in hooks:
        hook.remove()
    weights = [p.numel() for name, p in training.model.named_parameters() if "bias" not in name]
    return {"weight": floor_of(weights, device), "both": floor_of(weights + outputs, device)}


def floor_of(sizes: Sequence[int], device: torch.device) -> Floor:
    """The floor of tensors of these numbers of elements."""
    library = compiled() if device.type == "cpu" else None
    tensors = [torch.rand(size) for size in sizes] if library else []
    loops = [c_loop(library, tensors, threads) for threads in (1, torch.get_num_threads())] if library else []
    calls = [*loops, flat_sum(sum(sizes), device)]
    *in_c, flat = [float(np.median([timed(call) for _ in range(25)][5:])) for call in calls]
    one, several = in_c or (None, None)
    return Floor(4e-6 * sum(sizes), one, several, flat)


def compiled() -> ctypes.CDLL | None:
    """The compiled loop, in one thread where there is no OpenMP; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder, "sums.c"), Path(folder, "sums.so")
        source.write_text(SOURCE)
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(built), "-lm"]
        for openmp in ("-fopenmp", "-fopenmp-simd"):
            if not subprocess.run([*command, openmp], capture_output=True).returncode:
                return ctypes.CDLL(str(built))
    return None


def c_loop(library: ctypes.CDLL, gradients: Sequence[Tensor], threads: int) -> Callable[[], Tensor]:
    """Sums of absolute values of dense float32 gradients on the CPU, in one call for all of them.

    Example:
        >>> library = compiled()
        >>> library and c_loop(library, [torch.ones(3), -torch.ones(2, 2)], threads=1)()
        tensor([3., 4.])
    """
    pieces = [piece for gradient in gradients for piece in gradient.detach().flatten().split(PIECE)]
    count = len(pieces)
    pointers = (ctypes.c_void_p * count)(*[piece.data_ptr() for piece in pieces])
    counts = (ctypes.c_size_t * count)(*[piece.numel() for piece in pieces])
    out = torch.empty(count)
    arguments = pointers, counts, ctypes.c_size_t(count), ctypes.c_void_p(out.data_ptr()), ctypes.c_int(threads)

    def call(_: Sequence[Tensor] = pieces) -> Tensor:  # the pieces have to live as long as the pointers
        library.sums(*arguments)
        return out

    return call


def flat_sum(elements: int, device: torch.device) -> Callable[[], Tensor]:
    """The sum over one tensor of so many elements."""
    return torch.ones(elements, device=device).sum
