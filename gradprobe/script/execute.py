"""Run a training script in this interpreter as ``python`` would, and say how it ended. Needs no torch."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import os
import runpy
import sys
import sysconfig
import threading
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, cast

from gradprobe.script.stop import Stopped, stoppable, wait_for_threads

STOPPING = 5.0  # seconds that another thread has to end in, when the script is stopped
INTERRUPTED = 130  # the exit code of a shell's command after Ctrl-C
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_PACKAGE = str(Path(__file__).parents[1]) + os.sep


@dataclass(frozen=True)
class Script:
    """What to run.

    Attributes:
        target: A file, a folder or archive with a ``__main__.py``, or with ``module`` the name of a module.
        args: The script's own arguments.
        module: Run it as ``python -m`` does.
        kind: What it is, in a word.
    """

    target: str
    args: tuple[str, ...] = ()
    module: bool = False
    kind: str = "script"

    @property
    def name(self) -> str:
        """What to call its runs.

        Example:
            >>> Script("examples/train.py").name, Script("package.train", module=True).name
            ('train', 'train')
        """
        name = self.target.rpartition(".")[2] if self.module else Path(self.target).resolve().stem
        return printable(name)

    @property
    def exists(self) -> bool:
        """Whether there is such a file; modules are looked for when they are run."""
        return self.module or Path(self.target).exists()


@dataclass(frozen=True)
class Ending:
    """How a script ended.

    Attributes:
        code: The exit code that ``python`` would give; 130 after Ctrl-C.
        words: The same in words: what follows "the script".
        stopped: Whether `Stopped` ended it.
        trains_on: Whether it has not ended.
    """

    code: int
    words: str
    stopped: bool = False
    trains_on: bool = False


def printable(name: str) -> str:
    r"""A name that can be printed and be a file's: what no encoding has, and slashes, become underscores.

    Example:
        >>> printable("net\udcff/a"), printable("train")
        ('net__a', 'train')
    """
    kept = (char if char.isprintable() and char not in "/\\" else "_" for char in name)
    return "".join(kept).strip(".") or "_"


def shown_text(text: str) -> str:
    r"""A text that every encoding of Unicode can write: a lone surrogate, of a file's name for instance, cannot.

    Example:
        >>> shown_text("train \udcff")
        'train ?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def execute(script: Script) -> Ending:
    """Run a script to its end, with its own ``__main__``, arguments and import path.

    If it fails, its own traceback is printed. What it replaces of ``sys.argv``, ``sys.path``, the streams,
    ``sys.exit`` and ``sys.excepthook`` is put back. Threads that the interpreter would wait for are waited for.

    Raises:
        SystemExit: In a process that the script has forked, so that this process ends here.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "three.py"
        ...     _ = file.write_text("import sys; sys.exit(3)")
        ...     execute(Script(str(file))).code
        3
    """
    process = os.getpid()
    with _as_main(script):
        ending = _ending(script)
    if os.getpid() != process:
        raise SystemExit(ending.code)
    return ending


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute, and put back what was there."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _as_main(script: Script) -> Iterator[None]:
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __doc__=None)
    before = sys.modules["__main__"]
    path = list(sys.path)
    if not getattr(sys.flags, "safe_path", False):  # from Python 3.11 on
        path[:1] = [_first_on_path(script)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(sys, "argv", ["-m" if script.module else script.target, *script.args]))
        stack.enter_context(replaced(sys, "path", path))
        for name in ("exit", "stdin", "stdout", "stderr", "excepthook"):
            stack.enter_context(replaced(sys, name, getattr(sys, name)))
        sys.modules["__main__"] = main
        exits = atexit._ncallbacks()
        try:
            yield
        finally:
            if atexit._ncallbacks() > exits:  # the last one in is the first to be called
                atexit.register(_back_in_script, main, list(sys.argv))
            sys.modules["__main__"] = before


def _back_in_script(main: types.ModuleType, arguments: list[str]) -> None:
    """Before what the script has registered with ``atexit``, which may pickle and look at its arguments."""
    sys.modules["__main__"], sys.argv = main, arguments


def _first_on_path(script: Script) -> str:
    if script.module:
        return str(Path.cwd())
    return os.path.realpath(script.target if _holds_main(script) else Path(script.target).resolve().parent)


def _holds_main(script: Script) -> bool:
    """Whether it is a folder or an archive, in which ``python`` looks for a ``__main__.py``."""
    return Path(script.target).is_dir() or zipfile.is_zipfile(script.target)


def _ending(script: Script) -> Ending:
    before = set(threading.enumerate())
    try:
        with stoppable():
            _start(script)
        wait_for_threads(before)
        return Ending(0, "ended")
    except BaseException as error:
        ending = _ending_by(error)
    if ending.stopped:
        wait_for_threads(before, STOPPING)  # those that train end with their next step
    return ending


def _ending_by(error: BaseException) -> Ending:
    if any(isinstance(link, Stopped) for link in _chain(error)):  # by it, or by what the script made of it
        return Ending(0, "was stopped", stopped=True)
    if isinstance(error, SystemExit):
        code = _exit_code(error)
        return Ending(code, f"ended with exit code {code}" if code else "ended")
    code = _print_traceback(error)
    if isinstance(error, KeyboardInterrupt):
        return Ending(INTERRUPTED, "was interrupted")
    return Ending(code, f"failed ({type(error).__name__})")


def _start(script: Script) -> None:
    if script.module or _holds_main(script):
        # the function that `python -m` itself calls, for the same messages and the same frames in a traceback
        run = cast(Any, runpy)._run_module_as_main
        run(script.target if script.module else "__main__", script.module)
        return
    file = str(Path.cwd() / script.target)
    with io.open_code(file) as stream:
        code = compile(stream.read(), file, "exec", dont_inherit=True)
    namespace = vars(sys.modules["__main__"])
    namespace.update(__file__=file, __loader__=SourceFileLoader("__main__", file), __cached__=None)
    exec(code, namespace)


def _exit_code(error: SystemExit) -> int:
    """The exit code that the interpreter takes; anything but a number is a message, which is printed."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return (error.code if abs(error.code) < 2**63 else -1) & 0xFF
    _write_error(f"{error.code}\n")
    return 1


def _write_error(text: str) -> None:
    """Write to standard error, if the script has left one."""
    with contextlib.suppress(Exception):
        (sys.stderr or cast(Any, sys.__stderr__)).write(text)


def is_gradprobe_file(file: str) -> bool:
    """Whether a file is one of gradprobe's own.

    Example:
        >>> is_gradprobe_file(__file__), is_gradprobe_file("train.py")
        (True, False)
    """
    return file.startswith(_PACKAGE)


def is_foreign(file: str) -> bool:
    """Whether a file is not the script's own: a library's, or gradprobe's.

    Example:
        >>> is_foreign(threading.__file__), is_foreign("train.py")
        (True, False)
    """
    return file.startswith(("<", *_LIBRARIES)) or "site-packages" in file or is_gradprobe_file(file)


def _print_traceback(error: BaseException) -> int:
    """Hand an uncaught error to ``sys.excepthook``, as the interpreter would, without gradprobe's frames in it.

    Returns:
        The exit code: 1, unless the hook itself exits with another one.
    """
    _hide_gradprobe(error)
    hook = getattr(sys, "excepthook", None)
    try:
        if hook is None:
            _write_error("sys.excepthook is missing\n")
        (hook or sys.__excepthook__)(type(error), error, error.__traceback__)
    except SystemExit as exit_:
        return _exit_code(exit_)
    except BaseException as second:
        _hide_gradprobe(second)
        second.__context__ = None  # in the interpreter the first error is not being handled any more
        _write_error("Error in sys.excepthook:\n")
        sys.__excepthook__(type(second), second, second.__traceback__)
        _write_error("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, error.__traceback__)
    return 1


def _hide_gradprobe(error: BaseException) -> None:
    for link in _chain(error):
        link.__traceback__ = _without_gradprobe(link.__traceback__)


def _chain(error: BaseException) -> list[BaseException]:
    """The error, its causes, the errors that were being handled, and those of a group."""
    chain: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        link = ahead.pop()
        if isinstance(link, BaseException) and all(link is not other for other in chain):
            chain.append(link)
            ahead += [link.__cause__, link.__context__, *getattr(link, "exceptions", ())]
    return chain


def _without_gradprobe(trace: types.TracebackType | None) -> types.TracebackType | None:
    steps = []
    while trace is not None:
        steps.append(trace)
        trace = trace.tb_next
    remaining: types.TracebackType | None = None
    for step in reversed(steps):
        if not is_gradprobe_file(step.tb_frame.f_code.co_filename):
            remaining = types.TracebackType(remaining, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return remaining
