"""Reading a run: its tables and its record, checked against each other and against what was saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gradprobe.record.csv_tables import check_table, read_csv
from gradprobe.record.files.fields import at, dict_of, mapping, number, optional
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.text import one_line
from gradprobe.runs.contents import RECORD, ChangedError, is_whole, sha256
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import Comparison, read_learning

Tables = Mapping[str, bytes]


def read_parts(record: Mapping[str, Any], tables: Tables) -> dict[str, Any]:
    """What a run holds, by the names of its attributes.

    Args:
        record: That of its run.json.
        tables: Its tables by the names of their files.

    Raises:
        KeyError, TypeError, ValueError: If something is missing, of another kind, not possible, or not as saved.
    """
    history = GradientHistory.from_dict(_table(tables, "history.csv", read_csv), record)
    placement = at(record, "placement", Placement.from_dict)
    comparison, arms = (at(record, name, optional(mapping)) if name in record else None for name in _COMPARED)
    parts = {
        "history": history,
        "placement": placement,
        "comparison": comparison and _comparison(comparison, tables, history, placement),
        "timings": at(record, "timings", dict_of(number)),
        "arms": arms and ArmsComparison.from_dict(history, _table(tables, "arms.csv", read_learning), arms),
    }
    _check(record, tables, [history, parts["comparison"] and parts["comparison"].supervised])
    return parts


_COMPARED = ("comparison", "arms")


def _comparison(
    record: Mapping[str, Any], tables: Tables, plain: GradientHistory, placement: Placement
) -> Comparison:
    supervised = at(record, "supervised", optional(mapping))
    if supervised is not None:
        supervised = GradientHistory.from_dict(_table(tables, "supervised.csv", read_csv), supervised)
    frame = _table(tables, "learning.csv", read_learning)
    return Comparison(plain, supervised, placement, frame, at(record, "conditions", mapping))


def _check(record: Mapping[str, Any], tables: Tables, histories: list[GradientHistory | None]) -> None:
    """Raise ValueError unless it is what was saved; where no checksum says so, what cannot have been saved."""
    if not is_whole(record):
        raise ChangedError(f"{RECORD} was changed after it was saved: its checksum is another")
    for name, data in tables.items():
        if record["schema"] > 1 and record["files"][name] != sha256(data):
            raise ChangedError(f"{name} was changed or cut off after it was saved: its checksum is another")
    if record["schema"] == 1:
        for name, history in zip(("history.csv", "supervised.csv"), histories, strict=True):
            if history is not None:
                _named(name, lambda: check_table(history))  # noqa: B023 (called at once)


def _table(tables: Tables, name: str, read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    if name not in tables:
        raise KeyError(f"{name} in its list of files")
    frame: pd.DataFrame = _named(name, lambda: read(tables[name].decode("utf-8")))
    return frame


def _named(name: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def damage(error: Exception) -> str:
    """What is wrong with the files of a run, in a clause of one line.

    Example:
        >>> damage(KeyError("placement")), damage(TypeError("unexpected 'sort'"))
        ("run.json has no 'placement'", "run.json is not what gradprobe writes (unexpected 'sort')")
    """
    if isinstance(error, OSError):
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"{RECORD} is incomplete ({one_line(str(error))})"
    if isinstance(error, KeyError):
        return one_line(f"{RECORD} has no {error}")
    if isinstance(error, ValueError):
        words = one_line(str(error))
        return words if ".csv: " in words or isinstance(error, ChangedError) else f"{RECORD}: {words}"
    return one_line(f"{RECORD} is not what gradprobe writes ({error or type(error).__name__})")
