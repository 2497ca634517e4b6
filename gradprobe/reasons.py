"""Why no gradient arrived at a layer, as far as it can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set

from torch import nn

from gradprobe.history import Layer
from gradprobe.layers import own_parameters
from gradprobe.window import Slot


class Reasons:
    """What was seen of each layer, and what follows from it where nothing arrived.

    Args:
        layers: The layers by name.
        weights: Local names of each layer's parameters other than biases.
        refused: What could not be measured, and why.

    Attributes:
        calls: How often each layer's forward was called.
        tapped: How often its output required a gradient.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], weights: Mapping[str, Sequence[str]], refused: Mapping[Slot, str]
    ) -> None:
        self._layers, self._weights, self._refused = layers, weights, refused
        self.calls: Counter[str] = Counter()
        self.tapped: Counter[str] = Counter()

    def unreached(self, name: str, quantities: Set[str], arrived: Set[Slot]) -> dict[str, str]:
        """The reason for each quantity of a layer that no gradient arrived at."""
        reasons = {"output": self._output(name), "weight": self._weight(name, (name, "output") in arrived)}
        return {
            of: self._refused.get((name, of), why)
            for of, why in reasons.items()
            if of in quantities and (name, of) not in arrived
        }

    def _output(self, name: str) -> str:
        if not self.calls[name]:
            if not any(parameter.requires_grad for parameter in own_parameters(self._layers[name]).values()):
                return "frozen, and not seen to be called"
            compiled = "" if self.calls else ", or only inside code that was compiled while the probe was attached"
            return f"never called as a module{compiled}"
        if self.tapped[name]:
            return "no path from its output to the loss"
        if any(parameter.requires_grad for parameter in own_parameters(self._layers[name]).values()):
            return "its output holds no tensor that requires a gradient (detached, or under no_grad)"
        return "frozen: neither it nor anything before it is trained"

    def _weight(self, name: str, output_arrived: bool) -> str:
        own = own_parameters(self._layers[name])
        if not any(own[local].requires_grad for local in self._weights[name] if local in own):
            return "frozen: requires_grad is False"
        if self.calls and not self.calls[name]:
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
