"""Deciding where supervision has to be placed, by a rule, by what is usual, or after the diagnosis. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradprobe.decide.auto import AutoPolicy as AutoPolicy
from gradprobe.decide.rules import EveryLayerPolicy as EveryLayerPolicy
from gradprobe.decide.rules import Policy as Policy
from gradprobe.decide.rules import RelativePolicy as RelativePolicy
from gradprobe.decide.rules import ThresholdPolicy as ThresholdPolicy
from gradprobe.decide.serve_flagged import disagreement
from gradprobe.decide.usual import BranchesPolicy as BranchesPolicy
from gradprobe.record.history import GradientHistory, check_history
from gradprobe.record.placement import Placement

# "cnds" is what the arms of a comparison call the rule of 1e-7
POLICIES: dict[str, Callable[..., Policy]] = {
    "threshold": ThresholdPolicy,
    "cnds": ThresholdPolicy,
    "relative": RelativePolicy,
    "every": EveryLayerPolicy,
    "branches": BranchesPolicy,
    "auto": AutoPolicy,
}
_WITHOUT_LIMIT = ("every", "branches", "auto")  # these look at no magnitude


def named_policy(
    name: str, *, threshold: float | None = None, of: str = "output", aggregate: str = "median"
) -> Policy:
    """The policy of a name, as the command line and the arms of a comparison write it.

    Args:
        name: A key of `POLICIES`.
        threshold: The magnitude to flag below, or the ratio of the relative rule; the rule's own by default.
        of: The quantity.
        aggregate: How the iterations become one number; see `GradientHistory.aggregate`.

    Raises:
        ValueError: If no policy has that name.

    Example:
        >>> named_policy("cnds") == named_policy("threshold") == ThresholdPolicy(1e-7)
        True
        >>> named_policy("relative", threshold=1e-3, of="weight")
        RelativePolicy(ratio=0.001, of='weight', aggregate='median')
    """
    if name not in POLICIES:
        raise ValueError(f"no policy is called {name!r}; policies are {', '.join(POLICIES)}")
    if name in _WITHOUT_LIMIT:
        return POLICIES[name]()
    limit = () if threshold is None else (threshold,)
    return POLICIES[name](*limit, of=of, aggregate=aggregate)


def place(history: GradientHistory, policy: Policy | str | None = None) -> Placement:
    """Decide where supervision has to be placed.

    Args:
        history: The record of a probe.
        policy: Any function from a history to a placement, or the name of a policy (``"threshold"``,
            ``"relative"``, ``"every"``, ``"branches"``, ``"auto"``); CNDS' rule by default. The relative rule is
            applied as well where this is an absolute one, and `Placement.disagreement` says where they differ.

    Raises:
        TypeError: If it is not given a history, or a policy's class in place of a policy.
        ValueError: If no policy has that name.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> from gradprobe.record.points import Point
        >>> layers = tuple(Layer(name, depth, "Conv2d", 9) for depth, name in enumerate(["a", "b", "c"]))
        >>> rows = [(0, x.name, x.depth, "output", [1e-9, 1e-8, 1e-3][x.depth], 0, 0, 0, 0) for x in layers]
        >>> points = (Point("a", (8, 4, 5, 5), 0, ("a",)), Point("b", (8, 4, 5, 5), 1, ("b",)))
        >>> placement = place(GradientHistory(tidy(rows), {}, layers, points, (8, 2)))
        >>> placement.flagged, [point.name for point in placement.points]
        (('a', 'b'), ['b'])
    """
    check_history(history)
    policy = as_policy(policy)
    placement = policy(history)
    if not isinstance(placement, Placement):
        raise TypeError(f"expected the policy to return a Placement, got {type(placement).__name__}")
    if placement.points and placement.output_shape is None:
        placement = replace(placement, **history.output)
    if not isinstance(policy, ThresholdPolicy):
        return placement
    second = RelativePolicy(of=policy.of, aggregate=policy.aggregate)
    return replace(placement, disagreement=disagreement(placement, second(history)))


def as_policy(policy: Any) -> Policy:
    """The policy itself, the one of a name, or CNDS' rule for None.

    Raises:
        TypeError: If it is anything else, such as a policy's class without the parentheses.
        ValueError: If no policy has that name.
    """
    if policy is None or isinstance(policy, str):
        return named_policy(policy or "cnds")
    if callable(policy) and not isinstance(policy, type):
        accepted: Policy = policy
        return accepted
    is_class = isinstance(policy, type)
    got, instead = (policy.__name__, f"{policy.__name__}()") if is_class else (repr(policy), '"relative"')
    raise TypeError(
        "expected policy to be a function from a history to a placement, or the name of one "
        f"({', '.join(POLICIES)}), got {got}: give {instead}"
    )
