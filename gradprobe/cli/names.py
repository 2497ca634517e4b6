"""The names that a target's file may give its parts, and what is said of a name that is near one of them."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradprobe.cli.user_modules import public_names

NEAR = 0.65  # of two names: difflib's ratio


@dataclass(frozen=True)
class Part:
    """A part of a training that a target's file may define.

    Attributes:
        names: What it may be called; the first that is there is taken.
        fits: Whether a value can be this part.
        words: Words in a name that make it one to ask about, besides those of ``names``.
    """

    names: tuple[str, ...]
    fits: Callable[[Any], bool]
    words: frozenset[str] = frozenset()

    def likeness(self, name: str) -> float:
        """How near a name is to one of them; 1 if they have a word in common."""
        words = set(name.lower().split("_"))
        if words & (self.words | set(self.names)):
            return 1.0
        return max(_ratio(name, one) for one in self.names)

    def nearest(self, name: str) -> str:
        """The accepted name that is most like this one."""
        return max(self.names, key=lambda one: _ratio(name, one))


def _ratio(one: str, other: str) -> float:
    """Difflib's ratio without underscores; 0 where the first letters differ."""
    first, second = (name.lower().replace("_", "") for name in (one, other))
    return SequenceMatcher(None, first, second).ratio() if first[:1] == second[:1] else 0.0


def _is_batches(value: Any) -> bool:
    """Whether it can be batches: no text, no tensor, and no list of something else."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(batch, (list, tuple, dict)) for batch in itertools.islice(value, 3))
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping, Tensor, nn.Module, set))


def _is_data(value: Any) -> bool:
    return _is_batches(value) or _takes(value, 0)


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Optimizer) or _takes(value, 1)


def _takes(value: Any, count: int) -> bool:
    """Whether it is a function that can be called with so many arguments."""
    if not callable(value) or isinstance(value, (type, Optimizer)):
        return False
    try:
        inspect.signature(value).bind(*[None] * count)
    except (TypeError, ValueError):
        return isinstance(value, nn.Module) and count == 2
    return True


PARTS = {
    "batches": Part(
        ("batches", "loader", "train_loader", "dataloader"),
        _is_data,
        frozenset({"data", "dataset", "dl", "set"}),
    ),
    "held_out": Part(
        ("held_out", "val_loader", "valid_loader", "validation_loader", "test_loader"),
        _is_batches,
        frozenset({"val", "valid", "validation", "test", "eval"}),
    ),
    "loss": Part(("loss", "criterion", "loss_fn"), lambda value: _takes(value, 2)),
    "optimizer": Part(("optimizer",), _is_optimizer, frozenset({"opt", "optim"})),
    "branch_loss": Part(("branch_loss",), lambda value: _takes(value, 2)),
    "metric": Part(("metric",), lambda value: _takes(value, 2), frozenset({"metrics"})),
}


def find_part(module: ModuleType, part: str) -> tuple[str, Any]:
    """The name and the value of a part, or an empty name and None; of several names one whose value fits."""
    there = [(name, value) for name in PARTS[part].names if (value := getattr(module, name, None)) is not None]
    fitting = [(name, value) for name, value in there if PARTS[part].fits(value)]
    return next(iter([*fitting, *there]), ("", None))


def is_loss(name: str, value: Any) -> bool:
    """Whether a module is a loss, by its name or that of its class.

    Example:
        >>> is_loss("bce", nn.BCELoss()), is_loss("lossfn", nn.ReLU()), is_loss("net", nn.ReLU())
        (True, True, False)
    """
    by_class = type(value).__name__.lower().endswith(("loss", "criterion"))
    return isinstance(value, nn.Module) and (by_class or PARTS["loss"].likeness(name) >= NEAR)


def unused(module: ModuleType, model: Any, where: str, given: Iterable[str] = ()) -> list[str]:
    """What a file defines and nothing uses, though its name is that of a part or near it: a sentence each.

    Args:
        module: The target's.
        model: Its model, or what builds it.
        where: Its file, for the sentences.
        given: Parts that an option gives, so that the file need not.
    """
    found = {part: find_part(module, part)[0] for part in PARTS}
    second = {
        name: found[part]
        for part, one in PARTS.items()
        for name in one.names
        if found[part] and _is_second(module, name, found[part], one)
    }
    sentences = [f"{where}: `{name}` is not used, because `{first}` is" for name, first in second.items()]
    missing = {part for part in PARTS if not found[part]} - set(given)
    for name, near in near_names(module, model, missing).items():
        sentences.append(f"{where}: `{name}` is not used; did you mean `{near}`?")
    return sentences


def _is_second(module: ModuleType, name: str, first: str, part: Part) -> bool:
    """Whether this name holds another value than the one that is used, which could be the part as well."""
    value = getattr(module, name, None)
    return value is not None and value is not getattr(module, first) and part.fits(value)


def near_names(module: ModuleType, model: Any, missing: Iterable[str]) -> dict[str, str]:
    """Names of values that may have been meant for a part that is missing, each with the name it should have."""
    near = {}
    for name, value in public_names(module).items():
        imported = inspect.isroutine(value) and value.__module__ != module.__name__
        if value is model or imported or isinstance(value, (type, ModuleType)):
            continue
        likeness = {part: one.likeness(name) for part, one in PARTS.items() if one.fits(value)}
        if is_loss(name, value):
            likeness = {"loss": 1.0}
        best = max(likeness, key=lambda part: (likeness[part], part in missing), default="")
        if best in missing and likeness[best] >= NEAR and name not in PARTS[best].names:
            near[name] = PARTS[best].nearest(name)
    return near
