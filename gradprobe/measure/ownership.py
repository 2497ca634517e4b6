"""Which optimizer trains which parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from torch import nn
from torch.optim import Optimizer

from gradprobe.measure.weight_gradients import parameter_ids
from gradprobe.network.layers import own_parameters


class Ownership:
    """The parameters that optimizers hold, from when they are added on, with those that they are given later.

    Args:
        model: The network. If no optimizer holds any of its parameters, as where it is trained through copies of
            them, nothing is known about them: each counts as held.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> optimizer = torch.optim.SGD(net[1].parameters(), lr=0.1)
        >>> ownership = Ownership(net)
        >>> ownership.add(optimizer)
        >>> ownership.not_held({"0": net[0], "1": net[1]})
        ['0']
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._held: set[int] = set()

    def add(self, optimizer: Optimizer) -> None:
        """Take note of what an optimizer holds now."""
        self._held |= parameter_ids(optimizer)

    @property
    def held(self) -> Set[int] | None:
        """All parameters, by `id`, that an optimizer holds; None where that is not known."""
        own = set(map(id, self._model.parameters()))
        return set(self._held) if self._held & own else None

    def held_by(self, optimizer: Optimizer, *, alone: bool) -> Set[int] | None:
        """The parameters, by `id`, that an optimizer is about to change; None for all of the network.

        Args:
            optimizer: The optimizer; what it holds now is noted.
            alone: Whether it is the only one.
        """
        self.add(optimizer)
        if self.held is None or (alone and self._holds_all()):
            return None
        return set(self._held) if alone else parameter_ids(optimizer)

    def _holds_all(self) -> bool:
        return all(
            id(parameter) in self._held or not (parameter.requires_grad or parameter.grad is not None)
            for parameter in self._model.parameters()
        )

    def not_held(self, layers: Mapping[str, nn.Module]) -> list[str]:
        """The layers none of whose parameters an optimizer holds."""
        held = self.held
        if held is None:
            return []
        return [name for name, layer in layers.items() if not held & ids_of(own_parameters(layer).values())]


def ids_of(parameters: Iterable[nn.Parameter]) -> set[int]:
    """Parameters by `id`."""
    return set(map(id, parameters))
