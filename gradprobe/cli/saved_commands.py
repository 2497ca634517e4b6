"""The commands that read a saved run, the latest if none is named: ``place``, ``plot`` and ``report``."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

import gradprobe.cli.inputs as inputs
import gradprobe.cli.outputs as outputs
from gradprobe.cli.options import ALL, FAIL_ON, FORMAT, POLICY, POSITIVE, Options
from gradprobe.cli.parameters import RunFolder
from gradprobe.cli.start import without_collection
from gradprobe.cli.terminal import errors_as_sentences, printing, say, write
from gradprobe.record.quantities import QUANTITIES
from gradprobe.runs.contents import NAMES, PAGE
from gradprobe.runs.draft import Draft
from gradprobe.runs.folder import RUNS, free_folder, is_run

RUN = click.argument("run", type=RunFolder(), required=False)


@click.command()
@RUN
@POLICY
@FORMAT
@ALL
@FAIL_ON
@click.option("--save", "keep", is_flag=True, help="Write the new placement into the run.")
def place(run: Path | None, keep: bool, **values: Any) -> None:
    """Decide again from a saved run, the latest without RUN; the model is not needed."""
    options = Options(**values)
    with errors_as_sentences(), without_collection():
        run = inputs.run_or_latest(run)
        from gradprobe.decide import policies
        from gradprobe.decide.diagnosis import layers_by_code
        from gradprobe.runs.run import save

        saved = inputs.saved_run(run)
        placement = policies.place(saved.history, inputs.policy(options))
        if keep:
            if saved.comparison is not None or saved.arms is not None:
                raise click.UsageError(
                    f"{run} holds a comparison of its own placement, which is not rewritten: leave --save out, or "
                    "compare again"
                )
            with _written_to(run, "leave --save out"), outputs.pictures_said():
                save(run, saved.history, placement, timings=saved.timings, force=True)
        with printing(run if keep else None):
            outputs.show(saved.history, placement, None, options)
        if keep:
            say(f"placement written to {run}")
        elif placement != saved.placement:
            say(f"not saved: {run} keeps its placement; --save writes this one into it")
        outputs.exit_if_found(layers_by_code(saved.history, placement), options.fail_on)


@click.command()
@click.argument("runs", nargs=-1, type=RunFolder())
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the figures.  [default: the run's own; of several runs a new one]",
)
@click.option("--of", type=click.Choice(QUANTITIES), help="What to draw.  [default: output]")
@click.option(
    "--threshold",
    type=POSITIVE,
    help="Magnitude to mark.  [default: that of the run's placement]",
)
@click.option(
    "--suffix", type=click.Choice(["png", "pdf", "svg"]), default="png", show_default=True, help="Kind of file."
)
@click.option(
    "--size",
    "width",
    type=click.Choice(["screen", "column", "page"]),
    default="screen",
    show_default=True,
    help="For print: one column (3.4 inches) or the whole width (7 inches) of a paper.",
)
def plot(
    runs: Sequence[Path], out: Path | None, of: str | None, threshold: float | None, suffix: str, width: str
) -> None:
    """Draw the figures again from saved runs, of the latest without RUNS; several are drawn side by side.

    Of a run that holds a comparison, paper.png has the two figures of the CNDS paper alone.
    """
    with errors_as_sentences(), without_collection():
        from gradprobe.show.plots import save_figures, save_side_by_side

        runs = runs or inputs.latest_runs(1)
        saved = [inputs.saved_run(run) for run in runs]
        if len(saved) == 1:
            [run] = saved
            one: dict[str, Any] = {
                "of": of,
                "threshold": threshold,
                "suffix": suffix,
                "width": width,
                "arms": run.arms,
            }
            draw = functools.partial(
                save_figures, history=run.history, placement=run.placement, comparison=run.comparison, **one
            )
        else:
            histories = [(str(name), run.history) for name, run in zip(runs, saved, strict=True)]
            several: dict[str, Any] = {"of": of, "threshold": threshold, "suffix": suffix, "width": width}
            draw = functools.partial(save_side_by_side, histories=histories, **several)
        # the figures of several runs must not replace those of the first one
        own = runs[0] if len(runs) == 1 else None
        files = _into_run(own, draw) if own and out in (None, own) else into_folder(out or _side_by_side(), draw)
        with printing():
            for file in files:
                write(str(file))


Draw = Callable[[Path], Sequence[Path]]  # into a folder; gives the files


def _side_by_side() -> Path:
    return free_folder(RUNS, "side-by-side")


def _into_run(run: Path, draw: Draw) -> list[Path]:
    """Draw into a run's own folder; what is drawn is listed as its own."""
    folder = Path(os.path.realpath(run))
    with _written_to(run, "choose another --out"), Draft(folder) as draft:
        names = [file.name for file in draw(draft.path)]
        draft.add(names)
    return [run / name for name in names]


def into_folder(folder: Path, draw: Draw) -> Sequence[Path]:
    """Draw into a folder that is no run's."""
    with _written_to(folder, "choose another --out"):
        if folder.is_file() or is_run(folder):
            what = "a file" if folder.is_file() else "a run"
            raise FileExistsError(f"{folder} is {what}: choose another folder")
        return draw(folder)


@contextlib.contextmanager
def _written_to(place: Path, otherwise: str) -> Iterator[None]:
    """Turn an error of the file system into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a sentence already
            raise click.UsageError(str(error)) from error
        why = error.strerror or type(error).__name__
        raise click.UsageError(f"{place} cannot be written: {why}; {otherwise}") from error


@click.command()
@RUN
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: report.html in the run]",
)
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
def report(run: Path | None, out: Path | None, show: bool) -> None:
    """Write a saved run, the latest without RUN, as one HTML file that needs nothing else, nor the model."""
    with errors_as_sentences(), without_collection():
        run = inputs.run_or_latest(run)
        from gradprobe.show.page import write_page

        saved = inputs.saved_run(run)
        parts = (saved.history, saved.placement, saved.comparison)

        def draw(page: Path) -> Path:
            return write_page(page, *parts, arms=saved.arms, run=str(run))

        file = out or run / PAGE
        if file == run / PAGE:
            _into_run(run, lambda folder: [draw(folder / PAGE)])
        else:
            with _written_to(file, "choose another --out"):
                if file.name in NAMES and is_run(file.parent):
                    raise FileExistsError(f"{file} belongs to a run: choose another --out")
                draw(file)
        with printing():
            write(str(file))
        if show:
            click.launch(str(file))
