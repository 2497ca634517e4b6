"""Standard output and standard error: progress, the user's own prints, and errors in one sentence."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import click

FAILED, FOUND, INTERRUPTED = 1, 3, 130


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn what goes wrong into one sentence and an exit code."""
    try:
        yield
    except KeyboardInterrupt as error:
        click.echo(
            "Interrupted: what was recorded is kept." if hasattr(error, "history") else "Interrupted.",
            err=True,
        )
        raise SystemExit(INTERRUPTED) from None
    except click.ClickException:
        raise
    except Exception as error:
        from gradprobe.target import user_code

        click.echo(f"Error: {error if _is_ours(error) else user_code(error)}", err=True)
        raise SystemExit(FAILED) from None


def _is_ours(error: BaseException) -> bool:
    """Whether we raised it ourselves, so that its message is meant for the user as it is."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    # gradprobe.entries only passes the user's calls on
    return raised_in.split(".")[0] == "gradprobe" and raised_in != "gradprobe.entries"


@contextlib.contextmanager
def user_output() -> Iterator[None]:
    """Standard output is for the result: what the user's code prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def progress(quiet: bool, steps: dict[str, int]) -> Iterator[Callable[[str, int], None]]:
    """Progress bars on standard error, one for each of the steps, where that is a terminal.

    Args:
        quiet: No bars at all.
        steps: How many iterations each step has, by its description.

    Yields:
        A function that takes a description and the number of iterations done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        tasks = {name: progress.add_task(name, total=total) for name, total in steps.items()}
        yield lambda name, done: progress.update(tasks[name], completed=done)
