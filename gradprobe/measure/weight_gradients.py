"""The gradients of weights, read where the optimizer will find them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from gradprobe.measure.accumulator import Accumulator, Key
from gradprobe.measure.reduction import is_plain
from gradprobe.network.layers import PARAMETRIZED

_Place = tuple[dict[str, Any], str]  # where a module keeps a parameter, and its name there


class _Alike(NamedTuple):
    """Weights whose gradients have one shape, data type and device."""

    slots: tuple[Key, ...]
    counts: tuple[int, ...]
    places: tuple[_Place, ...]


class WeightGradients:
    """The parameters of a network's layers other than biases.

    Args:
        layers: The layers by name.
        names: Local names of the parameters of each, as `gradprobe.network.layers.weight_names` gives them.

    Example:
        >>> import torch
        >>> from gradprobe.measure.reduction import Reducer
        >>> layer, collected = nn.Linear(2, 1), Accumulator(Reducer(every=False), {})
        >>> layer(3 * torch.ones(1, 2)).sum().backward()
        >>> WeightGradients({"fc": layer}, {"fc": ["weight"]}).read(collected)
        >>> collected.take()
        [ReducedGradients(slots=(('fc', 'weight'),), counts=(2,), rows=tensor([[6.]]))]
    """

    def __init__(self, layers: Mapping[str, nn.Module], names: Mapping[str, Sequence[str]]) -> None:
        self._places = [
            ((name, "weight"), _place(module, local)) for name, module in layers.items() for local in names[name]
        ]
        self._alike: list[_Alike] | None = None

    def read(self, into: Accumulator, only: Set[int] | None = None) -> None:
        """Add the gradients as they stand, of all parameters or only of those with these ids."""
        if only is not None:
            self._read_each(self._places, into, only)
            return
        if self._alike is None:
            self._alike = self._group()
        for alike in self._alike:
            if not self._read_together(alike, into):
                self._read_each(zip(alike.slots, alike.places, strict=True), into)

    def all_in(self, parameters: Set[int]) -> set[Key]:
        """The layers all of whose gradients are of parameters with these ids.

        Example:
            >>> import torch
            >>> layer = nn.Linear(2, 1)
            >>> layer(torch.ones(1, 2)).sum().backward()
            >>> weights = WeightGradients({"fc": layer}, {"fc": ["weight"]})
            >>> weights.all_in({id(layer.weight)}), weights.all_in({id(layer.bias)})
            ({('fc', 'weight')}, set())
        """
        found = [(slot, owner.get(name)) for slot, (owner, name) in self._places]
        there = [(slot, id(weight)) for slot, weight in found if weight is not None and weight.grad is not None]
        return {slot for slot, _ in there} - {slot for slot, weight in there if weight not in parameters}

    def _read_together(self, alike: _Alike, into: Accumulator) -> bool:
        slots, counts, places = alike
        try:
            into.together(slots, counts, [owner[name].grad for owner, name in places])
        except (RuntimeError, TypeError, AttributeError, KeyError):  # one is missing, or not like the others
            return False
        return True

    def _read_each(
        self, weights: Iterable[tuple[Key, _Place]], into: Accumulator, only: Set[int] | None = None
    ) -> None:
        for slot, (owner, name) in weights:
            parameter = owner.get(name)
            if parameter is None or parameter.grad is None or not (only is None or id(parameter) in only):
                continue
            into.add(slot, parameter.grad)
        into.flush()  # the next step or `zero_grad` may change them in place

    def _group(self) -> list[_Alike]:
        """What can be read together, from what the parameters look like now."""
        groups: dict[Any, list[tuple[Key, int, _Place]]] = {}
        for slot, (owner, name) in self._places:
            parameter = owner.get(name)
            if parameter is not None:
                # what is not plain has a group of its own, since it is read by itself
                alike = _look(parameter) if is_plain(parameter) else slot
                groups.setdefault(alike, []).append((slot, parameter.numel(), (owner, name)))
        return [_Alike(*map(tuple, zip(*group, strict=True))) for group in groups.values()]


def _place(module: nn.Module, local: str) -> _Place:
    """Where a parameter is, by a name as `gradprobe.network.layers.own_parameters` gives it."""
    tensor, _, name = local.rpartition(".")
    owner = getattr(module, PARAMETRIZED)[tensor] if tensor else module
    return owner._parameters, name


def _look(parameter: nn.Parameter) -> tuple[Any, ...]:
    # frozen ones have no gradient, and would keep the others from being read together
    return parameter.shape, parameter.dtype, parameter.device, parameter.requires_grad


def parameter_ids(optimizer: Optimizer) -> set[int]:
    """The parameters that an optimizer steps, by `id`."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
