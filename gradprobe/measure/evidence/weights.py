"""Samples of weights and their gradients: what they begin as, how far steps move them, what steps find."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradprobe.measure.evidence.sampling import elements_of_each, some_of
from gradprobe.measure.reduction.values import is_plain, local_part
from gradprobe.network.layers import parameter_place, recurrent_weights, weight_row

_DENSE = (Tensor, nn.Parameter)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_TOGETHER = 2**18  # elements of samples that are reduced at once
_SIDE = 64  # rows and columns of a weight that are compared


class _Place(NamedTuple):
    """Where a weight is kept, and which rows it is a part of: its layer's, and its own if it has one."""

    owner: dict[str, nn.Parameter | None]
    name: str
    layer: int
    single: int | None

    @property
    def rows(self) -> tuple[int, ...]:
        return (self.layer,) if self.single is None else (self.layer, self.single)


class WeightSamples:
    """A fixed sample of the elements of every layer's weights, and of their gradients.

    Args:
        modules: The layers by name.
        names: Local names of each layer's parameters other than biases.

    Attributes:
        rows: What there is a number of: the layers that have weights, then each weight of recurrent ones.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> samples = WeightSamples({"fc": layer}, {"fc": ["weight"]})
        >>> _ = layer.weight.data.fill_(3.0)
        >>> samples.norms(samples.take()).tolist()
        [4.2426...]
    """

    def __init__(self, modules: Mapping[str, nn.Module], names: Mapping[str, Sequence[str]]) -> None:
        layers = [name for name in modules if names[name]]
        single = [
            weight_row(name, local)
            for name in layers
            for local in recurrent_weights(modules[name])
            if local in names[name]
        ]
        self._layers = len(layers)
        self._units = {name: units for name in layers if (units := _units_of(modules[name])) is not None}
        self.rows = [*layers, *single]
        row_of = {name: index for index, name in enumerate(self.rows)}
        self._places = [
            _Place(*parameter_place(modules[name], local), row_of[name], row_of.get(weight_row(name, local)))
            for name in layers
            for local in names[name]
        ]
        elements = sum(one.numel() for one in self._parameters() if one is not None)
        self._most = elements_of_each(len(self._places), elements)
        self._sizes: list[int] | None = None
        self._of_weights: list[Tensor | None] = []
        self._of_gradients: list[Tensor | None] = []
        self._owner = self._single = torch.zeros(0, dtype=torch.int32)
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def _parameters(self) -> list[nn.Parameter | None]:
        return [owner.get(name) for owner, name, _, _ in self._places]

    def take(self) -> Tensor:
        """The sampled elements of all weights, one after the other.

        In float32, or in float64 if any weight is: what a step changes of one may be lost in float32.
        """
        parameters = self._parameters()
        return self._taken(parameters, parameters, self._of_weights)

    def take_gradients(self) -> Tensor:
        """The same elements of their gradients as they stand; 0 where there is none."""
        parameters = self._parameters()
        gradients = [None if parameter is None else parameter.grad for parameter in parameters]
        return self._taken(parameters, gradients, self._of_gradients)

    def let_go(self, *, weights: bool = False) -> None:
        """Keep no gradient alive: its owner may clear it. At the end no weight either."""
        self._of_gradients.clear()
        if weights:
            self._of_weights.clear()

    def _taken(
        self, parameters: Sequence[Tensor | None], tensors: Sequence[Tensor | None], views: list[Tensor | None]
    ) -> Tensor:
        """Samples of tensors, of which those taken before in the same memory are still the same views."""
        if self._sizes is None:
            self._measure(parameters)
        assert self._sizes is not None
        known = views or [None] * len(tensors)
        with torch.no_grad():
            parts = [
                view if view is not None and _is_in(tensor, view) else self._sample(tensor, size)
                for tensor, view, size in zip(tensors, known, self._sizes, strict=True)
            ]
            views[:] = [
                part if type(tensor) in _DENSE else None for tensor, part in zip(tensors, parts, strict=True)
            ]
            if len({(part.dtype, part.device) for part in parts}) > 1:
                parts = [part.to(self.device, self.dtype) for part in parts]
            together = torch.cat(parts).clone() if len(parts) == 1 else torch.cat(parts)
            return together.to(self.device, self.dtype)  # at once: on an accelerator each is a kernel

    def _sample(self, tensor: Tensor | None, size: int) -> Tensor:
        if tensor is not None and size:
            if type(tensor) in _DENSE and tensor.layout is torch.strided and tensor.is_contiguous():
                count = tensor.numel()
                if size == min(count, self._most) and tensor.dtype in _FLOATS:
                    return tensor.as_strided((size,), (max(1, count // self._most),))
            sample = some_of(tensor, self._most)
            if sample is not None and sample.numel() == size:
                return sample
        return torch.zeros(size, device=self.device, dtype=self.dtype)

    def _measure(self, parameters: Sequence[Tensor | None]) -> None:
        samples = [None if one is None else some_of(one, self._most) for one in parameters]
        self._sizes = [0 if sample is None else sample.numel() for sample in samples]
        there = [sample for sample in samples if sample is not None]
        self.device = there[0].device if there else torch.device("cpu")
        self.dtype = torch.float64 if any(sample.dtype == torch.float64 for sample in there) else torch.float32
        counts = torch.tensor(self._sizes, dtype=torch.long)
        self._owner = self._rows_of_elements([one.layer for one in self._places], counts)
        if len(self.rows) > self._layers:
            # what is no single weight goes to a row at the end, which is dropped
            rows = [len(self.rows) if one.single is None else one.single for one in self._places]
            self._single = self._rows_of_elements([row - self._layers for row in rows], counts)

    def _rows_of_elements(self, rows: Sequence[int], counts: Tensor) -> Tensor:
        return torch.tensor(rows, dtype=torch.int32).repeat_interleave(counts).to(self.device)

    def unread(self) -> list[str]:
        """The rows whose weights are of no kind that is read: complex, sparse, quantized, without elements."""
        sizes = self._sizes or []
        read = {row for place, size in zip(self._places, sizes, strict=False) if size for row in place.rows}
        return [name for row, name in enumerate(self.rows) if row not in read and sizes]

    def identities(self) -> list[int]:
        """Which parameters there are at the moment, by `id`."""
        return list(map(id, self._parameters()))

    def same(self, before: Sequence[int]) -> Tensor:
        """Which of the rows have the parameters that they had."""
        now = self.identities()
        if now == before:
            return torch.ones(len(self.rows), dtype=torch.bool)
        changed = {
            row
            for place, one, two in zip(self._places, before, now, strict=True)
            if one != two
            for row in place.rows
        }
        return torch.tensor([row not in changed for row in range(len(self.rows))], dtype=torch.bool)

    def sums(self, values: Tensor) -> Tensor:
        """The sum of some values of the elements, for each of the rows."""
        by_layer = values.new_zeros(self._layers).index_add_(0, self._owner, values)
        single = len(self.rows) - self._layers
        if not single:
            return by_layer
        by_weight = values.new_zeros(single + 1).index_add_(0, self._single, values)
        return torch.cat([by_layer, by_weight[:-1]])

    def of_elements(self, rows: Tensor) -> Tensor:
        """For each element the number of its layer."""
        return rows[self._owner]

    def norms(self, values: Tensor) -> Tensor:
        """The L2 norm of the sampled elements of each of the rows."""
        # in float64: squares leave the range of float32, and what is not finite in one layer stays there
        wide = values.double() if values.device.type != "mps" else values
        return self.sums(wide.square()).sqrt().to(self.dtype)

    def held_by(self, parameters: Set[int]) -> list[bool]:
        """For each of the rows whether a weight of it is among the parameters with these ids."""
        is_held = [identity in parameters for identity in self.identities()]
        if all(is_held):
            return [True] * len(self.rows)
        held = [False] * len(self.rows)
        for place, one in zip(self._places, is_held, strict=True):
            for row in place.rows:
                held[row] |= one
        return held

    def facts(self) -> list[tuple[str, dict[str, Any], Tensor]]:
        """What the weights are now: for each of the rows facts of its shape, and `NUMBERS` on the device.

        Of a layer with several weights it is the largest one.
        """
        largest: dict[str, nn.Parameter] = {}
        samples: dict[int, Tensor] = {}
        units: dict[int, Tensor] = {}  # of the weights whose units are not their rows
        for place, parameter in zip(self._places, self._parameters(), strict=True):
            sample = None if parameter is None else _rows_of(parameter)
            if parameter is None or sample is None:
                continue
            samples[id(parameter)] = sample
            of = self._units.get(self.rows[place.layer]) if type(parameter) in _DENSE else None
            other = None if of is None else _rows_of(of(parameter.detach()))
            if other is not None:
                units[id(parameter)] = other
            for name in (self.rows[row] for row in place.rows):
                if name not in largest or largest[name].numel() < parameter.numel():
                    largest[name] = parameter
        numbers = _numbers_of_each(samples)
        for key, found in _numbers_of_each(units).items():
            numbers[key] = torch.cat([numbers[key][:-1], found[-1:]])
        return [
            (name, _shape_facts(parameter), numbers[id(parameter)].to(self.device))
            for name, parameter in largest.items()
        ]


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


def _is_in(tensor: Tensor | None, view: Tensor) -> bool:
    """Whether a view is of the memory of a tensor; to make a new one would take ten times as long."""
    return tensor is not None and tensor.layout is torch.strided and tensor.data_ptr() == view.data_ptr()


def _shape_facts(parameter: nn.Parameter) -> dict[str, Any]:
    return {
        "fan_in": math.prod(parameter.shape[1:]),
        "fan_out": parameter.shape[0] * math.prod(parameter.shape[2:]),
        "units": parameter.shape[0],
        "count": parameter.numel(),
        "trained": parameter.requires_grad,
    }


def _units_of(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What makes rows of a weight's units, where they are not its rows: the units of a layer should not be alike.

    Example:
        >>> _units_of(nn.LSTM(3, 4))(torch.ones(16, 3)).shape  # of four gates
        torch.Size([4, 3])
        >>> _units_of(nn.Linear(2, 1))
    """
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return lambda weight: weight.t() if weight.dim() == 2 else weight
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        hidden = int(module.hidden_size)
        return lambda weight: weight[:hidden]  # of the first gate: each has a row for each unit
    return None


def _rows_of(parameter: Tensor) -> Tensor | None:
    """Some elements of some rows of a weight; None where it has none that can be read."""
    tensor = local_part(parameter.detach())
    if tensor.dim() < 2 or not tensor.numel() or not is_plain(tensor) or tensor.is_meta:
        return None
    rows = tensor[:: max(1, tensor.shape[0] // _SIDE)][:_SIDE].flatten(1)
    return rows[:, :: max(1, rows.shape[1] // 1024)][:, :1024]


def _numbers_of_each(samples: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """`NUMBERS` of each sample; those of one shape are read together."""
    alike: dict[Any, list[int]] = {}
    for key, sample in samples.items():
        alike.setdefault((sample.shape, sample.dtype, sample.device), []).append(key)
    numbers: dict[int, Tensor] = {}
    for keys in alike.values():
        at_once = max(1, _TOGETHER // samples[keys[0]].numel())
        for start in range(0, len(keys), at_once):
            some = keys[start : start + at_once]
            table = _numbers(torch.stack([samples[key] for key in some]).float())
            numbers.update(zip(some, table.unbind(), strict=True))
    return numbers


def _numbers(samples: Tensor) -> Tensor:
    """Standard deviation, mean, largest absolute value, kurtosis, and how far the units differ from each other.

    Args:
        samples: Shape ``(weights, units, elements)``.
    """
    largest = samples.abs().amax((1, 2))
    scaled = samples / largest.clamp(min=1e-30).view(-1, 1, 1)
    centred = scaled - scaled.mean((1, 2), keepdim=True)
    variance = centred.square().mean((1, 2))
    kurtosis = centred.square().square().mean((1, 2)) / variance.square().clamp(min=1e-30)
    differ = (scaled - scaled.mean(1, keepdim=True)).square().mean((1, 2)).sqrt()
    differ = differ / scaled.square().mean((1, 2)).sqrt().clamp(min=1e-30)
    if samples.shape[1] == 1:  # one unit is like no other
        differ = torch.ones_like(differ)
    return torch.stack([variance.sqrt() * largest, samples.mean((1, 2)), largest, kurtosis, differ], 1)
