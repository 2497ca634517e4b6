"""What is measured beside the gradients: what layers return, how far steps move them, and what the loss is of.

Plain data, as the history that it belongs to. `gradprobe.decide.diagnosis` reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gradprobe.record.files.fields import at, count, dict_of, fields, list_of, mapping, number, optional, text

MEASURED = ("spread", "rms", "zeros", "beyond_3", "beyond_5", "nonfinite", "elements", "update", "left")
BY_DEPTH = ("spread", "share", "update")
SAMPLES = ("iteration", "layer", *MEASURED)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Signal, update and loss of a window, from samples in some of its iterations.

    Attributes:
        frame: One row for each sampled iteration and layer, and each weight of recurrent layers (``update`` and
            ``left`` only). ``spread``: how far the layer's output depends on the input (RMS over the batch of
            a - mean(a), over RMS of a); ``rms`` and ``zeros`` (share of exact zeros) of the output; ``beyond_3``
            and ``beyond_5``: share of it above 3 and 5 in absolute value; ``nonfinite``: share of NaN and
            infinity; ``elements`` of the whole output; ``update``: ||w after - w before|| / ||w before|| of the
            step; ``left``: what the step found of the gradient that the backward pass had made. A missing number
            is NaN.
        layers: Facts of each layer over the window, by name.
        network: Facts of the training: losses, inputs, targets, what comes before the loss, ...

    Example:
        >>> evidence = Evidence.from_rows([(0, "fc", 0.9, 1.0, 0.0, 0.0, 0.0, 0.0, 8, 1e-3, 1.0)], {}, {})
        >>> evidence.median("spread")
        {'fc': 0.9}
    """

    frame: pd.DataFrame
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_rows(
        cls, rows: Iterable[tuple[Any, ...]], layers: Mapping[str, Mapping[str, Any]], network: Mapping[str, Any]
    ) -> Evidence:
        """From rows in the order of `SAMPLES`."""
        columns = list(zip(*rows, strict=True)) or [()] * len(SAMPLES)
        return cls(_frame(dict(zip(SAMPLES, columns, strict=True))), layers, network)

    def without(self, names: Collection[str]) -> Evidence:
        """The same without the rows and facts of these."""
        if not names:
            return self
        frame = self.frame[~self.frame["layer"].isin(list(names))]
        return Evidence(frame, {n: facts for n, facts in self.layers.items() if n not in names}, self.network)

    def median(self, column: str) -> dict[str, float]:
        """The median over the window of one of `MEASURED`, for each layer that has it."""
        values = self.frame.dropna(subset=[column]).groupby("layer", sort=False)[column].median()
        return {str(name): float(value) for name, value in values.items()}

    def largest(self, column: str) -> dict[str, float]:
        """The largest value in the window, for each layer that has one."""
        values = self.frame.dropna(subset=[column]).groupby("layer", sort=False)[column].max()
        return {str(name): float(value) for name, value in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a number that is missing is None."""
        columns = {
            name: [None if value != value else value for value in self.frame[name].tolist()] for name in SAMPLES
        }
        return {
            "samples": columns,
            "layers": {name: dict(facts) for name, facts in self.layers.items()},
            "network": dict(self.network),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Evidence:
        """The reverse of `to_dict`; what is read is checked."""
        samples = fields(at(record, "samples", mapping), _SAMPLES, {})
        if len({len(column) for column in samples.values()}) > 1:
            raise ValueError("samples: expected columns of equal length")
        return cls(_frame(samples), at(record, "layers", dict_of(mapping)), at(record, "network", _network))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Evidence):
            return NotImplemented
        return self.frame.equals(other.frame) and (self.layers, self.network) == (other.layers, other.network)

    __hash__ = None  # type: ignore[assignment]


def by_depth(frame: pd.DataFrame, evidence: Evidence | None, layers: Sequence[str]) -> pd.DataFrame:
    """What `gradprobe.GradientHistory.by_depth` gives: see there.

    Args:
        frame: That of the history.
        evidence: What was measured beside it.
        layers: Names in depth order.
    """
    columns: dict[str, Any] = {name: {} for name in BY_DEPTH}
    if evidence is not None:
        whole = {name: facts.get("spread_over_window") for name, facts in evidence.layers.items()}
        columns["spread"] = {
            **{n: one for n, one in whole.items() if one is not None},
            **evidence.median("spread"),
        }
        columns["share"] = shares(frame, evidence, layers).median().to_dict()
        columns["update"] = evidence.median("update")
    table = {name: pd.Series(column, dtype=float).reindex(list(layers)) for name, column in columns.items()}
    return pd.DataFrame(table)


def shares(frame: pd.DataFrame, evidence: Evidence, layers: Sequence[str]) -> pd.DataFrame:
    """The share of the gradient that arrives at each layer: a row for each iteration, a column for each layer.

    The L2 norm of dL/d(its output), of the whole batch, over that of the last layer: rms times the square root of
    the number of elements. Only for iterations in which the evidence was taken.
    """
    rows = frame[(frame["of"] == "output") & frame["rms"].notna()]
    sizes = evidence.frame[["iteration", "layer", "elements"]].dropna()
    joined = rows.merge(sizes, on=["iteration", "layer"])
    joined = joined.assign(norm=joined["rms"] * joined["elements"] ** 0.5)
    norms = joined.pivot(index="iteration", columns="layer", values="norm")
    order = [name for name in layers if name in norms.columns]
    return norms[order].div(norms[order[-1]], axis=0) if order else norms


_SAMPLES = {
    "iteration": list_of(count),
    "layer": list_of(text),
    **dict.fromkeys(MEASURED, list_of(optional(number))),
}
_NETWORK = {
    "losses": optional(list_of(optional(number))),
    "loss": optional(list_of(mapping)),
    "optimizers": optional(list_of(mapping)),
    "input": optional(mapping),
}


def _network(value: Any) -> dict[str, Any]:
    """The facts of the training, those of them checked that are more than one number."""
    facts = mapping(value)
    return {**facts, **{name: at(facts, name, read) for name, read in _NETWORK.items() if name in facts}}


def rounded(value: float) -> float | None:
    """A number as it is kept: six digits; None where it is NaN, and the largest float where it is infinite.

    Example:
        >>> rounded(1 / 3), rounded(float("nan"))
        (0.333333, None)
    """
    if value != value:
        return None
    return float(f"{max(min(value, 1.7e308), -1.7e308):.6g}")


def _frame(columns: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    def numbers(name: str) -> list[float]:
        return [float("nan") if value is None else float(value) for value in columns[name]]

    return pd.DataFrame(
        {
            "iteration": pd.array([int(value) for value in columns["iteration"]], dtype="int64"),
            "layer": pd.Series(list(columns["layer"]), dtype=str),
            **{name: pd.array(numbers(name), dtype="float64") for name in MEASURED},
        }
    )
