"""A placement: the decision where supervision goes, and why. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gradprobe.record.files.fields import (
    anything,
    as_tuples,
    dict_of,
    fields,
    integer,
    number,
    one_of,
    optional,
    text,
    tuple_of,
)
from gradprobe.record.html import block, layer_names, paragraph, small, table, title
from gradprobe.record.points import Point
from gradprobe.record.quantities import QUANTITIES
from gradprobe.record.text import counted, few, names_by_reason, printable, shorten


@dataclass(frozen=True)
class Placement:
    """The decision: what is flagged, where branches go, and why. An empty one is a decision too.

    Attributes:
        policy: The rule that decided, in words.
        flagged: Names of the layers that the gradient does not reach, in depth order.
        points: Where the branches go, in forward order; empty if none is needed or none would help.
        reason: Why, in a sentence or two.
        skipped: Layers that were left out, with the reason.
        disagreement: One sentence where a scale-free rule flags other layers, else None.
        output_shape: Shape of the network's output, which a branch has to have as well; where it is a list of
            tensors, the shape of each.
        of: The quantity that the rule looked at.
        threshold: The magnitude below which a layer was flagged, where the rule has one.
        output_channels: Axis of the channels in the output, where the layers show it.
        head: Name of the layer that makes the output, which branches can share.
        activation: The activation that makes the output (sigmoid, softmax, ...), if any; branches get it as well.
        rule: The code of what decided: a key of `gradprobe.decide.policies.POLICIES`, ``"trials"``, or None.
        remedy: What to do before anything is placed, by its name in `gradprobe.remedies`, or None.
        weights: Of the branches, as `gradprobe.DeepSupervisionLoss` takes them, where they are not equal.

    Example:
        >>> print(Placement("by hand", (), (), "none needed", {}, None, (8, 10)))
        placement (by hand): no branch
        none needed
    """

    policy: str
    flagged: tuple[str, ...]
    points: tuple[Point, ...]
    reason: str
    skipped: Mapping[str, str] = field(default_factory=dict)
    disagreement: str | None = None
    output_shape: Any = None
    of: str = "output"
    threshold: float | None = None
    output_channels: int | None = None
    head: str | None = None
    activation: str | None = None
    remedy: str | None = None
    rule: str | None = None
    weights: str | None = None

    def within(self, part: str) -> Placement:
        """The same for a part of the network that was recorded, in that part's own names.

        A ``LightningModule`` is recorded as a whole, and of its parts the network is supervised.

        Args:
            part: The part's name. Points elsewhere are left out.

        Example:
            >>> point = Point("net.conv1", (8, 4), 0, ("net.conv1",))
            >>> Placement("by hand", (), (point,), "").within("net").points[0].name
            'conv1'
        """
        start = f"{part}."
        points = tuple(
            replace(
                point,
                name=point.name.removeprefix(start),
                layers=tuple(layer.removeprefix(start) for layer in point.layers),
            )
            for point in self.points
            if point.name.startswith(start)
        )
        flagged = tuple(layer.removeprefix(start) for layer in self.flagged if layer.startswith(start))
        head = self.head.removeprefix(start) if self.head is not None else None
        return replace(self, points=points, flagged=flagged, head=head)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Placement:
        """The reverse of `to_dict`."""
        read = fields(record, _FIRST, _LATER)
        shape = as_tuples(read["output_shape"])
        return cls(**{"rule": _rule_in_words(read["policy"]), **read, "output_shape": shape})

    def _repr_html_(self) -> str:
        return placement_html(self)

    def __str__(self) -> str:
        names = few([shorten(point.name, 40) for point in self.points])
        head = {0: "no branch", 1: f"a branch after {names}"}.get(len(self.points), f"branches after {names}")
        lines = [f"placement ({self.policy}): {head}", self.reason]
        skipped = [f"skipped {names}: {why}" for why, names in names_by_reason(self.skipped)]
        lines += skipped[:10] + ([f"skipped for {len(skipped) - 10} more reasons"] if len(skipped) > 10 else [])
        return printable("\n".join([*lines, *filter(None, [self.disagreement])]))


_FIRST = {
    "policy": text,
    "flagged": tuple_of(text),
    "points": tuple_of(Point.from_dict),
    "reason": text,
    "skipped": dict_of(text),
    "disagreement": optional(text),
    "output_shape": anything,
    "of": one_of(*QUANTITIES),
}
_LATER = {
    "threshold": optional(number),
    "output_channels": optional(integer),
    **dict.fromkeys(("head", "activation", "remedy", "rule", "weights"), optional(text)),
}


def _rule_in_words(policy: str) -> str | None:
    """The code of a rule from its words, for runs of version 0.1.0, which do not hold the code."""
    whole = {"every supervision point": "every", "auto, by short trials": "trials"}
    if not policy.startswith("mean |dL/d "):
        return whole.get(policy)
    return "relative" if " of the largest" in policy else "threshold"


def placement_html(placement: Placement) -> str:
    """A decision: where the branches go, why, and what was left out."""
    count = len(placement.points)
    head = counted(count, "branch", "branches") if count else "no branch"
    rows = [(point.name, point.shape, layer_names(point.layers)) for point in placement.points]
    parts = [title(f"placement: {head}"), small(placement.policy)]
    parts += [paragraph(placement.reason), paragraph(placement.disagreement or "")]
    parts.append(table(("branch after", "shape", "serves"), rows))
    return block([*parts, table(("skipped", "why"), list(placement.skipped.items()))])
