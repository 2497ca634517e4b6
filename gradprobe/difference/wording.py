"""A difference in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gradprobe.history import shorten
from gradprobe.magnitude import label, short
from gradprobe.wording import counted, few

if TYPE_CHECKING:
    from gradprobe.difference.record import Difference, LayerChange

MOST_ROWS = 40


def report(found: Difference) -> Iterator[str]:
    """The lines of the report: which layers changed, what is newly found, what else is different."""
    changed = found.changed
    between = f"from {found.names[0]} to {found.names[1]}"
    if not changed:
        spread = extent([layer.ratio for layer in found.layers if layer.ratio is not None])
        yield f"no layer changed {between}" + (f": all are {spread} times what they were" if spread else "")
    else:
        yield f"{len(changed)} of {counted(len(found.layers), 'layer')} changed {between}"
        yield f"{label(found.of)}, median over the iterations; changes beyond {found.factor:g} times"
        yield from _table(changed)
    for title, kinds in (("newly", found.new), ("no longer", found.gone)):
        yield from (f"{title} {kind}: {some(names)}" for kind, names in kinds.items())
    if found.renamed:
        pairs = [f"{shorten(old, 40)} to {shorten(new, 40)}" for old, new in found.renamed.items()]
        yield f"renamed: {few(pairs, 5)}"
    if found.conditions:
        yield "different conditions: " + "; ".join(_condition(*item) for item in found.conditions.items())
    yield from found.remarks


def _table(changed: Sequence[LayerChange]) -> Iterator[str]:
    width = max(len("layer"), *(len(shorten(layer.name, 24)) for layer in changed[:MOST_ROWS]))
    yield f"{'layer':<{width}} {'was':>12} {'now':>10} {'times':>11}"
    for layer in changed[:MOST_ROWS]:
        ratio = "" if layer.ratio is None else short(layer.ratio)
        numbers = f"{_number(layer.first):>12} {_number(layer.second):>10} {ratio:>11}"
        yield f"{shorten(layer.name, 24):<{width}} {numbers}  {', '.join(_words_for(layer))}"
    if len(changed) > MOST_ROWS:
        yield f"… and {len(changed) - MOST_ROWS} more"


def _words_for(layer: LayerChange) -> Iterator[str]:
    if layer.change:
        said = {"lost": "no gradient any more", "found": "has a gradient now"}
        yield said.get(layer.change, layer.change)
    yield from (f"newly {kind}" for kind in layer.new)
    yield from (f"no longer {kind}" for kind in layer.gone)
    if layer.before is not None and layer.replaced:
        yield f"was {layer.before.kind} with {layer.before.parameters} parameters"


def _number(value: float | None) -> str:
    return "none" if value is None else "nan, inf" if math.isinf(value) else short(value)


def extent(ratios: Collection[float | None]) -> str:
    """The smallest and the largest of those that are there."""
    known = sorted(ratio for ratio in ratios if ratio is not None)
    if not known:
        return ""
    low, high = short(known[0]), short(known[-1])
    return low if low == high else f"{low} to {high}"


def some(names: Sequence[str]) -> str:
    """The first layers, and how many more there are."""
    return few([shorten(name, 40) for name in names], 5)


def _condition(name: str, values: tuple[Any, Any]) -> str:
    was, now = ("none" if value is None else str(value) for value in values)
    return f"{name.replace('_', ' ')} {was}, now {now}"
