"""The gradients of weights, read from where the optimizer will read them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from gradprobe.measure.accumulator import Accumulator, Key, whole
from gradprobe.measure.reduction.values import is_plain
from gradprobe.network.layers import parameter_place, recurrent_weights

_Place = tuple[dict[str, Any], str]  # where a module keeps a parameter, and its name there


class _Alike(NamedTuple):
    """Weights whose gradients are read together."""

    keys: tuple[Key, ...]
    counts: tuple[int, ...]
    places: tuple[_Place, ...]


class WeightGradients:
    """The parameters of a network's layers other than biases.

    Args:
        layers: The layers by name.
        names: Local names of each layer's parameters other than biases, as from
            `gradprobe.network.layers.weight_names`.

    Example:
        >>> import torch
        >>> from gradprobe.measure.reduction import Reducer
        >>> layer, accumulator = nn.Linear(2, 1), Accumulator(Reducer(every=False), {})
        >>> layer(3 * torch.ones(1, 2)).sum().backward()
        >>> WeightGradients({"fc": layer}, {"fc": ["weight"]}).read(accumulator)
        >>> accumulator.take()[0][:3]
        ((('fc', 'weight'),), (2,), tensor([[6.]]))
    """

    def __init__(self, layers: Mapping[str, nn.Module], names: Mapping[str, Sequence[str]]) -> None:
        self._places = [
            ((name, local if local in recurrent else "weight"), parameter_place(module, local))
            for name, module in layers.items()
            for recurrent in [recurrent_weights(module)]
            for local in names[name]
        ]
        self._groups: dict[Hashable, _Alike] | None = None

    def read(self, into: Accumulator, only: Set[int] | None = None) -> None:
        """Add the gradients as they stand, of all parameters or only of those with these ids."""
        if only is not None:
            self._read_each(self._places, into, only)
            return
        if self._groups is None:
            self._groups = self._group(into)
        for group, alike in self._groups.items():
            if group is None or not self._read_together(alike, into):
                self._read_each(zip(alike.keys, alike.places, strict=True), into)

    def all_in(self, parameters: Set[int]) -> set[Key]:
        """The layers' weights all of whose gradients are of parameters with these ids.

        Example:
            >>> import torch
            >>> layer = nn.Linear(2, 1)
            >>> layer(torch.ones(1, 2)).sum().backward()
            >>> weights = WeightGradients({"fc": layer}, {"fc": ["weight"]})
            >>> weights.all_in({id(layer.weight)}), weights.all_in({id(layer.bias)})
            ({('fc', 'weight')}, set())
        """
        weights = [(whole(key), owner.get(name)) for key, (owner, name) in self._places]
        with_gradient = [
            (key, id(weight)) for key, weight in weights if weight is not None and weight.grad is not None
        ]
        others = {key for key, weight in with_gradient if weight not in parameters}
        return {key for key, _ in with_gradient} - others

    def _read_together(self, alike: _Alike, into: Accumulator) -> bool:
        keys, counts, places = alike
        try:
            into.add_alike(keys, counts, [owner[name].grad for owner, name in places])
        except (RuntimeError, TypeError, AttributeError, KeyError):  # one is missing, or unlike the others
            return False
        return True

    def _read_each(
        self, weights: Iterable[tuple[Key, _Place]], into: Accumulator, only: Set[int] | None = None
    ) -> None:
        for key, (owner, name) in weights:
            parameter = owner.get(name)
            if parameter is None or parameter.grad is None or not (only is None or id(parameter) in only):
                continue
            into.add_lasting(key, parameter.grad)
        into.flush()  # the next step or `zero_grad` may change them in place

    def _group(self, into: Accumulator) -> dict[Hashable, _Alike]:
        """Group what can be read together, going by what the parameters look like now; None for what cannot."""
        groups: dict[Hashable, list[tuple[Key, int, _Place]]] = {}
        for key, (owner, name) in self._places:
            parameter = owner.get(name)
            if parameter is not None:
                # frozen ones have no gradient, and would keep the others from being read together
                group = (into.kind(parameter), parameter.requires_grad) if is_plain(parameter) else None
                groups.setdefault(group, []).append((key, parameter.numel(), (owner, name)))
        return {group: _Alike(*map(tuple, zip(*weights, strict=True))) for group, weights in groups.items()}


def parameter_ids(optimizer: Optimizer) -> set[int]:
    """The parameters that an optimizer steps, by `id`."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
