"""How single options and arguments are read: numbers, sizes, names of arms, files and runs with completion."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from gradprobe.record.branches import BRANCH_NAMES
from gradprobe.runs.folder import RUNS, is_run, runs_in


def sizes(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """The whole numbers in ``3,224,224`` or ``3x224x224``."""
    if value is None:
        return None
    try:
        numbers = tuple(int(part) for part in value.replace("x", ",").split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"expected whole numbers such as 3,224,224, got {value!r}")
    return numbers


def arm_names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """The arms in ``none,cnds,lsuv``."""
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


class BranchKind(StringParamType):
    """A kind of branch by its name, or ``module:callable`` for a function that builds branches."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """The name as it is."""
        kind = str(value)
        if kind not in BRANCH_NAMES and ":" not in kind:
            self.fail(
                f"expected one of {', '.join(BRANCH_NAMES)}, or module:callable, got {kind!r}", parameter, context
            )
        return kind

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names that begin like this."""
        return _starting_with(incomplete, BRANCH_NAMES)


class RunFolder(click.Path):
    """A run's folder, or its name in `RUNS`; a shell completes to those, else as for any folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        """The folder: of a name that is no path from here, the one in `RUNS`."""
        folder = Path(os.fsdecode(super().convert(value, parameter, context)))
        named = RUNS / folder
        return named if not is_run(folder) and is_run(named) else folder

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The runs whose path begins like this."""
        runs = sorted(map(str, runs_in(RUNS)))
        return [CompletionItem(incomplete, type="dir"), *_starting_with(incomplete, runs)]


class PythonFile(StringParamType):
    """A TARGET or SCRIPT; a shell completes to Python files, or as for any file where a folder's name fits too."""

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The Python files whose path begins like this."""
        paths = sorted(glob.glob(f"{glob.escape(incomplete)}*"))  # noqa: PTH207 (keeps "./" as it was typed)
        scripts = [] if any(map(os.path.isdir, paths)) else [path for path in paths if path.endswith(".py")]
        return [CompletionItem(incomplete, type="file"), *_starting_with(incomplete, scripts)]


def _starting_with(incomplete: str, names: Sequence[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
