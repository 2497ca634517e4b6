"""Standard output and standard error: progress, the user's own prints, and errors in one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gradprobe.cli.options import Options
from gradprobe.record.text import printable
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
        say("Interrupted: what was recorded is kept." if kept else "Interrupted.")
        raise SystemExit(INTERRUPTED) from None
    except click.ClickException as error:
        vars(error)["message"] = in_lines(printable(error.message), before="Error: ")
        raise
    except Exception as error:
        say(f"Error: {_message(error)}")
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
    from gradprobe.show.console import PrintableConsole

    return PrintableConsole(stderr=stderr, highlight=False)


def say(sentence: str) -> None:
    """Print a sentence for a person on standard error, if anybody reads it: a closed one costs no training."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(in_lines(printable(sentence)), err=True)


def in_lines(text: str, before: str = "") -> str:
    """A text whose lines a terminal on standard error need not break within a word; as it is where it is none.

    Args:
        text: Sentences, or a traceback, whose indented lines stay as they are.
        before: What will stand before it on the first line.
    """
    if not sys.stderr.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    lines = [line if line.startswith(" ") else _filled(line, columns) for line in (before + text).split("\n")]
    return "\n".join(lines).removeprefix(before)


def _filled(line: str, columns: int) -> str:
    return (
        textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False)
        if len(line) > columns
        else line
    )


def write(text: str, *, to_stderr: bool = False) -> None:
    """Print a result on standard output or error: exactly, but for what a terminal would obey."""
    stream = sys.stderr if to_stderr else sys.stdout
    click.echo(printable(text) if stream.isatty() else text, nl=not text.endswith("\n"), err=to_stderr)


@contextlib.contextmanager
def printing(kept: object = None) -> Iterator[None]:
    """Print a result: a character that the stream's encoding does not have is escaped, a closed pipe is no error.

    Args:
        kept: The folder that holds what was saved, if anything was.

    Raises:
        click.ClickException: If it cannot be printed for another reason.
    """
    with every_character():
        try:
            yield
            sys.stdout.flush()
        except OSError as error:
            flush_or_drop(sys.stdout)
            if isinstance(error, BrokenPipeError):  # who reads it has seen enough
                return
            where = "" if kept is None else f"; the run is kept in {kept}"
            raise click.ClickException(f"the result cannot be printed: {error.strerror}{where}") from error


@contextlib.contextmanager
def every_character() -> Iterator[None]:
    """Escape what the encoding of standard output or error does not have, as a name or a sign of ours."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [(stream, stream.errors) for stream in streams]
    try:
        _reconfigure([(stream, "backslashreplace") for stream in streams])
        yield
    finally:
        _reconfigure(before)


def _reconfigure(streams: list[tuple[io.TextIOWrapper, str | None]]) -> None:
    for stream, errors in streams:
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors=errors)


def flush_or_drop(stream: Any) -> None:
    """Write what waits in a stream; what cannot be written would fail again, and change the exit code."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


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
            say(task)
        yield None
        return
    from gradprobe.cli.progress import Display

    with Display(terminal, policy, trainings) as display:
        yield display
