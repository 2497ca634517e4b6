"""Which seed a script gave torch, apart from those that torch or a library drew by chance."""

from __future__ import annotations

import functools
import sys
from types import FrameType
from typing import Any

from gradprobe.script.execute import is_foreign


class SeedListener:
    """Remembers the seed of `torch.manual_seed` while it is on; `remove` puts the function back.

    Example:
        >>> import torch
        >>> listener = SeedListener()
        >>> exec(compile("torch.manual_seed(5)", "train.py", "exec"))
        >>> found = listener.seed
        >>> _ = torch.seed()
        >>> found, listener.seed
        (5, None)
        >>> listener.remove()
    """

    def __init__(self) -> None:
        self._given: int | None = None
        random: Any = sys.modules["torch.random"]
        self._original = original = random.manual_seed

        @functools.wraps(original)
        def manual_seed(seed: Any) -> Any:
            generator = original(seed)
            self._given = int(seed) if _is_given(int(seed), sys._getframe(1)) else None
            return generator

        self._wrapper = manual_seed
        random.manual_seed = manual_seed
        if hasattr(sys.modules.get("torch"), "manual_seed"):
            vars(sys.modules["torch"])["manual_seed"] = manual_seed

    @property
    def seed(self) -> int | None:
        """The seed that the script set, if torch's numbers are still drawn from it."""
        if self._given is None:
            return None
        initial = sys.modules["torch.random"].initial_seed()
        return self._given if initial == self._given % 2**64 else None

    def remove(self) -> None:
        """Put the function back."""
        for name in ("torch", "torch.random"):
            namespace = vars(sys.modules[name])
            if namespace.get("manual_seed") is self._wrapper:
                namespace["manual_seed"] = self._original


def _is_given(seed: int, frame: FrameType | None) -> bool:
    """Whether the script itself calls with this seed, or a library that the script gave it to."""
    library: FrameType | None = None
    while frame is not None and is_foreign(frame.f_code.co_filename):
        library, frame = frame, frame.f_back
    if library is None or frame is None:
        return frame is not None
    code = library.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    arguments = [library.f_locals.get(name) for name in code.co_varnames[:count]]
    return any(_is(value, seed) or _is(getattr(value, "__dict__", {}).get("seed"), seed) for value in arguments)


def _is(value: object, seed: int) -> bool:
    return isinstance(value, int) and value == seed
