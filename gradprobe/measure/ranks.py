"""Several processes that train one model: their sums become one record, once, at the end of the window."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradprobe.measure.accumulator import Key
from gradprobe.measure.window import PEAK
from gradprobe.network.hooks import failure

PATIENCE = 30.0  # seconds that a rank waits for the others to reach the end of their window
_groups = 0  # made in this process, so that the keys of one probe are the same on all ranks


def world_size() -> int:
    """Number of ranks, 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class RankGroup:
    """The ranks that attached a probe to the same layers, so that they can add up their sums.

    They agree on who takes part through the process group's key-value store, where none can get stuck: a probe on
    rank 0 alone must not wait in a collective for ranks that never come.

    Args:
        keys: The layers and quantities of the probe.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        global _groups
        _groups += 1
        digest = hashlib.sha256(repr(list(keys)).encode()).hexdigest()[:16]
        self._key = f"gradprobe/{_groups}/{digest}"
        self._store: Any = None
        self._alone = "one process"
        try:
            if world_size() > 1:
                store = dist.distributed_c10d._get_default_store()
                store.add(f"{self._key}/attached", 1)
                self._store = store
        except Exception as error:
            self._alone = _own_numbers(error)

    def combine(self, table: Tensor) -> tuple[Tensor, str]:
        """Add up the ranks' tables.

        Returns:
            The table over all ranks, or this rank's own where not all take part; and a sentence that says which.
        """
        if self._store is None:
            return table, self._alone
        try:
            why_alone = self._wait_for_others(len(table))
            if why_alone:
                return table, f"this rank's own numbers: {why_alone}"
            return _all_reduce(table), f"combined over {world_size()} ranks"
        except Exception as error:
            return table, _own_numbers(error)

    def _wait_for_others(self, iterations: int) -> str | None:
        """Wait until all ranks have recorded so many iterations; returns a sentence if they will not."""
        assert self._store is not None
        world = world_size()
        if self._store.add(f"{self._key}/attached", 0) != world:
            self._withdraw()
            return "not every rank attached a probe to the same layers"
        done = f"{self._key}/closed/{iterations}"
        self._store.add(done, 1)
        deadline = time.monotonic() + PATIENCE
        while self._store.add(done, 0) < world:
            if time.monotonic() > deadline:
                return f"not every rank recorded {iterations} iterations"
            time.sleep(0.005)
        return None

    def _withdraw(self) -> None:
        """Undo the counting, so that the keys of the next probe are the same on all ranks."""
        global _groups
        assert self._store is not None
        _groups -= 1
        self._store.add(f"{self._key}/attached", -1)


def _own_numbers(error: Exception) -> str:
    # a RuntimeError is torch's: another rank died, and its connection is gone
    why = str(error).partition("\n")[0] if isinstance(error, RuntimeError) else failure(error)
    return f"this rank's own numbers: {why}"


def _all_reduce(table: Tensor) -> Tensor:
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    # gloo reduces the memory of a view as if it were contiguous
    sums, peaks = table[..., :PEAK].contiguous().to(device), table[..., PEAK].contiguous().to(device)
    dist.all_reduce(sums)
    dist.all_reduce(peaks, op=dist.ReduceOp.MAX)
    return torch.cat([sums, peaks.unsqueeze(-1)], dim=-1).cpu()


def active_ddp_wrapper(model: nn.Module) -> nn.Module:
    """The DistributedDataParallel whose forward pass is running around the model, or the model itself."""
    active = getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None)
    return active if active is not None else model


def averaged_over(model: nn.Module) -> int:
    """Over how many ranks the loss is averaged.

    The loss that is minimised is the mean of the ranks' losses: DistributedDataParallel and ``fully_shard`` divide
    the weights' gradients by their number. The gradient of an output, which stays on its rank, has to be divided
    likewise, so as to belong to the same loss.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return int(model.process_group.size())
    for module in model.modules():
        state = getattr(module, "_get_fsdp_state", None)
        group = getattr(state(), "_fsdp_param_group", None) if state else None
        if group is not None:
            info = group.mesh_info
            return int(getattr(info, "shard_mesh_size", 1) * getattr(info, "replicate_mesh_size", 1))
    return 1


def wrapper_name(model: nn.Module) -> str | None:
    """What distributes the model: ``"DistributedDataParallel"``, ``"fully_shard"``, ``"DTensor"`` or None."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return "DistributedDataParallel"
    if any(hasattr(module, "_get_fsdp_state") for module in model.modules()):
        return "fully_shard"
    if any(hasattr(parameter, "placements") for parameter in model.parameters()):
        return "DTensor"
    return None
