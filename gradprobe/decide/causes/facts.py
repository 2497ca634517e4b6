"""What the rules look at, computed once from a history: signal, share, update, and how the loss goes. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pandas as pd

from gradprobe.record.evidence import Evidence, shares
from gradprobe.record.history import GradientHistory, Layer
from gradprobe.record.text import layer_span, middle

LEARNED = 0.9  # of the loss of the best constant answer: below it the network has learned more than a constant
LONG = 40  # iterations: of fewer nobody can say that nothing is learned
EXAMPLES = 1500  # at batches of 2 and 8 networks that learn show nothing of it in 50 iterations
WELL = 0.5  # of the same
NOTHING = 0.98  # of the loss of the best constant answer
_END_EXAMPLES = 160  # at least, unless that is more than half of the window
_EVEN_AT_LEAST = 64  # weights: of a few the gradients may happen to be alike
_ENDS = 5  # iterations that are averaged at the end of the window: single losses are noisy


class Reading:
    """A history and its evidence, read.

    Args:
        history: The record; it has evidence.
    """

    def __init__(self, history: GradientHistory) -> None:
        assert history.evidence is not None
        self.history = history
        single = {row for layer in history.layers for row in layer.weights}
        self.evidence: Evidence = history.evidence.without(single)
        self.facts: Mapping[str, Mapping[str, Any]] = self.evidence.layers
        self.network: Mapping[str, Any] = history.evidence.network

    @cached_property
    def layers(self) -> list[Layer]:
        """All layers in depth order."""
        return list(self.history.layers)

    def names(self, wanted: Sequence[str] | set[str]) -> tuple[str, ...]:
        """These layers in depth order."""
        chosen = set(wanted)
        return tuple(layer.name for layer in self.layers if layer.name in chosen)

    def span(self, names: Sequence[str]) -> str:
        """These layers in few words."""
        return layer_span(names, [layer.name for layer in self.layers], lambda name: middle(name, 40))

    @cached_property
    def trained(self) -> list[str]:
        """The layers whose weights are to be trained, in depth order."""
        return [
            layer.name
            for layer in self.layers
            if self.facts.get(layer.name, {}).get("trained", not layer.is_frozen)
        ]

    # the loss

    @cached_property
    def losses(self) -> list[float | None]:
        """The loss of each iteration; None where it is not finite."""
        return list(self.network.get("losses") or self.history.conditions.get("losses") or ())

    @cached_property
    def finite_losses(self) -> list[float]:
        """Those that are finite."""
        return [loss for loss in self.losses if loss is not None]

    @property
    def start(self) -> float:
        """The loss at the beginning; NaN where it is not known."""
        return self.finite_losses[0] if self.finite_losses else math.nan

    @property
    def end(self) -> float:
        """The mean loss of the last iterations; NaN where it is not known."""
        batch = self.history.conditions.get("batch_size") or _END_EXAMPLES
        count = min(max(_ENDS, -(-_END_EXAMPLES // batch)), max(_ENDS, len(self.finite_losses) // 2))
        last = self.finite_losses[-count:]
        return sum(last) / len(last) if last else math.nan

    @cached_property
    def constant(self) -> float | None:
        """The loss of the best answer that does not depend on the input, where the loss' graph shows it."""
        return self._constant_of(_constant)

    @cached_property
    def one_number(self) -> float | None:
        """The same of the best answer that is one number for all units: where the means are not learned either."""
        return self._constant_of(lambda use: _constant({**use, "target_units": None}))

    def _constant_of(self, answer: Callable[[Mapping[str, Any]], float | None]) -> float | None:
        values = [value for use in self.uses if (value := answer(use)) is not None]
        if not len(values) == len(self.uses) == 1:
            return None
        return values[0] * float(self.network.get("loss_scale") or 1.0)

    @property
    def fell(self) -> float:
        """By what share of itself the loss fell in the window; NaN where it is not known."""
        if not self.finite_losses or not self.start:
            return math.nan
        return (self.start - self.end) / abs(self.start)

    @property
    def learned(self) -> bool:
        """Whether the loss shows that the output depends on the input as it should, or falls as if it did."""
        if self.constant is not None and self.constant > 0:
            return self.end < LEARNED * self.constant
        return self.fell > 1 - LEARNED

    @property
    def is_long(self) -> bool:
        """Whether the window has so many iterations and examples that a network that learns shows it."""
        batch = self.history.conditions.get("batch_size")
        count = len(self.losses)
        return count >= LONG and (batch is None or count * batch >= EXAMPLES)

    @property
    def stands_still(self) -> bool:
        """Whether, in a long window, the loss stays that of the best constant answer, and does not fall."""
        if self.constant is None or not self.is_long or self.history.conditions.get("default_optimizer"):
            return False
        return self.end > NOTHING * self.constant and not self.trend > 2

    @property
    def trend(self) -> float:
        """Student's t of the losses of the two halves of the window: above 2 they fall."""
        values = self.finite_losses
        half = len(values) // 2
        if half < 2:
            return math.nan
        first, second = pd.Series(values[:half]), pd.Series(values[half:])
        noise = math.sqrt(float(first.var()) / len(first) + float(second.var()) / len(second))
        return float(first.mean() - second.mean()) / max(noise, 1e-12 * (abs(self.start) + 1e-30))

    @cached_property
    def uses(self) -> list[Mapping[str, Any]]:
        """What the loss does with the outputs of the network."""
        uses = self.network.get("loss") or ()
        return [use for use in uses if use["loss"] != "other" or use["activations"] or use["broadcast"] > 1]

    # the layers

    @cached_property
    def spread(self) -> dict[str, float]:
        """The spread of each layer's output, median over the window."""
        return {str(name): float(one) for name, one in self.history.by_depth["spread"].dropna().items()}

    @cached_property
    def update(self) -> dict[str, float]:
        """How far a step moves each layer's weights, median over the window."""
        return self.evidence.median("update")

    @cached_property
    def largest_update(self) -> dict[str, float]:
        """The same, the largest in the window."""
        return self.evidence.largest("update")

    @cached_property
    def _shares(self) -> pd.DataFrame:
        """For each iteration and layer the share of the gradient that arrives there."""
        return shares(self.history.frame, self.evidence, [layer.name for layer in self.layers])

    @cached_property
    def share(self) -> dict[str, float]:
        """The share of the gradient that arrives at each layer, median over the window."""
        return {str(name): float(value) for name, value in self._shares.median().items() if value == value}

    @cached_property
    def first_share(self) -> dict[str, float]:
        """The same in the first iteration."""
        if not len(self._shares):
            return {}
        return {str(name): float(value) for name, value in self._shares.iloc[0].items() if value == value}

    def ordered(self, values: Mapping[str, float]) -> list[str]:
        """The layers that have a value, in depth order."""
        return [layer.name for layer in self.layers if layer.name in values]

    @cached_property
    def spread_at_end(self) -> float:
        """The spread where the network ends: the larger one of its last two layers.

        Of two, since a last layer with small weights returns its bias at first, and learns soon.
        """
        last = self.ordered(self.spread)[-2:]
        return max((self.spread[name] for name in last), default=math.nan)

    @cached_property
    def spread_at_start(self) -> float:
        """The spread where the network begins: the larger one of its first two layers."""
        first = self.ordered(self.spread)[:2]
        return max((self.spread[name] for name in first), default=math.nan)

    @cached_property
    def first_spread(self) -> dict[str, float]:
        """The spread of each layer's output in the first iteration."""
        frame = self.evidence.frame
        first = frame[frame["iteration"] == frame["iteration"].min()].dropna(subset=["spread"])
        return {str(row.layer): float(row.spread) for row in first.itertuples()}

    @property
    def first_spread_at_end(self) -> float:
        """The same where the network ends."""
        last = self.ordered(self.first_spread)[-2:]
        return max((self.first_spread[name] for name in last), default=math.nan)

    @property
    def spread_and_share(self) -> float:
        """Spread at the end and share at the start together: the geometric mean, over the window."""
        return math.sqrt(self.spread_at_end * self.share_at_start)

    @property
    def spread_and_share_at_first(self) -> float:
        """The same in the first iteration."""
        names = self.ordered(self.first_share)[:2]
        share = max((self.first_share[name] for name in names), default=math.nan)
        return math.sqrt(self.first_spread_at_end * share)

    @cached_property
    def share_at_start(self) -> float:
        """The share where the network begins: the larger one of its first two layers."""
        first = self.ordered(self.share)[:2]
        return max((self.share[name] for name in first), default=math.nan)

    @cached_property
    def evenness(self) -> float:
        """The mean of a weight's gradients to the largest one, zeros left out: the median over layers; or NaN."""
        large = [name for name in self.trained if self.facts.get(name, {}).get("count", 0) >= _EVEN_AT_LEAST]
        frame = self.history.frame
        frame = frame[(frame["of"] == "weight") & frame["layer"].isin(large) & (frame["max_abs"] > 0)]
        means = frame["mean_abs"] / (1 - frame["zero_fraction"]).clip(lower=1e-12)
        return float((means / frame["max_abs"]).groupby(frame["layer"]).median().median())

    def median_update(self) -> float:
        """The median over the layers of the median update."""
        values = pd.Series(
            [value for name, value in self.update.items() if name in set(self.trained)], dtype=float
        )
        return float(values.median())

    def fact(self, key: str) -> dict[str, Any]:
        """One fact of every layer that has it."""
        return {name: facts[key] for name, facts in self.facts.items() if facts.get(key) is not None}


def _constant(use: Mapping[str, Any]) -> float | None:
    """The smallest loss that a constant output can have: of several units, a constant of each."""
    target, units = use["target"], use.get("target_units") or {}
    if not use.get("plain") or target is None:
        return None
    if use["loss"] == "nll" and use["labels"]:
        total = sum(use["labels"])
        shares = [count / total for count in use["labels"] if count]
        each = -sum(share * math.log(share) for share in shares)
    elif use["loss"] in ("mse",) or (use["loss"] == "difference" and use["squared"]):
        each = float(target["std"] or 0) ** 2 if units.get("variance") is None else float(units["variance"])
    elif use["loss"] in ("bce", "bce_with_logits") and 0 < (target["mean"] or 0) < 1:
        mean = float(target["mean"])
        each = -mean * math.log(mean) - (1 - mean) * math.log(1 - mean)
        each = each if units.get("entropy") is None else float(units["entropy"])
    else:
        return None
    count = math.prod(use["shape"][:1] if use["loss"] == "nll" else use["shape"])
    return float(each * (count if use["reduction"] == "sum" else 1))
