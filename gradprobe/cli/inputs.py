"""From a command's options to objects: the target, the policy, a saved run, and the folder of a new one."""

from __future__ import annotations

import shlex
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradprobe.cli.options import Options
from gradprobe.cli.start import say_loading, without_collection
from gradprobe.cli.terminal import prints_to_stderr, say
from gradprobe.record.text import few
from gradprobe.runs.folder import RUNS, Reserved, reserve, reserve_free, runs_in
from gradprobe.script.execute import printable

if TYPE_CHECKING:
    from gradprobe.cli.progress import Display
    from gradprobe.cli.target import Target
    from gradprobe.decide.policies import Policy
    from gradprobe.record.history import GradientHistory
    from gradprobe.record.placement import Placement
    from gradprobe.runs.run import Run
    from gradprobe.verdict.arms_comparison import ArmsComparison
    from gradprobe.verdict.comparison import Comparison

NO_RUN = f"there is no run in {RUNS} yet: record one by `gradprobe run train.py` or `gradprobe scan model.py`"


def saved_run(folder: Path) -> Run:
    """The run in a folder."""
    from gradprobe.runs.run import load

    try:
        return load(folder)
    except FileNotFoundError as error:
        there = [folder.name for folder in reversed(runs_in())]
        raise click.UsageError(f"{error}; {f'{RUNS} has {few(there)}' if there else NO_RUN}") from error
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def run_or_latest(folder: Path | None) -> Path:
    """The run that was named, else the latest, which is said."""
    return folder or latest_runs(1)[0]


def latest_runs(count: int) -> list[Path]:
    """The latest runs, the last one recorded at the end; a sentence says which they are.

    Raises:
        click.UsageError: If there are not so many.
    """
    folders = runs_in()
    if len(folders) < count:
        there = f"{RUNS} has one alone: name the other, or record one more" if folders else NO_RUN
        raise click.UsageError(there)
    say("the latest: " + " and ".join(map(str, folders[-count:])))
    return folders[-count:]


def run_folder(options: Options, target: str, suffix: str = "") -> Reserved:
    """Reserve where the run goes: a free folder, or any with ``--force``; else one named after the target."""
    where, _, attribute = target.rpartition(":")
    name = (f"{Path(where).stem}-{attribute}" if where else Path(target).stem) + suffix
    return reserved(options, printable(name))


def reserved(options: Options, name: str) -> Reserved:
    """The same by a name."""
    try:
        if options.out is None and not options.force:
            return reserve_free(RUNS, name)
        return reserve(options.out or RUNS / name, force=options.force)
    except OSError as error:
        raise click.UsageError(str(error)) from error


def prepare_target(name: str, options: Options) -> Target:
    """The model, batches, loss and optimizer of a TARGET, seeded, with ``--lr`` and on ``--device``."""
    # what is used later is imported before the target's folder is on the import path: it may hold a matplotlib.py
    say_loading(quiet=options.quiet)
    with without_collection():
        import torch

        import gradprobe.cli.progress
        import gradprobe.measure.scan
        import gradprobe.prove.plan
        import gradprobe.runs.run
        import gradprobe.show.formats  # noqa: F401
        from gradprobe.cli.target import load_target
        from gradprobe.network.preserve import seed_everything

    # once and before the import: the numbers are those of a script that begins with torch.manual_seed
    seed_everything(options.seed)
    with prints_to_stderr():
        target = load_target(name, options)
    if not options.quiet:
        for remark in target.remarks:
            say(remark)
    lr = options.lr
    if lr is not None:
        if target.optimizer is not None:
            raise click.UsageError("--lr is for the default SGD, but the target defines its own optimizer")
        target = replace(target, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=lr))
    return target if options.device is None else _on_device(target, options.device)


def _on_device(target: Target, device: str) -> Target:
    try:
        model = target.model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise click.UsageError(f"--device {device}: {str(error).splitlines()[0]}") from error
    build = target.build
    return replace(target, model=model, build=build and (lambda: build().to(device)))


def conditions(target: Target, options: Options) -> dict[str, Any]:
    """What the command knows of the conditions that a record is taken under."""
    made_up = {"synthetic": True} if target.synthetic else {}
    return {"target": target.name, "data": target.data, "seed": options.seed, **made_up}


def layers_of(target: Target, options: Options) -> list[str] | None:
    """The layers that ``--layers`` names, or None for all of them.

    Raises:
        click.UsageError: If a name or a pattern fits none.
    """
    if not options.layers:
        return None
    if options.repeat or options.policy == "auto":
        option = "--repeat" if options.repeat else "--policy auto"
        raise click.UsageError(f"{option} needs the record of every layer: leave --layers out")
    from gradprobe.network.layers import matching_names, named_layers

    try:
        return matching_names(named_layers(target.model), options.layers)
    except ValueError as error:
        raise click.UsageError(f"--layers: {error}") from error


def branches_asked_for(target: Target) -> dict[str, Any]:
    """The kind of branch and its loss, where they are not the default: what is said of branches names them."""
    from gradprobe.prove.plan import Supervision

    names = Supervision(target.branch, Options.weight, branch_loss=target.branch_loss).names
    return {key: name for key, name in names.items() if name != Options.branch}


_NOT_WITH_ARMS = ("policy", "repeat", "threshold", "of", "aggregate")
_OWN = (*_NOT_WITH_ARMS, "target", "seeds", "out", "force", "form", "every_layer", "quiet", "fail_on", "layers")


def with_other_arms(comparison: Comparison, target: str) -> Comparison:
    """A comparison that placed no branch, with the command that compares what may help, as it was compared."""
    context = click.get_current_context()
    if comparison.supervised is not None or context.command.name != "compare":
        return comparison
    command = f"{_compare_command(target, _OWN)} --seeds {max(3, context.params['seeds'])}"
    return replace(comparison, conditions={**comparison.conditions, "other_arms": command})


def arms_after_scan(target: str) -> dict[str, str]:
    """The command that compares what may help under the conditions of a scan, to keep with its record."""
    return {"compare": f"{_compare_command(target, (*_OWN, 'iterations'))} --seeds 3"}


def with_command(arms: ArmsComparison, target: str) -> ArmsComparison:
    """Several arms, with the command that made them but for its arms, seeds and iterations."""
    command = _compare_command(target, (*_OWN, "arms", "iterations", "engine", "jobs"))
    return replace(arms, conditions={**arms.conditions, "command": command})


def _compare_command(target: str, own: Container[str]) -> str:
    """``gradprobe compare`` with the options that were given, but for those that belong to one command."""
    context = click.get_current_context()
    words = ["gradprobe", "compare", target]
    for option in context.command.params:
        if option.name in own or option.name is None or not _is_on_command_line(option.name):
            continue
        value = context.params[option.name]
        words += [option.opts[0], ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def arms_to_compare(options: Options) -> tuple[str, ...] | None:
    """The arms asked for; three where nothing is asked for, and None where a single policy is.

    Raises:
        click.UsageError: If options were given that do not go together with ``--arms``, or not without it.
    """
    one_policy = any(map(_is_on_command_line, _NOT_WITH_ARMS))
    if options.arms is None and one_policy and (options.engine or options.jobs):
        option = "--engine" if options.engine else "--jobs"
        raise click.UsageError(f"{option} is for several arms: leave --policy out, or use --arms none,cnds,auto")
    if options.arms is not None:
        for name in _NOT_WITH_ARMS:
            if _is_on_command_line(name):
                raise click.UsageError(
                    f"--{name} is for a single policy, and --arms names its own: cnds, repeated, relative, every, "
                    "branches, auto"
                )
    if options.engine == "serial" and options.jobs:
        raise click.UsageError("--jobs is for --engine processes or ray: serial trains one after the other")
    if options.arms is not None or one_policy:
        return options.arms
    from gradprobe.verdict.arm import DEFAULT_ARMS

    return DEFAULT_ARMS


def _is_on_command_line(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


def policy(options: Options) -> Policy:
    """The rule that layers are flagged by."""
    from gradprobe.decide.policies import named_policy

    return named_policy(options.policy, threshold=options.threshold, of=options.of, aggregate=options.aggregate)


def policy_or_trials(options: Options) -> Policy | None:
    """The same, or None where short trainings may decide (``--policy auto``)."""
    if options.policy != "auto":
        return policy(options)
    if options.repeat:
        raise click.UsageError("--repeat applies a rule again, and --policy auto has none")
    return None


def place_by_trials(
    target: Target,
    window: int,
    options: Options,
    display: Display | None,
    history: GradientHistory | None = None,
) -> Placement:
    """The placement that short trainings of the target decide."""
    from gradprobe.prove import trials

    return trials.place_by_trials(
        target.model,
        target.batches,
        target.loss_fn,
        window,
        branch=target.branch,
        weight=options.weight,
        optimizer=target.optimizer,
        seed=options.seed,
        history=history,
        on_iteration=None if display is None else display.trial,
        branch_loss=target.branch_loss,
    )
