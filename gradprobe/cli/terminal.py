"""Standard output and standard error: progress, the user's own prints, and errors in one sentence."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from gradprobe.cli.progress import Display
    from gradprobe.decide.policies import Policy

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
        from gradprobe.cli.user_modules import user_code

        said = "\n".join([str(error), *getattr(error, "__notes__", [])]) if _is_ours(error) else user_code(error)
        click.echo(f"Error: {said}", err=True)
        raise SystemExit(FAILED) from None


def _is_ours(error: BaseException) -> bool:
    """Whether we raised it ourselves, so that its message is meant for the user as it is."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    # gradprobe.network.input_tracker only passes the user's calls on
    return raised_in.split(".")[0] == "gradprobe" and raised_in != "gradprobe.network.input_tracker"


@contextlib.contextmanager
def user_output() -> Iterator[None]:
    """Standard output is for the result: what the user's code prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def console(*, stderr: bool = False) -> Console:
    """Standard output or error for rich text, plain where it is no terminal; ``NO_COLOR`` and ``TERM`` count."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


@contextlib.contextmanager
def shown(quiet: bool, policy: Policy | None, what: str, trainings: int = 1) -> Iterator[Display | None]:
    """Show a training on standard error while it runs: live in a terminal, else one line, or nothing if quiet.

    Args:
        quiet: Nothing at all.
        policy: Whose quantity and threshold to show; None shows those of CNDS' rule.
        what: What is done, in a few words.
        trainings: How many trainings there will be, at most.

    Yields:
        What to call after each iteration, or None.
    """
    terminal = console(stderr=True)
    # FORCE_COLOR makes rich take a log file for a terminal
    if quiet or not (terminal.is_interactive and terminal.file.isatty()):
        if not quiet:
            click.echo(what, err=True)
        yield None
        return
    from gradprobe.cli.progress import Display

    with Display(terminal, policy, trainings) as display:
        yield display
