"""Supervision points: the module outputs that can feed a branch. Plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gradprobe.record.files.fields import count, fields, integer, optional, text, tuple_of
from gradprobe.record.html import block, layer_names, table, title
from gradprobe.record.text import counted, printable, shorten

_INPUT = ":input"  # after the name of a module: what it is called with


@dataclass(frozen=True)
class Point:
    """A supervision point: a module whose output, or whose input, can feed a branch.

    Attributes:
        name: Name of the module whose output is taken; with ``:input`` after it, what this module is called with
            is taken: a sum that no module returns, as in ``h = h + block(h)``.
        shape: Shape of that tensor, as recorded.
        depth: Depth of the served layer nearest the output.
        layers: Names of the layers it serves, in depth order.
        channels: Axis of the channels in the shape, where the layers show it.
        tensor: Which of the tensors that the module returns, or is called with; 0 for the first.
        batch: Axis of the samples in the shape, where the layers show it.

    Example:
        >>> point = Point("blocks.1:input", (8, 16), 3, ("blocks.0.fc",))
        >>> point.module, point.is_input
        ('blocks.1', True)
    """

    name: str
    shape: tuple[int, ...]
    depth: int
    layers: tuple[str, ...]
    channels: int | None = None
    tensor: int = 0
    batch: int | None = None

    @property
    def module(self) -> str:
        """Name of the module."""
        return module_of(self.name)

    @property
    def is_input(self) -> bool:
        """Whether it is the module's input that is taken."""
        return is_input(self.name)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Point:
        """Build a point from its JSON form; runs of earlier versions have fewer fields."""
        return cls(**fields(record, _FIRST, _LATER))


_FIRST = {"name": text, "shape": tuple_of(count), "depth": count, "layers": tuple_of(text)}
_LATER = {"channels": optional(integer), "tensor": count, "batch": optional(integer)}


def place(point: Point) -> str:
    """Where a branch is, in words.

    Example:
        >>> place(Point("act", (8, 16), 3, ("fc",))), place(Point("blocks.1:input", (8, 16), 3, ("blocks.0.fc",)))
        ('after act', 'at the input of blocks.1')
    """
    name = shorten(point.module, 40)
    return f"at the input of {name}" if point.is_input else f"after {name}"


def input_of(module: str) -> str:
    """The name of a point at a module's input.

    Example:
        >>> input_of("blocks.1"), is_input(input_of("blocks.1")), module_of("blocks.1:input")
        ('blocks.1:input', True, 'blocks.1')
    """
    return f"{module}{_INPUT}"


def is_input(name: str) -> bool:
    """Whether a point of this name is at a module's input."""
    return name.endswith(_INPUT)


def module_of(name: str) -> str:
    """The name of the module at whose output or input a point of this name is."""
    return name.removesuffix(_INPUT)


class Points(tuple[Point, ...]):
    """Supervision points in forward order, and why every other layer has none.

    Attributes:
        unserved: The reason for each layer that no point serves, by name.

    Example:
        >>> unserved = {"fc": "it makes the network's output"}
        >>> points = Points([Point("act", (8, 4, 5, 5), 1, ("conv", "norm"))], unserved)
        >>> print(points)
        1 point serves 2 layers; 1 layer has none
        act (8, 4, 5, 5): conv, norm
        no point for fc: it makes the network's output
        >>> points[0].name, points.unserved["fc"]
        ('act', "it makes the network's output")
    """

    unserved: Mapping[str, str]

    def __new__(cls, points: Iterable[Point] = (), unserved: Mapping[str, str] | None = None) -> Points:
        """Keep both."""
        self = super().__new__(cls, points)
        self.unserved = dict(unserved or {})
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.unserved

    def __str__(self) -> str:
        lines = [self.summary()]
        for point in self:
            names = ", ".join(shorten(name, 40) for name in point.layers)
            lines.append(f"{shorten(point.name, 40)} {point.shape}: {names}")
        lines += [f"no point for {shorten(name, 40)}: {why}" for name, why in self.unserved.items()]
        return printable("\n".join(lines))

    def _repr_html_(self) -> str:
        return points_html(self)

    def summary(self) -> str:
        """How many there are, in a sentence."""
        served, left = sum(len(point.layers) for point in self), len(self.unserved)
        unserved = f"; {counted(left, 'layer has', 'layers have')} none" if left else ""
        return f"{counted(len(self), 'point serves', 'points serve')} {counted(served, 'layer')}{unserved}"


def points_html(points: Points) -> str:
    """Supervision points, and why the other layers have none."""
    rows = [(point.name, point.shape, layer_names(point.layers)) for point in points]
    unserved = table(("no point for", "why"), list(points.unserved.items()))
    return block([title(points.summary()), table(("point", "shape", "serves"), rows), unserved])
