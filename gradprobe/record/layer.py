"""A layer in a record: what it is, and why no gradient arrived at it where none did. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradprobe.record.files.fields import count, dict_of, fields, optional, text, tuple_of

UNREACHED = (
    "frozen",
    "never_called",
    "no_path",
    "detached",
    "consumed",
    "refused",
    "came_late",
    "not_held",  # by an optimizer
    "not_held_new",  # the same, of a layer that was put in after the optimizer was built
    "checkpointed",  # inside reentrant checkpointing none of whose inputs requires a gradient
    "other_tensor",  # of its output is on the path, not the one that is measured
    "bypassed",  # its hooks, since no module was called as one
    "opaque",  # its output
)
_MISSING = {
    "frozen": "frozen",
    "not_held": "not held",
    "not_held_new": "not held",
    "other_tensor": "not measured",
    "bypassed": "not measured",
    "opaque": "not measured",
}


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters, as the probe found it.

    Attributes:
        name: Canonical name from ``named_modules()``; ``""`` is the root.
        depth: Position in the order in which the layers first finished their forward pass, from 0.
        kind: Class name of the module.
        parameters: Number of elements in its own parameters.
        unreached: Why no gradient arrived, in words, by quantity: keys ``"output"`` and ``"weight"``.
        unreached_code: The same as codes out of `UNREACHED`, for code that decides by it.
        unserved: Why no branch can serve this layer, or None where one can.
        weights: Its weights that have rows of their own, as those of a recurrent layer: ``"rnn.weight_hh_l0"``.
    """

    name: str
    depth: int
    kind: str
    parameters: int
    unreached: Mapping[str, str] = field(default_factory=dict)
    unserved: str | None = None
    unreached_code: Mapping[str, str] = field(default_factory=dict)
    weights: tuple[str, ...] = ()

    @property
    def is_frozen(self) -> bool:
        """Whether no gradient has to arrive: every reason for a missing one is that the layer is frozen."""
        return set(self.unreached_code.values()) == {"frozen"}

    @property
    def why(self) -> str:
        """Why no gradient arrived, in words, each reason once; empty where one arrived everywhere."""
        if len(self.unreached) > 1 and len(set(self.unreached.values())) == 1:
            return next(iter(self.unreached.values()))
        return "; ".join(f"{of}: {reason}" for of, reason in self.unreached.items())

    def missing(self, of: str) -> str:
        """What stands in place of a number that is missing: a word or two."""
        return _MISSING.get(self.unreached_code.get(of, ""), "unreached")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Layer:
        """The reverse of ``dataclasses.asdict``; runs of version 0.1.0 hold no codes, only the words."""
        read = fields(record, _LAYER, {"unreached_code": dict_of(text), "weights": tuple_of(text)})
        codes = {of: "frozen" for of, why in read["unreached"].items() if why.startswith("frozen")}
        return cls(**{"unreached_code": codes, **read})


_LAYER = {
    "name": text,
    "depth": count,
    "kind": text,
    "parameters": count,
    "unreached": dict_of(text),
    "unserved": optional(text),
}
