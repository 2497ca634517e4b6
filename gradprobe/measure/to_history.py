"""From what a probe has collected to a history: its layers, its rows and the conditions it was taken under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradprobe.measure.accumulator import Key
from gradprobe.measure.output_gradients import OutputGradients, OutputHook
from gradprobe.measure.ranks import active_ddp_wrapper, world_size, wrapper_name
from gradprobe.measure.unreached import unreached_reasons
from gradprobe.measure.window import Window, statistics
from gradprobe.network.layers import own_parameters
from gradprobe.network.survey import Topology
from gradprobe.record.history import Layer

Sums = list[list[list[float]]]  # a `gradprobe.measure.window.table` as numbers


@dataclass(frozen=True)
class HookedLayers:
    """The layers that a probe records.

    Attributes:
        modules: The layers by name.
        weights: Local names of each layer's parameters other than biases.
        hooks: The forward hook of each layer, which has seen its calls.
        of: The quantities asked for.
        refused: What could not be measured, and why in words.
    """

    modules: Mapping[str, nn.Module]
    weights: Mapping[str, Sequence[str]]
    hooks: Mapping[str, OutputHook]
    of: tuple[str, ...]
    refused: Mapping[Key, str]

    def quantities(self, name: str) -> list[str]:
        """The quantities that a layer can have: one with biases only has no weight."""
        return [of for of in self.of if of == "output" or self.weights[name]]

    def keys(self) -> list[Key]:
        """Every layer and quantity, in the order of ``named_modules()``."""
        return [(name, of) for name in self.modules for of in self.quantities(name)]

    def layers(self, topology: Topology, sums: Sums, *, is_complete: bool) -> tuple[Layer, ...]:
        """The layers in depth order, and why no gradient arrived where none did.

        Args:
            topology: The order of the layers, and why some have no point.
            sums: What was recorded, in the order of `keys`.
            is_complete: Whether an iteration has ended, so that what has not arrived is missing.
        """
        keys = self.keys()
        arrived = {key for row in sums for key, six in zip(keys, row, strict=True) if any(six)}
        order = [name for name in topology.order if name in self.modules]
        return tuple(
            self._layer(name, depth, topology.points.unserved.get(name), arrived if is_complete else set(keys))
            for depth, name in enumerate(order)
        )

    def _layer(self, name: str, depth: int, unserved: str | None, arrived: set[Key]) -> Layer:
        module = self.modules[name]
        missing = [of for of in self.quantities(name) if (name, of) not in arrived]
        reasons = unreached_reasons(name, module, self.weights[name], self.hooks, arrived) if missing else {}
        refused = {of: self.refused[name, of] for of in missing if (name, of) in self.refused}
        return Layer(
            name,
            depth,
            type(module).__name__.removeprefix("FSDP"),
            sum(parameter.numel() for parameter in own_parameters(module).values()),
            {of: refused.get(of, reasons[of].sentence) for of in missing},
            unserved,
            {of: "refused" if of in refused else reasons[of].code for of in missing},
        )

    def rows(self, layers: Sequence[Layer], sums: Sums) -> Iterator[tuple[Any, ...]]:
        """The rows of the history's table: one for each iteration, layer and quantity."""
        place = {key: index for index, key in enumerate(self.keys())}
        counts = {key: self._true_count(*key) for key in place}
        columns = [(layer.name, layer.depth, of) for layer in layers for of in self.quantities(layer.name)]
        for iteration, row in enumerate(sums):
            for name, depth, of in columns:
                yield iteration, name, depth, of, *statistics(row[place[name, of]], counts[name, of])

    def _true_count(self, name: str, of: str) -> int | None:
        """Elements of a layer's weights, of which several ranks may have counted copies."""
        if of == "output" or world_size() == 1:
            return None
        own = own_parameters(self.modules[name])
        return sum(own[local].numel() for local in self.weights[name] if local in own)


def unmeasured_rows(layers: Sequence[Layer], of: Sequence[str], iterations: int) -> Iterator[tuple[Any, ...]]:
    """Rows without a number, for layers that were added while the window was open."""
    for iteration, layer, quantity in product(range(iterations), layers, of):
        yield iteration, layer.name, layer.depth, quantity, *(None,) * 5


def conditions_of(
    model: nn.Module, optimizers: Sequence[Optimizer], window: Window, outputs: OutputGradients
) -> dict[str, Any]:
    """What the magnitudes depend on, as far as a probe can see it."""
    parameter = next(model.parameters())
    scale = window.first_scale
    return {
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "optimizer": " and ".join(map(describe_optimizer, optimizers)) or None,
        "torch": str(torch.__version__),
        "amp_scale": None if scale is None else float(scale) / outputs.averaged,
        "skipped": window.skipped,
        "micro_batches": outputs.micro_batches,
        "world_size": world_size(),
        "wrapper": wrapper_name(active_ddp_wrapper(model)),
    }


def describe_optimizer(optimizer: Optimizer) -> str:
    """Name and main settings of an optimizer.

    Example:
        >>> describe_optimizer(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9))
        'SGD lr 0.1, momentum 0.9'
    """
    settings = optimizer.param_groups[0]
    shown = {name: settings.get(name) for name in ("lr", "momentum", "betas")}
    text = ", ".join(f"{name} {value}" for name, value in shown.items() if value)
    return f"{type(optimizer).__name__} {text}".strip()
