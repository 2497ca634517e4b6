"""The options that several commands share, in groups, and the values they were given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from gradprobe.cli.parameters import BranchKind, Finite, arm_names, sizes
from gradprobe.decide.causes.finding import CAUSES, FINDINGS
from gradprobe.record.branches import BRANCH_NAMES
from gradprobe.record.quantities import QUANTITIES
from gradprobe.runs.folder import RUNS

# spelled out here, because --help must not wait for torch or pandas; a test holds them equal to the originals
METRICS = ("accuracy", "dice", "mean_iou", "loss")

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Options:
    """What the options of a command were set to; an option that the command does not have keeps its default."""

    # how long to train, and how often
    iterations: int = 50
    window: int = 50
    seeds: int = 1
    schedule: str = "cnds"
    metric: str | None = None
    layers: tuple[str, ...] = ()
    # how layers are flagged
    policy: str = "threshold"
    threshold: float | None = None
    of: str = "output"
    aggregate: str = "median"
    # the branches
    branch: str = "auto"
    weight: float = 0.3
    repeat: bool = False
    # several arms
    arms: tuple[str, ...] | None = None
    engine: str | None = None
    jobs: int | None = None
    # the data and the training
    data: str | None = None
    input_size: tuple[int, ...] | None = None
    classes: int = 10
    batch_size: int = 32
    lr: float | None = None
    seed: int = 0
    device: str | None = None
    # the result
    out: Path | None = None
    force: bool = False
    form: str = "table"
    every_layer: bool = False
    quiet: bool = False
    fail_on: tuple[str, ...] = ()


def _group(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


COUNT = click.IntRange(min=1)
POSITIVE = Finite(min=0, min_open=True)
ITERATIONS = click.option(
    "--iterations", type=COUNT, default=Options.iterations, show_default=True, help="Iterations to record."
)
LAYERS = click.option(
    "--layers",
    multiple=True,
    metavar="NAME",
    help="Record these layers alone: a name or a shell pattern ('encoder.*'). May be given several times.",
)
FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default=Options.form,
    show_default=True,
    help="What is printed to standard output.",
)
ALL = click.option(
    "--all", "every_layer", is_flag=True, help="Every layer in the table or tree, also where there are many."
)
_POLICY_HELP = (
    "How layers are flagged: below an absolute magnitude (threshold, also called cnds), or relative to the layer "
    "with the largest gradient. every: none is, and every supervision point gets a branch. branches: where they "
    "are usual for the kind of network. auto: what the diagnosis asks for"
)


def _policy(more_help: str) -> Callable[[Command], Command]:
    return click.option(
        "--policy",
        type=click.Choice(["threshold", "cnds", "relative", "every", "branches", "auto"]),
        default=Options.policy,
        show_default=True,
        help=_POLICY_HELP + more_help,
    )


_RULE = _group(
    click.option(
        "--threshold",
        type=POSITIVE,
        help="Flag below this: 1e-7 by default, with --policy relative a ratio, 1e-4 by default.",
    ),
    click.option(
        "--of",
        type=click.Choice(QUANTITIES),
        default=Options.of,
        show_default=True,
        help="Decide by the gradient of each layer's output or of its weight.",
    ),
    click.option(
        "--aggregate",
        type=click.Choice(["median", "mean", "min", "max", "first", "last"]),
        default=Options.aggregate,
        show_default=True,
        help="How the iterations become one magnitude.",
    ),
)
POLICY = _group(_policy(", from the record alone."), _RULE)
POLICY_OR_TRIALS = _group(_policy("; what it leaves open is decided by short trainings."), _RULE)
BRANCH = _group(
    click.option(
        "--branch",
        type=BranchKind(),
        default=Options.branch,
        show_default=True,
        metavar="KIND",
        help=f"Kind of auxiliary classifier: {', '.join(BRANCH_NAMES)}; or module:callable, a function "
        "(point_shape, output_shape) -> module.",
    ),
    click.option(
        "--weight",
        type=Finite(min=0),
        default=Options.weight,
        show_default=True,
        help="First weight of the branches.",
    ),
    click.option("--repeat", is_flag=True, help="Apply the policy again with the branches in place."),
)
METRIC = click.option(
    "--metric",
    type=click.Choice(METRICS),
    help="What is measured on held-out data.  [default: `metric` of TARGET, else accuracy where the output has a "
    "score for each class, else loss]",
)
ARMS_OPTIONS = _group(
    click.option(
        "--arms",
        callback=arm_names,
        metavar="ARM,...",
        help="Compare several at once, with a table, and say which one to use: none, cnds, repeated, relative, "
        "every, branches, auto (policies), diagnosis (the remedy that it names), kaiming, xavier, lsuv, "
        "within_channel, orthogonal, residual_scaled, learning_rate, clipping, normalised (remedies).  "
        "[default: none,diagnosis,branches]",
    ),
    click.option(
        "--engine",
        type=click.Choice(["serial", "processes", "ray"]),
        help="Where the trainings of --arms run: one by one, several in processes of their own, or on the Ray "
        "cluster that is running.  [default: serial; with --jobs processes]",
    ),
    click.option("--jobs", type=COUNT, help="How many of them at a time.  [default: one for each core]"),
)
DATA = _group(
    click.option(
        "--data", help="digits, FILE.npz (arrays x and y) or module:callable. Default: what TARGET defines."
    ),
    click.option(
        "--input-size", callback=sizes, metavar="C,H,W", help="Synthetic data of this size, or of digits."
    ),
    click.option(
        "--classes",
        type=click.IntRange(min=2),
        default=Options.classes,
        show_default=True,
        help="Of synthetic data.",
    ),
    click.option(
        "--batch-size",
        type=COUNT,
        default=Options.batch_size,
        show_default=True,
        help="Of data that --data cuts into batches.",
    ),
    click.option("--lr", type=POSITIVE, help="Learning rate of the default SGD."),
    click.option(
        "--seed", type=click.IntRange(min=0), default=Options.seed, show_default=True, help="Of every generator."
    ),
    click.option("--device", help="Move the model there, for instance cuda.  [default: where it is]"),
)
OUT = _group(
    click.option("--out", type=click.Path(path_type=Path), help=f"Folder of the run.  [default: {RUNS}/NAME]"),
    click.option("--force", is_flag=True, help="Replace an existing run."),
    FORMAT,
    ALL,
    click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks on standard error."),
)


def fail_on(where: str) -> Callable[[Command], Command]:
    """The option that turns a finding into an exit code; ``where`` is the word for it in the help."""
    text = f"End with exit code 3 if this is {where}. May be given several times."
    return click.option(
        "--fail-on", multiple=True, type=click.Choice(list(dict.fromkeys((*FINDINGS, *CAUSES)))), help=text
    )


FAIL_ON = fail_on("found")
