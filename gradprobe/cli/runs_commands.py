"""The commands that lay saved runs beside each other: ``runs`` and ``diff``."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import gradprobe.cli.inputs as inputs
import gradprobe.cli.outputs as outputs
from gradprobe.cli.options import FORMAT, fail_on
from gradprobe.cli.parameters import Finite, RunFolder
from gradprobe.cli.saved_commands import into_folder
from gradprobe.cli.start import without_collection
from gradprobe.cli.terminal import console, errors_as_sentences, printing, say, write
from gradprobe.record.quantities import QUANTITIES
from gradprobe.runs.folder import RUNS, runs_in

if TYPE_CHECKING:
    from gradprobe.runs.difference import Difference
    from gradprobe.runs.run import Run
    from gradprobe.runs.several import SeveralRuns


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=RUNS)
@FORMAT
def runs(folder: Path, form: str) -> None:
    """List the runs in FOLDER with their verdicts, the latest last; without FOLDER those in gradprobe_runs."""
    with errors_as_sentences(), without_collection():
        folders = runs_in(folder)
        if not folders and not folder.is_dir() and folder != RUNS:
            raise click.UsageError(f"{folder}: no such folder")
        from gradprobe.runs.summary import summarise
        from gradprobe.show.tables import RunsTable

        lines = [summarise(one) for one in folders]
        if not lines:
            say(inputs.NO_RUN if folder == RUNS else f"there is no run in {folder}")
        with printing():
            if form == "json":
                write(json.dumps([line.to_dict() for line in lines], indent=2))
            elif form == "csv":
                from gradprobe.record.csv_tables import write_csv
                from gradprobe.runs.summary import as_frame

                write(write_csv(as_frame(lines)))
            elif lines:
                console().print(RunsTable([line.cells for line in lines]))


@click.command()
@click.argument("runs", nargs=-1, type=RunFolder())
@click.option(
    "--factor",
    type=Finite(min=1, min_open=True),
    default=10.0,
    show_default=True,
    help="How many times larger or smaller a magnitude has to be to count.",
)
@click.option(
    "--of",
    type=click.Choice(QUANTITIES),
    help="What to compare.  [default: what the last was decided by]",
)
@FORMAT
@fail_on("new in a run after the first")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for figures of the runs side by side.")
def diff(
    runs: Sequence[Path],
    factor: float,
    of: str | None,
    form: str,
    fail_on: tuple[str, ...],
    out: Path | None,
) -> None:
    """Say which layers changed from one saved run to another, and what else is different.

    Of more than two runs each is compared with the first. A single RUN is compared with the latest, and without
    RUNS the two latest are.
    """
    with errors_as_sentences(), without_collection():
        from gradprobe.record.csv_tables import write_csv

        folders = _to_compare(runs)
        saved = [inputs.saved_run(run) for run in folders]
        difference = _difference(saved, of, factor)
        if out is not None:
            _draw_beside(out, saved, difference.of)
        with printing():
            if form == "json":
                write(json.dumps(difference.to_dict(), indent=2, allow_nan=False))
            else:
                write(write_csv(difference.frame) if form == "csv" else str(difference))
        outputs.exit_if_found(difference.new, fail_on, "newly ")


def _to_compare(runs: Sequence[Path]) -> Sequence[Path]:
    """The runs that were named, with the latest where one is missing."""
    if len(runs) > 1:
        return runs
    if not runs:
        return inputs.latest_runs(2)
    latest = inputs.latest_runs(1)
    if latest[0].resolve() == runs[0].resolve():
        raise click.UsageError(f"{runs[0]} is the latest run itself: name the run to compare it with before it")
    return [*runs, *latest]


def _difference(saved: Sequence[Run], of: str | None, factor: float) -> Difference | SeveralRuns:
    from gradprobe.runs.compare_runs import compare_runs
    from gradprobe.runs.several import compare_several

    try:
        if len(saved) > 2:
            return compare_several(saved, of=of, factor=factor)
        return compare_runs(saved[0], saved[1], of=of, factor=factor)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _draw_beside(out: Path, saved: Sequence[Run], of: str) -> None:
    from gradprobe.show.plots import save_side_by_side

    histories: list[Any] = [(str(run.folder), run.history) for run in saved]
    threshold = saved[-1].placement.threshold
    draw = functools.partial(save_side_by_side, histories=histories, of=of, threshold=threshold)
    for file in into_folder(out, draw):
        say(f"figure written to {file}")
