"""More than two runs beside each other: what each is found to be, and the layers that differ. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradprobe.record.quantities import label
from gradprobe.record.text import counted, few, printable, shorten
from gradprobe.runs.compare_runs import compare_runs
from gradprobe.runs.difference import MOST_ROWS, Difference, LayerChange, magnitude
from gradprobe.runs.run import Run
from gradprobe.show.headline import verdict

_COLUMNS = 4  # of magnitudes that are printed beside each other


@dataclass(frozen=True)
class SeveralRuns:
    """Runs, each compared with the first of them. ``str()`` is the report.

    Attributes:
        names: What the runs are called.
        verdicts: The verdict of each run, in a few words.
        differences: What changed from the first to the second, to the third, ...
    """

    names: tuple[str, ...]
    verdicts: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def of(self) -> str:
        """The quantity that was compared."""
        return self.differences[0].of

    @property
    def factor(self) -> float:
        """Changes of the magnitude beyond this count."""
        return self.differences[0].factor

    @property
    def new(self) -> dict[str, list[str]]:
        """Layers by the kind of finding that a later run has and the first has not."""
        found: dict[str, list[str]] = {}
        for difference in self.differences:
            for kind, layers in difference.new.items():
                found[kind] = list(dict.fromkeys([*found.get(kind, []), *layers]))
        return found

    @property
    def conditions(self) -> dict[str, list[Any]]:
        """The conditions that are not the same in all runs: the value in each run, by name."""
        names = dict.fromkeys(name for one in self.differences for name in one.conditions)
        values = {}
        for name in names:
            first = next(one.conditions[name][0] for one in self.differences if name in one.conditions)
            values[name] = [first, *(one.conditions.get(name, (None, first))[1] for one in self.differences)]
        return values

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each layer: those of the first run, then those that it has not.

        Returns:
            Columns ``layer, changed`` and one for each run, named as it is, with a number in front: ``1 runs/a``.
            A layer has the name that it has in the first run; a magnitude that is missing is NaN.
        """
        rows: dict[str, dict[str, Any]] = {}
        heads = [f"{number} {name}" for number, name in enumerate(self.names, 1)]
        for head, difference in zip(heads[1:], self.differences, strict=True):
            for layer in difference.layers:
                name = layer.name if layer.before is None else layer.before.name
                row = rows.setdefault(name, {"layer": name, "changed": False, heads[0]: layer.first})
                row[head] = layer.second
                row["changed"] = row["changed"] or layer.changed
        table = pd.DataFrame(list(rows.values()), columns=["layer", "changed", *heads])
        return table.astype(dict.fromkeys(heads, "float64"))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "runs": list(self.names),
            "verdicts": list(self.verdicts),
            "of": self.of,
            "factor": self.factor,
            "sentences": str(self).splitlines(),
            "conditions": self.conditions,
            "new": self.new,
            "differences": [one.to_dict() for one in self.differences],
        }

    def __str__(self) -> str:
        return printable("\n".join(_report(self)))


def compare_several(runs: Sequence[Run], *, of: str | None = None, factor: float = 10.0) -> SeveralRuns:
    """Compare every run with the first.

    Args:
        runs: Two at least.
        of: ``"output"`` or ``"weight"``; None takes what the last run's placement looked at.
        factor: See `compare_runs`.

    Raises:
        ValueError: If the quantity was not recorded in all of them, or the factor is not above 1.

    Example:
        >>> from pathlib import Path
        >>> from gradprobe.decide.policies import place
        >>> from gradprobe.record.history import GradientHistory, Layer, tidy
        >>> def run(name, size):
        ...     rows = [(0, "conv", 0, "output", size, 0, 0, 0, 0)]
        ...     history = GradientHistory(tidy(rows), {"lr": size}, (Layer("conv", 0, "Conv2d", 9),), (), None)
        ...     return Run(Path(name), history, place(history))
        >>> print(compare_several([run("a", 1e-3), run("b", 1e-9), run("c", 2e-3)]))
        3 runs, each compared with the first
        1  a  Healthy
        2  b  Vanishing, 1 of 1 layer changed
        3  c  Healthy, no layer changed
        mean |dL/d output|, median over the iterations; *: not as in the first run
        layer          1           2           3
        conv       0.001        1e-9*      0.002
        newly vanishing in a later run: conv
        lr: 0.001 in 1; 1e-09 in 2; 0.002 in 3
    """
    of = of or runs[-1].placement.of
    differences = tuple(compare_runs(runs[0], other, of=of, factor=factor) for other in runs[1:])
    said = (verdict(run.history, run.placement, run.comparison, run.arms).look.badge for run in runs)
    return SeveralRuns(tuple(str(run.folder) for run in runs), tuple(said), differences)


def _report(several: SeveralRuns) -> Iterator[str]:
    yield f"{counted(len(several.names), 'run')}, each compared with the first"
    width = max(map(len, several.names))
    for number, (name, said) in enumerate(zip(several.names, several.verdicts, strict=True), 1):
        yield f"{number}  {name:<{width}}  {said}{_changed(several.differences[number - 2]) if number > 1 else ''}"
    yield from _table(several)
    for kind, names in several.new.items():
        yield f"newly {kind} in a later run: {few([shorten(name, 40) for name in names], 5)}"
    for name, values in several.conditions.items():
        yield f"{name.replace('_', ' ')}: {_by_value(values)}"


def _changed(difference: Difference) -> str:
    count = len(difference.changed)
    return f", {count} of {counted(len(difference.layers), 'layer')} changed" if count else ", no layer changed"


def _table(several: SeveralRuns) -> Iterator[str]:
    """The magnitudes of the layers that are not alike in all runs."""
    changes = [{(one.before or one.after).name: one for one in two.changed} for two in several.differences]  # type: ignore[union-attr]
    table = several.frame
    rows = table[table["changed"]].to_dict("records")
    if not rows:
        return
    yield f"{label(several.of)}, median over the iterations; *: not as in the first run"
    heads = list(table.columns[2:])
    width = max(len("layer"), *(len(shorten(row["layer"], 24)) for row in rows[:MOST_ROWS]))
    for start in range(0, len(heads), _COLUMNS):
        columns = range(start, min(start + _COLUMNS, len(heads)))
        yield f"{'layer':<{width}}" + "".join(f"{column + 1:>11} " for column in columns).rstrip()
        for row in rows[:MOST_ROWS]:
            cells = (_cell(row[heads[at]], changes[at - 1].get(row["layer"]) if at else None) for at in columns)
            yield f"{shorten(row['layer'], 24):<{width}}{''.join(cells)}".rstrip()
    if len(rows) > MOST_ROWS:
        yield f"… and {len(rows) - MOST_ROWS} more"


def _cell(value: float, change: LayerChange | None) -> str:
    if change is not None and change.after is None:
        return f"{'-':>11} "
    return f"{magnitude(None if pd.isna(value) else value):>11}{' ' if change is None else '*'}"


def _by_value(values: Sequence[Any]) -> str:
    """Each value once, with the numbers of its runs."""
    where: dict[str, list[str]] = {}
    for number, value in enumerate(values, 1):
        where.setdefault("none" if value is None else str(value), []).append(str(number))
    return "; ".join(f"{value} in {few(numbers, 6)}" for value, numbers in where.items())
