"""A history as an array of layers by iterations: what every figure draws from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from gradprobe.record.history import GradientHistory, check_history

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Magnitudes of one quantity, one row for each layer in depth order and one column for each iteration.

    Attributes:
        names: The layers.
        depths: Their depths.
        iterations: The iterations.
        values: ``mean_abs``; NaN where no gradient arrived or where it was not finite.
        nonfinite: Where a gradient arrived that holds NaN or inf.
    """

    names: tuple[str, ...]
    depths: tuple[int, ...]
    iterations: NDArray[np.int64]
    values: Floats
    nonfinite: Mask

    @classmethod
    def of(cls, history: GradientHistory, of: str) -> Grid:
        """Arrange one quantity of a history.

        Raises:
            TypeError: If it is not a history.
        """
        check_history(history)
        names = [layer.name for layer in history.layers]
        iterations = np.unique(history.frame["iteration"].to_numpy(dtype=np.int64))
        rows = history.select(of).set_index(["layer", "iteration"])
        rows = rows[["mean_abs", "nonfinite"]].astype(float)

        def array(column: str) -> Floats:
            table = rows[column].unstack().reindex(index=names, columns=iterations)
            return table.to_numpy(dtype=float)

        values = array("mean_abs")
        # a sum that overflows float32 is infinite though every element is finite
        nonfinite = (array("nonfinite") > 0) | np.isinf(values)
        values = np.where(nonfinite, np.nan, values)
        return cls(tuple(names), tuple(layer.depth for layer in history.layers), iterations, values, nonfinite)

    @property
    def zero(self) -> Mask:
        """Where the whole gradient of a layer was exactly zero."""
        return np.asarray(self.values == 0)

    @property
    def reached(self) -> Mask:
        """The layers that a gradient arrived at, at least once."""
        return np.asarray((~np.isnan(self.values) | self.nonfinite).any(axis=1))

    def without_unreached(self) -> Grid:
        """The grid of the layers that a gradient arrived at, at least once."""
        return self.take(np.flatnonzero(self.reached))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Grid:
        """The grid of some of the layers."""
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            depths=tuple(self.depths[row] for row in rows),
            values=self.values[list(rows)],
            nonfinite=self.nonfinite[list(rows)],
        )

    def matching(self, layers: str | Sequence[str] | None) -> Grid:
        """The grid of the layers that match a name or shell pattern; None is all of them.

        Raises:
            ValueError: If a pattern matches no layer.
        """
        if layers is None:
            return self
        patterns = [layers] if isinstance(layers, str) else list(layers)
        for pattern in patterns:
            if not any(_matches(pattern, name) for name in self.names):
                known = ", ".join(map(repr, self.names[:40])) + (", ..." if len(self.names) > 40 else "")
                raise ValueError(f"no layer matches {pattern!r}: expected names or patterns of {known}")
        return self.take(
            [row for row, name in enumerate(self.names) if any(_matches(pattern, name) for pattern in patterns)]
        )

    def clipped(self, low: float, high: float) -> Floats:
        """The values between two limits: an exact zero becomes the low one, a non-finite value the high one."""
        return np.where(self.nonfinite, high, np.where(self.zero, low, self.values))


def _matches(pattern: str, name: str) -> bool:
    return pattern == name or fnmatchcase(name, pattern)


def recorded_quantity(history: GradientHistory, wanted: str = "output") -> str:
    """The wanted quantity where it was recorded, else the first one that was."""
    return wanted if wanted in history.of or not history.of else history.of[0]


def limits(grids: Sequence[Grid], threshold: float | None) -> tuple[float, float]:
    """Limits of the log axis: every value and the threshold, with space below for zeros and above for NaN."""
    values = np.concatenate([grid.values.ravel() for grid in grids])
    ends = [value for value in (threshold,) if value is not None]
    positive = values[values > 0]
    ends += [positive.min(), positive.max()] if positive.size else []
    low, high = (math.log10(min(ends)), math.log10(max(ends))) if ends else (-8.0, 0.0)
    pad = max(0.25, 0.04 * (high - low))
    low -= pad * (4 if any(grid.zero.any() for grid in grids) else 1)
    high += pad * (4 if any(grid.nonfinite.any() for grid in grids) else 1)
    if high - low < 2:  # no tick at all would be left between two powers of ten
        low, high = math.floor(low), math.ceil(high)
    return 10.0**low, 10.0**high
