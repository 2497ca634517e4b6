"""The bytes that an object refers to: its tensors, by following references, and Python's own objects."""

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
    """Bytes of all tensors that an object refers to, directly or through other objects, except the network's own.

    Example:
        >>> import torch
        >>> net = nn.Linear(5, 5)
        >>> tensor_bytes({"net": net, "weight": net.weight, "others": [torch.zeros(10)]}, besides=net)
        40
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*besides.parameters(), *besides.buffers())}
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(owner)
    }
    return sum(nbytes for pointer, nbytes in storages.items() if pointer not in own)


def python_bytes() -> int:
    """Bytes of all that Python has allocated since `tracemalloc` was started."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _tensors(owner: object) -> Iterator[Tensor]:
    seen: set[int] = set()
    queue: list[Any] = [owner]
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, _NOT_ENTERED):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, FunctionType):
            queue += item.__closure__ or ()  # not its globals
        else:
            queue += gc.get_referents(item)
