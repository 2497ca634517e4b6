"""The command line: parses, calls one function, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradprobe.cli import inputs as asked
from gradprobe.cli import outputs as outcome
from gradprobe.cli.options import (
    ALL,
    ARMS_OPTIONS,
    BRANCH,
    COUNT,
    DATA,
    FAIL_ON,
    FORMAT,
    OUT,
    POLICY,
    POLICY_OR_TRIALS,
    POSITIVE,
    QUANTITIES,
    RUNS,
    Finite,
    PythonFile,
    RunFolder,
    fail_on,
)
from gradprobe.cli.terminal import INTERRUPTED, console, reported, shown, user_output
from gradprobe.record.text import counted

if TYPE_CHECKING:
    from gradprobe.cli.target import Target
    from gradprobe.record.history import GradientHistory
    from gradprobe.runs.difference import Difference
    from gradprobe.runs.run import Run
    from gradprobe.script.results import Result


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gradprobe")
def main() -> None:
    """Find the layers that the gradient does not reach, place deep supervision there, see whether it helps.

    TARGET is model.py, model.py:attr or package.module:attr. It may define `model` or `build_model()`, `batches`
    or `loader`, `loss` or `criterion`, `optimizer(model)` and `held_out`.

    Exit codes: 0 done, 1 the target failed, 2 usage, 3 found what --fail-on names.
    """


@main.command()
@click.argument("target", type=PythonFile())
@click.option("--iterations", type=COUNT, default=50, show_default=True, help="Iterations to record.")
@POLICY_OR_TRIALS
@BRANCH
@DATA
@OUT
@FAIL_ON
def scan(target: str, iterations: int, out: Path | None, **options: Any) -> None:
    """Measure every layer's gradient over the first iterations and say where supervision belongs."""
    with reported():
        folder = asked.folder(out, target, options["force"])
        loaded = asked.target(target, options)
        from gradprobe.decide.policies import place
        from gradprobe.measure.scan import Interrupted
        from gradprobe.measure.scan import scan as scan_model
        from gradprobe.prove.repeat import place_repeatedly

        policy = asked.policy_or_trials(options)
        started = time.perf_counter()
        interrupted: KeyboardInterrupt | None = None
        first: GradientHistory | None = None
        what = f"scanning {loaded.name}: {iterations} iterations"
        with shown(options["quiet"], policy, what) as display, user_output():
            try:
                first = history = scan_model(
                    loaded.model,
                    loaded.batches,
                    loaded.loss_fn,
                    iterations,
                    optimizer=loaded.optimizer,
                    conditions=asked.conditions(loaded, options),
                    on_iteration=display,
                )
                if policy:
                    placement = place(history, policy)
                else:
                    placement = asked.placed_by_trials(loaded, iterations, options, display, history)
                if options["repeat"]:
                    placement = place_repeatedly(
                        loaded.model,
                        loaded.batches,
                        loaded.loss_fn,
                        iterations,
                        policy=policy,
                        branch=options["branch"],
                        weight=options["weight"],
                        optimizer=loaded.optimizer,
                        seed=options["seed"],
                        history=history,
                        on_iteration=display,
                    )
            except Interrupted as error:
                # in a later round the first one is complete and stands
                interrupted = error
                history = first or error.history
                placement = place(history, policy)
        timings = outcome.timings("scan", started, display)
        outcome.finish(folder, history, placement, None, timings, options, interrupted)


@main.command()
@click.argument("target", type=PythonFile())
@click.option("--iterations", type=COUNT, default=300, show_default=True, help="Length of each training.")
@click.option(
    "--window", type=COUNT, default=50, show_default=True, help="Iterations whose gradients are recorded."
)
@click.option("--seeds", type=COUNT, default=1, show_default=True, help="How many seeds, from --seed on.")
@click.option(
    "--schedule",
    type=click.Choice(["cnds", "dsn", "linear", "constant"]),
    default="cnds",
    show_default=True,
    help="How the weight of the branches falls over the training.",
)
@ARMS_OPTIONS
@POLICY_OR_TRIALS
@BRANCH
@DATA
@OUT
@FAIL_ON
def compare(target: str, iterations: int, window: int, seeds: int, out: Path | None, **options: Any) -> None:
    """Train with and without deep supervision and say whether it helped; or with --arms, which arm to use."""
    with reported():
        engine = asked.engine(options["arms"], options["engine"], options["jobs"])
        folder = asked.folder(out, target, options["force"], suffix="-compare")
        loaded = asked.target(target, options)
        if options["arms"] is None:
            _compare(loaded, folder, iterations, window, seeds, options)
        else:
            _compare_arms(loaded, folder, iterations, window, seeds, {**options, "engine": engine})


@main.command()
@click.option("--iterations", type=COUNT, default=500, show_default=True, help="Length of each training.")
@click.option("--seeds", type=COUNT, default=2, show_default=True, help="How many seeds.")
@OUT
def demo(iterations: int, seeds: int, out: Path | None, **options: Any) -> None:
    """Show all of it on CNDS-8 and real handwritten digits: measure, decide, insert, compare."""
    with reported():
        folder = asked.folder(out, "demo", options["force"])
        from gradprobe.cli.demo import demo_target

        parent = click.get_current_context().parent
        defaults = compare.make_context("compare", ["TARGET"], parent=parent).params
        _compare(demo_target(), folder, iterations, 50, seeds, {**defaults, **options, "fail_on": ()})


@main.command(context_settings={"allow_interspersed_args": False})
@click.argument("script", type=PythonFile())
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module, as in python -m package.module.")
@click.option("--iterations", type=COUNT, default=50, show_default=True, help="Iterations to record.")
@click.option("--keep-going", is_flag=True, help="Let the script train on when they are recorded.")
@POLICY
@OUT
@FAIL_ON
def run(script: str, args: tuple[str, ...], module: bool, iterations: int, **options: Any) -> None:
    """Run a training script as it is, with its own ARGS, and record the first iterations of every model.

    It is stopped when they are recorded. Nothing in it is changed: the result ends with the lines to add. Under
    torchrun: torchrun --nproc-per-node 2 -m gradprobe run train.py
    """
    with reported():
        from gradprobe.script.execute import Script
        from gradprobe.script.results import conclude, findings_by_model
        from gradprobe.script.run import RecordedScript, record_script

        program = Script(script, args, module)
        if not program.exists:
            raise click.UsageError(f"{script}: no such file (a module needs -m)")
        out = options["out"]
        # what this imports may read the environment, which the script may still set: only where there is something
        shown = asked.folder(out, script, options["force"]) if out and out.exists() else out or RUNS / program.name
        folder = shown.absolute()  # the script may change the directory
        started = time.perf_counter()
        results: list[Result] = []

        def told(recording: RecordedScript) -> None:
            if recording.rank or results:
                return
            timings = {"run": time.perf_counter() - started}
            policy = asked.policy(options)
            results.extend(conclude(recording, policy, folder, shown, timings=timings, force=options["force"]))
            if results and recording.ending.code in (0, INTERRUPTED):
                outcome.show_results(results, options)
            if not options["quiet"] and (results or recording.sentences):
                kept = [f"run written to {result.folder}" for result in results]
                click.echo(f"gradprobe: {'; '.join([*recording.sentences, *kept])}", err=True)

        recording = record_script(program, iterations, keep_going=options["keep_going"], on_full=told)
        told(recording)
        if recording.ending.code:
            raise SystemExit(recording.ending.code)
        outcome.end_if(findings_by_model(results), options["fail_on"])


@main.command()
@click.argument("target", type=PythonFile())
@DATA
@FORMAT
@ALL
def points(target: str, form: str, every_layer: bool, **options: Any) -> None:
    """Show where branches can be put: each supervision point, the layers it serves, and why others have none."""
    with reported():
        loaded = asked.target(target, options)
        from gradprobe.measure.batches import Batches, to_device
        from gradprobe.network.layers import named_modules
        from gradprobe.network.survey import survey
        from gradprobe.show import tables as report
        from gradprobe.show.points_tree import points_tree

        parameter = next(loaded.model.parameters(), None)
        with user_output():
            inputs, _ = next(Batches(loaded.batches).stream())
            if parameter is not None:
                inputs = to_device(inputs, parameter.device)
            found = survey(loaded.model, inputs).points
        if form == "json":
            click.echo(json.dumps(report.points_record(found), indent=2))
        elif form == "csv":
            click.echo(report.points_csv(found), nl=False)
        else:
            kinds = {name: type(module).__name__ for name, module in named_modules(loaded.model)}
            console().print(points_tree(found, kinds, every_module=every_layer))


@main.command()
@click.argument("run", type=RunFolder())
@POLICY
@FORMAT
@ALL
@FAIL_ON
@click.option("--save", "keep", is_flag=True, help="Write the new placement into the run.")
def place(run: Path, keep: bool, **options: Any) -> None:
    """Decide again from a saved run; the model is not needed."""
    with reported():
        from gradprobe.decide import findings as diagnosis
        from gradprobe.decide import policies
        from gradprobe.runs.run import save

        saved = asked.saved(run)
        placement = policies.place(saved.history, asked.policy(options))
        if keep:
            if saved.comparison is not None or saved.arms is not None:
                raise click.UsageError(
                    f"{run} holds a comparison of its own placement, which is not rewritten: leave --save out, or "
                    "compare again"
                )
            save(run, saved.history, placement, timings=saved.timings, force=True)
        outcome.show(saved.history, placement, None, options)
        outcome.end_if(diagnosis.findings(saved.history, placement), options["fail_on"])


@main.command()
@click.argument("runs", nargs=-1, required=True, type=RunFolder())
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
def plot(runs: Sequence[Path], out: Path | None, **options: Any) -> None:
    """Draw the figures again from saved runs; several runs are drawn side by side.

    Of a run that holds a comparison, paper.png has the two figures of the CNDS paper alone.
    """
    with reported():
        from gradprobe.runs.folder import free_folder
        from gradprobe.show.plots import save_figures, save_side_by_side

        saved = [asked.saved(run) for run in runs]
        # the figures of several runs do not belong into the first one's folder, over its own
        folder = out or (runs[0] if len(runs) == 1 else free_folder(RUNS, "side-by-side"))
        folder.mkdir(parents=True, exist_ok=True)
        if len(saved) == 1:
            one = saved[0]
            files = save_figures(folder, one.history, one.placement, one.comparison, arms=one.arms, **options)
        else:
            histories = [(str(run), loaded.history) for run, loaded in zip(runs, saved, strict=True)]
            files = save_side_by_side(folder, histories, **options)
        for file in files:
            click.echo(file)


@main.command()
@click.argument("run", type=RunFolder())
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: report.html in the run]",
)
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
def report(run: Path, out: Path | None, show: bool) -> None:
    """Write a saved run as one HTML file that needs nothing else; the model is not needed."""
    with reported():
        from gradprobe.show.page import write_page

        saved = asked.saved(run)
        file = out or run / "report.html"
        try:
            write_page(file, saved.history, saved.placement, saved.comparison, arms=saved.arms, run=str(run))
        except OSError as error:
            raise click.UsageError(f"{file} cannot be written: {error.strerror}; choose another --out") from error
        click.echo(file)
        if show:
            click.launch(str(file))


@main.command()
@click.argument("first", metavar="RUN", type=RunFolder())
@click.argument("second", metavar="RUN", type=RunFolder())
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
    help="What to compare.  [default: what the second was decided by]",
)
@FORMAT
@fail_on("new in the second run")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for figures of both runs side by side.")
def diff(first: Path, second: Path, out: Path | None, form: str, **options: Any) -> None:
    """Say which layers changed from one saved run to another, and what else is different."""
    with reported():
        from gradprobe.runs.compare_runs import compare_runs

        runs = asked.saved(first), asked.saved(second)
        try:
            found = compare_runs(*runs, of=options["of"], factor=options["factor"])
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        if out is not None:
            _draw_both(out, runs, found)
        if form == "json":
            click.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False))
        elif form == "csv":
            click.echo(found.frame.to_csv(index=False, lineterminator="\n"), nl=False)
        else:
            click.echo(str(found))
        outcome.end_if(found.new, options["fail_on"], "newly ")


def _draw_both(out: Path, runs: tuple[Run, Run], found: Difference) -> None:
    from gradprobe.show.plots import save_side_by_side

    if out.is_file() or (out / "run.json").exists():
        raise click.UsageError(f"{out} is {'a file' if out.is_file() else 'a run'}: choose another folder")
    histories = {name: run.history for name, run in zip(found.names, runs, strict=True)}
    for file in save_side_by_side(out, histories, of=found.of, threshold=runs[1].placement.threshold):
        click.echo(f"figure written to {file}", err=True)


def _compare(
    loaded: Target, folder: Path, iterations: int, window: int, seeds: int, options: dict[str, Any]
) -> None:
    from gradprobe.decide.policies import place
    from gradprobe.measure.scan import Interrupted
    from gradprobe.prove import compare as comparing

    seed_range = range(options["seed"], options["seed"] + seeds)
    policy = asked.policy_or_trials(options)
    started = time.perf_counter()
    interrupted, comparison = None, None
    what = f"comparing {loaded.name}: {counted(seeds, 'seed')}, {iterations} iterations each"
    with shown(options["quiet"], policy, what, 2 * seeds) as display, user_output():
        try:
            tried = None if policy else asked.placed_by_trials(loaded, window, options, display)
            comparison = comparing.compare(
                loaded.build or loaded.model,
                loaded.batches,
                loaded.loss_fn,
                placement=tried,
                policy=policy,
                repeat=options["repeat"],
                iterations=iterations,
                window=window,
                seeds=seed_range,
                optimizer=loaded.optimizer,
                held_out=loaded.held_out,
                branch=options["branch"],
                weight=options["weight"],
                schedule=options["schedule"],
                conditions=asked.conditions(loaded, options),
                on_iteration=display,
            )
            history, placement = comparison.plain, comparison.placement
        except Interrupted as error:
            interrupted, history, placement = error, error.history, place(error.history, policy)
    timings = outcome.timings("compare", started, display)
    outcome.finish(folder, history, placement, comparison, timings, options, interrupted)


def _compare_arms(
    loaded: Target, folder: Path, iterations: int, window: int, seeds: int, options: dict[str, Any]
) -> None:
    from gradprobe.cli.user_modules import pickle_target_by_value
    from gradprobe.prove.compare_arms import compare_arms

    if options["engine"] != "serial":
        pickle_target_by_value()
    started = time.perf_counter()
    many = f"{len(options['arms'])} arms, {counted(seeds, 'seed')}"
    what = f"comparing {loaded.name}: {many}, {iterations} iterations each"
    with shown(options["quiet"], None, what) as display, user_output():
        result = compare_arms(
            loaded.build or loaded.model,
            loaded.batches,
            loaded.loss_fn,
            options["arms"],
            iterations=iterations,
            window=window,
            seeds=range(options["seed"], options["seed"] + seeds),
            optimizer=loaded.optimizer,
            held_out=loaded.held_out,
            branch=options["branch"],
            weight=options["weight"],
            schedule=options["schedule"],
            engine=options["engine"],
            jobs=options["jobs"],
            conditions=asked.conditions(loaded, options),
            on_training=None if display is None else display.part,
        )
    outcome.finish_arms(folder, result, outcome.timings("compare", started, display), options)
