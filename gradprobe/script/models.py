"""Which modules own the parameters of an optimizer."""

from __future__ import annotations

import gc

from torch import nn
from torch.optim import Optimizer

from gradprobe.measure.weight_gradients import parameter_ids


def owners(optimizer: Optimizer) -> tuple[list[nn.Module], int]:
    """The outermost modules that own an optimizer's parameters, and how many of these belong to no module.

    Where several modules own the same ones, the one that owns most of them and the fewest others counts.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> models, left = owners(torch.optim.SGD(net[1].parameters()))
        >>> models[0] is net, left
        (True, 0)
    """
    wanted = parameter_ids(optimizer)
    held = {module: set(map(id, module.parameters())) for module in _outermost()}
    models: list[nn.Module] = []
    while wanted and held:
        best = max(held, key=lambda module: (len(held[module] & wanted), -len(held[module])))
        if not held[best] & wanted:
            break
        models.append(best)
        wanted -= held.pop(best)
    return models, len(wanted)


def _outermost() -> list[nn.Module]:
    # type() and not isinstance(), for which a lazy proxy would create the object that it stands for
    modules = [value for value in gc.get_objects() if issubclass(type(value), nn.Module)]
    modules = [module for module in modules if "_modules" in vars(module)]
    inside = {id(child) for module in modules for child in module._modules.values()}
    return [module for module in modules if id(module) not in inside]
