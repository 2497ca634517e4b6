"""The user's own modules: a file or a name in, a module out, and errors in it with the user's own traceback."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from gradprobe.prove import jobs
from gradprobe.tracebacks import own_frames

_FROM_FILE = "__gradprobe_target__"  # the name of a module that is made from a file begins with it


class TargetError(Exception):
    """The user's own code raised: the message is their error, with their frames of the traceback."""


def split_target(spec: str) -> tuple[str, str | None]:
    """Where a module is, and the attribute of it, if one is named.

    Example:
        >>> split_target("model.py:net"), split_target("package.module")
        (('model.py', 'net'), ('package.module', None))
    """
    where, _, attribute = spec.rpartition(":")
    if where and attribute.isidentifier():
        return where, attribute
    return spec, None


def import_module(where: str) -> ModuleType:
    """The module in a file, or of a name.

    Raises:
        click.UsageError: If there is none.
        TargetError: If it raised while it was imported.
    """
    return _import_file(where) if where.endswith(".py") else _import_named(where)


def _import_file(where: str) -> ModuleType:
    path = Path(where)
    if not path.is_file():
        near = sorted(file.name for file in path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = f"; there is {', '.join(near[:5])}" if near else ""
        raise click.UsageError(f"{where}: no such file{hint}")
    # as `python model.py` does, so that it can import its neighbours
    sys.path.insert(0, str(path.parent.resolve()))
    name = _FROM_FILE + re.sub(r"\W", "_", str(path.resolve()))  # one for each file, and no package
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look it up there
    run_user(lambda: spec.loader.exec_module(module), f"{where} failed while it was imported")  # type: ignore[union-attr]
    return module


def _import_named(where: str) -> ModuleType:
    if not all(part.isidentifier() for part in where.split(".")):
        raise click.UsageError(f"{where}: expected model.py, model.py:attr or package.module:attr")
    sys.path.insert(0, str(Path.cwd()))
    try:
        exists = importlib.util.find_spec(where) is not None
    except ModuleNotFoundError:
        exists = False
    if not exists:
        raise click.UsageError(f"{where}: no such file or module (a file needs its .py)")
    module: ModuleType = run_user(lambda: importlib.import_module(where), f"{where} failed while it was imported")
    return module


def named_value(option: str, spec: str, loaded: Mapping[str, ModuleType], expected: str) -> tuple[ModuleType, Any]:
    """The value that an option names as ``module:attribute``, and the module that defines it.

    Args:
        option: Its name, for messages.
        spec: What it was given.
        loaded: Modules that are imported already, by where they are: a file is not run twice.
        expected: What the option takes, for messages.

    Raises:
        click.UsageError: If there is no such attribute.
        TargetError: If the module raised while it was imported.
    """
    from gradprobe.network.layers import no_such_name  # not above: errors of scripts are shown without torch

    where, attribute = split_target(spec)
    if attribute is None:
        raise click.UsageError(f"{option} {spec}: expected {expected}")
    module = loaded[where] if where in loaded else import_module(where)
    value = getattr(module, attribute, None)
    if value is None:
        missing = no_such_name("attribute", attribute, public_names(module))
        raise click.UsageError(f"{option} {where}: {missing}")
    return module, value


def run_user(call: Callable[[], Any], what: str) -> Any:
    """Make a call into the user's code; what it raises becomes a `TargetError` that begins with ``what``.

    It sees no arguments of the command line: those are gradprobe's, and a parser in a script would refuse them.
    """
    arguments = sys.argv[1:]
    try:
        del sys.argv[1:]
        return call()
    except (click.ClickException, KeyboardInterrupt):
        raise
    except SystemExit as error:
        hint = "guard the training with `if __name__ == '__main__':`"
        raise TargetError(f"{what}: it called sys.exit({error.code!r}); {hint}") from error
    except Exception as error:
        raise TargetError(f"{what}\n{user_traceback(error)}") from error
    finally:
        sys.argv[1:] = arguments


def user_traceback(error: BaseException) -> str:
    """An error with its traceback, without the frames of gradprobe and of libraries."""
    frames = own_frames(error)
    head = ["Traceback (of your code):\n", *traceback.format_list(frames)] if frames else []
    return "".join([*head, *traceback.format_exception_only(type(error), error)]).rstrip()


def pickle_target_by_value() -> None:
    """Let other processes unpickle what the user's files define: they cannot import a file by its name."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_FROM_FILE):
            jobs.pickle_by_value(module)


def public_names(module: ModuleType) -> dict[str, Any]:
    """The attributes of a module by name, without those that begin with an underscore."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def first_defined(module: ModuleType, names: tuple[str, ...]) -> Any:
    """The first of these attributes that a module has and that is not None, or None."""
    return next((value for name in names if (value := getattr(module, name, None)) is not None), None)
