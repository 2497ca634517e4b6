"""Supervision points: the module outputs that can feed a branch. Plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gradprobe.record.html import block, layer_names, table, title
from gradprobe.record.text import counted, shorten


@dataclass(frozen=True)
class Point:
    """A supervision point: a module whose output can feed a branch.

    Attributes:
        name: Name of the module whose output is taken.
        shape: Shape of that output, batch dimension first, as recorded.
        depth: Depth of the served layer nearest the output.
        layers: Names of the layers it serves, in depth order.
        channels: Axis of the channels in the shape, where the layers show it.
    """

    name: str
    shape: tuple[int, ...]
    depth: int
    layers: tuple[str, ...]
    channels: int | None = None

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Point:
        """Build a point from its JSON form."""
        shape, layers = tuple(record["shape"]), tuple(record["layers"])
        return cls(record["name"], shape, record["depth"], layers, record.get("channels"))


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
        return "\n".join(lines)

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
