"""The record: a tidy table of gradient magnitudes, the conditions they were taken under, and the points.

Plain data: no tensors, no model, no torch. Whatever decides, draws or reports needs nothing else.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

KEYS = ("iteration", "layer", "depth", "of")
MEASURES = ("mean_abs", "rms", "max_abs", "zero_fraction", "nonfinite")
COLUMNS = KEYS + MEASURES
AGGREGATES = ("median", "mean", "min", "max", "first", "last")


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters, as the probe found it.

    Attributes:
        name: Canonical name from ``named_modules()``; ``""`` is the root.
        depth: Position in the order in which the layers first finished their forward, from 0.
        kind: Class name of the module.
        parameters: Number of elements in its own parameters.
        unreached: Why no gradient arrived, by what was looked for: keys ``"output"`` and ``"weight"``.
        unserved: Why no branch can serve this layer, or None where one can.
    """

    name: str
    depth: int
    kind: str
    parameters: int
    unreached: Mapping[str, str] = field(default_factory=dict)
    unserved: str | None = None


@dataclass(frozen=True)
class Point:
    """A supervision point: a module whose output can feed a branch.

    Attributes:
        name: Name of the module whose output is taken.
        shape: Shape of that output, batch dimension first, as recorded.
        depth: Depth of the served layer nearest the output.
        layers: Names of the layers it serves, in depth order.
        channels: Axis of the channels in the shape, where the layers told it.
    """

    name: str
    shape: tuple[int, ...]
    depth: int
    layers: tuple[str, ...]
    channels: int | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Point:
        """Build a point from its JSON form."""
        shape, layers = tuple(record["shape"]), tuple(record["layers"])
        return cls(record["name"], shape, record["depth"], layers, record.get("channels"))


class Points(tuple[Point, ...]):
    """Supervision points in forward order, and why every other layer has none.

    Attributes:
        unserved: The reason for each layer that no point serves, by name.

    Example:
        >>> unserved = {"fc": "it makes the network's output"}
        >>> found = Points([Point("act", (8, 4, 5, 5), 1, ("conv", "norm"))], unserved)
        >>> print(found)
        1 point serves 2 layers; 1 layer has none
        act (8, 4, 5, 5): conv, norm
        no point for fc: it makes the network's output
        >>> found[0].name, found.unserved["fc"]
        ('act', "it makes the network's output")
    """

    unserved: Mapping[str, str]

    def __new__(cls, points: Iterable[Point] = (), unserved: Mapping[str, str] | None = None) -> Points:
        """Keep both."""
        made = super().__new__(cls, points)
        made.unserved = dict(unserved or {})
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.unserved

    def __str__(self) -> str:
        lines = [self.summary()]
        for point in self:
            names = ", ".join(shorten(name, 40) for name in point.layers)
            lines.append(f"{shorten(point.name, 40)} {point.shape}: {names}")
        lines += [f"no point for {shorten(name, 40)}: {why}" for name, why in self.unserved.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        # by name: what draws stands on the floor above
        return str(importlib.import_module("gradprobe.markup").points_html(self))

    def summary(self) -> str:
        """How many there are, in a sentence."""
        served, left = sum(len(point.layers) for point in self), len(self.unserved)
        points = "1 point serves" if len(self) == 1 else f"{len(self)} points serve"
        layers = "1 layer" if served == 1 else f"{served} layers"
        return f"{points} {layers}" + (f"; {left} layer{' has' if left == 1 else 's have'} none" if left else "")


@dataclass(frozen=True, eq=False)
class GradientHistory:
    """Gradient magnitudes of every layer, iteration by iteration, and what is needed to read them.

    The frame has one row for each iteration, layer and quantity (``of``), whether or not a gradient
    arrived. Where none did, the statistics are missing. A gradient that holds NaN or inf was measured: its
    ``nonfinite`` is above zero.

    Attributes:
        frame: Columns ``iteration, layer, depth, of, mean_abs, rms, max_abs, zero_fraction, nonfinite``.
        conditions: What the magnitudes depend on: batch size, loss, optimizer, seed, device, ...
        layers: The layers in depth order.
        points: The supervision points in forward order.
        output_shape: Shape of the network's main output tensor (of each, where it returns a list), or None.
        output_channels: Axis of the channels in it, where the layers told it.
        head: Name of the layer that makes the output, or None where none does.
        activation: What the output comes out of, if anything: ``"sigmoid"``, ``"softmax"``, ``"log_softmax"``, ...

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

    @property
    def output(self) -> dict[str, Any]:
        """What a branch has to know of the network's output, by the names of the attributes."""
        return {name: getattr(self, name) for name in ("output_shape", "output_channels", "head", "activation")}

    @property
    def iterations(self) -> int:
        """Number of iterations recorded."""
        return int(self.frame["iteration"].nunique())

    @property
    def of(self) -> tuple[str, ...]:
        """The quantities recorded: ``"output"``, ``"weight"`` or both."""
        return tuple(map(str, self.frame["of"].unique()))

    @property
    def unreached(self) -> dict[str, dict[str, str]]:
        """For each layer that no gradient arrived at: the reason, by quantity."""
        return {layer.name: dict(layer.unreached) for layer in self.layers if layer.unreached}

    def select(self, of: str) -> pd.DataFrame:
        """Rows of one quantity at which a gradient arrived.

        Raises:
            ValueError: The quantity was not recorded.
        """
        if of not in self.of and len(self.frame):
            raise ValueError(f"expected one of the recorded quantities {list(self.of)}, got of={of!r}")
        return self.frame[(self.frame["of"] == of) & self.frame["nonfinite"].notna()]

    def aggregate(self, of: str = "output", how: str = "median") -> pd.Series[float]:
        """One magnitude for each layer: ``mean_abs`` over the iterations, in depth order.

        An iteration whose gradient holds NaN or inf counts as infinitely large: it has not vanished.
        Layers that no gradient arrived at are absent.

        Args:
            of: ``"output"`` or ``"weight"``.
            how: One of ``median``, ``mean``, ``min``, ``max``, ``first``, ``last``. ``median`` below a
                threshold says that the layer was below it in at least half of the iterations.
        """
        if how not in AGGREGATES:
            raise ValueError(f"expected an aggregation out of {list(AGGREGATES)}, got {how!r}")
        rows = self.select(of)
        values = rows["mean_abs"].where(rows["nonfinite"] == 0, float("inf"))
        # first and last must see NaN-free values in iteration order; groupby keeps the order of rows
        by_layer = values.groupby(rows["layer"], sort=False).agg(how)
        return by_layer.reindex([layer.name for layer in self.layers if layer.name in by_layer.index])

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

    def record(self) -> dict[str, Any]:
        """Everything but the frame, as plain JSON types."""
        return {
            "conditions": dict(self.conditions),
            "layers": [asdict(layer) for layer in self.layers],
            "points": [asdict(point) for point in self.points],
            **self.output,
        }

    @classmethod
    def from_record(cls, frame: pd.DataFrame, record: Mapping[str, Any]) -> GradientHistory:
        """The reverse of `record`."""
        return cls(
            frame,
            record["conditions"],
            tuple(Layer(**layer) for layer in record["layers"]),
            tuple(Point.from_record(point) for point in record["points"]),
            as_tuples(record["output_shape"]),
            record.get("output_channels"),
            record.get("head"),
            record.get("activation"),
        )

    def log_to(self, writer: Any, placement: Any = None, **options: Any) -> None:
        """Log the magnitudes, the figures and the decision: TensorBoard, Weights & Biases, MLflow, or a function.

        Args:
            writer: A ``SummaryWriter``, a run, ``mlflow``, a Lightning logger, or ``(name, value, step) -> None``.
            placement: The decision; `gradprobe.place` makes it if there is none.
            **options: See `gradprobe.integrations.loggers.log_to`, where the errors are listed as well.
        """
        # by name: this room is on the ground and imports nothing of what stands on it
        importlib.import_module("gradprobe.integrations.loggers").log_to(self, writer, placement, **options)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GradientHistory):
            return NotImplemented
        same = (self.conditions, self.layers, tuple(self.points), self.output) == (
            other.conditions,
            other.layers,
            tuple(other.points),
            other.output,
        )
        return same and self.frame.equals(other.frame)

    __hash__ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        # by name: what draws stands on the floor above
        return str(importlib.import_module("gradprobe.markup").history_html(self))

    def __str__(self) -> str:
        table = self.summary()
        head = f"{'depth':>5}  {'layer':<32}" + "".join(f"  {f'mean |dL/d {of}|':>18}" for of in self.of)
        lines = [f"gradient history: {len(self.layers)} layers, {self.iterations} iterations"]
        lines += [describe_conditions(self.conditions), "median over the iterations:", head]
        for row in table.to_dict("records"):
            numbers = "".join(
                f"  {'unreached':>18}" if pd.isna(row[of]) else f"  {row[of]:>18.3g}" for of in self.of
            )
            lines.append(f"{row['depth']:>5}  {shorten(row['layer'], 32):<32}{numbers}")
        lines += [
            f"unreached {shorten(layer.name, 32)} ({of}): {why}"
            for layer in self.layers
            for of, why in layer.unreached.items()
        ]
        return "\n".join(line for line in lines if line)


def as_tuples(value: Any) -> Any:
    """Lists, as JSON has them, as the tuples they were.

    Example:
        >>> as_tuples([[2, 3], [2, 5]])
        ((2, 3), (2, 5))
    """
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


def tidy(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """Build the frame from rows in the order of `COLUMNS`; NaN or None is a missing statistic.

    Example:
        >>> tidy([(0, "nan", 0, "output", None, None, None, None, None)])["layer"].tolist()
        ['nan']
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    return _typed(dict(zip(COLUMNS, columns, strict=True)))


def write_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV text: floats in full (shortest exact) precision, a missing statistic left empty."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def read_csv(text: str) -> pd.DataFrame:
    """The reverse of `write_csv`; exact, also for layers named ``0``, ``nan`` and the empty string.

    A gradient with NaN in it has an empty ``mean_abs`` too, but its ``nonfinite`` is a number.
    """
    # everything as text, then parsed here: pandas' own parsers guess types and, by version, round
    raw = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_filter=False)
    missing = set(COLUMNS) - set(raw.columns)
    if missing:
        raise ValueError(f"expected the columns {', '.join(COLUMNS)}; missing: {', '.join(sorted(missing))}")
    return _typed({column: [value or None for value in raw[column]] for column in COLUMNS})


def _typed(columns: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
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


def describe_conditions(conditions: Mapping[str, Any]) -> str:
    """The conditions that a magnitude depends on, on one line.

    Example:
        >>> describe_conditions({"target": "net.py", "data": "digits", "batch_size": 64, "seed": 0})
        'net.py, data: digits, batch size 64, seed 0'
    """
    printed = {
        "target": "{}",
        "data": "data: {}",
        "batch_size": "batch size {}",
        "loss": "loss: {}",
        "optimizer": "{}",
        "dtype": "{}",
        "device": "{}",
        "seed": "seed {}",
        "stopped": "incomplete: {}",
    }
    known = ((text, conditions.get(key)) for key, text in printed.items())
    return ", ".join(text.format(value) for text, value in known if value is not None)


def shorten(name: str, width: int) -> str:
    r"""Shorten a layer name so that it still tells which one it is; the root is ``(root)``.

    Leading parts are cut to their first letter and their number, from the left, as far as it takes; then letters
    of the last part are left out, all but three if need be; if that is not enough the rest is cut in the middle.
    What cannot be printed (a line break, an escape) becomes ``\ufffd``.

    Example:
        >>> shorten("encoder.layers.11.attention.output.dense", 24)
        'e.l.11.a.output.dense'
        >>> shorten("features.denseblock4.denselayer16.norm1", 20)
        'f.d4.d16.norm1'
        >>> shorten("resnet.encoder.stages.0.layers.2.layer.1.normalization", 24)
        'r.e.s.0.l.2.l.1.normali…'
    """
    name = "".join(char if char.isprintable() else "\ufffd" for char in name) or "(root)"
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if len(".".join(parts)) <= width:
            break
        number = part[len(part.rstrip("0123456789")) :]
        parts[i] = part if part == number else part[:1] + number
    short = ".".join(parts)
    if len(short) <= width:
        return short
    room = width - len(short) + len(parts[-1])  # for the last part
    tail = max(0, room // 6 * 2 - 2) if room >= 4 and len(parts) > 1 else (width - 1) // 2
    return f"{short[: width - 1 - tail]}…{short[len(short) - tail :]}"
