"""Which modules own the parameters of an optimizer, and when two trainings are of one kind."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from types import FrameType
from typing import cast

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradprobe.measure.weight_gradients import parameter_ids
from gradprobe.network.layers import unwrap

Kind = tuple[object, ...]


def owners(optimizer: Optimizer) -> tuple[list[nn.Module], int]:
    """The outermost modules that own an optimizer's parameters, and how many of these belong to no module.

    Where several modules own the same ones, the one that owns most of them and the fewest others counts.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> models, left = owners(torch.optim.SGD(net[1].parameters()))
        >>> models[0] is net, left
        (True, 0)
        >>> other = nn.Linear(2, 2)
        >>> models, _ = owners(torch.optim.SGD([*other.parameters(), *net.parameters()]))
        >>> [models[0] is other, models[1] is net]
        [True, True]
    """
    wanted = parameter_ids(optimizer)
    held = {module: ids(module) for module in _outermost()}
    models: list[nn.Module] = []
    while wanted and held:
        best = max(held, key=lambda module: (len(held[module] & wanted), -len(held[module])))
        if not held[best] & wanted:
            break
        models.append(best)
        wanted -= held.pop(best)
    # in the optimizer's order: that of the garbage collector is another one in each process
    order = {id(p): None for group in optimizer.param_groups for p in group["params"]}
    places = {one: place for place, one in enumerate(order)}
    models.sort(key=lambda model: min(places.get(one, len(places)) for one in ids(model)))
    return models, len(wanted)


def model_at_hand(wanted: set[int], frames: Iterable[FrameType]) -> nn.Module | None:
    """The module that has just these parameters, if the script's functions have a name for it.

    To look at all objects for it, as `owners` does, takes long where thousands of models are built.
    """
    for frame in frames:
        for value in (*frame.f_locals.values(), *getattr(frame.f_locals.get("self"), "__dict__", {}).values()):
            if is_module(value) and ids(cast(nn.Module, value)) == wanted:
                return cast(nn.Module, value)
    return None


def kind_of(model: nn.Module, optimizer: Optimizer) -> Kind:
    """What two trainings have in common that show the same: classes, names and shapes, and the optimizer's class.

    Example:
        >>> import torch
        >>> nets = [nn.Sequential(nn.Linear(2, n), nn.ReLU()) for n in (3, 3, 4)]
        >>> kinds = [kind_of(net, torch.optim.SGD(net.parameters())) for net in nets]
        >>> kinds[0] == kinds[1], kinds[0] == kinds[2]
        (True, False)
    """
    bare = unwrap(model)
    # by name: a class that a function defines is another object in each of its calls
    classes = ((name, type(module).__qualname__) for name, module in bare.named_modules())
    shapes = (
        (name, "" if is_lazy(p) else str(tuple(p.shape)), str(p.dtype), p.requires_grad)
        for name, p in bare.named_parameters()
    )
    return type(optimizer).__qualname__, *classes, *shapes


def ids(model: nn.Module) -> set[int]:
    """The parameters of a module by `id`."""
    return set(map(id, model.parameters()))


def is_module(value: object) -> bool:
    """Whether a value is a module, and one whose constructor has run."""
    # type() and not isinstance(), for which a lazy proxy would create the object that it stands for
    return issubclass(type(value), nn.Module) and "_modules" in vars(value)


def _outermost() -> list[nn.Module]:
    kinds: dict[type, bool] = {}
    modules: list[nn.Module] = []
    for value in gc.get_objects():
        kind = type(value)
        if kind not in kinds:
            kinds[kind] = issubclass(kind, nn.Module)
        if kinds[kind] and is_module(value):
            modules.append(value)
    inside = {id(child) for module in modules for child in module._modules.values()}
    return [module for module in modules if id(module) not in inside]
