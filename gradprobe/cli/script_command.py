"""The command that takes a training script as it is: ``run``."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

import gradprobe.cli.inputs as inputs
import gradprobe.cli.outputs as outputs
from gradprobe.cli.options import FAIL_ON, ITERATIONS, LAYERS, OUT, POLICY, Options
from gradprobe.cli.parameters import PythonFile
from gradprobe.cli.terminal import FAILED, errors_as_sentences, every_character, flush_or_drop, say
from gradprobe.record.text import few
from gradprobe.runs.contents import PAGE
from gradprobe.runs.draft import BusyError
from gradprobe.runs.folder import Reserved, reserve_free
from gradprobe.script.execute import INTERRUPTED, Script, shown_text

MOST = 4  # sentences about a script's models

if TYPE_CHECKING:
    from gradprobe.script.results import Result
    from gradprobe.script.run import RecordedScript


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("script", type=PythonFile())
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module, as in python -m package.module.")
@ITERATIONS
@LAYERS
@click.option(
    "--keep-going",
    is_flag=True,
    help="Let the script train on when they are recorded: result on standard error, figures at its end.",
)
@click.option(
    "--every", is_flag=True, help="Record every training, not the first of each kind; trains to the end."
)
@POLICY
@OUT
@FAIL_ON
def run(script: str, args: tuple[str, ...], module: bool, keep_going: bool, every: bool, **values: Any) -> None:
    """Run a training script as it is, with its own ARGS, and record the first iterations of every model.

    It is stopped when they are recorded. Nothing in it is changed: the result ends with the lines to add. Of many
    trainings of one kind (folds, a grid) the first is recorded. Under torchrun:
    torchrun --nproc-per-node 2 -m gradprobe run train.py
    """
    options = Options(**values)
    with errors_as_sentences():
        from gradprobe.script.run import record_script

        program = Script(script, args, module)
        if not program.exists:
            raise click.UsageError(f"{script}: no such file (a module needs -m)")
        with _Reporter(program, options, keep_going) as reporter:
            recording = record_script(
                program,
                options.iterations,
                keep_going=keep_going,
                every=every,
                layers=options.layers,
                on_full=reporter.report,
                say=reporter.say,
            )
            reporter.report(recording)
            reporter.draw()
        if recording.ending.code:
            raise SystemExit(recording.ending.code)
        reporter.exit_if_found()


@contextlib.contextmanager
def _whatever_became_of_the_streams() -> Iterator[None]:
    """Print what can be printed: a script may close the streams or their descriptors, and that is no failure."""
    with every_character():
        with contextlib.suppress(OSError, ValueError):
            yield
        for stream in (sys.stdout, sys.stderr):
            flush_or_drop(stream)


def _reserved(options: Options, name: str) -> Reserved:
    """The folder of the run; beside one that another process writes to at the same time, as ranks do."""
    try:
        return inputs.reserved(options, name)
    except click.UsageError as error:
        if options.out is not None and isinstance(error.__cause__, BusyError):
            return reserve_free(options.out.parent, options.out.name)
        raise


def _trains_on(seconds: float) -> str:
    return f"the script has waited {seconds:.1f} s for it and trains on; the figures are drawn when it ends"


class _Reporter:
    """Decides, writes the runs and prints: once, when all is recorded or when the script has ended.

    While the script waits for that, with ``--keep-going``, no figure is drawn.
    """

    def __init__(self, script: Script, options: Options, keep_going: bool) -> None:
        # the script may change the directory, and of several processes that train together one alone writes
        self._folder = None if int(os.environ.get("RANK") or 0) else _reserved(options, script.name)
        self._name, self._options, self._keep_going = script.name, options, keep_going
        self._started = time.perf_counter()
        self._results: list[Result] = []

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            self._folder.close()

    def report(self, recording: RecordedScript) -> None:
        """Report the recording, if there was no report yet and this is the first rank."""
        if recording.rank or self._results:
            return
        # not at the top: pandas and matplotlib may read the environment, which the script may still set
        from gradprobe.script.results import as_at_start

        with as_at_start():
            self._report(recording)

    def _report(self, recording: RecordedScript) -> None:
        from gradprobe.script.results import conclude

        options = self._options
        began = time.perf_counter()
        timings = {"run": began - self._started}
        policy = inputs.policy(options)
        self._folder = self._folder or _reserved(options, self._name)
        self._results = conclude(
            recording,
            policy,
            self._folder,
            timings=timings,
            force=options.force,
            figures=not self._keep_going,
            keep=outputs.written,
        )
        self._folder.close()
        if self._results and recording.ending.code in (0, INTERRUPTED):
            with _whatever_became_of_the_streams():
                outputs.show_results(self._results, recording, options, to_stderr=self._keep_going)
        written = few([str(result.folder) for result in self._results if result.folder], outputs.IN_FULL)
        left_out = len(recording.sentences) - MOST
        sentences = list(recording.sentences[:MOST])
        sentences += [f"and {left_out} more of this kind"] if left_out > 0 else []
        sentences += [result.complaint for result in self._results if result.complaint]
        sentences += [f"run written to {written}{self._page()}"] if written else []
        if recording.ending.trains_on:
            sentences += [_trains_on(time.perf_counter() - began)]
        if sentences:
            self.say("; ".join(sentences))

    def _page(self) -> str:
        """Where to look first, if a page is there already."""
        for result in self._results:
            if result.folder is not None and result.place is not None and (result.place / PAGE).exists():
                return f": look at {result.folder / PAGE}"
        return ""

    def draw(self) -> None:
        """Draw what was left for the end of the script."""
        if self._results and self._keep_going:
            from gradprobe.script.results import as_at_start, draw

            with as_at_start(), outputs.pictures_said(), contextlib.suppress(OSError, ValueError):
                draw(self._results)

    def say(self, sentence: str) -> None:
        """Print a sentence for a person, unless nothing is to be said."""
        if not self._options.quiet:
            with _whatever_became_of_the_streams():
                say(f"gradprobe: {shown_text(sentence)}")

    def exit_if_found(self) -> None:
        """End with the exit code for what ``--fail-on`` names, if it was found, or for a run that has no place."""
        from gradprobe.script.results import findings_by_model

        if any(result.complaint for result in self._results):
            raise SystemExit(FAILED)
        outputs.exit_if_found(findings_by_model(self._results), self._options.fail_on)
