"""Where a running script made each of its modules: the lines that its functions were at."""

from __future__ import annotations

import functools
import sys
import weakref
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from gradprobe.script.execute import is_foreign


@dataclass(frozen=True)
class Place:
    """A line that a function of the script was at.

    Attributes:
        code: The function, or the module's own code.
        line: The number of the line.
    """

    code: CodeType
    line: int


class Births:
    r"""Notes where modules are made while it is on; `remove` puts ``nn.Module.__init__`` back.

    A copy and a module out of a pickle are made without that: of these nothing is known.

    Attributes:
        any: Whether the script has made a module.

    Example:
        >>> import torch
        >>> births = Births()
        >>> names = {"torch": torch}
        >>> source = "def build():\n    return torch.nn.Linear(1, 1)\nnet = build()"
        >>> exec(compile(source, "train.py", "exec"), names)
        >>> [place.line for place in births.of(names["net"])]
        [3, 2]
        >>> births.remove()
        >>> births.of(torch.nn.Linear(1, 1))
        ()
    """

    def __init__(self) -> None:
        self.any = False
        self._known: dict[int, tuple[weakref.ref[Any], tuple[Place, ...]]] = {}
        self._class: Any = sys.modules["torch.nn.modules.module"].Module
        self._original = original = self._class.__init__
        torch: Any = sys.modules["torch"]

        @functools.wraps(original)
        def init(module: Any, *args: Any, **kwargs: Any) -> None:
            original(module, *args, **kwargs)
            compiler = getattr(torch, "compiler", None)  # not there yet while torch is being imported
            if compiler is not None and not compiler.is_compiling():
                self._note(module, sys._getframe(1))

        self._wrapper = init
        self._class.__init__ = init

    def of(self, module: Any) -> tuple[Place, ...]:
        """The places in the script at the time when a module was made, the outermost first; empty if not known."""
        reference, places = self._known.get(id(module), (None, ()))
        return places if reference is not None and reference() is module else ()

    def remove(self) -> None:
        """Put the constructor back."""
        if self._class.__init__ is self._wrapper:
            self._class.__init__ = self._original

    def _note(self, module: Any, frame: FrameType | None) -> None:
        places = []
        while frame is not None:
            if not _is_foreign(frame.f_code.co_filename):
                places.append(Place(frame.f_code, frame.f_lineno))
            if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__":
                break
            frame = frame.f_back
        self.any = self.any or bool(places)
        name = id(module)
        reference = weakref.ref(module, lambda _: self._known.pop(name, None))
        self._known[name] = (reference, tuple(reversed(places)))


_is_foreign = functools.lru_cache(maxsize=None)(is_foreign)
