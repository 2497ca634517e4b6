"""The network as a tree in a terminal, with its supervision points; of a large one an excerpt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from gradprobe.record.points import Points
from gradprobe.record.text import counted

MOST_LINES = 40  # of a tree that a person reads
Inside = Mapping[str, Sequence[str]]


def points_tree(points: Points, kinds: Mapping[str, str], *, every_module: bool = False) -> RenderableType:
    """The network as a tree of its modules, with its supervision points and the layer that each one serves.

    Args:
        points: The points.
        kinds: Class name of every module, by name, in the order in which to show them.
        every_module: All of them, also where they are more than a person reads; else the first and the last of
            many in one module stand for the others.
    """
    lines = _lines(points, kinds)
    inside = _inside(lines)
    most = len(lines) if every_module else _most(inside)
    root = Tree(Text(points.summary()))
    shown = _grow(root.add(lines[""]) if "" in lines else root, inside, lines, points.unserved, most)
    hidden = len(lines) - shown - ("" in lines)
    if not hidden:
        return root
    counts = f"{hidden} of {len(lines)} modules are not shown"
    return Group(root, Text(f"{counts}: --all shows them, and --format csv every layer"))


def _lines(points: Points, kinds: Mapping[str, str]) -> dict[str, Text]:
    """What to say of each module to show: the layers, the points, and what these are in."""
    point_of = {name: point.name for point in points for name in point.layers}
    shapes = {point.name: point.shape for point in points}
    told = {*point_of, *shapes, *points.unserved}
    shown = told | {name.rsplit(".", count)[0] for name in told for count in range(name.count(".") + 1)}
    found = {}
    for name in (name for name in kinds if name in shown):
        text = found[name] = Text(f"{name.rpartition('.')[2] or '(root)'} {kinds[name]}")
        if name in shapes:
            text.append(f" \N{BLACK CIRCLE} {shapes[name]}", style="bold green")
        if name in points.unserved:
            text.append(f" no point: {points.unserved[name]}", style="dim")
        elif name in point_of and not f"{name}.".startswith(f"{point_of[name]}."):
            text.append(f" \N{RIGHTWARDS ARROW} {point_of[name]}", style="green")
    return found


def _inside(names: Iterable[str]) -> Inside:
    """The modules by the name of the one that holds them."""
    found: dict[str, list[str]] = {}
    for name in filter(None, names):
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def _most(inside: Inside) -> int:
    """How many modules of each may be shown, so that the tree fits."""
    return next((most for most in range(MOST_LINES, 1, -1) if _count(inside, "", most) <= MOST_LINES), 1)


def _count(inside: Inside, name: str, most: int) -> int:
    """Lines below a module."""
    first, hidden, last = _cut(inside.get(name, ()), most)
    return sum(1 + _count(inside, child, most) for child in (*first, *last)) + bool(hidden)


def _cut(names: Sequence[str], most: int) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """The first ones, those to leave out, and the last ones; a single one is not left out."""
    if len(names) <= most + 1:
        return names, (), ()
    first, last = (most + 1) // 2, len(names) - most // 2
    return names[:first], names[first:last], names[last:]


def _grow(
    tree: Tree, inside: Inside, lines: Mapping[str, Text], unserved: Collection[str], most: int, name: str = ""
) -> int:
    """Hang what is in a module below it; gives the number of modules shown."""
    first, hidden, last = _cut(inside.get(name, ()), most)
    shown = sum(1 + _grow(tree.add(lines[child]), inside, lines, unserved, most, child) for child in first)
    if hidden:
        tree.add(Text(_left_out(inside, hidden, unserved), style="dim"))
    return shown + sum(1 + _grow(tree.add(lines[child]), inside, lines, unserved, most, child) for child in last)


def _left_out(inside: Inside, names: Sequence[str], unserved: Collection[str]) -> str:
    within = [below for name in names for below in _with_all(inside, name)]
    pointless = sum(name in unserved for name in within)
    said = f", {counted(pointless, 'layer')} in them without a point" if pointless else ""
    return f"\N{HORIZONTAL ELLIPSIS} {len(names)} more{said}"


def _with_all(inside: Inside, name: str) -> list[str]:
    """A module and all that is in it."""
    return [name, *(below for child in inside.get(name, ()) for below in _with_all(inside, child))]
