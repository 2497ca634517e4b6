"""What comes of a recorded script: for each model a placement, the lines to add, and a run on disk."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradprobe.decide.auto import open_remedies
from gradprobe.decide.causes.finding import CAUSES
from gradprobe.decide.diagnosis import branches_after, diagnose, layers_by_code
from gradprobe.decide.policies import Policy
from gradprobe.decide.policies import place as decide
from gradprobe.record.csv_tables import write_csv
from gradprobe.record.placement import Placement
from gradprobe.record.text import counted
from gradprobe.runs.folder import Reserved, reserve, reserve_free
from gradprobe.runs.run import add_pictures, save
from gradprobe.script.advice.branches import advise
from gradprobe.script.advice.remedies import mend
from gradprobe.script.execute import printable
from gradprobe.script.run import RecordedModel, RecordedScript
from gradprobe.show import formats


@dataclass(frozen=True)
class Result:
    """One model of a script.

    Attributes:
        model: What was recorded of it.
        placement: The decision.
        advice: The lines to add to the script, or empty.
        folder: Where its run is; None if there was no place for it.
        complaint: Why its run is not where it should be, or empty.
        place: Where that folder is, whatever the working directory.
    """

    model: RecordedModel
    placement: Placement
    advice: str
    folder: Path | None
    complaint: str = ""
    place: Path | None = None


Written = tuple[Path | None, str]  # where a run is, if anywhere; and what went wrong, or nothing


def conclude(
    recording: RecordedScript,
    policy: Policy,
    folder: Reserved,
    *,
    timings: dict[str, float],
    force: bool,
    figures: bool = True,
    keep: Callable[[Reserved, Callable[[Reserved], Path]], Written],
) -> list[Result]:
    """Decide for each model, write its run, and say what to add.

    Args:
        recording: What was recorded.
        policy: The rule.
        folder: Where the run goes; of several models each has a folder of its own beside it, NAME-MODEL.
        timings: To keep with the runs.
        force: Replace existing runs; otherwise the name of a folder that is taken gets a number.
        figures: Draw the figures and the page at once; otherwise `draw` does it.
        keep: Writes a run to a folder, by the function that it is given, or to another if that is not possible.
    """
    several = len(recording.models) > 1
    if several:
        folder.close()
    results = []
    for model in recording.models:
        placement = decide(model.history, policy)
        write = functools.partial(_write, model, placement, timings, figures)
        with _beside(folder, model.name, force) if several else folder as reserved:
            written, complaint = keep(reserved, write)
            place = reserved.folder if written == reserved.shown else written
        if several and written == reserved.shown and folder.shown.name:
            written = folder.shown.with_name(written.name)  # as the user would write it
        advice = advice_for(model, placement, str(written or folder))
        results.append(Result(model, placement, advice, written, complaint, place))
    return results


@contextlib.contextmanager
def as_at_start() -> Iterator[None]:
    """Report with the settings that this process began with, not with those that the script has made.

    These are matplotlib's, NumPy's treatment of errors, and warnings that are made errors.
    """
    matplotlib: Any = sys.modules.get("matplotlib")
    with contextlib.ExitStack() as stack:
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if hasattr(matplotlib, "rc_context"):
            stack.enter_context(matplotlib.rc_context())
            matplotlib.rc_file_defaults()
        yield


def _write(
    model: RecordedModel, placement: Placement, timings: dict[str, float], figures: bool, folder: Reserved
) -> Path:
    advice = advice_for(model, placement, str(folder)).splitlines()
    history = replace(model.history, conditions={**model.history.conditions, "advice": advice or None})
    return save(folder, history, placement, timings=timings, figures=figures)


def advice_for(model: RecordedModel, placement: Placement, run: str) -> str:
    """What to change in the script, the remedy first, and what to add; empty where it is nothing.

    Args:
        model: What was recorded, and what is known of the script.
        placement: The decision.
        run: Folder of the run, as the lines name it.
    """
    when = branches_after(model.history, placement)
    added = "" if when is None else advise(placement, model.site, run, when)
    diagnosis = diagnose(model.history)
    named = open_remedies(model.history, diagnosis)
    return "\n".join(filter(None, [mend(diagnosis, model.site, named), added]))


def draw(results: Sequence[Result]) -> None:
    """Draw the figures and the pages of runs that were written without them."""
    for result in results:
        if result.place is not None:
            add_pictures(result.place, result.folder)


def _beside(folder: Reserved, name: str, force: bool) -> Reserved:
    """A folder beside another, with a number after its name where it is taken: no record is lost for its name."""
    whole = f"{folder.shown.name}-{printable(name)}"
    with contextlib.suppress(OSError):
        if force:
            return reserve(folder.parent / whole, force=True)
    return reserve_free(folder.parent, whole)


def findings_by_model(results: Sequence[Result]) -> dict[str, list[str]]:
    """What is wrong, by kind, and the layers that have it, after the model's name where there are several."""
    combined: dict[str, list[str]] = {}
    for result in results:
        prefix = f"{result.model.name}: " if len(results) > 1 else ""
        for kind, layers in layers_by_code(result.model.history, result.placement).items():
            combined.setdefault(kind, []).extend(f"{prefix}{layer}" for layer in layers)
    return combined


def summary(recording: RecordedScript, results: Sequence[Result]) -> list[tuple[str, ...]]:
    """A line for each training of a script, the head first; those alike that follow each other share one.

    Columns: number, training, iterations, the verdict with its first cause, flagged layers, and the loss at the
    first and the last iteration where it is known.
    """
    by_name = {result.model.name: result for result in results}
    lines: list[tuple[str, ...]] = []
    numbers: list[list[int]] = []
    for seen in recording.trainings:
        result = by_name.get(seen.name) if seen.recorded else None
        line = (seen.name, *(_not_recorded(seen.steps) if result is None else _recorded(result)))
        if result is None and lines and lines[-1] == line:
            numbers[-1][1] = seen.number
        else:
            lines.append(line)
            numbers.append([seen.number, seen.number])
    rows = [
        (str(first) if first == last else f"{first} to {last}", *line)
        for (first, last), line in zip(numbers, lines, strict=True)
    ]
    head = ("", "training", "iterations", "verdict", "flagged", "loss")
    known = any(row[-1] for row in rows)
    return [row if known else row[:-1] for row in [head, *rows]]


def _recorded(result: Result) -> tuple[str, ...]:
    history, placement = result.model.history, result.placement
    diagnosis = diagnose(history)
    verdict = ": ".join([diagnosis.verdict, *(CAUSES[one.cause] for one in diagnosis.findings[:1])])
    flagged = f"{len(placement.flagged)} of {counted(len(history.layers), 'layer')}"
    return str(history.iterations), verdict, flagged, " -> ".join(formats.losses_in_words(history))


def _not_recorded(steps: int) -> tuple[str, ...]:
    return f"{steps}, not recorded", "", "", ""


def as_json(results: Sequence[Result]) -> str:
    """One JSON object: for each model what ``scan`` gives, its folder and the advice."""
    by_name = {
        result.model.name: {
            **json.loads(formats.as_json(result.model.history, result.placement)),
            "folder": None if result.folder is None else str(result.folder),
            "advice": result.advice.splitlines(),
        }
        for result in results
    }
    return json.dumps(by_name, indent=2, allow_nan=False)


def as_csv(results: Sequence[Result]) -> str:
    """One row for each layer of each model."""
    frames = [formats.result_frame(result.model.history, result.placement) for result in results]
    for frame, result in zip(frames, results, strict=True):
        frame.insert(0, "model", result.model.name)
    return write_csv(pd.concat(frames))
