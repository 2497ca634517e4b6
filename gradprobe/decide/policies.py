"""Deciding where supervision has to be placed: pure functions from a history to a placement. No torch.

The rule of CNDS (Wang et al. 2015, arXiv 1505.02496, section 3) is `ThresholdPolicy`: a layer whose mean
gradient magnitude stays below 1e-7 has vanished, and one branch goes behind the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from numbers import Real
from typing import Any

import pandas as pd

from gradprobe.record.history import AGGREGATES, GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.record.quantities import CNDS_THRESHOLD, label, short
from gradprobe.record.text import counted, few, shorten

Policy = Callable[[GradientHistory], Placement]


@dataclass(frozen=True)
class ThresholdPolicy:
    """CNDS' rule: flag the layers below an absolute threshold; one branch for each contiguous run of them.

    The absolute magnitude scales with 1/batch size for a mean loss, and with any loss scale: read it with
    the history's conditions beside it.

    Args:
        threshold: Magnitude below which a layer counts as vanished.
        of: The quantity: ``"output"`` reproduces the paper, ``"weight"`` does not (design, section 7).
        aggregate: How the iterations become one number; see `GradientHistory.aggregate`.
    """

    threshold: float = CNDS_THRESHOLD
    of: str = "output"
    aggregate: str = "median"

    def __post_init__(self) -> None:
        _check("threshold", self.threshold, self.aggregate)

    def __str__(self) -> str:
        return f"{label(self.of)} below {short(self.threshold)}, {self.aggregate} over the iterations"

    def __call__(self, history: GradientHistory) -> Placement:
        """Decide."""
        magnitudes = history.aggregate(self.of, self.aggregate)
        placement = _place(history, magnitudes, magnitudes < self.threshold, self)
        return replace(placement, of=self.of, threshold=self.threshold)


@dataclass(frozen=True)
class RelativePolicy:
    """A scale-free rule: flag the layers that get less than a fraction of what the best-fed layer gets.

    It does not change with the scale of the loss, with a sum in place of a mean, or with the batch size.

    Args:
        ratio: Fraction of the largest magnitude below which a layer counts as starved.
        of: The quantity.
        aggregate: How the iterations become one number; see `GradientHistory.aggregate`.
    """

    ratio: float = 1e-4
    of: str = "output"
    aggregate: str = "median"

    def __post_init__(self) -> None:
        _check("ratio", self.ratio, self.aggregate)

    def __str__(self) -> str:
        return f"{label(self.of)} below {short(self.ratio)} of the largest, {self.aggregate} over the iterations"

    def __call__(self, history: GradientHistory) -> Placement:
        """Decide."""
        magnitudes = history.aggregate(self.of, self.aggregate)
        finite = magnitudes[magnitudes < float("inf")]
        largest = float(finite.max()) if len(finite) else 0.0
        # where every gradient is exactly zero there is no best-fed layer: all of them are starved
        starved = magnitudes < self.ratio * largest if largest else magnitudes == 0
        placement = _place(history, magnitudes, starved, self)
        return replace(placement, of=self.of, threshold=self.ratio * largest or None)


@dataclass(frozen=True)
class EveryLayerPolicy:
    """A branch at every supervision point, whatever the gradients: Deeply-Supervised Nets (Lee et al. 2015).

    `gradprobe.CompanionObjective` is the loss that goes with it (arXiv 1409.5185).

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> layers = tuple(Layer(name, depth, "Conv2d", 9) for depth, name in enumerate(["a", "b", "c"]))
        >>> points = (Point("a", (8, 4, 5, 5), 0, ("a",)), Point("b", (8, 4, 5, 5), 1, ("b",)))
        >>> placement = EveryLayerPolicy()(GradientHistory(tidy([]), {}, layers, points, (8, 2)))
        >>> placement.flagged, [point.name for point in placement.points]
        ((), ['a', 'b'])
    """

    def __str__(self) -> str:
        return "every supervision point"

    def __call__(self, history: GradientHistory) -> Placement:
        """Decide."""
        points = tuple(history.points)
        why = "Every supervision point gets a branch; no layer was looked at."
        reason = why if points else "The network has no supervision point."
        return Placement(str(self), (), points, reason, **history.output)


# "cnds" is what the arms of a comparison call the rule of 1e-7
POLICIES: dict[str, Callable[..., Policy]] = {
    "threshold": ThresholdPolicy,
    "cnds": ThresholdPolicy,
    "relative": RelativePolicy,
    "every": EveryLayerPolicy,
}


def named_policy(
    name: str, *, threshold: float | None = None, of: str = "output", aggregate: str = "median"
) -> Policy:
    """The policy of a name, as the command line and the arms of a comparison write it.

    Args:
        name: A key of `POLICIES`.
        threshold: The magnitude to flag below, or the ratio of the relative rule; the rule's own by default.
        of: The quantity.
        aggregate: How the iterations become one number; see `GradientHistory.aggregate`.

    Raises:
        ValueError: If no policy has that name.

    Example:
        >>> named_policy("cnds") == named_policy("threshold") == ThresholdPolicy(1e-7)
        True
        >>> named_policy("relative", threshold=1e-3, of="weight")
        RelativePolicy(ratio=0.001, of='weight', aggregate='median')
    """
    if name not in POLICIES:
        raise ValueError(f"no policy is called {name!r}; policies are {', '.join(POLICIES)}")
    if name == "every":
        return EveryLayerPolicy()
    limit = () if threshold is None else (threshold,)
    return POLICIES[name](*limit, of=of, aggregate=aggregate)


def place(history: GradientHistory, policy: Policy | None = None) -> Placement:
    """Decide where supervision has to be placed.

    Args:
        history: The record of a probe.
        policy: Any function from a history to a placement; CNDS' rule by default. Beside an absolute rule
            the relative one is asked too, and `Placement.disagreement` says where they differ.

    Raises:
        TypeError: No history, or no policy: its name, or its class without the parentheses.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> layers = tuple(Layer(name, depth, "Conv2d", 9) for depth, name in enumerate(["a", "b", "c"]))
        >>> rows = [(0, x.name, x.depth, "output", [1e-9, 1e-8, 1e-3][x.depth], 0, 0, 0, 0) for x in layers]
        >>> points = (Point("a", (8, 4, 5, 5), 0, ("a",)), Point("b", (8, 4, 5, 5), 1, ("b",)))
        >>> placement = place(GradientHistory(tidy(rows), {}, layers, points, (8, 2)))
        >>> placement.flagged, [point.name for point in placement.points]
        (('a', 'b'), ['b'])
    """
    if not isinstance(history, GradientHistory):
        raise TypeError(
            f"expected a gp.GradientHistory, got {type(history).__name__}: give the history that gp.scan returns"
        )
    policy = as_policy(policy)
    placement = policy(history)
    if not isinstance(placement, Placement):
        raise TypeError(f"expected the policy to return a Placement, got {type(placement).__name__}")
    if placement.points and placement.output_shape is None:
        placement = replace(placement, **history.output)
    if not isinstance(policy, ThresholdPolicy):
        return placement
    second = RelativePolicy(of=policy.of, aggregate=policy.aggregate)
    said = _disagreement(placement, second(history), second)
    return replace(placement, disagreement=said)


def as_policy(policy: Policy | None) -> Policy:
    """The policy, CNDS' rule for None; raises the sentence for its name, or its class without the parentheses."""
    policy = ThresholdPolicy() if policy is None else policy
    if isinstance(policy, type) or not callable(policy):
        got = policy.__name__ if isinstance(policy, type) else repr(policy)
        made: Any = policy if isinstance(policy, type) else POLICIES.get(str(policy), ThresholdPolicy)
        wanted = f"{'' if made is policy else 'gp.'}{made.__name__}()"
        raise TypeError(
            f"expected policy to be a function from a history to a placement, got {got}: give an object, {wanted}"
        )
    return policy


def _check(name: str, value: Any, aggregate: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"expected a {name} above 0 as a number, got {value!r}: write a number, such as 1e-7")
    if not 0 < float(value) < float("inf"):
        raise ValueError(f"expected a {name} above 0 and finite, got {value!r}")
    if aggregate not in AGGREGATES:
        raise ValueError(f"expected an aggregation out of {list(AGGREGATES)}, got {aggregate!r}")


def _place(
    history: GradientHistory,
    magnitudes: pd.Series[float],
    low: pd.Series[bool],
    rule: ThresholdPolicy | RelativePolicy,
) -> Placement:
    policy = str(rule)
    runs = [[name for name, _ in run] for is_low, run in groupby(low.items(), lambda item: item[1]) if is_low]
    flagged = tuple(str(name) for run in runs for name in run)
    skipped = {
        layer.name: "unreached, " + "; ".join(f"{of}: {why}" for of, why in layer.unreached.items())
        for layer in history.layers
        if layer.name not in magnitudes.index and layer.unreached
    }
    if not flagged:
        return Placement(policy, (), (), _none_needed(magnitudes), skipped, **history.output)
    if len(flagged) == len(magnitudes):
        reason = (
            "Every layer is flagged, the last one too: that is the scale of the loss (or a dead output), "
            "not the depth. A branch would not help."
        )
        return Placement(policy, flagged, (), reason, skipped, **history.output)
    points: list[Point] = []
    reasons: list[str] = []
    for run in runs:
        point, why = _serve(history, [str(name) for name in run])
        reasons.append(why + (_blocked(magnitudes, str(run[-1])) if rule.of == "output" else ""))
        if point is None:
            skipped[str(run[-1])] = why
        elif point not in points:
            points.append(point)
    return Placement(policy, flagged, tuple(points), _in_short(reasons), skipped, **history.output)


def _none_needed(magnitudes: pd.Series[float]) -> str:
    if not len(magnitudes):
        return "No gradient was recorded, so nothing can be decided."
    if magnitudes.min() == float("inf"):
        return "Nothing has vanished: every gradient is NaN or infinite in most iterations."
    lowest = shorten(str(magnitudes.idxmin()), 40)
    return f"None needed: the least fed layer, {lowest}, gets {magnitudes.min():.2g}."


def _serve(history: GradientHistory, run: Sequence[str]) -> tuple[Point | None, str]:
    """The point for a run of flagged layers: that of the one nearest the output which has one."""
    span = shorten(run[0], 40) if len(run) == 1 else f"{shorten(run[0], 40)} to {shorten(run[-1], 40)}"
    layers = counted(len(run), "layer", "contiguous layers")
    for name in reversed(run):
        point = next((point for point in history.points if name in point.layers), None)
        if point is not None:
            behind = shorten(point.name, 40)
            return point, f"{layers} flagged ({span}): one branch after {behind}, nearest the output."
    why = next((layer.unserved for layer in history.layers if layer.name == run[-1]), None)
    return None, f"{layers} flagged ({span}) but none can feed a branch: {why or 'no point was found'}."


def _blocked(magnitudes: pd.Series[float], last: str) -> str:
    """What to add where a gradient does not fade away before the last layer of a run but ends behind it."""
    behind = magnitudes.loc[last:].iloc[1:]
    if magnitudes[last] != 0 or not len(behind):
        return ""
    following = shorten(str(behind.index[0]), 40)
    return (
        f" But the gradient of {shorten(last, 40)} is exactly zero, and that of {following} behind it "
        f"{behind.iloc[0]:.2g}: what is between them lets nothing through (a dead activation, or a number format "
        "too small), and a branch does not change that."
    )


def _in_short(reasons: Sequence[str]) -> str:
    """The reasons one after the other; of many the first three, and how many more runs there are."""
    if len(reasons) <= 4:
        return " ".join(reasons)
    return " ".join([*reasons[:3], f"And so on: {len(reasons) - 3} more runs of flagged layers."])


def _disagreement(placement: Placement, other: Placement, policy: RelativePolicy) -> str | None:
    ours, theirs = set(placement.flagged), set(other.flagged)
    if ours == theirs:
        return None

    def names(found: tuple[str, ...], without: set[str]) -> str:
        return few([shorten(name, 24) for name in found if name not in without], 4)

    only_ours, only_theirs = names(placement.flagged, theirs), names(other.flagged, ours)
    parts = [f"does not flag {only_ours}"] if only_ours else []
    parts += [f"flags {only_theirs} as well"] if only_theirs else []
    return f"The scale-free rule ({policy}) disagrees: it {' and '.join(parts)}."
