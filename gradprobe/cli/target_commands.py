"""The commands that take a TARGET: ``scan``, ``compare`` and ``points``; and ``demo``, which has its own."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

import gradprobe.cli.inputs as inputs
import gradprobe.cli.outputs as outputs
import gradprobe.cli.start as start
from gradprobe.cli.options import (
    ALL,
    ARMS_OPTIONS,
    BRANCH,
    COUNT,
    DATA,
    FAIL_ON,
    FORMAT,
    ITERATIONS,
    LAYERS,
    METRIC,
    OUT,
    POLICY_OR_TRIALS,
    Options,
)
from gradprobe.cli.parameters import PythonFile
from gradprobe.cli.terminal import (
    console,
    errors_as_sentences,
    printing,
    prints_to_stderr,
    progress_display,
    write,
)
from gradprobe.record.text import counted

if TYPE_CHECKING:
    from gradprobe.cli.progress import Display
    from gradprobe.cli.target import Target
    from gradprobe.decide.policies import Policy
    from gradprobe.record.history import GradientHistory
    from gradprobe.record.placement import Placement
    from gradprobe.runs.folder import Reserved
    from gradprobe.verdict.comparison import Comparison

TARGET = click.argument("target", type=PythonFile())


@click.command()
@TARGET
@ITERATIONS
@LAYERS
@POLICY_OR_TRIALS
@BRANCH
@DATA
@OUT
@FAIL_ON
def scan(target: str, **values: Any) -> None:
    """Measure every layer's gradient over the first iterations and say where supervision belongs."""
    options = Options(**values)
    with errors_as_sentences(), inputs.run_folder(options, target) as folder:
        start.draw_beside()
        _scan(inputs.prepare_target(target, options), folder, options)


def _scan(target: Target, folder: Reserved, options: Options) -> None:
    from gradprobe.decide.policies import place
    from gradprobe.measure.scan import Interrupted
    from gradprobe.measure.scan import scan as scan_model
    from gradprobe.runs.run import Run

    policy = inputs.policy_or_trials(options)
    started = time.perf_counter()
    history: GradientHistory | None = None
    interrupted: KeyboardInterrupt | None = None
    task = f"scanning {target.name}: {options.iterations} iterations"
    with progress_display(options, policy, task) as display, prints_to_stderr():
        try:
            history = scan_model(
                target.model,
                target.batches,
                target.loss_fn,
                options.iterations,
                optimizer=target.optimizer,
                layers=inputs.layers_of(target, options),
                conditions=inputs.conditions(target, options)
                | inputs.branches_asked_for(target)
                | inputs.arms_after_scan(target.name),
                on_iteration=display,
            )
            placement = _decide(target, history, policy, options, display)
        except Interrupted as error:
            interrupted = error
            history = history or error.history  # in a later round the first record is complete, and stays
            placement = place(history, policy)
    timings = outputs.timings("scan", started, display)
    run = Run(folder.shown, history, placement, timings=timings)
    outputs.finish(run, folder, options, interrupted)


def _decide(
    target: Target, history: GradientHistory, policy: Policy | None, options: Options, display: Display | None
) -> Placement:
    """The placement: by the policy or by trials, and once more with the branches in place for ``--repeat``."""
    from gradprobe.decide.policies import place
    from gradprobe.prove.repeat import place_repeatedly

    if policy is None:
        return inputs.place_by_trials(target, options.iterations, options, display, history)
    if not options.repeat:
        return place(history, policy)
    return place_repeatedly(
        target.model,
        target.batches,
        target.loss_fn,
        options.iterations,
        policy=policy,
        branch=target.branch,
        branch_loss=target.branch_loss,
        weight=options.weight,
        optimizer=target.optimizer,
        seed=options.seed,
        history=history,
        on_iteration=display,
    )


@click.command()
@TARGET
@click.option("--iterations", type=COUNT, default=300, show_default=True, help="Length of each training.")
@click.option(
    "--window",
    type=COUNT,
    default=Options.window,
    show_default=True,
    help="Iterations whose gradients are recorded.",
)
@click.option(
    "--seeds", type=COUNT, default=Options.seeds, show_default=True, help="How many seeds, from --seed on."
)
@click.option(
    "--schedule",
    type=click.Choice(["cnds", "dsn", "linear", "constant"]),
    default=Options.schedule,
    show_default=True,
    help="How the weight of the branches falls over the training.",
)
@METRIC
@ARMS_OPTIONS
@POLICY_OR_TRIALS
@BRANCH
@DATA
@OUT
@FAIL_ON
def compare(target: str, **values: Any) -> None:
    """Train as it is, with the remedy that the diagnosis names and with branches, and say which to use.

    --arms names others. With --policy, or another option of a rule, it trains with and without the branches of
    that rule alone, and says whether they helped.
    """
    options = Options(**values)
    with errors_as_sentences():
        arms = inputs.arms_to_compare(options)
        with inputs.run_folder(options, target, suffix="-compare") as folder:
            start.draw_beside()
            prepared = inputs.prepare_target(target, options)
            if prepared.metric is not None and prepared.held_out is None:
                raise click.UsageError(
                    f"{target}: a metric needs held-out data: define `held_out` in it, batches as well"
                )
            if arms is None:
                _compare(prepared, folder, options)
            else:
                _compare_arms(prepared, folder, arms, options)


def _compare(target: Target, folder: Reserved, options: Options) -> None:
    from gradprobe.decide.policies import place
    from gradprobe.measure.scan import Interrupted
    from gradprobe.prove.compare import compare as compare_trainings
    from gradprobe.runs.run import Run

    policy = inputs.policy_or_trials(options)
    started = time.perf_counter()
    interrupted, comparison = None, None
    task = f"comparing {target.name}: {counted(options.seeds, 'seed')}, {options.iterations} iterations each"
    with progress_display(options, policy, task, 2 * options.seeds) as display, prints_to_stderr():
        try:
            tried = None if policy else inputs.place_by_trials(target, options.window, options, display)
            comparison = compare_trainings(
                target.build or target.model,
                target.batches,
                target.loss_fn,
                placement=tried,
                policy=policy,
                repeat=options.repeat,
                **_training_arguments(target, options),
                on_iteration=display,
            )
            comparison = inputs.with_other_arms(comparison, target.name)
            history, placement = comparison.plain, comparison.placement
        except Interrupted as error:
            interrupted, history, placement = error, error.history, place(error.history, policy)
    timings = outputs.timings("compare", started, display)
    outputs.finish(Run(folder.shown, history, placement, comparison, timings), folder, options, interrupted)


def _training_arguments(target: Target, options: Options) -> dict[str, Any]:
    """What a comparison of two arms and one of several are given alike."""
    return {
        "iterations": options.iterations,
        "window": options.window,
        "seeds": range(options.seed, options.seed + options.seeds),
        "optimizer": target.optimizer,
        "held_out": target.held_out,
        "metric": target.metric,
        "branch": target.branch,
        "branch_loss": target.branch_loss,
        "weight": options.weight,
        "schedule": options.schedule,
        "conditions": inputs.conditions(target, options),
    }


def _compare_arms(
    target: Target, folder: Reserved, arms: tuple[str, ...], options: Options, beside: Comparison | None = None
) -> None:
    """Train with several arms and show which to use; a comparison ``beside`` is kept and shown with them."""
    from gradprobe.cli.user_modules import pickle_target_by_value
    from gradprobe.decide.policies import place
    from gradprobe.measure.scan import Interrupted
    from gradprobe.prove.compare_arms import compare_arms
    from gradprobe.runs.run import Run

    engine = options.engine or ("processes" if options.jobs else "serial")
    if engine != "serial":
        pickle_target_by_value()
    started = time.perf_counter()
    interrupted: Interrupted | None = None
    count = f"{len(arms)} arms, {counted(options.seeds, 'seed')}"
    task = f"comparing {target.name}: {count}, {options.iterations} iterations each"
    with progress_display(options, None, task) as display, prints_to_stderr():
        try:
            result = compare_arms(
                target.build or target.model,
                target.batches,
                target.loss_fn,
                arms,
                engine=engine,
                jobs=options.jobs,
                **_training_arguments(target, options),
                on_training=None if display is None else display.part,
            )
        except Interrupted as error:
            interrupted = error
        except RuntimeError as error:
            raise error.__cause__ or error from None  # the user's own error, with the lines that it came from
    if interrupted is not None:
        history = interrupted.history
        timings = outputs.timings("compare", started, display)
        outputs.finish(Run(folder.shown, history, place(history), None, timings), folder, options, interrupted)
        return
    if beside is None:
        result = inputs.with_command(result, target.name)
    timings = outputs.timings("compare", started, display)
    placement = result.placement if beside is None else beside.placement
    run = Run(folder.shown, result.plain, placement, beside, timings, result)
    outputs.finish_arms(run, result, folder, options)


@click.command()
@click.option("--iterations", type=COUNT, default=200, show_default=True, help="Length of each training.")
@click.option("--seeds", type=COUNT, default=2, show_default=True, help="How many seeds.")
@OUT
def demo(**values: Any) -> None:
    """Show all of it on CNDS-8 and real digits: why it does not learn, the rule of the paper, what helps."""
    options = Options(**values)
    with errors_as_sentences(), inputs.run_folder(options, "demo") as folder:
        start.draw_beside()
        start.say_loading(quiet=options.quiet)
        with start.without_collection():
            from gradprobe.cli.demo import ARMS, demo_target

        target = demo_target()
        _compare_arms(target, folder, ARMS, options, _the_papers_figures(target, options))


def _the_papers_figures(target: Target, options: Options) -> Comparison:
    """The gradients in one window, without and with the branch of the 1e-7 rule."""
    from gradprobe.prove.compare import compare as compare_trainings

    arguments = _training_arguments(target, options)
    arguments |= {"iterations": options.window, "seeds": [options.seed]}
    task = f"measuring {target.name}: {options.window} iterations without and with the branch of the 1e-7 rule"
    with progress_display(options, None, task, 2) as display, prints_to_stderr():
        return compare_trainings(
            target.build or target.model, target.batches, target.loss_fn, **arguments, on_iteration=display
        )


@click.command()
@TARGET
@DATA
@FORMAT
@ALL
def points(target: str, **values: Any) -> None:
    """Show where branches can be put: each supervision point, the layers it serves, and why others have none."""
    options = Options(**values)
    with errors_as_sentences():
        prepared = inputs.prepare_target(target, options)
        from gradprobe.measure.batches import Batches, to_device
        from gradprobe.network.layers import named_modules
        from gradprobe.network.survey import points as find_points
        from gradprobe.show import formats
        from gradprobe.show.points_tree import points_tree

        model = prepared.model
        parameter = next(model.parameters(), None)
        with prints_to_stderr():
            batch, _ = next(Batches(prepared.batches).stream())
            if parameter is not None:
                batch = to_device(batch, parameter.device)
            served = find_points(model, batch)
        with printing():
            if options.form == "json":
                write(json.dumps(formats.points_record(served), indent=2))
            elif options.form == "csv":
                write(formats.points_csv(served))
            else:
                kinds = {name: type(module).__name__ for name, module in named_modules(model)}
                console().print(points_tree(served, kinds, every_module=options.every_layer))
