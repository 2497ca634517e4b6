"""What the frames of a running script tell: its own names for things, and the lines it is at."""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from torch import nn
from torch.optim import Optimizer

from gradprobe.network.layers import unwrap
from gradprobe.script.source import Site, SourceLine, built_at

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def script_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of the script itself, innermost first: not those of libraries, nor ours."""
    ours = str(Path(__file__).parents[1])
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(("<", ours, *_LIBRARIES)) and "site-packages" not in file:
            yield frame
        if frame.f_globals.get("__name__") == "__main__" and frame.f_code.co_name == "<module>":
            return
        frame = frame.f_back


def composer(optimizer: Optimizer, frame: FrameType | None) -> Optimizer | None:
    """The optimizer in whose constructor this one is built: it steps by letting this one step."""
    while frame is not None and frame.f_code.co_name == "__init__":
        this = frame.f_locals.get("self")
        if isinstance(this, Optimizer) and this is not optimizer:
            return this
        frame = frame.f_back
    return None


def named(model: nn.Module, frames: Iterable[FrameType]) -> Site | None:
    """The script's name for a model, and where it is assigned; outer functions first, where it is built."""
    found: Site | None = None
    for frame in reversed(list(frames)):
        for name in _names(model, frame):
            built = built_at(source(frame), file_name(frame), name, frame.f_lineno)
            if built is not None:
                return Site(name, built)
            found = found or Site(name)
    return found


def names_of(model: nn.Module, frame: FrameType) -> list[str]:
    """What the code of a frame can call a model by: variables, attributes of ``self`` and global names."""
    bare = unwrap(model)
    outer = [(name, value) for name, value in frame.f_globals.items() if name not in frame.f_locals]
    return _names(model, frame) + [
        name for name, value in outer if issubclass(type(value), nn.Module) and unwrap(value) is bare
    ]


def _names(model: nn.Module, frame: FrameType) -> list[str]:
    bare, known = unwrap(model), list(frame.f_locals.items())
    known += [
        (f"{name}.{part}", value)
        for name, owner in known
        for part, value in getattr(owner, "__dict__", {}).items()
        if name == "self" and isinstance(part, str)
    ]
    return [name for name, value in known if issubclass(type(value), nn.Module) and unwrap(value) is bare]


def source(frame: FrameType) -> str:
    """The text of the file that a frame runs."""
    return "".join(linecache.getlines(frame.f_code.co_filename))


def file_name(frame: FrameType) -> str:
    """The name of that file."""
    return Path(frame.f_code.co_filename).name


def place_of(frame: FrameType) -> SourceLine:
    """The line that a frame is at."""
    return SourceLine(file_name(frame), frame.f_lineno)
