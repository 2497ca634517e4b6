"""The tables of a record as CSV text: written in full precision, read back exactly, or refused."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from gradprobe.record.files.fields import integer
from gradprobe.record.history import COLUMNS, MEASURES, GradientHistory, frame_of
from gradprobe.record.quantities import QUANTITIES

_WHOLE, _NUMBER = re.compile(r"-?[0-9]+"), re.compile(r"-?([0-9.]+(e[+-]?[0-9]+)?|inf)")


def write_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV text: floats in full (shortest exact) precision, a missing statistic left empty."""
    text = str(frame.to_csv(index=False, lineterminator="\n"))
    if "\r" in text:  # in a name: older versions of Python leave it without quotes, and read a new row there
        text = str(frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC))
    return text


def read_csv(text: str) -> pd.DataFrame:
    """The frame of a history from its CSV text; exact, also for layers named ``0``, ``nan`` and the empty string.

    A gradient with NaN in it has an empty ``mean_abs`` too, but its ``nonfinite`` is a number.

    Raises:
        ValueError: If it is no such table.
    """
    cells = read_cells(text)
    missing = set(COLUMNS) - set(cells.columns)
    if missing:
        raise ValueError(f"expected the columns {', '.join(COLUMNS)}; missing: {', '.join(sorted(missing))}")
    columns: dict[str, Iterable[Any]] = {name: cells[name].tolist() for name in ("layer", "of")}
    columns |= {name: whole_numbers(cells[name]) for name in ("iteration", "depth")}
    columns |= {name: numbers(cells[name]) for name in MEASURES[:-1]}
    columns["nonfinite"] = [None if cell == "" else whole(cell) for cell in cells["nonfinite"]]
    return frame_of(columns)


def read_cells(text: str) -> pd.DataFrame:
    """The cells of a CSV text, all of them strings: pandas would guess types, round numbers and fill up rows.

    Raises:
        ValueError: If it has no head, a column twice, or a row of another length.
    """
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"it is no CSV table: {error}") from None
    if not rows:
        raise ValueError("No columns in it")
    head, *body = rows
    if len(set(head)) < len(head):
        raise ValueError("a column is there twice")
    for number, row in enumerate(body, 2):
        if len(row) != len(head):
            raise ValueError(f"expected {len(head)} cells in row {number}, got {len(row)}")
    return pd.DataFrame(body, columns=head, dtype=str)


def whole(cell: str) -> int:
    """The whole number in a cell."""
    if not _WHOLE.fullmatch(cell) or len(cell) > 20:
        raise ValueError(f"invalid literal for a whole number: {cell[:40]!r}")
    return integer(int(cell))


def whole_numbers(cells: Iterable[str]) -> list[int]:
    """The whole numbers in a column."""
    return list(map(whole, cells))


def numbers(cells: Iterable[str]) -> list[float]:
    """The numbers in a column; an empty cell is NaN."""
    return [float("nan") if cell == "" else _number(cell) for cell in cells]


def _number(cell: str) -> float:
    if not _NUMBER.fullmatch(cell):
        raise ValueError(f"invalid literal for a number: {cell[:40]!r}")
    return float(cell)


def check_table(history: GradientHistory) -> None:
    """Raise ValueError unless the table is one of this history's layers, quantities and iterations, each once.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, "fc", 0, "output", 1e-3, 0, 0, 0, 0)]
        >>> layers = (Layer("fc", 0, "Linear", 9),)
        >>> check_table(GradientHistory(tidy(rows), {}, layers, (), None))
        >>> check_table(GradientHistory(tidy(rows * 2), {}, layers, (), None))
        Traceback (most recent call last):
        ValueError: a row is there twice: iteration 0, layer 'fc', output
    """
    frame = history.frame
    _each(frame, ~frame["of"].isin(list(QUANTITIES)), "a quantity that gradprobe does not record")
    depths = {layer.name: layer.depth for layer in history.layers}
    if len(depths) < len(history.layers):
        raise ValueError("run.json has a layer twice")
    _each(frame, frame["layer"].map(depths) != frame["depth"], "a layer that run.json does not have at this depth")
    _each(frame, frame.duplicated(["iteration", "layer", "of"]), "a row is there twice")
    _check_numbers(frame)
    iterations, pairs = frame["iteration"].nunique(), len(frame[["layer", "of"]].drop_duplicates())
    if len(frame) and (len(frame) != iterations * pairs or set(frame["iteration"]) != set(range(iterations))):
        raise ValueError(
            f"expected a row for each of {iterations} iterations and {pairs} layers and quantities, "
            f"got {len(frame)} rows"
        )
    with_output = set(frame["layer"][frame["of"] == "output"])
    if "output" in history.of and with_output != set(depths):
        raise ValueError(f"expected rows of {len(depths)} layers, got those of {len(with_output)}")
    _check_window(history)


def _check_numbers(frame: pd.DataFrame) -> None:
    sizes = frame[["mean_abs", "rms", "max_abs", "zero_fraction"]]
    nonfinite = frame["nonfinite"]
    impossible = (sizes < 0).any(axis=1) | (frame["zero_fraction"] > 1) | (nonfinite < 0).fillna(False)
    without = nonfinite.isna() & sizes.notna().any(axis=1)
    incomplete = (nonfinite == 0).fillna(False) & frame["mean_abs"].isna()
    _each(frame, impossible | without | incomplete, "a number that is not possible")


def _check_window(history: GradientHistory) -> None:
    """A record that calls itself complete has every iteration of its window."""
    window = history.conditions.get("window")
    if history.conditions.get("complete") is True and isinstance(window, int) and window != history.iterations:
        raise ValueError(f"expected {window} iterations, got {history.iterations}")


def _each(frame: pd.DataFrame, wrong: pd.Series[bool], what: str) -> None:
    """Raise ValueError for the first row that is wrong."""
    for row in frame[wrong.to_numpy(dtype=bool)].itertuples():
        raise ValueError(f"{what}: iteration {row.iteration}, layer {row.layer!r}, {row.of}")
