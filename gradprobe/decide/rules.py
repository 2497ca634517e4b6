"""The rules that look at magnitudes, and the one that looks at nothing: pure functions from a history. No torch.

The rule of CNDS (Wang et al. 2015, arXiv 1505.02496, section 3) is `ThresholdPolicy`: a layer whose mean
gradient magnitude stays below 1e-7 has vanished, and one branch goes after the last of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from gradprobe.decide.serve_flagged import serve_flagged
from gradprobe.record.history import AGGREGATES, GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import CNDS_THRESHOLD, label, short

Policy = Callable[[GradientHistory], Placement]


@dataclass(frozen=True)
class ThresholdPolicy:
    """CNDS' rule: flag the layers below an absolute threshold; one branch for each contiguous run of them.

    The absolute magnitude scales with 1/batch size for a mean loss, and with any loss scale: read it together
    with the history's conditions.

    Args:
        threshold: Magnitude below which a layer counts as vanished.
        of: The quantity: ``"output"`` reproduces the paper, ``"weight"`` does not.
        aggregate: How the iterations become one number; see `GradientHistory.aggregate`.
    """

    threshold: float = CNDS_THRESHOLD
    of: str = "output"
    aggregate: str = "median"

    def __post_init__(self) -> None:
        _check_number("threshold", self.threshold, self.aggregate)

    def __str__(self) -> str:
        return f"{label(self.of)} below {short(self.threshold)}, {self.aggregate} over the iterations"

    def __call__(self, history: GradientHistory) -> Placement:
        """Decide."""
        magnitudes = history.aggregate(self.of, self.aggregate)
        empty = Placement(
            str(self), (), (), "", of=self.of, threshold=self.threshold, rule="threshold", **history.output
        )
        return serve_flagged(empty, history, magnitudes, magnitudes < self.threshold)


@dataclass(frozen=True)
class RelativePolicy:
    """A scale-free rule: flag the layers below a fraction of the largest magnitude of all layers.

    It does not change with the scale of the loss, with a sum in place of a mean, or with the batch size.

    Args:
        ratio: Fraction of the largest magnitude below which a layer is flagged.
        of: The quantity.
        aggregate: How the iterations become one number; see `GradientHistory.aggregate`.
    """

    ratio: float = 1e-4
    of: str = "output"
    aggregate: str = "median"

    def __post_init__(self) -> None:
        _check_number("ratio", self.ratio, self.aggregate)

    def __str__(self) -> str:
        return f"{label(self.of)} below {short(self.ratio)} of the largest, {self.aggregate} over the iterations"

    def __call__(self, history: GradientHistory) -> Placement:
        """Decide."""
        magnitudes = history.aggregate(self.of, self.aggregate)
        finite = magnitudes[magnitudes < float("inf")]
        largest = float(finite.max()) if len(finite) else 0.0
        # where every gradient is exactly zero there is no largest one to compare with: all layers are flagged
        low = magnitudes < self.ratio * largest if largest else magnitudes == 0
        threshold = self.ratio * largest or None
        empty = Placement(
            str(self), (), (), "", of=self.of, threshold=threshold, rule="relative", **history.output
        )
        return serve_flagged(empty, history, magnitudes, low)


@dataclass(frozen=True)
class EveryLayerPolicy:
    """A branch at every supervision point, whatever the gradients: Deeply-Supervised Nets (Lee et al. 2015).

    `gradprobe.CompanionObjective` is the loss that goes with it (arXiv 1409.5185).

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> from gradprobe.record.points import Point
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
        return Placement(str(self), (), points, reason, rule="every", **history.output)


def _check_number(name: str, value: Any, aggregate: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"expected a {name} above 0 as a number, got {value!r}: write a number, such as 1e-7")
    if not 0 < float(value) < float("inf"):
        raise ValueError(f"expected a {name} above 0 and finite, got {value!r}")
    if aggregate not in AGGREGATES:
        raise ValueError(f"expected an aggregation out of {list(AGGREGATES)}, got {aggregate!r}")
