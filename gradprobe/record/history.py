"""The record: a tidy table of gradient magnitudes, the conditions they were taken under, and the points.

Plain data: no tensors, no model, no torch. Deciding, drawing and reporting need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from gradprobe.record.conditions import describe_conditions, with_codes
from gradprobe.record.evidence import Evidence, by_depth
from gradprobe.record.files.fields import anything, as_tuples, at, integer, mapping, optional, text, tuple_of
from gradprobe.record.html import MOST_ROWS, bars, block, folded, legend, small, span_of, table, title
from gradprobe.record.layer import UNREACHED as UNREACHED
from gradprobe.record.layer import Layer as Layer
from gradprobe.record.points import Point
from gradprobe.record.quantities import CNDS_THRESHOLD, label, short
from gradprobe.record.text import counted, names_by_reason, printable, shorten

KEYS = ("iteration", "layer", "depth", "of")
MEASURES = ("mean_abs", "rms", "max_abs", "zero_fraction", "nonfinite")
COLUMNS = KEYS + MEASURES
AGGREGATES = ("median", "mean", "min", "max", "first", "last")


@dataclass(frozen=True, eq=False)
class GradientHistory:
    """Gradient magnitudes of every layer, iteration by iteration, and what is needed to read them.

    The frame has one row for each iteration, layer and quantity (``of``), whether or not a gradient
    arrived. Where none did, the statistics are missing. A gradient that holds NaN or inf was measured: its
    ``nonfinite`` is above zero. Each weight of a recurrent layer has a row of its own beside the layer's,
    under the weight's name (``rnn.weight_hh_l0``): `single_weights` reads these, all else goes by layers.

    Attributes:
        frame: Columns ``iteration, layer, depth, of, mean_abs, rms, max_abs, zero_fraction, nonfinite``.
        conditions: What the magnitudes depend on: batch size, loss, optimizer, seed, device, ...
        layers: The layers in depth order.
        points: The supervision points in forward order.
        output_shape: Shape of the network's main output tensor (of each, where it returns a list), or None.
        output_channels: Axis of the channels in it, where the layers show it.
        head: Name of the layer that makes the output, or None where none does.
        activation: What makes the output, if an activation does: ``"sigmoid"``,
            ``"softmax"``, ``"log_softmax"``, ...
        evidence: What was measured beside the gradients; None in runs of version 0.1, and with ``stats="mean"``.

    Example:
        >>> rows = [(0, "conv", 0, "output", 2e-9, 3e-9, 1e-8, 0.0, 0)]
        >>> history = GradientHistory(tidy(rows), {"batch_size": 8}, (Layer("conv", 0, "Conv2d", 9),), (), (8, 2))
        >>> history.iterations, history.of
        (1, ('output',))
        >>> history.aggregate("output")["conv"]
        np.float64(2e-09)
    """

    frame: pd.DataFrame
    conditions: Mapping[str, Any]
    layers: tuple[Layer, ...]
    points: tuple[Point, ...]
    output_shape: Any
    output_channels: int | None = None
    head: str | None = None
    activation: str | None = None
    evidence: Evidence | None = None

    @property
    def output(self) -> dict[str, Any]:
        """What a branch has to know of the network's output, by the names of the attributes."""
        return {name: getattr(self, name) for name in ("output_shape", "output_channels", "head", "activation")}

    @property
    def by_depth(self) -> pd.DataFrame:
        """Spread, share and update of every layer, medians over the window; NaN where a number is missing.

        ``spread``: how far the layer's output depends on the input, 1 for all of it (Schoenholz et al., Deep
        Information Propagation, 2017). ``share``: the L2 norm of dL/d(the layer's output) over that of the last
        layer's. ``update``: how far a step moves the layer's weights, relative to their norm. Spread and share do
        not depend on the scale of the loss, its reduction or the batch size.

        Returns:
            Columns ``spread, share, update``, one row for each layer, in depth order.

        Example:
            >>> rows = [(0, "a", 0, "output", 1, 0.25, 1, 0, 0), (0, "b", 1, "output", 1, 1.0, 1, 0, 0)]
            >>> seen = [(0, "a", 0.5, 1, 0, 0, 0, 0, 16, 1e-3, 1), (0, "b", 0.4, 1, 0, 0, 0, 0, 4, 2e-3, 1)]
            >>> layers = (Layer("a", 0, "Linear", 9), Layer("b", 1, "Linear", 9))
            >>> evidence = Evidence.from_rows(seen, {}, {})
            >>> history = GradientHistory(tidy(rows), {}, layers, (), None, evidence=evidence)
            >>> history.by_depth.loc["a"].to_dict()
            {'spread': 0.5, 'share': 0.5, 'update': 0.001}
        """
        return by_depth(self.frame, self.evidence, [layer.name for layer in self.layers])

    @property
    def iterations(self) -> int:
        """Number of iterations recorded."""
        return int(self.frame["iteration"].nunique())

    @property
    def of(self) -> tuple[str, ...]:
        """The quantities recorded: ``"output"``, ``"weight"`` or both."""
        return tuple(map(str, self.frame["of"].unique()))

    @property
    def main_quantity(self) -> str | None:
        """The quantity to show where only one is shown: ``"output"`` if one arrived, else the first that did.

        Where none arrived, the first that was asked for; None without any.
        """
        arrived = set(self.frame.loc[self.frame["nonfinite"].notna(), "of"])
        asked = sorted(self.of, key=lambda of: (of not in arrived, of != "output"))
        return next(iter(asked), None)

    @property
    def rows_of_layers(self) -> pd.DataFrame:
        """The frame without the rows of single weights."""
        single = [row for layer in self.layers for row in layer.weights]
        return self.frame[~self.frame["layer"].isin(single)] if single else self.frame

    @property
    def unreached(self) -> dict[str, dict[str, str]]:
        """For each layer that no gradient arrived at: the reason, by quantity."""
        return {layer.name: dict(layer.unreached) for layer in self.layers if layer.unreached}

    def select(self, of: str) -> pd.DataFrame:
        """Rows of layers, of one quantity, at which a gradient arrived.

        Raises:
            ValueError: If the quantity was not recorded.
        """
        if of not in self.of and len(self.frame):
            raise ValueError(f"expected one of the recorded quantities {list(self.of)}, got of={of!r}")
        rows = self.rows_of_layers
        return rows[(rows["of"] == of) & rows["nonfinite"].notna()]

    def aggregate(self, of: str = "output", how: str = "median") -> pd.Series[float]:
        """One magnitude for each layer: ``mean_abs`` over the iterations, in depth order.

        An iteration whose gradient holds NaN or inf counts as infinitely large: it has not vanished.
        Layers that no gradient arrived at are absent.

        Args:
            of: ``"output"`` or ``"weight"``.
            how: One of ``median``, ``mean``, ``min``, ``max``, ``first``, ``last``. ``median`` below a
                threshold says that the layer was below it in at least half of the iterations.
        """
        return _aggregated(self.select(of), [layer.name for layer in self.layers], how)

    def single_weights(self, how: str = "median") -> pd.Series[float]:
        """One magnitude for each weight of the recurrent layers, as `aggregate` makes it, in depth order.

        Example:
            >>> names = ["rnn", "rnn.weight_ih_l0", "rnn.weight_hh_l0"]
            >>> rows = [(0, name, 0, "weight", 0.5, 0.5, 0.5, 0.0, 0) for name in names]
            >>> layer = Layer("rnn", 0, "RNN", 9, weights=tuple(names[1:]))
            >>> GradientHistory(tidy(rows), {}, (layer,), (), None).single_weights().to_dict()
            {'rnn.weight_ih_l0': 0.5, 'rnn.weight_hh_l0': 0.5}
        """
        rows = self.frame[(self.frame["of"] == "weight") & self.frame["nonfinite"].notna()]
        return _aggregated(rows, [row for layer in self.layers for row in layer.weights], how)

    def summary(self, how: str = "median") -> pd.DataFrame:
        """One row for each layer: name, depth, kind, the aggregated magnitudes, and why one is missing.

        Returns:
            Columns ``layer, depth, kind, parameters``, one column for each quantity, ``unreached``.
        """
        table = pd.DataFrame(
            {
                "layer": [layer.name for layer in self.layers],
                "depth": [layer.depth for layer in self.layers],
                "kind": [layer.kind for layer in self.layers],
                "parameters": [layer.parameters for layer in self.layers],
            }
        )
        for of in self.of:
            table[of] = table["layer"].map(self.aggregate(of, how)).astype(float)
        table["unreached"] = [
            "; ".join(f"{of}: {why}" for of, why in layer.unreached.items()) for layer in self.layers
        ]
        return table

    def to_dict(self) -> dict[str, Any]:
        """Everything but the frame, as plain JSON types."""
        return {
            "conditions": dict(self.conditions),
            "layers": [asdict(layer) for layer in self.layers],
            "points": [asdict(point) for point in self.points],
            **self.output,
            "evidence": self.evidence and self.evidence.to_dict(),
        }

    @classmethod
    def from_dict(cls, frame: pd.DataFrame, record: Mapping[str, Any]) -> GradientHistory:
        """The reverse of `to_dict`.

        Raises:
            KeyError: If something is missing in the record.
            TypeError: If something has another kind.
            ValueError: If something is not possible.
        """
        return cls(
            frame,
            with_codes(at(record, "conditions", mapping)),
            at(record, "layers", tuple_of(Layer.from_dict)),
            at(record, "points", tuple_of(Point.from_dict)),
            as_tuples(at(record, "output_shape", anything)),
            **{name: at(record, name, read) for name, read in _LATER.items() if name in record},
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GradientHistory):
            return NotImplemented
        facts = [(x.conditions, x.layers, tuple(x.points), x.output, x.evidence) for x in (self, other)]
        return facts[0] == facts[1] and self.frame.equals(other.frame)

    __hash__ = None  # type: ignore[assignment]

    def _weight_line(self, name: str, value: float) -> str:
        numbers = "".join(f"  {f'{value:.3g}' if of == 'weight' else '':>18}" for of in self.of)
        return f"{'':>5}    {shorten(name, 30):<30}{numbers}"

    def _repr_html_(self) -> str:
        return history_html(self)

    def __str__(self) -> str:
        table, singles, quantities = self.summary(), self.single_weights(), self.of
        head = f"{'depth':>5}  {'layer':<32}" + "".join(f"  {label(of):>18}" for of in quantities)
        lines = [f"gradient history: {len(self.layers)} layers, {self.iterations} iterations"]
        lines += [describe_conditions(self.conditions), "median over the iterations:", head]
        for layer, row in zip(self.layers, table.to_dict("records"), strict=True):
            numbers = "".join(
                f"  {layer.missing(of):>18}" if pd.isna(row[of]) else f"  {row[of]:>18.3g}" for of in quantities
            )
            lines.append(f"{row['depth']:>5}  {shorten(row['layer'], 32):<32}{numbers}")
            lines += [self._weight_line(name, singles[name]) for name in layer.weights if name in singles]
        why = {layer.name: layer.why for layer in self.layers if layer.unreached}
        lines += [f"without a number: {names} ({reason})" for reason, names in names_by_reason(why)]
        return printable("\n".join(line for line in lines if line))


_LATER = {  # what runs of version 0.1.0 do not have
    "output_channels": optional(integer),
    "head": optional(text),
    "activation": optional(text),
    "evidence": optional(Evidence.from_dict),
}


def _aggregated(rows: pd.DataFrame, names: Sequence[str], how: str) -> pd.Series[float]:
    if how not in AGGREGATES:
        raise ValueError(f"expected an aggregation out of {list(AGGREGATES)}, got {how!r}")
    values = rows["mean_abs"].where(rows["nonfinite"] == 0, float("inf"))
    # "first" and "last" need the iterations in order (groupby keeps it) and skip NaN, which is inf by now
    by_layer = values.groupby(rows["layer"], sort=False).agg(how)
    return by_layer.reindex([name for name in names if name in by_layer.index])


def check_history(given: object) -> GradientHistory:
    """What is given, where it is a history; raises TypeError if it is not one.

    Example:
        >>> check_history("gradprobe_runs/net")
        Traceback (most recent call last):
        TypeError: expected a gp.GradientHistory, got str: give what gp.scan returns, or gp.load(run).history
    """
    if isinstance(given, GradientHistory):
        return given
    find = "its .history" if hasattr(given, "history") else "what gp.scan returns, or gp.load(run).history"
    raise TypeError(f"expected a gp.GradientHistory, got {type(given).__name__}: give {find}")


def tidy(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """Build the frame from rows in the order of `COLUMNS`; NaN or None is a missing statistic.

    Example:
        >>> tidy([(0, "nan", 0, "output", None, None, None, None, None)])["layer"].tolist()
        ['nan']
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    return frame_of(dict(zip(COLUMNS, columns, strict=True)))


def frame_of(columns: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    """The frame from the values of each of `COLUMNS`; None is a missing statistic."""

    def numbers(name: str) -> list[float]:
        return [float("nan") if value is None else float(value) for value in columns[name]]

    counts = [None if pd.isna(value) else int(value) for value in columns["nonfinite"]]
    return pd.DataFrame(
        {
            "iteration": pd.array([int(value) for value in columns["iteration"]], dtype="int64"),
            "layer": pd.Series([value or "" for value in columns["layer"]], dtype=str),
            "depth": pd.array([int(value) for value in columns["depth"]], dtype="int64"),
            "of": pd.Series(list(columns["of"]), dtype=str),
            **{name: pd.array(numbers(name), dtype="float64") for name in MEASURES[:-1]},
            "nonfinite": pd.array(counts, dtype="Int64"),
        }
    )


def history_html(history: GradientHistory) -> str:
    """A history: bars by depth, the conditions, and the layers with their magnitudes.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, "<b>", 0, "output", 2e-9, 3e-9, 1e-8, 0.0, 0)]
        >>> "&lt;b&gt;" in history_html(GradientHistory(tidy(rows), {}, (Layer("<b>", 0, "Conv2d", 9),), (), None))
        True
    """
    of, names = history.main_quantity, [layer.name for layer in history.layers]
    counts = f"{counted(len(names), 'layer')}, {counted(history.iterations, 'iteration')}"
    parts = [title(f"gradient history: {counts}"), small(describe_conditions(history.conditions))]
    if of is not None:
        medians = history.aggregate(of)
        # the threshold of CNDS is about outputs
        low = set(medians.index[medians < CNDS_THRESHOLD]) if of == "output" else set()
        parts.append(bars(medians, names, of, low, span_of([medians])))
        parts.append(small(legend(medians, names, of, low, f"below {short(CNDS_THRESHOLD)}")))
    return block([*parts, _layers_html(history)])


def _layers_html(history: GradientHistory) -> str:
    """The layers with their magnitudes; of many those with the smallest ones, folded away."""
    rows = history.summary()
    few = len(rows) <= MOST_ROWS
    if not few:
        rows = rows.nsmallest(MOST_ROWS, history.main_quantity or "depth").sort_values("depth")
    heading = "layers" if few else f"the {MOST_ROWS} layers with the smallest gradients of {len(history.layers)}"
    head = ("depth", "layer", "kind", *(label(of) for of in history.of))
    layers, quantities = {layer.name: layer for layer in history.layers}, history.of
    cells = [
        (
            row["depth"],
            row["layer"],
            row["kind"],
            *(_magnitude(row[of], layers[row["layer"]], of) for of in quantities),
        )
        for row in rows.to_dict("records")
    ]
    return folded(heading, table(head, cells), is_open=few)


def _magnitude(value: float, layer: Layer, of: str) -> str:
    return layer.missing(of) if pd.isna(value) else f"{value:.3g}"
