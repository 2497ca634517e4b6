"""From a command's options to objects: the target, its data and policy, and the folder of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradprobe.cli.options import RUNS
from gradprobe.cli.terminal import user_output

if TYPE_CHECKING:
    from gradprobe.cli.progress import Display
    from gradprobe.cli.target import Target
    from gradprobe.decide.policies import Policy
    from gradprobe.record.history import GradientHistory
    from gradprobe.record.placement import Placement
    from gradprobe.runs.run import Run


def saved(folder: Path) -> Run:
    """The run in a folder."""
    from gradprobe.runs.run import load

    try:
        return load(folder)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def folder(out: Path | None, target: str, force: bool, suffix: str = "") -> Path:
    """Where the run goes: a folder that is free, or any with ``--force``; by default one that the target names."""
    from gradprobe.runs.folder import check_free, free_folder

    where, _, attribute = target.rpartition(":")
    stem = f"{Path(where).stem}-{attribute}" if where else Path(target).stem
    chosen = out or (RUNS / (stem + suffix) if force else free_folder(RUNS, stem + suffix))
    try:
        check_free(chosen, force=force)
    except OSError as error:
        raise click.UsageError(str(error)) from error
    return chosen


def target(name: str, options: dict[str, Any]) -> Target:
    """The model, batches, loss and optimizer of a TARGET, seeded, with ``--lr`` and on ``--device``."""
    from dataclasses import replace

    import torch

    # all of ours before the target's folder is on the import path: it may hold a matplotlib.py
    import gradprobe.cli.progress
    import gradprobe.runs.run  # noqa: F401
    from gradprobe.cli.data import DataOptions
    from gradprobe.cli.target import load_target
    from gradprobe.network.preserve import seed_everything

    # once and before the import: the numbers are those of a script that begins with torch.manual_seed
    seed_everything(options["seed"])
    of_data = ("data", "input_size", "classes", "batch_size")
    with user_output():
        loaded = load_target(name, DataOptions(**{option: options[option] for option in of_data}))
    lr = options["lr"]
    if lr is not None and loaded.optimizer is not None:
        raise click.UsageError("--lr is for the default SGD, but the target defines its own optimizer")
    if lr is not None:
        loaded = replace(loaded, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=lr))
    if options["device"] is not None:
        loaded = _moved(loaded, options["device"])
    return loaded


def _moved(loaded: Target, device: str) -> Target:
    from dataclasses import replace

    try:
        model = loaded.model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise click.UsageError(f"--device {device}: {str(error).splitlines()[0]}") from error
    build = loaded.build
    return replace(loaded, model=model, build=build and (lambda: build().to(device)))


def conditions(loaded: Target, options: dict[str, Any]) -> dict[str, Any]:
    """What the command knows of the conditions that a record is taken under."""
    return {"target": loaded.name, "data": loaded.data, "seed": options["seed"]}


def engine(arms: Sequence[str] | None, name: str | None, jobs: int | None) -> str:
    """The engine that several arms are trained on."""
    context = click.get_current_context()
    given = [
        option
        for option in ("policy", "repeat", "threshold", "of", "aggregate")
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE
    ]
    if arms is None and (name or jobs):
        option = "--engine" if name else "--jobs"
        raise click.UsageError(f"{option} is for several arms: add --arms none,cnds,auto,kaiming,lsuv")
    if arms is not None and given:
        raise click.UsageError(
            f"--{given[0]} is for a single policy, and --arms names its own: cnds, repeated, relative, every, auto"
        )
    if name == "serial" and jobs:
        raise click.UsageError("--jobs is for --engine processes or ray: serial trains one after the other")
    return name or ("processes" if jobs else "serial")


def policy(options: dict[str, Any]) -> Policy:
    """The rule that layers are flagged by."""
    from gradprobe.decide.policies import EveryLayerPolicy, RelativePolicy, ThresholdPolicy

    shared = {"of": options["of"], "aggregate": options["aggregate"]}
    if options["policy"] == "every":
        return EveryLayerPolicy()
    if options["policy"] == "relative":
        return RelativePolicy(options["threshold"] or RelativePolicy.ratio, **shared)
    return ThresholdPolicy(options["threshold"] or ThresholdPolicy.threshold, **shared)


def policy_or_trials(options: dict[str, Any]) -> Policy | None:
    """The same, or None where short trainings decide (``--policy auto``)."""
    if options["policy"] != "auto":
        return policy(options)
    if options["repeat"]:
        raise click.UsageError("--repeat applies a rule again, and --policy auto has none")
    return None


def placed_by_trials(
    loaded: Target,
    window: int,
    options: dict[str, Any],
    display: Display | None,
    history: GradientHistory | None = None,
) -> Placement:
    """The placement that short trainings of the target decide."""
    from gradprobe.prove.trials import place_by_trials

    return place_by_trials(
        loaded.model,
        loaded.batches,
        loaded.loss_fn,
        window,
        branch=options["branch"],
        weight=options["weight"],
        optimizer=loaded.optimizer,
        seed=options["seed"],
        history=history,
        on_iteration=None if display is None else display.trial,
    )
