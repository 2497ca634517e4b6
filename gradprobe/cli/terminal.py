"""Standard output and standard error: progress, the user's own prints, and errors in one sentence."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gradprobe.cli.options import Options
from gradprobe.script.execute import INTERRUPTED
from gradprobe.tracebacks import raised_by_gradprobe

if TYPE_CHECKING:
    from rich.console import Console

    from gradprobe.cli.progress import Display
    from gradprobe.decide.policies import Policy

FAILED, FOUND = 1, 3  # exit codes


@contextlib.contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn an error into a sentence on standard error and an exit code."""
    try:
        yield
    except KeyboardInterrupt as error:
        kept = hasattr(error, "history")
        click.echo("Interrupted: what was recorded is kept." if kept else "Interrupted.", err=True)
        raise SystemExit(INTERRUPTED) from None
    except click.ClickException:
        raise
    except Exception as error:
        click.echo(f"Error: {_message(error)}", err=True)
        raise SystemExit(FAILED) from None


def _message(error: Exception) -> str:
    if raised_by_gradprobe(error):
        return "\n".join([str(error), *getattr(error, "__notes__", [])])
    from gradprobe.cli.user_modules import user_traceback

    return user_traceback(error)


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Standard output is for the result: what the user's code prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def console(*, stderr: bool = False) -> Console:
    """Standard output or error for rich text, plain where it is no terminal; ``NO_COLOR`` and ``TERM`` count."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


@contextlib.contextmanager
def progress_display(
    options: Options, policy: Policy | None, task: str, trainings: int = 1
) -> Iterator[Display | None]:
    """Show a training on standard error: live in a terminal, else in one line, with ``--quiet`` not at all.

    Args:
        options: Those of the command.
        policy: Whose quantity and threshold to show; None shows those of CNDS' rule.
        task: What is done, in a few words.
        trainings: How many trainings there will be, at most.

    Yields:
        What to call after each iteration, or None.
    """
    terminal = console(stderr=True)
    # FORCE_COLOR makes rich take a log file for a terminal
    if options.quiet or not (terminal.is_interactive and terminal.file.isatty()):
        if not options.quiet:
            click.echo(task, err=True)
        yield None
        return
    from gradprobe.cli.progress import Display

    with Display(terminal, policy, trainings) as display:
        yield display
