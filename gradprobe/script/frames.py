"""Read from the frames of a running script its own names for things, and the lines it is at."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import cast

from torch import nn
from torch.optim import Optimizer

from gradprobe.network.layers import unwrap
from gradprobe.script.execute import is_foreign
from gradprobe.script.source import Site, SourceLine, built_at, is_loop_variable


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


def site_of(model: nn.Module, frames: Iterable[FrameType]) -> Site | None:
    """The script's name for a model, and where it is assigned; outer functions first, where it is built.

    ``self`` is no name: every model is called so in its own methods. A loop's variable names one after the other,
    so that the class says more, unless it is one of torch's containers.
    """
    own_class = not type(unwrap(model)).__module__.startswith("torch.nn")
    first: Site | None = None
    for frame in reversed(list(frames)):
        for name in _local_names(model, frame):
            if name == "self":
                continue
            built = built_at(source(frame), file_name(frame), name, frame.f_lineno)
            if built is not None:
                return Site(name, built)
            if not (own_class and is_loop_variable(source(frame), name, frame.f_lineno)):
                first = first or Site(name)
    return first


def names_of(model: nn.Module, frame: FrameType) -> list[str]:
    """What the code of a frame can call a model by: variables, attributes of ``self`` and global names."""
    names = [name for name, value in frame.f_globals.items() if name not in frame.f_locals and _is(value, model)]
    return _local_names(model, frame) + names


def _local_names(model: nn.Module, frame: FrameType) -> list[str]:
    attributes = getattr(frame.f_locals.get("self"), "__dict__", {})
    values = dict(frame.f_locals) | {f"self.{name}": value for name, value in attributes.items()}
    return [name for name, value in values.items() if _is(value, model)]


def _is(value: object, model: nn.Module) -> bool:
    """Whether a value is the model, wrapped or not."""
    # type() and not isinstance(), for which a lazy proxy would create the object that it stands for
    return issubclass(type(value), nn.Module) and unwrap(cast(nn.Module, value)) is unwrap(model)


def source(frame: FrameType) -> str:
    """The text of the file that a frame runs."""
    return "".join(linecache.getlines(frame.f_code.co_filename))


def file_name(frame: FrameType) -> str:
    """The name of the file that a frame runs."""
    return Path(frame.f_code.co_filename).name


def current_line(frame: FrameType) -> SourceLine:
    """The line that a frame is at."""
    return SourceLine(file_name(frame), frame.f_lineno)
