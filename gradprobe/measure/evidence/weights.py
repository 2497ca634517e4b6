"""Samples of weights and their gradients: what they begin as, how far steps move them, what steps find."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.evidence.sampling import elements_of_each, some_of
from gradprobe.measure.reduction import is_plain, local_part
from gradprobe.network.layers import parameter_place

_SIDE = 64  # rows and columns of a weight that are compared


class WeightSamples:
    """A fixed sample of the elements of every layer's weights, and of their gradients.

    Args:
        modules: The layers by name.
        names: Local names of each layer's parameters other than biases.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> samples = WeightSamples({"fc": layer}, {"fc": ["weight"]})
        >>> _ = layer.weight.data.fill_(3.0)
        >>> samples.norms(samples.take()).tolist()
        [4.2426...]
    """

    def __init__(self, modules: Mapping[str, nn.Module], names: Mapping[str, Sequence[str]]) -> None:
        self.layers = [name for name in modules if names[name]]
        self._places = [
            (index, *parameter_place(modules[name], local))
            for index, name in enumerate(self.layers)
            for local in names[name]
        ]
        self._most = elements_of_each(len(self._places))
        self._sizes: list[int] | None = None
        self.owner: Tensor | None = None
        self.device = torch.device("cpu")

    def _parameters(self) -> list[nn.Parameter | None]:
        return [owner.get(key) for _, owner, key in self._places]

    def take(self, *, gradients: bool = False) -> Tensor:
        """The sampled elements of all weights, one after the other, in float32; 0 where there is no gradient."""
        parameters = self._parameters()
        if self._sizes is None:
            self._measure(parameters)
        assert self._sizes is not None
        parts: list[Tensor] = []
        for parameter, size in zip(parameters, self._sizes, strict=True):
            tensor = parameter.grad if gradients and parameter is not None else parameter
            sample = None if tensor is None or not size else some_of(tensor, self._most)
            fits = sample is not None and sample.numel() == size
            parts.append(sample if sample is not None and fits else torch.zeros(size, device=self.device))
        alike = {(part.dtype, part.device) for part in parts}
        if alike != {(torch.float32, self.device)}:
            parts = [part.to(self.device, torch.float32) for part in parts]
        return torch.cat(parts).clone() if len(parts) == 1 else torch.cat(parts)

    def _measure(self, parameters: Sequence[nn.Parameter | None]) -> None:
        samples = [None if one is None else some_of(one, self._most) for one in parameters]
        self._sizes = [0 if sample is None else sample.numel() for sample in samples]
        self.device = next((sample.device for sample in samples if sample is not None), torch.device("cpu"))
        owners = [index for index, _, _ in self._places]
        counts = torch.tensor(self._sizes, dtype=torch.long)
        self.owner = torch.tensor(owners, dtype=torch.long).repeat_interleave(counts).to(self.device)

    def sums(self, values: Tensor) -> Tensor:
        """The sum of some values of the elements, for each layer."""
        assert self.owner is not None
        return torch.zeros(len(self.layers), device=self.device).index_add_(0, self.owner, values)

    def norms(self, values: Tensor) -> Tensor:
        """The L2 norm of the sampled elements of each layer."""
        scale = values.abs().amax().clamp(min=1e-30) if values.numel() else torch.ones((), device=self.device)
        return self.sums((values / scale).square()).sqrt() * scale

    def held_by(self, parameters: Set[int]) -> list[bool]:
        """For each layer whether a weight of it is among the parameters with these ids."""
        held = [False] * len(self.layers)
        for (index, _, _), parameter in zip(self._places, self._parameters(), strict=True):
            held[index] |= id(parameter) in parameters
        return held

    def facts(self) -> list[tuple[str, dict[str, Any], Tensor]]:
        """What the weights of each layer are now: the layer, facts of its shape, and `NUMBERS` on the device."""
        largest: dict[str, tuple[str, dict[str, Any], Tensor]] = {}
        for (index, _, _), parameter in zip(self._places, self._parameters(), strict=True):
            numbers = None if parameter is None else _numbers(parameter)
            if parameter is None or numbers is None:
                continue
            name = self.layers[index]
            if name not in largest or largest[name][1]["count"] < parameter.numel():
                largest[name] = name, _shape_facts(parameter), numbers.to(self.device)
        return list(largest.values())


NUMBERS = ("std", "mean", "largest", "kurtosis", "alike")


def described(facts: Sequence[tuple[str, dict[str, Any], Tensor]]) -> dict[str, dict[str, Any]]:
    """The same as plain data, by layer. Waits for the device."""
    if not facts:
        return {}
    table = torch.stack([numbers for _, _, numbers in facts]).tolist()
    return {
        name: {**dict(zip(NUMBERS, row, strict=True)), **shape}
        for (name, shape, _), row in zip(facts, table, strict=True)
    }


def _shape_facts(parameter: nn.Parameter) -> dict[str, Any]:
    return {
        "fan_in": math.prod(parameter.shape[1:]),
        "fan_out": parameter.shape[0] * math.prod(parameter.shape[2:]),
        "units": parameter.shape[0],
        "count": parameter.numel(),
        "trained": parameter.requires_grad,
    }


def _numbers(parameter: nn.Parameter) -> Tensor | None:
    """Standard deviation, mean, largest absolute value, kurtosis, and how far the units differ from each other."""
    tensor = local_part(parameter.detach())
    if tensor.dim() < 2 or not tensor.numel() or not is_plain(tensor) or tensor.is_meta:
        return None
    rows = tensor[:: max(1, tensor.shape[0] // _SIDE)][:_SIDE].flatten(1)
    some = rows[:, :: max(1, rows.shape[1] // 1024)][:, :1024].float()
    largest = some.abs().amax()
    scaled = some / largest.clamp(min=1e-30)
    centred = scaled - scaled.mean()
    variance = centred.square().mean()
    kurtosis = centred.pow(4).mean() / variance.square().clamp(min=1e-30)
    differ = (scaled - scaled.mean(0)).square().mean().sqrt() / scaled.square().mean().sqrt().clamp(min=1e-30)
    return torch.stack([variance.sqrt() * largest, some.mean(), largest, kurtosis, differ])
