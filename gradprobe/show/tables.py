"""A run as text: the table that the terminal shows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gradprobe.decide.causes.signal import SPREAD
from gradprobe.decide.findings import default_rule, looks_at_magnitudes, with_default_flags
from gradprobe.record.conditions import describe_conditions
from gradprobe.record.history import GradientHistory, Layer
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import QUANTITIES, label, short
from gradprobe.record.text import counted, names_by_reason, shorten
from gradprobe.record.text_bars import log_range, sparkline
from gradprobe.show.console import Paragraph
from gradprobe.show.formats import losses_in_words, result_frame, weight_table
from gradprobe.show.headline import verdict
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import Comparison

MAX_ROWS = 40  # where there are more layers, an excerpt is shown
EXCERPT_ROWS = 24
IN_WORDS = 3  # branches
PROFILE_FROM = 8  # layers
_WHERE_WIDE = ("iterations", "of")  # columns of `RunsTable`


def as_table(
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None = None,
    *,
    every_layer: bool = False,
) -> RenderableType:
    """The report for a terminal: the verdict and what to do, the layers, and the decision with its reasons.

    Args:
        history: The record.
        placement: The decision.
        comparison: With and without, if it was done.
        every_layer: A row for every layer, however many there are.
    """
    shown = with_default_flags(history, placement)
    table, frozen = result_frame(history, shown), _frozen(history)
    chosen = list(range(len(table))) if every_layer else excerpt(table, shown, frozen)
    said = verdict(history, placement, comparison)
    first = Paragraph(f"{said.look.badge}. {said.sentence}", "bold")
    parts: list[RenderableType] = [first, *map(Paragraph, filter(None, [said.step, *said.details])), ""]
    parts.append(_Layers(table, chosen, shown, history.layers, frozen, weight_table(history)))
    if len(chosen) < len(table):
        hidden = f"{len(table) - len(chosen)} of {len(table)} layers are not shown"
        parts.append(Text(f"{hidden}: --all shows them, and so does --format csv"))
    if len(table) - len(frozen) >= PROFILE_FROM:
        magnitudes = [value for row, value in enumerate(table.get(shown.of, ())) if row not in frozen]
        parts += ["", Profile(_numbers(magnitudes), shown.threshold, label(shown.of)), *_signal(history), ""]
    parts += [Paragraph(line, "dim") for line in _notes(history, placement)]
    parts += _decision(placement, "bold" if shown.flagged or placement.remedy else "")
    if comparison is not None and comparison.offer:  # the line to copy follows
        parts.append(Paragraph("\n" + "\n".join(comparison.sentences), "bold"))
    return Group(*parts)


def _signal(history: GradientHistory) -> list[RenderableType]:
    """The spread of every layer's output by depth, where it was measured."""
    spread = history.by_depth["spread"].dropna() if history.evidence is not None else ()
    if len(spread) < PROFILE_FROM:
        return []
    return [Profile(_numbers(spread), SPREAD, "spread of the outputs")]


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in values]


def _decision(placement: Placement, style: str) -> list[RenderableType]:
    """What was decided and why; of many runs of flagged layers a table and not a paragraph."""
    if len(placement.points) <= IN_WORDS:
        return [Paragraph(str(placement), style)]
    table = Table(box=None, pad_edge=False)
    for name in ("branch after", "serves"):
        table.add_column(name, overflow="fold")
    for point in placement.points:
        ends = list(dict.fromkeys([point.layers[0], point.layers[-1]])) if point.layers else []
        more = f" ({counted(len(point.layers), 'layer')})" if len(point.layers) > 1 else ""
        table.add_row(Text(shorten(point.name, 40)), Text(" to ".join(shorten(one, 40) for one in ends) + more))
    head = f"placement ({placement.policy}): {len(placement.points)} branches"
    reason = "" if placement.rule in ("threshold", "relative") else placement.reason  # which tells of each run
    rest = str(replace(placement, points=(), reason=reason)).splitlines()[1:]
    return [Text(head, style=style), table, *map(Paragraph, filter(None, rest))]


def arms_table(result: ArmsComparison) -> RenderableType:
    """Several arms for a terminal: a row for each, the failures, and which arm to use."""
    conditions = Paragraph(describe_conditions(result.plain.conditions), "dim")
    failures = [Paragraph(line, "red") for line in result.failures]
    sentences = [Paragraph(line, "bold") for line in result.choice.sentences]
    return Group(_Arms(result), "", conditions, *failures, *sentences)


class RunsTable:
    """Saved runs for a terminal, a row for each; the last columns only where there is room.

    Args:
        rows: The cells of each run, by the name of their column.
    """

    def __init__(self, rows: Sequence[Mapping[str, str]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        names = [name for name in self._rows[0] if any(row[name] for row in self._rows)]
        table = Table(box=None, pad_edge=False)
        for name in names if options.max_width >= 100 else [name for name in names if name not in _WHERE_WIDE]:
            table.add_column(name, overflow="fold", no_wrap=name == "recorded")
        for row in self._rows:
            table.add_row(*(Text(row[str(column.header)]) for column in table.columns))
        yield table


class Profile:
    """One number of every layer by depth, as a row of bars; what is below the threshold has a mark."""

    def __init__(self, values: Sequence[float | None], threshold: float | None, name: str) -> None:
        self._values, self._threshold, self._name = values, threshold, name

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if options.ascii_only or not self._values:
            return
        bars, marks = sparkline(self._values, self._threshold, options.max_width)
        low, high = (short(10**power) for power in log_range(self._values))
        limit = "" if self._threshold is None else f"below {short(self._threshold)}"
        said = [f"{self._name}, by depth", f"{low} to {high} on a log scale"]
        said += [f"none {limit}"] if limit and not marks else []
        yield Text("; ".join(said), style="dim", no_wrap=True, overflow="ellipsis")
        styles = ("red" if mark == "^" else "cyan" for mark in marks.ljust(len(bars)))
        yield Text.assemble(*zip(bars, styles, strict=True), no_wrap=True, overflow="crop")
        if marks:
            yield Text.assemble((f"{marks} {limit}", "dim"), no_wrap=True, overflow="crop")


class _Name:
    """A name that is shortened to the width of its column."""

    def __init__(self, name: str) -> None:
        self._name = fit(name, 10**6)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        # as Text, so that a layer called "[red]" is a name and not markup
        yield Text(fit(self._name, options.max_width), no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(6, cell_len(self._name)).with_maximum(options.max_width)


class _Arms:
    """The table of several arms; the columns of costs only in a wide terminal."""

    def __init__(self, result: ArmsComparison) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        head, *rows = self._result.table()
        shown = len(head) if options.max_width >= 100 else head.index("windows")
        table = Table(box=None, pad_edge=False)
        for name in head[:shown]:
            table.add_column(name, no_wrap=name != "what it did", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row[:shown]), style="bold" if row[0] == self._result.best else "")
        yield table


class _Layers:
    """The table of the layers, with the columns that fit."""

    def __init__(
        self,
        table: pd.DataFrame,
        chosen: Sequence[int],
        placement: Placement,
        layers: Sequence[Layer],
        frozen: Collection[int],
        weights: pd.DataFrame,
    ) -> None:
        self._table, self._chosen, self._placement = table, chosen, placement
        self._layers, self._frozen = layers, frozen
        self._weights = {str(row["weight"]): row for row in weights.to_dict("records")}
        self._of = [of for of in QUANTITIES if of in table.columns]
        self._branched = {point.layers[-1] for point in placement.points}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        wide = options.max_width >= 72
        shown = self._of if wide else [of for of in self._of if of == self._placement.of]
        yield Text(f"{' and '.join(label(of) for of in shown)}, median over the iterations", style="italic")
        table = Table(box=None, pad_edge=False)
        if wide:
            table.add_column("", justify="right", no_wrap=True)
        for name in ("layer", "kind") if wide else ("layer",):
            table.add_column(name)
        for of in shown:
            table.add_column(of, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        before = -1
        rows = self._table.iloc[list(self._chosen)].to_dict("records")
        for index, row in [*zip(self._chosen, rows, strict=True), (len(self._table), None)]:
            if index > before + 1:
                gap = (self._left_out(before + 1, index),)
                table.add_row(*(("", *gap) if wide else gap), style="dim")
            if row is not None:
                table.add_row(
                    *self._row(row, self._layers[index], shown, wide), style="red" if row["flagged"] else ""
                )
                for cells in self._single_weights(self._layers[index], shown, wide):
                    table.add_row(*cells, style="dim")
            before = index
        yield table

    def _single_weights(self, layer: Layer, shown: Sequence[str], wide: bool) -> Iterator[list[RenderableType]]:
        """A row for each weight of a recurrent layer below it: its gradient, and how far a step moves it."""
        for row in (self._weights[name] for name in layer.weights if "weight" in shown):
            local = _Name(f"  {row['weight'].removeprefix(layer.name).removeprefix('.')}")
            moves = "" if pd.isna(row["update"]) else f"update {row['update']:.1e}"
            number = layer.missing("weight") if pd.isna(row["gradient"]) else _magnitude(row["gradient"])
            numbers = [number if of == "weight" else "" for of in shown]
            yield [*(["", local, moves] if wide else [local]), *numbers, ""]

    def _row(self, row: Mapping[Any, Any], layer: Layer, shown: Sequence[str], wide: bool) -> list[RenderableType]:
        name, kind = _Name(str(row["layer"])), _Name(str(row["kind"]))
        marks = ("flagged", row["flagged"]), ("+branch", row["layer"] in self._branched)
        names: list[RenderableType] = [str(row["depth"]), name, kind] if wide else [name]
        numbers = [layer.missing(of) if pd.isna(row[of]) else _magnitude(row[of]) for of in shown]
        return [*names, *numbers, " ".join(word for word, holds in marks if holds)]

    def _left_out(self, start: int, end: int) -> str:
        count, flagged = end - start, int(self._table["flagged"].iloc[start:end].sum())
        which = "all" if flagged == count else str(flagged)
        if all(row in self._frozen for row in range(start, end)):
            return f"… {count} frozen"
        return f"… {count} more" + (f", {which} flagged" if flagged else "")


def _frozen(history: GradientHistory) -> set[int]:
    """The rows of frozen layers without a number, where there are several: together they are one line."""
    reached = {name for of in history.of for name in history.aggregate(of).index}
    rows = {row for row, layer in enumerate(history.layers) if layer.is_frozen and layer.name not in reached}
    return rows if len(rows) > 1 else set()


def excerpt(table: pd.DataFrame, placement: Placement, frozen: Collection[int] = ()) -> list[int]:
    """The rows of a `result_frame` that matter most, or all where they are few; those of frozen layers do not.

    These are the first and the last layer, those with the smallest and the largest magnitude, those that feed a
    branch, those next to where the flagged layers begin and end, and the unreached; in this order, as many as fit.

    Returns:
        Their positions, in depth order.
    """
    rows = [row for row in range(len(table)) if row not in frozen]
    if len(rows) <= MAX_ROWS:
        return rows
    flagged = table["flagged"].tolist()
    branched = {point.layers[-1] for point in placement.points}
    magnitudes = table[placement.of].to_numpy() if placement.of in table else np.full(len(table), np.nan)
    measured = np.flatnonzero(~np.isnan(magnitudes))
    extremes = [int(measured[pick(magnitudes[measured])]) for pick in (np.argmin, np.argmax) if len(measured)]
    wanted: list[list[int]] = [
        [rows[0], rows[-1], *extremes],
        [index for index, name in enumerate(table["layer"]) if name in branched],
        [row for i in range(1, len(table)) if flagged[i - 1] != flagged[i] for row in (i - 1, i, i - 2, i + 1)],
        np.flatnonzero(np.isnan(magnitudes)).tolist(),
    ]
    ranked = dict.fromkeys(index for group in wanted for index in group if index in set(rows))
    return sorted(list(ranked)[:EXCERPT_ROWS])


def fit(name: str, width: int) -> str:
    """A layer's name, shortened in the middle to a number of columns of a terminal.

    Example:
        >>> fit("encoder.layers.11.attention.output.dense", 24)
        'e.l.11.a.output.dense'
        >>> fit("\u5c42" * 8, 7), fit("abc", 0)
        ('\u5c42\u5c42\u2026\u5c42', '')
    """
    short = shorten(name, width) if width > 0 else ""
    while cell_len(short) > max(0, width):  # a Chinese character takes two
        short = shorten(name, len(short) - 1) if len(short) > 1 else ""
    return short


def _magnitude(value: float) -> str:
    # a history counts an iteration with NaN as infinitely large
    return f"{value:.2e}" if value < float("inf") else "not finite"


def _notes(history: GradientHistory, placement: Placement) -> list[str]:
    conditions = history.conditions
    losses = losses_in_words(history)
    notes = [f"{counted(history.iterations, 'iteration')}. {describe_conditions(conditions)}"]
    if losses:
        notes.append(f"loss {losses[0]} at the first iteration, {losses[-1]} at the last")
    why = {
        layer.name: layer.why
        for layer in history.layers
        if layer.unreached and layer.name not in placement.skipped and not layer.is_frozen
    }
    reasons = names_by_reason(why)
    notes += [f"without a number: {names} ({reason})" for reason, names in reasons[:10]]
    if len(reasons) > 10:
        notes.append(f"without a number for {len(reasons) - 10} more reasons: see run.json")
    frozen = sum(layer.is_frozen for layer in history.layers)
    if frozen:
        notes.append(
            f"{counted(frozen, 'layer is', 'layers are')} frozen: no gradient has to reach a weight there"
        )
    if not looks_at_magnitudes(placement) and with_default_flags(history, placement).flagged:
        notes.append(f"flagged: {default_rule(history)}")
    return notes
