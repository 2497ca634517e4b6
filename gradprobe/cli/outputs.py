"""The end of a command: print the result, write the run, and the exit code that says how it went."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradprobe.cli.options import Options
from gradprobe.cli.start import drawing_beside
from gradprobe.cli.terminal import FAILED, FOUND, console, printing, say, write
from gradprobe.record.text import few
from gradprobe.runs.folder import Reserved, kept_elsewhere

if TYPE_CHECKING:
    from rich.console import Console

    from gradprobe.cli.progress import Display
    from gradprobe.record.history import GradientHistory
    from gradprobe.record.placement import Placement
    from gradprobe.runs.drawing import DrawingProcess
    from gradprobe.runs.run import Run
    from gradprobe.script.results import Result
    from gradprobe.script.run import RecordedScript
    from gradprobe.verdict.arms_comparison import ArmsComparison
    from gradprobe.verdict.comparison import Comparison

IN_FULL = 4  # models of a script that are all shown in full
CODE_INDENT = 4  # of the lines of code in an advice


def timings(task: str, started: float, display: Display | None) -> dict[str, float]:
    """Seconds, by what they were spent on; those of the display are part of those of the task."""
    return {task: time.perf_counter() - started} | ({"display": display.seconds} if display else {})


def finish(run: Run, folder: Reserved, options: Options, interrupted: KeyboardInterrupt | None = None) -> None:
    """Write the run, then print the result, and end with the code that says how it went."""
    from gradprobe.decide.diagnosis import layers_by_code

    if interrupted is not None and not run.history.iterations:
        raise KeyboardInterrupt
    with _kept(run, folder, options) as where, printing(where):
        show(run.history, run.placement, run.comparison, options)
    if interrupted is not None:
        raise interrupted
    exit_if_found(layers_by_code(run.history, run.placement), options.fail_on)
    _fail_if_stopped(run)


def finish_arms(run: Run, arms: ArmsComparison, folder: Reserved, options: Options) -> None:
    """The same for several arms; one that failed is named, and the code says so."""
    from gradprobe.decide.diagnosis import layers_by_code

    with _kept(run, folder, options) as where, printing(where):
        if run.comparison is not None and options.form == "table":
            show(run.history, run.placement, None, options)
        _show_arms(arms, options.form)
    exit_if_found(layers_by_code(run.history, run.placement), options.fail_on)
    for failure in arms.failures:
        say(f"Error: {failure}")
    _fail_if_stopped(run)
    if arms.failures:
        raise SystemExit(FAILED)


def _fail_if_stopped(run: Run) -> None:
    """End with the exit code of a failure if the record is not complete, as where the loss became NaN."""
    if run.history.conditions.get("stopped"):
        say(f"Error: {run.history.conditions['stopped']}; the record ends there")
        raise SystemExit(FAILED)


@contextlib.contextmanager
def _kept(run: Run, folder: Reserved, options: Options) -> Iterator[Path | None]:
    """Write the run and say where it is; give its folder back, and at the end say what went wrong.

    Yields:
        Where it is: in a temporary folder if its own has no place for it, and None if there is no place at all.
    """
    from gradprobe.runs.run import save

    drawing = drawing_beside()

    def write_to(place: Reserved) -> Path:
        parts: dict[str, Any] = {"comparison": run.comparison, "arms": run.arms, "timings": run.timings}
        if drawing:
            parts["figures"] = False
        saved = save(place, run.history, run.placement, force=options.force, **parts)
        if drawing:
            drawing.begin(place.folder, saved)
        return saved

    where, complaint = written(folder, write_to)
    try:
        yield where
    finally:
        if drawing:
            _wait_for(drawing, folder)
        if where is not None and not options.quiet:
            page = where / "report.html"
            say(f"run written to {where}" + (f": look at {page}" if page.exists() else ""))
    if complaint:
        raise click.ClickException(complaint)


def _wait_for(drawing: DrawingProcess, folder: Reserved) -> None:
    """Wait for the figures, and say what could not be drawn."""
    try:
        for sentence in drawing.finish():
            say(sentence)
    except KeyboardInterrupt:
        say(f"run written to {folder}, without its figures")
        raise


def written(folder: Reserved, write_to: Callable[[Reserved], Path]) -> tuple[Path | None, str]:
    """Write a run to its folder, else to a temporary one.

    Returns:
        Where it is, None if nowhere; and what went wrong in a sentence, or nothing.
    """
    with pictures_said():
        try:
            return write_to(folder), ""
        except OSError as error:
            complaint = f"the run cannot be written to {folder}: {error.strerror or error}"
            try:
                where = kept_elsewhere(folder, error, write_to)
            except OSError:
                return None, f"{complaint}; choose another --out"
            return where, f"{complaint}; it is kept in {where}"
        except KeyboardInterrupt:
            if folder.saved:
                say(f"run written to {folder}, without its figures")
            raise


@contextlib.contextmanager
def pictures_said() -> Iterator[None]:
    """Say in a sentence what could not be drawn; other warnings are shown as always."""
    from gradprobe.runs.run import PictureWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PictureWarning)
        try:
            yield
        finally:
            others = [one for one in caught if not issubclass(one.category, PictureWarning)]
            sentences = [str(one.message) for one in caught if issubclass(one.category, PictureWarning)]
    for sentence in sentences:
        say(sentence)
    for one in others:
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)


def _show_arms(arms: ArmsComparison, form: str) -> None:
    from gradprobe.show import formats, tables

    if form == "json":
        write(formats.arms_json(arms))
    elif form == "csv":
        write(formats.arms_csv(arms))
    else:
        console().print(tables.arms_table(arms))
        if arms.next_step is not None:
            write(str(arms.next_step))  # lines as they are, however long: they are to be copied


def show(history: GradientHistory, placement: Placement, comparison: Comparison | None, options: Options) -> None:
    """Print the result on standard output, in the ``--format`` asked for."""
    from gradprobe.show import formats, tables

    if options.form == "json":
        write(formats.as_json(history, placement, comparison))
    elif options.form == "csv":
        write(formats.as_csv(history, placement))
    else:
        console().print(tables.as_table(history, placement, comparison, every_layer=options.every_layer))
        command = comparison.offer if comparison is not None else _then_compare(history)
        if command:
            write(command)  # in one line, however long: it is to be copied


def _then_compare(history: GradientHistory) -> str:
    from gradprobe.decide.diagnosis import what_to_compare

    command = what_to_compare(history)
    return f"To compare what may help, side by side:\n  {command}" if command else ""


def show_results(
    results: Sequence[Result], recording: RecordedScript, options: Options, *, to_stderr: bool = False
) -> None:
    """The same for every model in a script; of many trainings the first in full, and a table of all.

    Args:
        results: What was decided.
        recording: Of the script.
        options: Those of the command.
        to_stderr: Print on standard error: the script prints on standard output.
    """
    from gradprobe.script.results import as_csv, as_json
    from gradprobe.show.tables import as_table

    if options.form in ("json", "csv"):
        write(as_json(results) if options.form == "json" else as_csv(results), to_stderr=to_stderr)
        return
    terminal = console(stderr=to_stderr)
    in_full = results if len(results) <= IN_FULL else results[:1]
    for result in in_full:
        model = result.model
        if len(recording.trainings) > 1:
            terminal.print(f"\n{model.name}", style="bold", markup=False)
        terminal.print(as_table(model.history, result.placement, every_layer=options.every_layer))
        if result.advice:
            _print_advice(result.advice, terminal)
    if len(in_full) < len(results) or any(not training.recorded for training in recording.trainings):
        _show_summary(results, recording, terminal)


def _print_advice(advice: str, terminal: Console) -> None:
    """The sentences set to the width of a terminal; lines of code as they are, which are to be copied."""
    from rich.padding import Padding

    from gradprobe.show.console import Paragraph

    for line in advice.splitlines():
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        if indent >= CODE_INDENT or not terminal.is_terminal:
            terminal.print(line, markup=False, soft_wrap=True)
        else:
            terminal.print(Padding(Paragraph(text), (0, 0, 0, indent)))


def _show_summary(results: Sequence[Result], recording: RecordedScript, terminal: Console) -> None:
    """A line for each training of a script, and how to see the others."""
    from rich.table import Table
    from rich.text import Text

    from gradprobe.script.results import summary

    head, *rows = summary(recording, results)
    count = len(recording.trainings) + recording.more
    recorded = sum(training.recorded for training in recording.trainings)
    which = "of each kind the first is recorded, and with --every all of them"
    rest = "" if recorded == count else f", {recorded} of them recorded ({which})"
    terminal.print(f"\n{count} trainings{rest}", style="bold", markup=False)
    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    terminal.print(table)
    if recording.more:
        terminal.print(f"and {recording.more} more, not recorded", markup=False)


def exit_if_found(findings: Mapping[str, Sequence[str]], kinds: Sequence[str], word: str = "") -> None:
    """Name the findings of these kinds, and end with the exit code for them if there are any."""
    found = {kind: layers for kind, layers in findings.items() if kind in kinds}
    for kind, layers in found.items():
        say(f"found {word}{kind}: {few([*map(repr, layers)], 5)}")
    if found:
        raise SystemExit(FOUND)
