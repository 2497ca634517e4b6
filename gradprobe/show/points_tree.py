"""The network as a tree in a terminal, with its supervision points; of a large one an excerpt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from gradprobe.record.points import Points
from gradprobe.record.text import counted

MAX_LINES = 40  # of an excerpt
Children = Mapping[str, Sequence[str]]


def points_tree(points: Points, kinds: Mapping[str, str], *, every_module: bool = False) -> RenderableType:
    """The network as a tree of its modules, with its supervision points and the layer that each one serves.

    Args:
        points: The points.
        kinds: Class name of every module, by name, in the order in which to show them.
        every_module: All of them, however many there are; else of a large network what is inside the points is
            left out, and where a module still holds many, all but the first and the last of them.
    """
    lines = _lines(points, kinds)
    children = _children(lines)
    shown = children if every_module else _excerpt(children, points)
    outline = _Outline(lines, children, shown, points.unserved, len(lines) if every_module else _most(shown))
    root = Tree(Text(points.summary()))
    count = outline.grow(root.add(lines[""]) if "" in lines else root, "")
    hidden = len(lines) - count - ("" in lines)
    if not hidden:
        return root
    counts = f"{hidden} of {len(lines)} modules are not shown"
    return Group(root, Text(f"{counts}: --all shows them, and --format csv every layer"))


def _lines(points: Points, kinds: Mapping[str, str]) -> dict[str, Text]:
    """The line of each module to show: the layers, the points, and the modules that hold these."""
    point_of = {name: point.name for point in points for name in point.layers}
    at_module = {point.module: point for point in points if not point.is_input}
    at_input = {point.module: point for point in points if point.is_input}
    named = {*point_of, *at_module, *at_input, *points.unserved}
    shown = named | {name.rsplit(".", count)[0] for name in named for count in range(name.count(".") + 1)}
    lines = {}
    for name in (name for name in kinds if name in shown):
        text = lines[name] = Text(f"{name.rpartition('.')[2] or '(root)'} {kinds[name]}")
        if name in at_input:
            text.append(f" \N{WHITE CIRCLE} its input {at_input[name].shape}", style="bold green")
        if name in at_module:
            text.append(f" \N{BLACK CIRCLE} {at_module[name].shape}", style="bold green")
        if name in points.unserved:
            text.append(f" no point: {points.unserved[name]}", style="dim")
        elif name in point_of and not f"{name}.".startswith(f"{point_of[name]}."):
            text.append(f" \N{RIGHTWARDS ARROW} {point_of[name]}", style="green")
    return lines


def _children(names: Iterable[str]) -> Children:
    """The modules by the name of the one that holds them."""
    children: dict[str, list[str]] = {}
    for name in filter(None, names):
        children.setdefault(name.rpartition(".")[0], []).append(name)
    return children


def _excerpt(children: Children, points: Points) -> Children:
    """The tree, if it fits; else without what is inside modules that hold no point, first where all are served.

    If that does not fit either, of what is inside a point only other points are left.
    """
    at_points = {point.module for point in points}
    with_point, with_reason = _holders(at_points), _holders(points.unserved)
    kept = (set(children), with_point | with_reason, with_point if points else with_reason)
    trees = [{name: held for name, held in children.items() if name in names or not name} for names in kept]
    trees.append(
        {
            name: [child for child in held if child in at_points | with_point or not _is_in(name, at_points)]
            for name, held in trees[2].items()
        }
    )
    return next((tree for tree in trees if _count(tree, "", MAX_LINES) <= MAX_LINES), trees[1])


def _is_in(name: str, modules: Collection[str]) -> bool:
    """Whether a module is one of these or inside one."""
    return any(name.rsplit(".", count)[0] in modules for count in range(name.count(".") + 1))


def _holders(names: Iterable[str]) -> set[str]:
    """All modules that hold one of these."""
    return {name.rsplit(".", count)[0] for name in names for count in range(1, name.count(".") + 1)}


def _most(children: Children) -> int:
    """How many modules may be shown below each, so that the tree fits."""
    return next((most for most in range(MAX_LINES, 1, -1) if _count(children, "", most) <= MAX_LINES), 1)


def _count(children: Children, name: str, most: int) -> int:
    """Lines below a module."""
    first, hidden, last = _cut(children.get(name, ()), most)
    return sum(1 + _count(children, child, most) for child in (*first, *last)) + bool(hidden)


def _cut(names: Sequence[str], most: int) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """The first ones, those to leave out, and the last ones; a single one is not left out."""
    if len(names) <= most + 1:
        return names, (), ()
    first, last = (most + 1) // 2, len(names) - most // 2
    return names[:first], names[first:last], names[last:]


@dataclass(frozen=True)
class _Outline:
    """What the tree shows: the line of each module, its children, those to show, and how many of them at most."""

    lines: Mapping[str, Text]
    all_children: Children
    children: Children
    unserved: Collection[str]
    most: int

    def grow(self, tree: Tree, name: str) -> int:
        """Add the children of a module to its branch of the tree; returns the number of modules added."""
        first, hidden, last = _cut(self.children.get(name, ()), self.most)
        shown = self._add(tree, first)
        if hidden:
            tree.add(Text(self._left_out(hidden), style="dim"))
        return shown + self._add(tree, last)

    def _add(self, tree: Tree, names: Sequence[str]) -> int:
        return sum(1 + self.grow(tree.add(self._line(name)), name) for name in names)

    def _line(self, name: str) -> Text:
        shown = self.children.get(name, ())
        inside = [
            module
            for child in self.all_children.get(name, ())
            if child not in shown
            for module in self._with_all(child)
        ]
        if not inside:
            return self.lines[name]
        more = " more" if shown else ""
        note = f" \N{HORIZONTAL ELLIPSIS} {len(inside)}{more} inside{self._without_point(inside)}"
        return self.lines[name].copy().append(note, style="dim")

    def _left_out(self, names: Sequence[str]) -> str:
        inside = [module for name in names for module in self._with_all(name)]
        return f"\N{HORIZONTAL ELLIPSIS} {len(names)} more{self._without_point(inside)}"

    def _without_point(self, names: Sequence[str]) -> str:
        count = sum(name in self.unserved for name in names)
        return f", {counted(count, 'layer')} without a point" if count else ""

    def _with_all(self, name: str) -> list[str]:
        """A module and all that is in it."""
        return [name, *(module for child in self.all_children.get(name, ()) for module in self._with_all(child))]
