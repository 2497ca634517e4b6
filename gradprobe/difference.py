"""What changed between two runs: which layers, by how much, and what else is different. Plain data, no torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pandas as pd

from gradprobe.history import GradientHistory, Layer, as_tuples, shorten
from gradprobe.magnitude import label, short
from gradprobe.policies import FINDINGS, findings, place
from gradprobe.run import Run

CHANGES = ("up", "down", "lost", "found", "added", "removed")
ALIKE = 2.0  # ratios that differ by less than this count as one factor
MOST_ROWS = 40
# what follows from the record itself, or is there for the figures
_NO_CONDITION = {"losses", "skipped", "complete", "window", "ranks", "stats", "inputs"}


@dataclass(frozen=True)
class LayerChange:
    """One layer in both runs, or in one of them.

    Attributes:
        before: The layer in the first run, or None if it is new.
        after: The layer in the second run, or None if it is gone.
        first: Its magnitude in the first run, median over the iterations; None if no gradient arrived, infinite
            if it was NaN or infinite in most of them.
        second: The same in the second run.
        change: One of `CHANGES`, or empty: ``up`` and ``down`` by more than the factor, ``lost`` where no gradient
            arrives any more, ``found`` where one does now.
        new: Findings that the first run did not have: ``vanishing``, ``exploding``, ``nonfinite``, ``unreached``.
        gone: Findings that the second run does not have any more.
    """

    before: Layer | None
    after: Layer | None
    first: float | None
    second: float | None
    change: str
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name, in the second run if it is there."""
        return (self.after or self.before).name  # type: ignore[union-attr]

    @property
    def renamed(self) -> bool:
        """Whether it has another name in the second run."""
        return self.before is not None and self.after is not None and self.before.name != self.after.name

    @property
    def replaced(self) -> bool:
        """Whether it is of another kind or size in the second run."""
        return self.before is not None and self.after is not None and _form(self.before) != _form(self.after)

    @property
    def ratio(self) -> float | None:
        """Second magnitude over the first; None unless both are finite and above zero."""
        if not self.first or not self.second or math.isinf(self.first) or math.isinf(self.second):
            return None
        return self.second / self.first

    @property
    def changed(self) -> bool:
        """Whether anything but the name is different."""
        return bool(self.change or self.new or self.gone or self.replaced)

    def record(self) -> dict[str, Any]:
        """Plain JSON types; an infinite magnitude is the text ``inf``."""
        return {
            "layer": self.name,
            "was": None if self.before is None else self.before.name,
            "kind": (self.after or self.before).kind,  # type: ignore[union-attr]
            "first": _json(self.first),
            "second": _json(self.second),
            "ratio": self.ratio,
            "change": self.change,
            "new": list(self.new),
            "gone": list(self.gone),
            "replaced": self.replaced,
        }


@dataclass(frozen=True)
class Difference:
    """What changed from one run to another. ``str()`` is the report.

    Attributes:
        names: What the two runs are called.
        of: The quantity that was compared.
        factor: Changes of the magnitude beyond this count.
        layers: Every layer, those of the second run in depth order, then those that are gone.
        conditions: What is different in the conditions: first and second value, by name.
        remarks: What would explain it, in sentences.
    """

    names: tuple[str, str]
    of: str
    factor: float
    layers: tuple[LayerChange, ...]
    conditions: Mapping[str, tuple[Any, Any]]
    remarks: tuple[str, ...]

    @property
    def changed(self) -> tuple[LayerChange, ...]:
        """The layers that changed; another name alone is no change."""
        return tuple(layer for layer in self.layers if layer.changed)

    @property
    def new(self) -> dict[str, list[str]]:
        """Layers by the kind of finding that only the second run has."""
        return _by_kind(self.layers, "new")

    @property
    def gone(self) -> dict[str, list[str]]:
        """Layers by the kind of finding that only the first run has; those that are removed do not count."""
        return _by_kind(self.layers, "gone")

    @property
    def renamed(self) -> dict[str, str]:
        """New names by old ones."""
        return {layer.before.name: layer.name for layer in self.layers if layer.before and layer.renamed}

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each layer.

        Returns:
            Columns ``layer, was, kind, first, second, ratio, change, new, gone, replaced``; several findings are
            separated by a blank, and a magnitude that is missing is NaN.
        """
        rows = [
            {
                **layer.record(),
                "was": "" if layer.before is None else layer.before.name,
                "first": layer.first,
                "second": layer.second,
                "new": " ".join(layer.new),
                "gone": " ".join(layer.gone),
            }
            for layer in self.layers
        ]
        table = pd.DataFrame(rows, columns=list(rows[0]) if rows else [])
        numbers = [name for name in ("first", "second", "ratio") if name in table]
        return table.astype(dict.fromkeys(numbers, "float64"))

    def record(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "runs": list(self.names),
            "of": self.of,
            "factor": self.factor,
            "sentences": str(self).splitlines(),
            "conditions": {name: list(values) for name, values in self.conditions.items()},
            "new": self.new,
            "gone": self.gone,
            "renamed": self.renamed,
            "layers": [layer.record() for layer in self.layers],
        }

    def __str__(self) -> str:
        return "\n".join(_report(self))


def difference(
    first: Run | GradientHistory, second: Run | GradientHistory, *, of: str | None = None, factor: float = 10.0
) -> Difference:
    """Say which layers changed between two runs, and what of it the conditions explain.

    Layers are told by their names; one that is in only one of the runs is taken for one in the other that
    has the same kind and size and stands at the same place.

    Args:
        first: The run to compare with; a history is decided on by CNDS' rule.
        second: The run to look at.
        of: ``"output"`` or ``"weight"``; None takes what the second run's placement looked at.
        factor: How many times larger or smaller a magnitude (median over the iterations) has to be to count.

    Raises:
        ValueError: The quantity was not recorded in both, or the factor is not above 1.

    Example:
        >>> from gradprobe.history import tidy
        >>> def taken(*sizes):
        ...     rows = [(0, f"conv{i}", i, "output", size, 0, 0, 0, 0) for i, size in enumerate(sizes)]
        ...     layers = tuple(Layer(f"conv{i}", i, "Conv2d", 9) for i in range(len(sizes)))
        ...     return GradientHistory(tidy(rows), {}, layers, (), None)
        >>> print(difference(taken(1e-5, 1e-3), taken(1e-9, 1e-3)))
        1 of 2 layers changed from first to second
        mean |dL/d output|, median over the iterations; changes beyond 10 times
        layer           was        now       times
        conv0          1e-5       1e-9        1e-4  down, newly vanishing
        newly vanishing: conv0
    """
    if not factor > 1:
        raise ValueError(f"expected a factor above 1, got {factor!r}")
    names = _names(first, second)
    one, other = _decided(first), _decided(second)
    of = of or other.placement.of
    layers = tuple(_layer_changes(one, other, of, factor))
    conditions = _conditions(one.history, other.history)
    return Difference(names, of, factor, layers, conditions, tuple(_remarks(one, other, of, layers)))


def _names(first: Run | GradientHistory, second: Run | GradientHistory) -> tuple[str, str]:
    folders = [str(run.folder) if isinstance(run, Run) else "" for run in (first, second)]
    if all(folders) and folders[0] != folders[1]:
        return folders[0], folders[1]
    return "first", "second"


def _decided(run: Run | GradientHistory) -> Run:
    return run if isinstance(run, Run) else Run(Path(), run, place(run))


# which layer is which --------------------------------------------------------------------------------------------


def _form(layer: Layer) -> tuple[str, int]:
    return layer.kind, layer.parameters


def same_layers(first: Sequence[Layer], second: Sequence[Layer]) -> dict[str, str]:
    """Which layer of the first run each layer of the second one is, both by name; those that are new are absent.

    Example:
        >>> first = [Layer("0", 0, "Linear", 9), Layer("2", 1, "Linear", 9), Layer("4", 2, "Linear", 5)]
        >>> shifted = [Layer("0", 0, "Linear", 9), Layer("3", 1, "Linear", 9), Layer("6", 2, "Linear", 5)]
        >>> same_layers(first, shifted)
        {'0': '0', '3': '2', '6': '4'}
    """
    old, new = ({layer.name for layer in layers} for layers in (first, second))
    if old != new and [*map(_form, first)] == [*map(_form, second)]:
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
    matcher = SequenceMatcher(None, [*map(_form, removed)], [*map(_form, added)], autojunk=False)
    return {
        added[block.b + i].name: removed[block.a + i].name
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    }


# what became of it -----------------------------------------------------------------------------------------------


def _layer_changes(one: Run, other: Run, of: str, factor: float) -> Iterator[LayerChange]:
    matched = same_layers(one.history.layers, other.history.layers)
    before = {layer.name: layer for layer in one.history.layers}
    sizes = [run.history.aggregate(of).to_dict() for run in (one, other)]
    kinds = [_kinds(run) for run in (one, other)]
    for layer in other.history.layers:
        old = before.get(matched[layer.name]) if layer.name in matched else None
        first, second = sizes[0].get(old.name) if old else None, sizes[1].get(layer.name)
        had, has = kinds[0].get(old.name, ()) if old else (), kinds[1].get(layer.name, ())
        new, gone = tuple(k for k in has if k not in had), tuple(k for k in had if k not in has)
        change = _change(first, second, factor) if old else "added"
        yield LayerChange(old, layer, first, second, change, new, gone)
    for layer in one.history.layers:
        if layer.name not in matched.values():
            yield LayerChange(layer, None, sizes[0].get(layer.name), None, "removed")


def _kinds(run: Run) -> dict[str, tuple[str, ...]]:
    """The findings of each layer that has some."""
    found = findings(run.history, run.placement)
    names = dict.fromkeys(name for layers in found.values() for name in layers)
    return {name: tuple(kind for kind, layers in found.items() if name in layers) for name in names}


def _change(first: float | None, second: float | None, factor: float) -> str:
    if first is None or second is None:
        return "" if first is second else "lost" if second is None else "found"
    if first == second:
        return ""
    return "up" if second > factor * first else "down" if second * factor < first else ""


def _by_kind(layers: Sequence[LayerChange], which: str) -> dict[str, list[str]]:
    found = {kind: [layer.name for layer in layers if kind in getattr(layer, which)] for kind in FINDINGS}
    return {kind: names for kind, names in found.items() if names}


# what else is different ------------------------------------------------------------------------------------------


def _conditions(first: GradientHistory, second: GradientHistory) -> dict[str, tuple[Any, Any]]:
    """The conditions that differ; one that is not recorded is None."""
    one, other = ({**history.conditions, "iterations": history.iterations} for history in (first, second))
    keys = [key for key in {**one, **other} if key not in _NO_CONDITION]
    pairs = {key: (one.get(key), other.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if as_tuples(pair[0]) != as_tuples(pair[1])}


def _remarks(one: Run, other: Run, of: str, layers: Sequence[LayerChange]) -> Iterator[str]:
    yield from _scale_remarks(one, other, of, layers)
    if one.placement.policy != other.placement.policy:
        yield (
            f"The runs were decided by different rules ({one.placement.policy}; now {other.placement.policy}): "
            "`gradprobe place RUN --save` decides again."
        )
    if one.comparison and other.comparison and one.comparison.verdict != other.comparison.verdict:
        yield f"Deep supervision: {one.comparison.verdict}, now {other.comparison.verdict}."


def _scale_remarks(one: Run, other: Run, of: str, layers: Sequence[LayerChange]) -> Iterator[str]:
    """What a common factor of all layers comes from."""
    ratios = {layer.name: layer.ratio for layer in layers if layer.ratio is not None}
    if not ratios:
        return
    sizes = _batch_sizes(one.history), _batch_sizes(other.history)
    if of == "output" and sizes[0] and sizes[1] and sizes[0] != sizes[1] and not _summed(one, other):
        yield from _batch_remarks(one, other, sizes[0], sizes[1], layers)
    elif _alike(list(ratios.values())):
        losses = [run.history.conditions.get("loss") for run in (one, other)]
        also = f" The loss differs: {losses[0]}, now {losses[1]}." if losses[0] != losses[1] else ""
        yield (
            f"Every layer changed by about the same factor ({_span(ratios.values())} times): that is the scale of "
            f"the loss, not the depth.{also}"
        )


def _alike(ratios: Sequence[float]) -> bool:
    """Whether several ratios are about the same factor, and that is not about 1."""
    middle = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
    near = all(1 / ALIKE <= ratio / middle <= ALIKE for ratio in ratios)
    return len(ratios) > 1 and near and not 1 / ALIKE < middle < ALIKE


def _batch_remarks(one: Run, other: Run, first: int, second: int, layers: Sequence[LayerChange]) -> Iterator[str]:
    expected = first / second
    ratios = {layer.name: layer.ratio for layer in layers if layer.ratio is not None}
    rest = [name for name, ratio in ratios.items() if not 1 / ALIKE <= ratio / expected <= ALIKE]
    told = f"{len(ratios) - len(rest)} of the {len(ratios)} layers are within {ALIKE:g} times of that"
    if not rest:
        told = f"every layer is about there ({_span(ratios.values())} times), which explains it"
    yield (
        f"The batch size, {first} and now {second}, alone makes every output's gradient of a mean loss "
        f"{short(expected)} times what it was: {told}{f'; not {_few(rest)}' if rest else ''}."
    )
    threshold = other.placement.threshold
    if threshold is None or threshold != one.placement.threshold or other.placement.of != "output":
        return
    flagged = [layer for layer in layers if "vanishing" in layer.new and layer.second is not None]
    above = [layer.name for layer in flagged if layer.second and layer.second / expected >= threshold]
    if above:
        yield f"At batch size {first} these would not be below {short(threshold)}: {_few(above)}."


def _batch_sizes(history: GradientHistory) -> int | None:
    """Examples in a forward pass over all ranks, of which the loss is the mean."""
    size = history.conditions.get("batch_size")
    return None if size is None else int(size) * int(history.conditions.get("world_size") or 1)


def _summed(*runs: Run) -> bool:
    """Whether one of the losses is known not to be a mean."""
    return any("(sum)" in str(run.history.conditions.get("loss")) for run in runs)


# in words --------------------------------------------------------------------------------------------------------


def _report(found: Difference) -> Iterator[str]:
    changed = found.changed
    total = len(found.layers)
    between = f"from {found.names[0]} to {found.names[1]}"
    if not changed:
        spread = _span([layer.ratio for layer in found.layers if layer.ratio is not None])
        yield f"no layer changed {between}" + (f": all are {spread} times what they were" if spread else "")
    else:
        yield f"{len(changed)} of {total} layer{'' if total == 1 else 's'} changed {between}"
        yield f"{label(found.of)}, median over the iterations; changes beyond {found.factor:g} times"
        yield from _table(changed)
    for title, kinds in (("newly", found.new), ("no longer", found.gone)):
        yield from (f"{title} {kind}: {_few(names)}" for kind, names in kinds.items())
    if found.renamed:
        pairs = [f"{shorten(old, 40)} to {shorten(new, 40)}" for old, new in found.renamed.items()]
        yield f"renamed: {', '.join(pairs[:5])}{_more(pairs)}"
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


def _span(ratios: Collection[float | None]) -> str:
    known = sorted(ratio for ratio in ratios if ratio is not None)
    if not known:
        return ""
    low, high = short(known[0]), short(known[-1])
    return low if low == high else f"{low} to {high}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(shorten(name, 40) for name in names[:5]) + _more(names)


def _more(named: Sequence[str]) -> str:
    return f" and {len(named) - 5} more" if len(named) > 5 else ""


def _condition(name: str, values: tuple[Any, Any]) -> str:
    was, now = ("none" if value is None else str(value) for value in values)
    return f"{name.replace('_', ' ')} {was}, now {now}"


def _json(value: float | None) -> float | str | None:
    return "inf" if value is not None and math.isinf(value) else value
