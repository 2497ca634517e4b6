"""The options that several commands share, in groups."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

RUNS = Path("gradprobe_runs")
# spelt out here, because --help must not wait for torch; a test holds them equal to the originals
BRANCHES = ("auto", "cnds", "pooled", "dense", "native", "token", "shared", "svm")
FINDINGS = ("vanishing", "exploding", "nonfinite", "unreached")
QUANTITIES = ("output", "weight")

Command = TypeVar("Command", bound=Callable[..., Any])


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _sizes(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        sizes = tuple(int(part) for part in value.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"expected whole numbers such as 3,224,224, got {value!r}")
    return sizes


def _arms(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    from gradprobe.verdict.arm import chosen_arms

    try:
        return chosen_arms(name.strip() for name in value.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


class Finite(click.FloatRange):
    """A number in a range that is neither infinite nor NaN."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, parameter, context))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value}", parameter, context)
        return number


class RunFolder(click.Path):
    """A run's folder; a shell completes to those in `RUNS`, else as for any folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The runs that begin so."""
        runs = sorted(str(file.parent) for file in RUNS.glob("*/run.json"))
        return [CompletionItem(incomplete, type="dir"), *_beginning(runs, incomplete)]


class PythonFile(StringParamType):
    """A TARGET or SCRIPT; a shell completes to Python files, or as for any file where a folder begins so too."""

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The Python files that begin so."""
        found = sorted(glob.glob(f"{glob.escape(incomplete)}*"))  # noqa: PTH207 (keeps "./" as it was typed)
        scripts = [] if any(map(os.path.isdir, found)) else [name for name in found if name.endswith(".py")]
        return [CompletionItem(incomplete, type="file"), *_beginning(scripts, incomplete)]


def _beginning(names: Sequence[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


POSITIVE = Finite(min=0, min_open=True)
FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="What is printed to standard output.",
)
_RULES = (
    "How layers are flagged: below an absolute magnitude (CNDS), or relative to the best-fed layer. "
    "every: none is, and every supervision point gets a branch."
)


def _policy(*more: str, said: str = "") -> Callable[[Command], Command]:
    names = ["threshold", "relative", "every", *more]
    return click.option(
        "--policy", type=click.Choice(names), default="threshold", show_default=True, help=_RULES + said
    )


_RULE = _options(
    click.option(
        "--threshold",
        type=POSITIVE,
        help="Flag below this: 1e-7 by default, with --policy relative a ratio, 1e-4 by default.",
    ),
    click.option(
        "--of",
        type=click.Choice(QUANTITIES),
        default="output",
        show_default=True,
        help="Decide by the gradient of each layer's output or of its weight.",
    ),
    click.option(
        "--aggregate",
        type=click.Choice(["median", "mean", "min", "max", "first", "last"]),
        default="median",
        show_default=True,
        help="How the iterations become one magnitude.",
    ),
)
POLICY = _options(_policy(), _RULE)
POLICY_OR_TRIALS = _options(
    _policy("auto", said=" auto: by short trainings of several remedies and placements."), _RULE
)
COUNT = click.IntRange(min=1)
ARMS_OPTIONS = _options(
    click.option(
        "--arms",
        callback=_arms,
        metavar="ARM,...",
        help="Compare several at once, with a table, and say which one to use: none, cnds, repeated, relative, "
        "every, auto (policies), kaiming, lsuv, normalised (remedies).",
    ),
    click.option(
        "--engine",
        type=click.Choice(["serial", "processes", "ray"]),
        help="Where the trainings of --arms run: one by one, several in processes of their own, or on the Ray "
        "cluster that is running.  [default: serial; with --jobs processes]",
    ),
    click.option("--jobs", type=COUNT, help="How many of them at a time.  [default: one for each core]"),
)
ALL = click.option(
    "--all", "every_layer", is_flag=True, help="Every layer in the table or tree, also where there are many."
)
DATA = _options(
    click.option(
        "--data", help="digits, FILE.npz (arrays x and y) or module:callable. Default: what TARGET defines."
    ),
    click.option(
        "--input-size", callback=_sizes, metavar="C,H,W", help="Synthetic data of this size, or of digits."
    ),
    click.option(
        "--classes", type=click.IntRange(min=2), default=10, show_default=True, help="Of synthetic data."
    ),
    click.option("--batch-size", type=COUNT, default=32, show_default=True, help="Of data that --data cuts."),
    click.option("--lr", type=POSITIVE, help="Learning rate of the default SGD."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every generator."),
    click.option("--device", help="Move the model there, for instance cuda.  [default: where it is]"),
)
OUT = _options(
    click.option("--out", type=click.Path(path_type=Path), help=f"Folder of the run.  [default: {RUNS}/NAME]"),
    click.option("--force", is_flag=True, help="Replace an existing run."),
    FORMAT,
    ALL,
    click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks on standard error."),
)


def fail_on(said: str) -> Callable[[Command], Command]:
    """The option that turns a finding into an exit code, where it is ``said`` of the finding."""
    text = f"End with exit code 3 if this is {said}. May be given several times."
    return click.option("--fail-on", multiple=True, type=click.Choice(FINDINGS), help=text)


FAIL_ON = fail_on("found")
BRANCH = _options(
    click.option(
        "--branch",
        type=click.Choice(BRANCHES),
        default="auto",
        show_default=True,
        help="Kind of auxiliary classifier.",
    ),
    click.option(
        "--weight",
        type=Finite(min=0),
        default=0.3,
        show_default=True,
        help="First weight of the branches.",
    ),
    click.option("--repeat", is_flag=True, help="Apply the policy again with the branches in place."),
)
