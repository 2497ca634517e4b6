"""The parameters of layers whose ``.grad`` is looked at: a weight and a bias of each layer, mostly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import torch
from torch import Tensor, nn

from gradprobe.network.layers import own_parameters, parameter_place

_Place = tuple[dict[str, nn.Parameter | None], str]


class LayerWeights:
    """The own parameters of layers, as they are now: they may be frozen, sharded or replaced at any time.

    Args:
        modules: The layers by name.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> weights = LayerWeights(dict(net.named_children()))
        >>> weights.first("0") is net[0].weight, weights.first("1")
        (True, None)
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._places: dict[str, list[_Place]] = {
            name: [parameter_place(module, local) for local in own_parameters(module)]
            for name, module in modules.items()
        }

    def first(self, name: str) -> nn.Parameter | None:
        """The first parameter of a layer that is trained: it stands for all of them."""
        for owner, local in self._places[name]:
            one = owner.get(local)
            if one is not None and one.requires_grad and one.numel():
                return one
        return None

    def ends(self, name: str) -> list[nn.Parameter]:
        """The first and the last parameter of a layer that are trained: a weight and a bias, mostly."""
        trained = [one for one in self.all(name) if one.requires_grad and one.numel()]
        return trained if len(trained) < 2 else [trained[0], trained[-1]]

    def all(self, name: str) -> list[nn.Parameter]:
        """All parameters of a layer."""
        return [one for owner, local in self._places[name] if (one := owner.get(local)) is not None]

    def are_inside(self, name: str) -> bool:
        """Whether a layer has tensors of a transform of torch.func as its weights, in a call of a function."""
        return any(map(torch._C._functorch.is_functorch_wrapped_tensor, self.all(name)))

    def looked_at(self, name: str, owner: int | None) -> nn.Parameter | None:
        """The parameter with this `id`, frozen by now or not; else the first that is trained or has a gradient."""
        for place, local in self._places[name]:
            one = place.get(local)
            if id(one) == owner:
                return one
        trained = self.first(name)
        if trained is not None:
            return trained
        return next((one for one in self.all(name) if one.grad is not None), None)

    def gradients(self, name: str, parameter: nn.Parameter) -> list[Tensor]:
        """What stands in the ``.grad`` of a parameter of a layer, and of the last one beside it."""
        others = [one for one in self.all(name) if one is not parameter and one.grad is not None]
        gradients = [one.grad for one in (parameter, *others[-1:]) if one.grad is not None]
        first = gradients[0]
        return [one for one in gradients if one.dtype == first.dtype and one.device == first.device]

    def names_of(self, parameters: Set[int] | None) -> list[str]:
        """The layers that have one of the parameters with these ids; None for all layers."""
        if parameters is None:
            return list(self._places)
        return [name for name in self._places if any(id(one) in parameters for one in self.all(name))]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)
