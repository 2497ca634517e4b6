"""Causes over the steps of a sequence: a gradient that fades, or grows, on its way back in time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gradprobe.decide.causes.facts import Reading
from gradprobe.decide.causes.finding import Finding
from gradprobe.decide.causes.rate import SMALL

HEARD = 2.0**-24  # of the largest step's gradient: of less, float32 rounds off what it adds to a weight's gradient
GREW = 1e3  # the first step's gradient over the last one's
FAR = 10.0  # times the loss of a constant answer
_LONG = 20  # steps, and iterations after which a loss that can fall does
_FEW = 0.25  # of the steps: of more, what has to be learned may well be among them
_GATES = (("LSTM", "forget"), ("GRU", "update"))  # what keeps the state, by kind of layer
_FADES = "Bengio et al. 1994; Pascanu et al., On the difficulty of training recurrent neural networks, 2013"


class Profile(NamedTuple):
    """The gradient over time of a layer.

    Attributes:
        layer: Its name.
        steps: How long the sequence is.
        at: How many steps before the end each value is.
        values: Mean absolute gradients.
    """

    layer: str
    steps: int
    at: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def reach(self) -> int:
        """How many steps back from the last one the gradient arrives, with no gap.

        Example:
            >>> Profile("rnn", 100, (0, 50, 99), (1.0, 1e-3, 1e-9)).reach
            51
        """
        limit, reached = HEARD * max(self.values), 0
        for at, value in zip(self.at, self.values, strict=True):
            if value < limit:
                break
            reached = at + 1
        return reached

    @property
    def heard(self) -> float:
        """The share of the steps at which it arrives."""
        limit = HEARD * max(self.values)
        return sum(value >= limit for value in self.values) / len(self.values)

    @property
    def growth(self) -> float:
        """How many times the last step's gradient the largest one of the first half is."""
        early = [value for at, value in zip(self.at, self.values, strict=True) if at > self.steps / 2]
        return max(early) / self.values[0] if self.values[0] else 0.0


def causes(reading: Reading) -> Iterator[Finding]:
    """The findings of this kind, where the network does not learn: what matters may lie in the last steps."""
    if reading.learned or len(reading.losses) < _LONG:
        return
    profiles = [
        one for name, facts in reading.fact("over_time").items() if (one := profile(name, facts)) is not None
    ]
    grown = [one for one in profiles if one.growth > GREW]
    faded = [one for one in profiles if one.heard <= _FEW]
    falls = not reading.trend < 2
    if grown and (not falls or reading.end > FAR * (reading.constant or math.inf)):
        yield _grows(reading, grown)
    elif faded and not falls and not reading.median_update() < SMALL:
        yield _fades(reading, faded)


def profile(layer: str, facts: Mapping[str, Any]) -> Profile | None:
    """The profile of a layer from its facts; None where nothing was measured, or over few steps.

    Example:
        >>> profile("rnn", {"missing": "checkpointed"})
    """
    values = facts.get("gradient")
    if not values or None in values or facts["steps"] < _LONG or not max(values):
        return None
    return Profile(layer, facts["steps"], tuple(facts["before_end"]), tuple(values))


def _fades(reading: Reading, faded: list[Profile]) -> Finding:
    layers = reading.names([one.layer for one in faded])
    worst = min(faded, key=lambda one: one.reach / one.steps)
    from_both_ends = worst.values[-1] >= HEARD * max(worst.values)
    how_far = (
        f"does not arrive at the middle {1 - worst.heard:.0%} of its {worst.steps} steps"
        if from_both_ends
        else f"does not reach further back than {worst.reach} of {worst.steps} steps"
    )
    return Finding(
        "signal_collapse", layers,
        {"reach": worst.reach, "steps": worst.steps, "share_of_steps": worst.heard, "threshold": HEARD,
         "first_step": worst.values[-1], "last_step": worst.values[0]},
        f"The gradient fades over time: in {reading.span(layers[:1])} it {how_far}, so what came before "
        "cannot be learned from.",
        _remedy(reading, worst.layer), _FADES,
    )  # fmt: skip


def _remedy(reading: Reading, name: str) -> str:
    layer = next(one for one in reading.layers if one.name == name)
    hidden = next((row for row in layer.weights if "weight_hh" in row), None)
    first = f"nn.init.orthogonal_({hidden})" if hidden else "orthogonal recurrent weights"
    gate = next((f"raise the bias of its {of} gate" for kind, of in _GATES if kind in layer.kind), None)
    gate = gate or "use an LSTM or a GRU"
    return (
        f"Begin with {first} and {gate}; shorten or subsample the sequences, normalise the states (layer norm), "
        "or read the outputs of all steps, not of the last one alone."
    )


def _grows(reading: Reading, grown: list[Profile]) -> Finding:
    layers = reading.names([one.layer for one in grown])
    worst = max(grown, key=lambda one: one.growth)
    return Finding(
        "exploding", layers,
        {"growth": worst.growth, "threshold": GREW, "steps": worst.steps},
        f"The gradient grows over time: in {reading.span(layers[:1])} it is {worst.growth:.1e} times as large at "
        f"the beginning of the {worst.steps} steps as at the end.",
        "Clip the gradient norm (torch.nn.utils.clip_grad_norm_), begin with orthogonal recurrent weights of gain "
        "1, or use an LSTM or a GRU.",
        "Pascanu et al., On the difficulty of training recurrent neural networks, 2013",
    )  # fmt: skip
