"""From what a probe has collected to a history: its layers, its rows and the conditions it was taken under."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradprobe.measure.accumulator import Key
from gradprobe.measure.output_gradients import OutputGradients, OutputHook
from gradprobe.measure.ranks import active_ddp_wrapper, world_size, wrapper_name
from gradprobe.measure.reduction.on_device import in_use
from gradprobe.measure.unreached import Seen, unreached_reasons
from gradprobe.measure.window import COUNT, Window, statistics
from gradprobe.network.layers import own_parameters, recurrent_weights, weight_row
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
        """Every layer and quantity, and every weight of recurrent layers, in the order of ``named_modules()``."""
        return [(name, of) for name in self.modules for of in (*self.quantities(name), *self.single_weights(name))]

    def single_weights(self, name: str) -> list[str]:
        """Local names of the weights of a layer that have rows of their own."""
        if "weight" not in self.quantities(name):
            return []
        return [local for local in recurrent_weights(self.modules[name]) if local in self.weights[name]]

    def layers(
        self,
        topology: Topology,
        sums: Sums,
        *,
        is_complete: bool,
        held: Set[int] | None = None,
        now: Mapping[str, nn.Module] | None = None,
        touched: Collection[str] = (),
    ) -> tuple[Layer, ...]:
        """The layers in depth order, and why no gradient arrived where none did.

        Args:
            topology: The order of the layers, and why some have no point.
            sums: What was recorded, in the order of `keys`.
            is_complete: Whether an iteration has ended, so that what has not arrived is missing.
            held: The parameters, by `id`, that an optimizer held at a step; None where that is not known.
            now: The layers that the network has now. One that another took the place of, and that no gradient
                arrived at, is left out.
            touched: The layers at whose output a gradient arrived, whether or not it counts.
        """
        keys = self.keys()
        arrived = {key for row in sums for key, six in zip(keys, row, strict=True) if any(six)}
        if now is not None:
            arrived_at = {name for name, _ in arrived}
            gone = {n for n, module in self.modules.items() if now.get(n) is not module and n not in arrived_at}
        else:
            gone = set()
        order = [name for name in topology.order if name in self.modules and name not in gone]
        return tuple(
            self._layer(
                name,
                depth,
                topology.points.unserved.get(name),
                arrived if is_complete else set(keys),
                self._seen(name, topology.facts.get(name), arrived, held, touched),
            )
            for depth, name in enumerate(order)
        )

    def _layer(self, name: str, depth: int, unserved: str | None, arrived: set[Key], seen: Seen) -> Layer:
        module = self.modules[name]
        missing = [of for of in self.quantities(name) if (name, of) not in arrived]
        reasons = unreached_reasons(module, self.weights[name], seen) if missing else {}
        refused = {of: self.refused[name, of] for of in missing if (name, of) in self.refused}
        return Layer(
            name,
            depth,
            type(module).__name__.removeprefix("FSDP"),
            sum(parameter.numel() for parameter in own_parameters(module).values()),
            {of: refused.get(of, reasons[of].sentence) for of in missing},
            unserved,
            {of: "refused" if of in refused else reasons[of].code for of in missing},
            tuple(weight_row(name, local) for local in self.single_weights(name)),
        )

    def _seen(
        self, name: str, fact: str | None, arrived: set[Key], held: Set[int] | None, touched: Collection[str]
    ) -> Seen:
        own = own_parameters(self.modules[name])
        weights = {id(own[local]) for local in self.weights[name] if local in own}
        return Seen(
            self.hooks[name],
            fact,
            name in touched or (name, "output") in arrived,
            (name, "weight") in arrived,
            None if held is None else bool(weights & held),
            any(hook.calls for hook in self.hooks.values()),
            any(of == "weight" for _, of in arrived),
        )

    def rows(self, layers: Sequence[Layer], sums: Sums) -> Iterator[tuple[Any, ...]]:
        """The rows of the history's table: in each iteration one for each quantity of a layer, and weight."""
        place = {key: index for index, key in enumerate(self.keys())}
        counts = {key: self._true_count(*key) for key in place}
        columns = [(row, layer.depth, of, key) for layer in layers for row, of, key in self._rows_of(layer.name)]
        for iteration, table in enumerate(sums):
            for row, depth, of, key in columns:
                yield iteration, row, depth, of, *statistics(table[place[key]], counts[key])

    def _rows_of(self, name: str) -> Iterator[tuple[str, str, Key]]:
        """What the rows of a layer are called, the quantity of each, and its key."""
        for of in self.quantities(name):
            yield name, of, (name, of)
        for local in self.single_weights(name):
            yield weight_row(name, local), "weight", (name, local)

    def _true_count(self, name: str, of: str) -> int | None:
        """Elements of a layer's weights, or of one of them, of which several ranks may have counted copies."""
        if of == "output" or world_size() == 1:
            return None
        own = own_parameters(self.modules[name])
        wanted = self.weights[name] if of == "weight" else [of]
        return sum(own[local].numel() for local in wanted if local in own)


def elements_by_layer(keys: Sequence[Key], sums: Sums) -> dict[tuple[int, str], float]:
    """How many elements the output of each layer had whose gradient arrived, by iteration and layer."""
    return {
        (iteration, name): six[COUNT]
        for iteration, row in enumerate(sums)
        for (name, of), six in zip(keys, row, strict=True)
        if of == "output" and six[COUNT]
    }


def unmeasured_rows(layers: Sequence[Layer], of: Sequence[str], iterations: int) -> Iterator[tuple[Any, ...]]:
    """Rows without a number, for layers that were added while the window was open."""
    for iteration, layer, quantity in product(range(iterations), layers, of):
        yield iteration, layer.name, layer.depth, quantity, *(None,) * 5


def conditions_of(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    window: Window,
    outputs: OutputGradients,
    first_scale: Tensor | float | None,
    topology: Topology | None = None,
    held: Set[int] | None = None,
) -> dict[str, Any]:
    """What the magnitudes depend on, as far as a probe can see it.

    Args:
        model: The network.
        optimizers: Those whose steps ended the iterations.
        window: The iterations.
        outputs: The gradients of outputs, which show the batch that was trained on.
        first_scale: The first scale of a gradient scaler, or None.
        topology: What the first forward pass showed.
        held: The parameters, by `id`, that an optimizer held at a step; None where that is not known.
    """
    parameter = next(model.parameters())
    scale = first_scale
    return {
        **({} if topology is None else _conditions_seen(topology, getattr(outputs, "shapes", {}), held or set())),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "kernels": in_use(parameter.device),
        "optimizer": " and ".join(map(describe_optimizer, optimizers)) or None,
        "torch": str(torch.__version__),
        "amp_scale": None if scale is None else float(scale),
        "skipped": window.skipped,
        "micro_batches": outputs.micro_batches,
        "ambiguous": outputs.ambiguous or None,
        "world_size": world_size(),
        "wrapper": wrapper_name(active_ddp_wrapper(model)),
    }


def _conditions_seen(topology: Topology, shapes: Mapping[str, tuple[int, ...]], held: Set[int]) -> dict[str, Any]:
    """What the forward pass and the gradients that arrived show."""
    loose = [[*parameter.shape] for parameter in topology.loose_parameters if parameter.id not in held]
    return {"batch_size": topology.output_axes.size_in(shapes), "loose_parameters": loose or None}


def describe_optimizer(optimizer: Optimizer) -> str:
    """Name and main settings of an optimizer, for reading: with four digits at most.

    Example:
        >>> describe_optimizer(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1 / 3, momentum=0.9))
        'SGD lr 0.03333, momentum 0.9'
    """
    settings = optimizer.param_groups[0]
    shown = {name: _rounded(settings.get(name)) for name in ("lr", "momentum", "betas")}
    text = ", ".join(f"{name} {value}" for name, value in shown.items() if value)
    return f"{type(optimizer).__name__} {text}".strip()


def _rounded(value: Any) -> Any:
    """A number with four digits at most, also within a tuple; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(_rounded, value))
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return float(f"{value:.4g}") if isinstance(value, float) else value
