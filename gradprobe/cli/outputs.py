"""The end of a command: print the result, write the run, and the exit code that says how it went."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradprobe.cli.terminal import FAILED, FOUND, console
from gradprobe.record.text import few

if TYPE_CHECKING:
    from gradprobe.cli.progress import Display
    from gradprobe.record.history import GradientHistory
    from gradprobe.record.placement import Placement
    from gradprobe.script.results import Result
    from gradprobe.verdict.arms_comparison import ArmsComparison
    from gradprobe.verdict.comparison import Comparison


def timings(what: str, started: float, display: Display | None) -> dict[str, float]:
    """Seconds, by what they were spent on; the display's are among those of the training."""
    return {what: time.perf_counter() - started} | ({"display": display.seconds} if display else {})


def finish(
    folder: Path,
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None,
    spent: dict[str, float],
    options: dict[str, Any],
    interrupted: KeyboardInterrupt | None = None,
) -> None:
    """Print the result, write the run, and end with the code that says how it went."""
    from gradprobe.decide.findings import findings

    if interrupted is not None and not history.iterations:
        raise KeyboardInterrupt
    show(history, placement, comparison, options)
    _save(folder, history, placement, comparison, timings=spent, options=options)
    if interrupted is not None:
        raise interrupted
    end_if(findings(history, placement), options["fail_on"])
    if history.conditions.get("stopped"):
        click.echo(f"Error: {history.conditions['stopped']}; the record ends there", err=True)
        raise SystemExit(FAILED)


def finish_arms(folder: Path, result: ArmsComparison, spent: dict[str, float], options: dict[str, Any]) -> None:
    """The same of several arms; one that failed is named, and the code says so."""
    from gradprobe.decide.findings import findings

    show_arms(result, options["form"])
    _save(folder, result.plain, result.placement, arms=result, timings=spent, options=options)
    end_if(findings(result.plain, result.placement), options["fail_on"])
    for failure in result.failures:
        click.echo(f"Error: {failure}", err=True)
    if result.failures:
        raise SystemExit(FAILED)


def _save(folder: Path, *record: Any, timings: dict[str, float], options: dict[str, Any], **more: Any) -> None:
    """Write the run and say where it is."""
    from gradprobe.runs.run import save

    try:
        save(folder, *record, **more, timings=timings, force=options["force"])
    except OSError as error:
        said = f"the run cannot be written to {folder}: {error.strerror or error}; choose another --out"
        raise click.ClickException(said) from error
    if not options["quiet"]:
        page = folder / "report.html"
        click.echo(f"run written to {folder}" + (f": look at {page}" if page.exists() else ""), err=True)


def show_arms(result: ArmsComparison, form: str) -> None:
    """Print what several arms came to on standard output, in the ``--format`` asked for."""
    from gradprobe.show import tables as report

    if form == "json":
        click.echo(report.arms_json(result))
    elif form == "csv":
        click.echo(report.arms_csv(result), nl=False)
    else:
        console().print(report.arms_table(result))


def show(
    history: GradientHistory, placement: Placement, comparison: Comparison | None, options: dict[str, Any]
) -> None:
    """Print the result on standard output, in the ``--format`` asked for."""
    from gradprobe.show import tables as report

    form, every_layer = options["form"], options["every_layer"]
    if form == "json":
        click.echo(report.as_json(history, placement, comparison))
    elif form == "csv":
        click.echo(report.as_csv(history, placement), nl=False)
    else:
        console().print(report.as_table(history, placement, comparison, every_layer=every_layer))


def show_results(results: Sequence[Result], options: dict[str, Any]) -> None:
    """The same of every model in a script."""
    from gradprobe.script import results as of_script
    from gradprobe.show import tables as report

    form, every_layer = options["form"], options["every_layer"]
    if form == "json":
        click.echo(of_script.as_json(results))
    elif form == "csv":
        click.echo(of_script.as_csv(results), nl=False)
    else:
        terminal = console()
        for result in results:
            if len(results) > 1:
                terminal.print(f"\n{result.record.name}", style="bold", markup=False)
            terminal.print(report.as_table(result.record.history, result.placement, every_layer=every_layer))
            terminal.print(result.advice, markup=False, soft_wrap=True)


def end_if(by_kind: Mapping[str, Sequence[str]], kinds: Sequence[str], word: str = "") -> None:
    """Name what was asked for and found, and end with the code that says so."""
    found = {kind: layers for kind, layers in by_kind.items() if kind in kinds}
    for kind, layers in found.items():
        click.echo(f"found {word}{kind}: {few([*map(repr, layers)], 5)}", err=True)
    if found:
        raise SystemExit(FOUND)
