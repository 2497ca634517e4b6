"""Which modules own the parameters of an optimizer."""

from __future__ import annotations

import gc

from torch import nn
from torch.optim import Optimizer

from gradprobe.measure.weight_gradients import parameter_ids


def owners(optimizer: Optimizer) -> tuple[list[nn.Module], int]:
    """The outermost modules that own an optimizer's parameters, and how many parameters belong to none.

    Where several modules own the same ones, it is the one that owns most of them and the fewest others.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> found, left = owners(torch.optim.SGD(net[1].parameters()))
        >>> found[0] is net, left
        (True, 0)
    """
    wanted = parameter_ids(optimizer)
    holds = {module: set(map(id, module.parameters())) for module in _outermost()}
    holds = {module: held for module, held in holds.items() if held & wanted}
    found: list[nn.Module] = []
    while wanted and holds:
        best = max(holds, key=lambda module: (len(holds[module] & wanted), -len(holds[module])))
        if not holds[best] & wanted:
            break
        found.append(best)
        wanted -= holds.pop(best)
    return found, len(wanted)


def _outermost() -> list[nn.Module]:
    # type() and not isinstance(): a lazy proxy would make up what it stands for
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
    modules = [module for module in modules if "_modules" in vars(module)]
    inside = {id(child) for module in modules for child in module._modules.values()}
    return [module for module in modules if id(module) not in inside]
