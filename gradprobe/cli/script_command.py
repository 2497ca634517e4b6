"""The command that takes a training script as it is: ``run``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

import gradprobe.cli.inputs as inputs
import gradprobe.cli.outputs as outputs
from gradprobe.cli.options import FAIL_ON, ITERATIONS, OUT, POLICY, Options
from gradprobe.cli.parameters import PythonFile
from gradprobe.cli.terminal import errors_as_sentences
from gradprobe.runs.folder import RUNS
from gradprobe.script.execute import INTERRUPTED, Script

if TYPE_CHECKING:
    from gradprobe.script.results import Result
    from gradprobe.script.run import RecordedScript


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("script", type=PythonFile())
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module, as in python -m package.module.")
@ITERATIONS
@click.option("--keep-going", is_flag=True, help="Let the script train on when they are recorded.")
@POLICY
@OUT
@FAIL_ON
def run(script: str, args: tuple[str, ...], module: bool, keep_going: bool, **values: Any) -> None:
    """Run a training script as it is, with its own ARGS, and record the first iterations of every model.

    It is stopped when they are recorded. Nothing in it is changed: the result ends with the lines to add. Under
    torchrun: torchrun --nproc-per-node 2 -m gradprobe run train.py
    """
    options = Options(**values)
    with errors_as_sentences():
        from gradprobe.script.run import record_script

        program = Script(script, args, module)
        if not program.exists:
            raise click.UsageError(f"{script}: no such file (a module needs -m)")
        reporter = _Reporter(program, options)
        recording = record_script(program, options.iterations, keep_going=keep_going, on_full=reporter.report)
        reporter.report(recording)
        if recording.ending.code:
            raise SystemExit(recording.ending.code)
        reporter.exit_if_found()


class _Reporter:
    """Decides, writes the runs and prints: once, when all is recorded or when the script has ended."""

    def __init__(self, script: Script, options: Options) -> None:
        self._shown = options.out or RUNS / script.name
        if options.out is not None and options.out.exists():
            inputs.run_folder(options, script.target)  # refuses what may not be replaced, before the training
        self._folder = self._shown.absolute()  # the script may change the directory
        self._options = options
        self._started = time.perf_counter()
        self._results: list[Result] = []

    def report(self, recording: RecordedScript) -> None:
        """Report the recording, if there was no report yet and this is the first rank."""
        if recording.rank or self._results:
            return
        # not at the top: pandas and matplotlib may read the environment, which the script may still set
        from gradprobe.script.results import conclude

        options = self._options
        timings = {"run": time.perf_counter() - self._started}
        policy = inputs.policy(options)
        self._results = conclude(
            recording, policy, self._folder, self._shown, timings=timings, force=options.force
        )
        if self._results and recording.ending.code in (0, INTERRUPTED):
            outputs.show_results(self._results, options)
        if not options.quiet and (self._results or recording.sentences):
            written = [f"run written to {result.folder}" for result in self._results]
            click.echo(f"gradprobe: {'; '.join([*recording.sentences, *written])}", err=True)

    def exit_if_found(self) -> None:
        """End with the exit code for what ``--fail-on`` names, if it was found in any of the models."""
        from gradprobe.script.results import findings_by_model

        outputs.exit_if_found(findings_by_model(self._results), self._options.fail_on)
