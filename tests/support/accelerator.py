"""An accelerator imitated on the CPU: Triton's kernels in its interpreter, and values that are not read."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from gradprobe.measure.reduction import native, on_device, values

CPU = torch.device("cpu")


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


_COMPILE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gradprobe.measure.reduction import kernels

def compiled(kernel, kinds, constants, target):
    names = kernel.arg_names
    signature = dict(zip(names, kinds + ["constexpr"] * len(constants)))
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, values, {})
    return triton.compile(source, target=target).asm

name = sys.argv[1]
target = GPUTarget("hip", name, 64) if name[0] == "g" else GPUTarget("cuda", int(name[2:]), 32)
of_pieces = ["*i64", "i32", "i64", "i32", "i32", "*fp32"]
assert compiled(kernels.fold, ["*i64", "i32", "i32", "*fp32", "*fp32"], {"every": True}, target)
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
