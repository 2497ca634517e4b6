"""TODO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradprobe.decide.policies import Policy
    from gradprobe.record.placement import Placement
from gradprobe.script.run import RecordedModel, RecordedScript


@dataclass(frozen=True)
class Result:
    """One model's record, decision and advice, and the folder that it is kept in."""

    record: RecordedModel
    placement: Placement
    advice: str
    folder: Path


def conclude(
    recording: RecordedScript, policy: Policy, folder: Path, shown: Path, *, timings: dict[str, float], force: bool
) -> list[Result]:
    """Decide for each record, say what to add, and write the runs.

    Args:
        recording: What was recorded.
        policy: The rule.
        folder: Where the run goes; of several models each has a folder of its own beside it, NAME-MODEL.
        shown: The same, as the user wrote it.
        timings: To keep with the runs.
        force: Replace existing runs; otherwise a run that is there already is left, and a number added.
    """
    from gradprobe.decide.policies import place
    from gradprobe.runs.run import save
    from gradprobe.script.advice import advise

    results = []
    for one in recording.records:
        suffix = f"-{one.name}" if len(recording.records) > 1 else ""
        placement = place(one.history, policy)
        where = _free(folder.with_name(folder.name + suffix), force)
        save(where, one.history, placement, timings=timings, force=force)
        results.append(
            Result(
                one,
                placement,
                advise(placement, one.site, str(shown.with_name(where.name))),
                shown.with_name(where.name),
            )
        )
    return results


def findings_by_model(results: Sequence[Result]) -> dict[str, list[str]]:
    """What is wrong, by kind, and the layers it is found in, behind the model's name where there are several."""
    from gradprobe.decide import findings as diagnosis

    found: dict[str, list[str]] = {}
    for result in results:
        before = f"{result.record.name}: " if len(results) > 1 else ""
        for kind, layers in diagnosis.findings(result.record.history, result.placement).items():
            found.setdefault(kind, []).extend(f"{before}{layer}" for layer in layers)
    return found


def _free(folder: Path, force: bool) -> Path:
    """The folder, or one with a number behind it where it is taken: no record is lost for its name."""
    from gradprobe.runs.folder import check_free, free_folder

    try:
        check_free(folder, force=force)
    except FileExistsError:
        return free_folder(folder.parent, folder.name)
    return folder


def as_json(results: Sequence[Result]) -> str:
    """One JSON object: for each model what ``scan`` gives, its folder and the advice."""
    from gradprobe.show import tables as report

    found = {
        result.record.name: {
            **json.loads(report.as_json(result.record.history, result.placement)),
            "folder": str(result.folder),
            "advice": result.advice.splitlines(),
        }
        for result in results
    }
    return json.dumps(found, indent=2, allow_nan=False)


def as_csv(results: Sequence[Result]) -> str:
    """One row for each layer of each model."""
    import pandas as pd

    from gradprobe.show.tables import result_frame

    frames = [result_frame(result.record.history, result.placement) for result in results]
    for frame, result in zip(frames, results, strict=True):
        frame.insert(0, "model", result.record.name)
    return str(pd.concat(frames).to_csv(index=False, lineterminator="\n"))
