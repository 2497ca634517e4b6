"""The arms of a comparison: policies and remedies in words, and what each arm did."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gradprobe.decide.remedies import REMEDIES as REMEDIES
from gradprobe.record.files.fields import dict_of, fields, number, optional, text
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.record.text import few, shorten

NONE = "none"


DIAGNOSIS, BRANCHES, AUTO = "diagnosis", "branches", "auto"
POLICY_ARMS = {
    "cnds": "branches by the rule of CNDS, 1e-7",
    "repeated": "that rule again, with the branches in place",
    "relative": "branches by the scale-free rule",
    "every": "a branch at every point",
    BRANCHES: "branches where they are usual for the kind of network",
    DIAGNOSIS: "the remedy that the diagnosis names",
    AUTO: "after the diagnosis, by short trials of what it leaves open",
}
DEFAULT_ARMS = (NONE, DIAGNOSIS, BRANCHES)
ARMS = (NONE, *POLICY_ARMS, *REMEDIES)
_OTHER_NAMES = {"threshold": "cnds"}  # as `gradprobe.decide.policies.POLICIES` has both


@dataclass(frozen=True)
class Arm:
    """One arm: what it was, what it did, and what went wrong.

    Attributes:
        name: One of `ARMS`.
        placement: What its policy decided; None if it has no policy, or the decision failed.
        remedy: What was done to the network or its optimizer before, out of `gradprobe.remedies`, or None.
        like: The arm that does the same: its trainings stand for both. None if this one was trained itself.
        windows: How much training the decision took beyond that of the network as it is, in windows.
        seconds: What one training took, the median over the seeds; it does not count when two arms are compared.
        failed: Why a part of it failed; keys ``"seed 1"``, ``"deciding"``, ...

    Example:
        >>> Arm("cnds", Placement("by hand", (), (Point("act1", (8, 4), 0, ("fc1",)),), "")).did
        'a branch after act1'
        >>> Arm("auto", Placement("auto", (), (), "", remedy="lsuv"), "lsuv", like="lsuv").did
        'advises lsuv: same as lsuv'
    """

    name: str
    placement: Placement | None = None
    remedy: str | None = None
    like: str | None = None
    windows: float = 0.0
    seconds: float | None = field(default=None, compare=False)
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def points(self) -> tuple[Point, ...]:
        """Where it put branches."""
        return () if self.placement is None else self.placement.points

    @property
    def kind(self) -> str:
        """What stays in the network, the simplest first: ``"none"``, ``"remedy"`` or ``"branches"``."""
        return "branches" if self.points else "remedy" if self.remedy else NONE

    @property
    def did(self) -> str:
        """What it did, in a few words."""
        return self._did() + (f": same as {self.like}" if self.like else "")

    def _did(self) -> str:
        names = few([shorten(point.name, 24) for point in self.points], 3)
        if names:
            return f"a branch after {names}" if len(self.points) == 1 else f"branches after {names}"
        if self.name not in POLICY_ARMS:
            return REMEDIES[self.name].change if self.name in REMEDIES else "as it is"
        nothing = "no remedy" if self.name == DIAGNOSIS else "no branch"
        decided = f"advises {self.remedy}" if self.remedy else nothing
        return "not decided" if self.placement is None else decided

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Arm:
        """The reverse of `to_dict`; what is read is checked."""
        return cls(**fields(record, {"name": text}, _OTHERS))


_OTHERS = {
    "placement": optional(Placement.from_dict),
    "remedy": optional(text),
    "like": optional(text),
    "windows": number,
    "seconds": optional(number),
    "failed": dict_of(text),
}


def chosen_arms(names: str | Iterable[str]) -> tuple[str, ...]:
    """The arms asked for, each once; ``"none"``, which the others are compared to, is added and comes first.

    Raises:
        ValueError: If there is no such arm.

    Example:
        >>> chosen_arms(["lsuv", "cnds", "lsuv", "threshold"])
        ('none', 'lsuv', 'cnds')
    """
    chosen = [_OTHER_NAMES.get(name, name) for name in ([names] if isinstance(names, str) else names)]
    for name in chosen:
        if name not in ARMS:
            close = difflib.get_close_matches(str(name), ARMS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"no arm is called {name!r}; {hint}Arms are {', '.join(ARMS)}")
    return tuple(dict.fromkeys([NONE, *chosen]))
