"""What of a folder is a run's: its run.json lists its files with their checksums. No torch, no pandas."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradprobe.record.files.fields import anything, at, count, text

FORMAT, SCHEMA = "gradprobe run", 2
RECORD, PAGE = "run.json", "report.html"
TABLES = ("history.csv", "supervised.csv", "learning.csv", "arms.csv")
FIGURES = ("iterations", "depth", "heatmap", "signal", "comparison", "paper", "arms")
SUFFIXES = ("png", "pdf", "svg")
# a run never has other files than these, whatever its run.json lists
NAMES = frozenset({RECORD, PAGE, *TABLES, *(f"{name}.{suffix}" for name in FIGURES for suffix in SUFFIXES)})
SAVED = frozenset({RECORD, PAGE, *TABLES, *(f"{name}.png" for name in FIGURES)})  # what `save` may write

_CHECKSUM = re.compile("[0-9a-f]{64}")


class ChangedError(ValueError):
    """A file of a run is not as it was saved."""


def parse(data: bytes) -> dict[str, Any]:
    """The record in a run.json, if it is one of ours that this version knows.

    Raises:
        KeyError, TypeError, ValueError: If it is not.
    """
    try:
        record = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise TypeError("nested too deeply") from None
    schema = at(record, "schema", count)
    if schema > SCHEMA:
        raise NewerError(f"has schema {schema}, but this gradprobe reads up to {SCHEMA}: update it")
    if schema < 1 or ("format" in record) != (schema > 1):
        raise ValueError(f"its format and its schema {schema} do not belong together")
    for key in ("gradprobe", "conditions", "layers", "placement"):
        at(record, key, anything)
    if schema > 1:
        if record["format"] != FORMAT:
            raise ValueError(f"format: expected {FORMAT!r}")
        at(record, "checksum", _checksum)
        at(record, "files", _files)
    return record  # type: ignore[no-any-return]


class NewerError(ValueError):
    """A run of a later version."""


def is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record is as it was saved, to the last digit; older runs have no checksum that could tell."""
    return bool(record["schema"] == 1 or record["checksum"] == checksum_of(record))


def sealed(record: Mapping[str, Any], files: Mapping[str, str]) -> bytes:
    """The text of a run.json: the record, its files with their checksums, and a checksum of all that."""
    head = {"format": FORMAT, "schema": SCHEMA, "files": dict(files)}
    body = {key: value for key, value in record.items() if key not in (*head, "checksum")}
    plain = json.loads(json.dumps(_plain({**head, **body})))
    return (json.dumps({**plain, "checksum": checksum_of(plain)}, indent=1, allow_nan=False) + "\n").encode()


def checksum_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of everything in a record but the time and this checksum, as JSON with sorted keys and no blanks.

    Example:
        >>> checksum_of({"b": 1, "a": [2], "checksum": "not counted"}) == sha256(b'{"a":[2],"b":1}')
        True
    """
    counted = {key: value for key, value in record.items() if key not in ("checksum", "created")}
    return sha256(json.dumps(counted, sort_keys=True, separators=(",", ":")).encode())


def sha256(data: bytes) -> str:
    """As the command ``sha256sum`` prints it."""
    return hashlib.sha256(data).hexdigest()


def owned(record: Mapping[str, Any]) -> dict[str, str]:
    """The files of a run by name, with their checksums; those of older runs, which keep no list, have none."""
    if record["schema"] > 1:
        return {RECORD: "", **record["files"]}
    names = [RECORD, "history.csv", PAGE, "iterations.png", "depth.png", "heatmap.png"]
    comparison = record.get("comparison")
    if comparison:
        names += ["learning.csv", "comparison.png", "paper.png"]
        names += ["supervised.csv"] if mapping_or_none(comparison).get("supervised") else []
    names += ["arms.csv", "arms.png"] if record.get("arms") else []
    return dict.fromkeys(names, "")


def mapping_or_none(value: Any) -> Mapping[str, Any]:
    """The value, or an empty mapping where it is none."""
    return value if isinstance(value, Mapping) else {}


def record_in(folder: Path) -> dict[str, Any]:
    """The record of the run in a folder.

    Raises:
        OSError: If there is none.
        KeyError, TypeError, ValueError: If it is not one of ours.
    """
    return parse((folder / RECORD).read_bytes())


def _files(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not set(value) <= NAMES - {RECORD}:
        raise ValueError("expected names of a run's files")
    return {name: _checksum(one) for name, one in value.items()}


def _checksum(value: Any) -> str:
    if not _CHECKSUM.fullmatch(text(value)):
        raise ValueError("expected a SHA-256")
    return str(value)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON has")


def _plain(value: Any) -> Any:
    """Plain JSON types, whatever a condition is: what JSON has no type for becomes its text. No record is lost."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(value) if value - value == 0 else str(value)
    if value is None or isinstance(value, (str, int)):
        return value
    return _plain(value.item()) if getattr(value, "shape", None) == () and hasattr(value, "item") else str(value)
