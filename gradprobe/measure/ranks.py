"""Several processes training one model: what each counted becomes one record, once, at the end of the window."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradprobe.measure.accumulator import Key
from gradprobe.measure.window import PEAK

PATIENCE = 30.0  # seconds that a rank waits for the others to come to the end of their window
_probes = 0


def world_size() -> int:
    """Number of ranks, 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class RankGroup:
    """The ranks that attached a probe to the same layers, so that they can add up what they counted.

    Who takes part is agreed through the process group's key-value store, which nobody can be stuck in: a probe
    on rank 0 alone must not wait for partners in a collective that never come.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        global _probes
        _probes += 1
        digest = hashlib.sha256(repr(list(keys)).encode()).hexdigest()[:16]
        self._key = f"gradprobe/{_probes}/{digest}"
        self._store = dist.distributed_c10d._get_default_store() if world_size() > 1 else None
        if self._store is not None:
            self._store.add(f"{self._key}/attached", 1)

    def combine(self, table: Tensor) -> tuple[Tensor, str]:
        """Add up the ranks' tables.

        Returns:
            The table over all ranks and what was done, or this rank's own and why.
        """
        if self._store is None:
            return table, "one process"
        alone = self._missing(len(table))
        if alone:
            return table, f"this rank's own numbers: {alone}"
        try:
            return _all_reduce(table), f"combined over {world_size()} ranks"
        except RuntimeError as error:  # a partner died: its connection is gone
            return table, f"this rank's own numbers: {str(error).splitlines()[0]}"

    def _missing(self, iterations: int) -> str | None:
        assert self._store is not None
        world = world_size()
        if self._store.add(f"{self._key}/attached", 0) != world:
            self._withdraw()
            return "not every rank attached a probe to the same layers"
        closed = f"{self._key}/closed/{iterations}"
        self._store.add(closed, 1)
        deadline = time.monotonic() + PATIENCE
        while self._store.add(closed, 0) < world:
            if time.monotonic() > deadline:
                return f"not every rank recorded {iterations} iterations"
            time.sleep(0.005)
        return None

    def _withdraw(self) -> None:
        """Give the number back, so that the next probe of all ranks has the same one on each."""
        global _probes
        assert self._store is not None
        _probes -= 1
        self._store.add(f"{self._key}/attached", -1)


def _all_reduce(table: Tensor) -> Tensor:
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    # gloo reduces the memory behind a view as if it were contiguous
    sums, peaks = table[..., :PEAK].contiguous().to(device), table[..., PEAK].contiguous().to(device)
    dist.all_reduce(sums)
    dist.all_reduce(peaks, op=dist.ReduceOp.MAX)
    return torch.cat([sums, peaks.unsqueeze(-1)], dim=-1).cpu()


def active_ddp_wrapper(model: nn.Module) -> nn.Module:
    """The DistributedDataParallel that is in its forward around the model, or the model."""
    active = getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None)
    return active if active is not None else model


def averaged_over(model: nn.Module) -> int:
    """Over how many ranks the gradient of the loss is averaged: the loss that is minimised is the mean of theirs.

    DistributedDataParallel and ``fully_shard`` divide the weights' gradients by it. The gradient of an output,
    which stays on its rank, has to be divided likewise to belong to the same loss.
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
    """How the model is distributed, in a word."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return "DistributedDataParallel"
    if any(hasattr(module, "_get_fsdp_state") for module in model.modules()):
        return "fully_shard"
    if any(hasattr(parameter, "placements") for parameter in model.parameters()):
        return "DTensor"
    return None
