"""The tables of a record as CSV text: written in full precision, read back exactly."""

from __future__ import annotations

import io

import pandas as pd

from gradprobe.record.history import COLUMNS, frame_of


def write_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV text: floats in full (shortest exact) precision, a missing statistic left empty."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def read_csv(text: str) -> pd.DataFrame:
    """The frame of a history from its CSV text; exact, also for layers named ``0``, ``nan`` and the empty string.

    A gradient with NaN in it has an empty ``mean_abs`` too, but its ``nonfinite`` is a number.
    """
    cells = read_cells(text)
    missing = set(COLUMNS) - set(cells.columns)
    if missing:
        raise ValueError(f"expected the columns {', '.join(COLUMNS)}; missing: {', '.join(sorted(missing))}")
    return frame_of({column: [cell or None for cell in cells[column]] for column in COLUMNS})


def read_cells(text: str) -> pd.DataFrame:
    """The cells of a CSV text, all of them strings: pandas would guess types and, by version, round numbers."""
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_filter=False)
