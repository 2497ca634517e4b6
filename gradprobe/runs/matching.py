"""Which layer of one run is which layer of another: by name, else by kind, size and place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import SequenceMatcher

from gradprobe.record.history import Layer


def form(layer: Layer) -> tuple[str, int]:
    """Kind and size: what identifies a layer whose name is another one."""
    return layer.kind, layer.parameters


def same_layers(first: Sequence[Layer], second: Sequence[Layer]) -> dict[str, str]:
    """For each layer of the second run the one of the first run, both by name; new layers are absent.

    Example:
        >>> first = [Layer("0", 0, "Linear", 9), Layer("2", 1, "Linear", 9), Layer("4", 2, "Linear", 5)]
        >>> shifted = [Layer("0", 0, "Linear", 9), Layer("3", 1, "Linear", 9), Layer("6", 2, "Linear", 5)]
        >>> same_layers(first, shifted)
        {'0': '0', '3': '2', '6': '4'}
    """
    old, new = ({layer.name for layer in layers} for layers in (first, second))
    if old != new and [*map(form, first)] == [*map(form, second)]:
        pairs = [(a.name, b.name) for a, b in zip(first, second, strict=True)]
        if all(_may_be_renamed(a, b, old, new) for a, b in pairs):
            return {b: a for a, b in pairs}
    common = old & new
    matched = {name: name for name in common}
    gaps = _gaps(first, common)
    for anchor, added in _gaps(second, common).items():
        matched.update(_same_forms(gaps.get(anchor, []), added))
    return {layer.name: matched[layer.name] for layer in second if layer.name in matched}


def _may_be_renamed(before: str, after: str, old: Collection[str], new: Collection[str]) -> bool:
    """A name that both runs have stays with its layer, unless only numbers were shifted, as in a Sequential."""
    return before == after or (before not in new and after not in old) or _words(before) == _words(after)


def _words(name: str) -> list[str]:
    return [part for part in name.split(".") if not part.isdigit()]


def _gaps(layers: Sequence[Layer], common: Collection[str]) -> dict[str | None, list[Layer]]:
    """The layers that only one run has, by the last layer before them that both have."""
    gaps: dict[str | None, list[Layer]] = {}
    anchor = None
    for layer in layers:
        if layer.name in common:
            anchor = layer.name
        else:
            gaps.setdefault(anchor, []).append(layer)
    return gaps


def _same_forms(removed: Sequence[Layer], added: Sequence[Layer]) -> dict[str, str]:
    matcher = SequenceMatcher(None, [*map(form, removed)], [*map(form, added)], autojunk=False)
    return {
        added[block.b + i].name: removed[block.a + i].name
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    }
