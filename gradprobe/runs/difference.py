"""What changed from one run to another, as plain data and in words. No torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradprobe.decide.causes.finding import CAUSES, FINDINGS
from gradprobe.decide.diagnosis import Diagnosis
from gradprobe.record.history import Layer
from gradprobe.record.quantities import label, short
from gradprobe.record.text import counted, few, printable, shorten
from gradprobe.runs.matching import form

MOST_ROWS = 40
CHANGES = ("up", "down", "lost", "found", "added", "removed")


@dataclass(frozen=True)
class LayerChange:
    """One layer in both runs, or in one of them.

    Attributes:
        before: The layer in the first run, or None if it is new.
        after: The layer in the second run, or None if it is gone.
        first: Its magnitude in the first run, median over the iterations; None if no gradient arrived, infinite
            if it was NaN or infinite in most of them.
        second: The same in the second run.
        change: One of `CHANGES`, or empty: ``up`` and ``down`` by more than the factor, ``lost`` if no gradient
            arrives any more, ``found`` if one does now.
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
        return self.before is not None and self.after is not None and form(self.before) != form(self.after)

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

    def to_dict(self) -> dict[str, Any]:
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
        remarks: What may explain it, in sentences.
        diagnoses: What is wrong in the first and in the second run; empty where one of them has no evidence.
    """

    names: tuple[str, str]
    of: str
    factor: float
    layers: tuple[LayerChange, ...]
    conditions: Mapping[str, tuple[Any, Any]]
    remarks: tuple[str, ...]
    diagnoses: tuple[Diagnosis, ...] = ()

    @property
    def changed(self) -> tuple[LayerChange, ...]:
        """The layers that changed; a new name alone is not a change."""
        return tuple(layer for layer in self.layers if layer.changed)

    @property
    def new(self) -> dict[str, list[str]]:
        """Layers by the kind of finding that only the second run has."""
        return _by_kind(self.layers, "new")

    @property
    def gone(self) -> dict[str, list[str]]:
        """Layers by the kind of finding that only the first run has; removed layers do not count."""
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
                **layer.to_dict(),
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "runs": list(self.names),
            "diagnoses": [
                {"verdict": one.verdict, "causes": [finding.cause for finding in one.findings]}
                for one in self.diagnoses
            ],
            "of": self.of,
            "factor": self.factor,
            "sentences": str(self).splitlines(),
            "conditions": {name: list(values) for name, values in self.conditions.items()},
            "new": self.new,
            "gone": self.gone,
            "renamed": self.renamed,
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def __str__(self) -> str:
        return printable("\n".join(report(self)))


def _by_kind(layers: Sequence[LayerChange], which: str) -> dict[str, list[str]]:
    by_kind = {kind: [layer.name for layer in layers if kind in getattr(layer, which)] for kind in FINDINGS}
    return {kind: names for kind, names in by_kind.items() if names}


def _json(value: float | None) -> float | str | None:
    return "inf" if value is not None and math.isinf(value) else value


def report(difference: Difference) -> Iterator[str]:
    """The lines of the report: which layers changed, which findings are new or gone, what else is different."""
    yield from _diagnosed(difference)
    changed = difference.changed
    between = f"from {difference.names[0]} to {difference.names[1]}"
    if not changed:
        spread = extent([layer.ratio for layer in difference.layers if layer.ratio is not None])
        yield f"no layer changed {between}" + (f": all are {spread} times what they were" if spread else "")
    else:
        yield f"{len(changed)} of {counted(len(difference.layers), 'layer')} changed {between}"
        yield f"{label(difference.of)}, median over the iterations; changes beyond {difference.factor:g} times"
        yield from _table(changed)
    for title, kinds in (("newly", difference.new), ("no longer", difference.gone)):
        yield from (f"{title} {kind}: {some(names)}" for kind, names in kinds.items())
    if difference.renamed:
        pairs = [f"{shorten(old, 40)} to {shorten(new, 40)}" for old, new in difference.renamed.items()]
        yield f"renamed: {few(pairs, 5)}"
    if difference.conditions:
        yield "different conditions: " + "; ".join(_condition(*item) for item in difference.conditions.items())
    yield from difference.remarks


def _diagnosed(difference: Difference) -> Iterator[str]:
    """That another verdict or cause is found now, and what to do about it."""
    said = [_verdict(diagnosis) for diagnosis in difference.diagnoses]
    if said and said[0] != said[1]:
        now = difference.diagnoses[1]
        yield f"the verdict changed: {difference.names[0]} was {said[0]}, {difference.names[1]} is {said[1]}"
        yield f"{now.sentence} {now.step}".strip()


def _verdict(diagnosis: Diagnosis) -> str:
    causes = ", ".join(CAUSES[finding.cause] for finding in diagnosis.findings)
    return f"{diagnosis.verdict} ({causes})" if causes else diagnosis.verdict


def _table(changed: Sequence[LayerChange]) -> Iterator[str]:
    width = max(len("layer"), *(len(shorten(layer.name, 24)) for layer in changed[:MOST_ROWS]))
    yield f"{'layer':<{width}} {'was':>12} {'now':>10} {'times':>11}"
    for layer in changed[:MOST_ROWS]:
        ratio = "" if layer.ratio is None else short(layer.ratio)
        numbers = f"{magnitude(layer.first):>12} {magnitude(layer.second):>10} {ratio:>11}"
        yield f"{shorten(layer.name, 24):<{width}} {numbers}  {', '.join(_words_for(layer))}"
    if len(changed) > MOST_ROWS:
        yield f"… and {len(changed) - MOST_ROWS} more"


def _words_for(layer: LayerChange) -> Iterator[str]:
    if layer.change:
        words = {"lost": "no gradient any more", "found": "has a gradient now"}
        yield words.get(layer.change, layer.change)
    yield from (f"newly {kind}" for kind in layer.new)
    yield from (f"no longer {kind}" for kind in layer.gone)
    if layer.before is not None and layer.replaced:
        yield f"was {layer.before.kind} with {layer.before.parameters} parameters"


def magnitude(value: float | None) -> str:
    """A magnitude in a table; none where no gradient arrived.

    Example:
        >>> magnitude(1e-9), magnitude(None), magnitude(math.inf)
        ('1e-9', 'none', 'nan, inf')
    """
    return "none" if value is None else "nan, inf" if math.isinf(value) else short(value)


def extent(ratios: Collection[float]) -> str:
    """The smallest and the largest of the ratios; nothing where there is none."""
    if not ratios:
        return ""
    low, high = short(min(ratios)), short(max(ratios))
    return low if low == high else f"{low} to {high}"


def some(names: Sequence[str]) -> str:
    """The names of the first layers, and how many more there are."""
    return few([shorten(name, 40) for name in names], 5)


def _condition(name: str, values: tuple[Any, Any]) -> str:
    was, now = ("none" if value is None else str(value) for value in values)
    return f"{name.replace('_', ' ')} {was}, now {now}"
