"""An accelerator imitated on the CPU: Triton's kernels in its interpreter, and values that are not read."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gradprobe
from gradprobe.measure.reduction import native, on_device, values

CPU = torch.device("cpu")
PACKAGE = Path(gradprobe.__file__).parent


@contextlib.contextmanager
def imitated():
    """The code path of an accelerator for all tensors, with kernels that were found to work."""
    pytest.importorskip("triton", reason="there is no Triton for this system")
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(values, "HOSTS", frozenset())
        patch.setattr(on_device, "DEVICES", frozenset({"cpu"}))
        patch.setattr(on_device, "_works", {CPU: True})
        patch.setattr(native, "library", lambda: None)
        yield


class NoTransfers(contextlib.ExitStack):
    """Notes what in the code of gradprobe would wait for an accelerator while a window is open.

    Attributes:
        found: For each the operator, and the line that called it.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __enter__(self):
        self.enter_context(_Operators(self.note))
        self.enter_context(_Methods(self.note))
        return self

    def note(self, what):
        place = _place_in_gradprobe()
        if place is not None:
            self.found.append((str(what), place))


class _Operators(TorchDispatchMode):
    """Operators whose result, or its shape, depends on values: the host has to know these."""

    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        depends = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        if func is torch.ops.aten.index.Tensor:  # the shape depends on the values of a mask alone
            depends = any(one is not None and one.dtype is torch.bool for one in args[1])
        if depends or func is torch.ops.aten._local_scalar_dense.default:
            self.note(func)
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    """Methods that are no operators on the CPU."""

    _WAIT = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__)

    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # to the device of another tensor it may go: here that is the CPU
        moves = func is torch.Tensor.to and any(isinstance(one, str) and one == "cpu" for one in args)
        if func in self._WAIT or (moves and not kwargs.get("non_blocking")):
            self.note(getattr(func, "__name__", func))
        return func(*args, **kwargs)


# of gradprobe: before and after a window, and when the record is asked for, values are read
_NOT_IN_THE_WINDOW = {"_attach", "_let_go", "_failed", "history"}
_NOT_IN_THE_WINDOW |= {"magnitudes"}  # of a glimpse: copies that have arrived on the host
_OF_THE_LOOP = {"grad_scaler.py", "optimizer.py"}  # what training itself waits for


def _place_in_gradprobe():
    """The line of gradprobe that called torch; None if another did, or no window is open."""
    frame, place = sys._getframe(2), None
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            if frame.f_code.co_name in _NOT_IN_THE_WINDOW:
                return None
            place = place or f"{path.name}:{frame.f_lineno}"
        elif place is None and (path.name in _OF_THE_LOOP or not {"torch", "support"} & set(path.parts)):
            return None
        frame = frame.f_back
    return place


_COMPILE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gradprobe.measure.reduction import kernels, sample_kernels

def compiled(kernel, kinds, constants, target):
    names = kernel.arg_names
    signature = dict(zip(names, kinds + ["constexpr"] * len(constants)))
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, values, {})
    return triton.compile(source, target=target).asm

name = sys.argv[1]
target = GPUTarget("hip", name, 64) if name[0] == "g" else GPUTarget("cuda", int(name[2:]), 32)
of_pieces = ["*i64", "i32", "i64", "i32", "i32", "*fp32"]
assert compiled(kernels.fold, ["*i64", "i32", "i32", "i64", "i32", "*fp32"], {"every": True}, target)
assert compiled(sample_kernels.describe, ["*i64", "*fp32", "*fp32", "*fp32"], {}, target)
found = [
    compiled(kernels.pieces, of_pieces, {"kind": kind, "aligned": True, "every": every}, target)
    for kind, every in list(zip(kernels.KINDS.values(), (False, True, True)))[:2]
]
print(json.dumps([one.get("ptx", "") for one in found]))
"""


def compiled(target):
    """The instructions of the kernel that reads, for each data type, from a process without the interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", _COMPILE, target]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
