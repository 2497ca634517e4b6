"""Checks of what the user gives: the model, the optimizers, the quantities, the window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradprobe.record.quantities import QUANTITIES

STATS = ("all", "mean")


def check_trainable(model: nn.Module) -> None:
    """Raise TypeError or ValueError if no gradients can be recorded of a model."""
    check_network(model)
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise ValueError(
            "DataParallel copies the model in every forward, and the copies get no hooks: probe model.module on "
            "one device, or use DistributedDataParallel"
        )
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ValueError(
            "FullyShardedDataParallel (FSDP1) joins the parameters of several layers into one, so that their "
            "gradients cannot be kept apart: use FSDP2 (fully_shard)"
        )
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError(
            "a scripted module (torch.jit.script) takes no hooks: probe the model before scripting it"
        )
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameters, so it has no gradient to record")
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(
            f"all {len(parameters)} parameters of {type(model).__name__} are frozen (requires_grad is False), "
            "so no gradient would arrive: unfreeze at least one"
        )


def check_network(model: Any) -> None:
    """Raise TypeError if this is no network, ValueError if its lazy parameters have no shapes yet."""
    if isinstance(model, type):
        name = model.__name__
        raise TypeError(f"expected a torch.nn.Module, got the class {name}: pass an instance, {name}(...)")
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError("the model has lazy parameters without a shape: run one batch through it first")


def as_optimizers(optimizer: Optimizer | Sequence[Optimizer] | None) -> tuple[Optimizer, ...]:
    """One optimizer, several or none as a tuple; raises TypeError if one of them is not an optimizer."""
    if optimizer is None:
        return ()
    several = isinstance(optimizer, Iterable) and not isinstance(optimizer, Optimizer)
    optimizers: tuple[Any, ...] = tuple(optimizer) if several else (optimizer,)  # type: ignore[arg-type]
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"expected a torch.optim.Optimizer or several, got {type(optimizer).__name__}: without optimizer= "
                "call probe.step() before each of its steps"
            )
    return optimizers


def as_quantities(of: str | Iterable[str]) -> tuple[str, ...]:
    """The quantities asked for, in their usual order; raises ValueError if one does not exist."""
    names = (of,) if isinstance(of, str) else tuple(of)
    if not names or set(names) - set(QUANTITIES):
        raise ValueError(f"expected of= to name some of {list(QUANTITIES)}, got {of!r}")
    return tuple(name for name in QUANTITIES if name in names)


def check_trainings(iterations: Any, window: Any, seeds: Any) -> None:
    """Raise TypeError or ValueError if the length, the window or the seeds of trainings make no sense."""
    for name, count in (("iterations", iterations), ("window", window)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"expected {name}= to be a whole number of at least 1, got {count!r}")
    if not isinstance(seeds, Sequence) or isinstance(seeds, str):
        raise TypeError(f"expected seeds= to be a sequence of whole numbers, such as range(3), got {seeds!r}")
    if not len(seeds) or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise ValueError(f"expected seeds= to hold whole numbers of at least 0, one or more, got {seeds!r}")


def check_window(iterations: int, stats: str) -> None:
    """Raise ValueError if the window is shorter than one iteration or the statistics do not exist."""
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"expected a number of iterations of at least 1, got {iterations!r}")
    if stats not in STATS:
        raise ValueError(f"expected stats out of {list(STATS)}, got {stats!r}")
