"""A remedy that needs a batch, applied when the model gets its first one: one line in any training script."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gradprobe.network.hooks import Hook
from gradprobe.network.layers import unwrap
from gradprobe.prove.remedies import REMEDIES, Remedy


def apply_remedy(model: nn.Module, remedy: str | Remedy) -> None:
    """Change a network in place by a remedy: now, or if that needs a batch with the first one that it gets.

    Call it when the network is complete, before it is trained. Loading a checkpoint afterwards, or other initial
    weights, are respected: then the remedy is left out, with a warning. Of several ranks each takes the weights of
    the first one.

    Args:
        model: The network, inside ``DistributedDataParallel`` or not.
        remedy: A name out of `gradprobe.remedies.REMEDIES`, or a function ``(model, inputs) -> None``.

    Raises:
        ValueError: If no remedy has this name.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        >>> apply_remedy(net, "lsuv")
        >>> round(net(torch.randn(64, 8)).std().item(), 3)
        1.0
    """
    if isinstance(remedy, str) and remedy not in REMEDIES:
        raise ValueError(f"expected a remedy out of {list(REMEDIES)} or a function, got {remedy!r}")
    function = REMEDIES[remedy] if isinstance(remedy, str) else remedy
    bare = unwrap(model)
    inputs = inspect.signature(function).parameters.get("inputs")
    if inputs is not None and inputs.default is None:  # it needs no batch
        function(bare, None)
        _take_those_of_rank_0(bare)
        return
    first = _FirstBatch(bare, function)
    first.handle = bare.register_forward_pre_hook(Hook(first), with_kwargs=True)


class _FirstBatch:
    """The hook that waits for the first batch."""

    def __init__(self, model: nn.Module, remedy: Remedy) -> None:
        self._remedy, self._versions = remedy, _versions(model)
        self.handle: Any = None

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        self.handle.remove()
        if _versions(model) != self._versions:
            warnings.warn(
                "the weights were changed after apply_remedy, by a checkpoint or other initial weights, so that "
                "the remedy is left out: call it after that, or not at all",
                stacklevel=2,
            )
            return
        self._remedy(model, _as_inputs(model, args, kwargs))
        _take_those_of_rank_0(model)


def _as_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call's arguments as a batch: a tensor, a tuple of positional or a dict of keyword arguments."""
    if args and kwargs:
        return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    return kwargs or (args[0] if len(args) == 1 else args)


def _versions(model: nn.Module) -> list[tuple[int, int]]:
    """How often each parameter was written; to move it to a device is not to write it."""
    return [(id(parameter), parameter._version) for parameter in model.parameters()]


def _take_those_of_rank_0(model: nn.Module) -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        with torch.no_grad():
            for parameter in model.parameters():
                dist.broadcast(parameter.detach(), 0)
