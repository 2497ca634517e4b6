"""Which optimizer trains which parameter."""

from __future__ import annotations

from collections.abc import Iterator, Set

from torch import nn
from torch.optim import Optimizer

from gradprobe.measure.layer_weights import LayerWeights
from gradprobe.measure.weight_gradients import parameter_ids


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
        >>> ownership.not_held(LayerWeights({"0": net[0], "1": net[1]}))
        {'0'}
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._held: set[int] = set()
        self._all_held = False
        self._places: list[dict[str, nn.Parameter | None]] | None = None

    def add(self, optimizer: Optimizer) -> None:
        """Take note of what an optimizer holds now."""
        self._held |= parameter_ids(optimizer)

    @property
    def held(self) -> Set[int] | None:
        """All parameters, by `id`, that an optimizer holds; None where that is not known."""
        is_known = any(id(parameter) in self._held for parameter in self._parameters())
        return self._held if is_known else None

    def _parameters(self) -> Iterator[nn.Parameter]:
        if self._places is None:
            # to go through the modules takes ten times as long, in every step of a network of many layers
            self._places = [module._parameters for module in self._model.modules() if module._parameters]
        for place in self._places:
            for parameter in place.values():
                if parameter is not None:
                    yield parameter

    def held_by(self, optimizer: Optimizer, *, alone: bool) -> Set[int] | None:
        """The parameters, by `id`, that an optimizer is about to change; None for all of the network.

        Args:
            optimizer: The optimizer; what it holds now is noted.
            alone: Whether it is the only one.
        """
        self.add(optimizer)
        held = self.held
        self._all_held = held is None or (alone and self._holds_all())
        if held is None or self._all_held:
            return None
        return self._held if alone else parameter_ids(optimizer)

    def _holds_all(self) -> bool:
        others = [parameter for parameter in self._parameters() if id(parameter) not in self._held]
        return not any(parameter.requires_grad or parameter.grad is not None for parameter in others)

    def not_held(self, layers: LayerWeights) -> set[str]:
        """The layers none of whose parameters an optimizer holds."""
        held = None if self._all_held else self.held
        if held is None:
            return set()
        return {name for name in layers if not any(id(parameter) in held for parameter in layers.all(name))}
