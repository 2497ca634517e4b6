"""The memory that an object holds: its tensors, found by following references, and Python's own objects."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

# what the user has anyway, and what leads to everything there is
_NOT_ENTERED = (nn.Module, Optimizer, ModuleType, type)


def tensor_bytes(owner: object, besides: nn.Module) -> int:
    """Bytes of all tensors that an object refers to, over any number of other objects, but for a network's own.

    Example:
        >>> import torch
        >>> net = nn.Linear(5, 5)
        >>> tensor_bytes({"net": net, "weight": net.weight, "found": [torch.zeros(10)]}, besides=net)
        40
    """
    storages = [tensor.untyped_storage() for tensor in _tensors(owner)]
    own = {tensor.untyped_storage().data_ptr() for tensor in (*besides.parameters(), *besides.buffers())}
    return sum({found.data_ptr(): found.nbytes() for found in storages if found.data_ptr() not in own}.values())


def python_bytes() -> int:
    """Bytes of all that Python has allocated since `tracemalloc` was started."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _tensors(owner: object) -> Iterator[Tensor]:
    seen: set[int] = set()
    left: list[Any] = [owner]
    while left:
        found = left.pop()
        if id(found) in seen or isinstance(found, _NOT_ENTERED):
            continue
        seen.add(id(found))
        if isinstance(found, Tensor):
            yield found
        elif isinstance(found, FunctionType):
            left += found.__closure__ or ()  # not its globals
        else:
            left += gc.get_referents(found)
