"""Read from the frames of a running script its own names for things, and the lines it is at."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from gradprobe.network.layers import unwrap
from gradprobe.script.execute import is_foreign


def script_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of the script itself, innermost first: not those of libraries or of gradprobe."""
    while frame is not None:
        if not is_foreign(frame.f_code.co_filename):
            yield frame
        if frame.f_globals.get("__name__") == "__main__" and frame.f_code.co_name == "<module>":
            return
        frame = frame.f_back


def outer_optimizer(optimizer: Optimizer, frame: FrameType | None) -> Optimizer | None:
    """The optimizer in whose constructor this one is built: it steps by letting this one step."""
    while frame is not None and frame.f_code.co_name == "__init__":
        this = frame.f_locals.get("self")
        if isinstance(this, Optimizer) and this is not optimizer:
            return this
        frame = frame.f_back
    return None


def library_of(frame: FrameType | None) -> str:
    """The library that the script's innermost function has called, by its package; empty if it called none.

    torch does not count: its optimizers and scalers step where the script says so.
    """
    called = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if not is_foreign(file):
            return called
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        called = "" if package in ("torch", "gradprobe", "accelerate", "contextlib") else package
        frame = frame.f_back
    return ""


def names_of(value: object, frame: FrameType) -> list[str]:
    """What the code of a frame can call an object by: variables, attributes of ``self`` and global names.

    A model counts wrapped or not. ``self`` is no name: every model is called so in its own methods.
    """
    return local_names(value, frame) + [
        name for name, one in frame.f_globals.items() if name not in frame.f_locals and is_same(one, value)
    ]


def local_names(value: object, frame: FrameType) -> list[str]:
    """The same without the global names of other files' code."""
    attributes = getattr(frame.f_locals.get("self"), "__dict__", {})
    submodules = attributes.get("_modules") or {}
    values = dict(frame.f_locals) | {f"self.{name}": one for name, one in {**attributes, **submodules}.items()}
    return [name for name, one in values.items() if name != "self" and is_same(one, value)]


def is_same(value: object, model: object) -> bool:
    """Whether a value is the object; of a model, wrapped or not."""
    # type() and not isinstance(), for which a lazy proxy would create the object that it stands for
    if isinstance(model, nn.Module) and issubclass(type(value), nn.Module):
        return unwrap(cast(nn.Module, value)) is unwrap(model)
    return value is model


def value_of(name: str, frame: FrameType) -> object:
    """What a name out of `names_of` stands for."""
    first, _, attribute = name.partition(".")
    value = frame.f_locals.get(first, frame.f_globals.get(first))
    if not attribute:
        return value
    attributes: Mapping[str, Any] = getattr(value, "__dict__", {})
    return attributes.get(attribute, (attributes.get("_modules") or {}).get(attribute))


def tensor_names(frame: FrameType) -> list[str]:
    """The names that hold a tensor there, or a container with one."""
    return [name for name, value in {**frame.f_globals, **frame.f_locals}.items() if _has_tensor(value)]


def _has_tensor(value: object) -> bool:
    if issubclass(type(value), Tensor):
        return not issubclass(type(value), nn.Parameter)
    if isinstance(value, Mapping):
        return any(issubclass(type(one), Tensor) for one in value.values())
    is_short = type(value) in (list, tuple) and len(cast(Sequence[object], value)) < 100
    return is_short and any(issubclass(type(one), Tensor) for one in cast(Iterable[object], value))


def source(frame: FrameType) -> str:
    """The text of the file that a frame runs."""
    return source_of(frame.f_code.co_filename)


def source_of(file: str) -> str:
    """The text of a file that was run."""
    return "".join(linecache.getlines(file))


def file_name(frame: FrameType) -> str:
    """The name of the file that a frame runs."""
    return Path(frame.f_code.co_filename).name
