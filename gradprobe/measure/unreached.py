"""Why no gradient arrived at a layer, as far as it can be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from torch import nn

from gradprobe.measure.accumulator import Key
from gradprobe.measure.output_gradients import OutputHook
from gradprobe.network.layers import own_parameters
from gradprobe.record.history import Layer


class UnreachedReasons:
    """What was seen of each layer, and what follows from it where nothing arrived.

    Args:
        layers: The layers by name.
        weights: Local names of each layer's parameters other than biases.
        taps: What was seen of each layer's outputs.
        refused: What could not be measured, and why.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        weights: Mapping[str, Sequence[str]],
        taps: Mapping[str, OutputHook],
        refused: Mapping[Key, str],
    ) -> None:
        self._layers, self._weights, self._taps, self._refused = layers, weights, taps, refused

    def unreached(self, name: str, quantities: Set[str], arrived: Set[Key]) -> dict[str, str]:
        """The reason for each quantity of a layer that no gradient arrived at."""
        reasons = {"output": self._output(name), "weight": self._weight(name, (name, "output") in arrived)}
        return {
            of: self._refused.get((name, of), why)
            for of, why in reasons.items()
            if of in quantities and (name, of) not in arrived
        }

    def _output(self, name: str) -> str:
        if not self._taps[name].calls:
            if not any(parameter.requires_grad for parameter in own_parameters(self._layers[name]).values()):
                return "frozen, and not seen to be called"
            compiled = ", or only inside code that was compiled while the probe was attached"
            return f"never called as a module{'' if self._called() else compiled}"
        if self._taps[name].tapped:
            return "no path from its output to the loss"
        if any(parameter.requires_grad for parameter in own_parameters(self._layers[name]).values()):
            return "its output holds no tensor that requires a gradient (detached, or under no_grad)"
        return "frozen: neither it nor anything before it is trained"

    def _called(self) -> bool:
        return any(tap.calls for tap in self._taps.values())

    def _weight(self, name: str, output_arrived: bool) -> str:
        own = own_parameters(self._layers[name])
        if not any(own[local].requires_grad for local in self._weights[name] if local in own):
            return "frozen: requires_grad is False"
        if self._called() and not self._taps[name].calls:
            return "never called as a module"
        if output_arrived:
            return "its gradient was gone when it was read: used up in the backward pass, or zeroed before"
        return "no path from its weight to the loss"


def came_late(
    known: Mapping[str, nn.Module], now: Mapping[str, nn.Module], of: Iterable[str], depth: int
) -> tuple[Layer, ...]:
    """Layers that came, or took another's place, while the window was open: they have no hooks.

    Args:
        known: The layers when the probe was made.
        now: The layers now.
        of: The quantities asked for.
        depth: Depth of the first of them, behind those that were recorded.
    """
    why = "it came while the window was open, so it was not recorded"
    new = [name for name, module in now.items() if known.get(name) is not module]
    return tuple(
        Layer(
            f"{name} (new)" if name in known else name,
            depth + index,
            type(now[name]).__name__,
            sum(parameter.numel() for parameter in own_parameters(now[name]).values()),
            dict.fromkeys(of, why),
            why,
        )
        for index, name in enumerate(new)
    )
