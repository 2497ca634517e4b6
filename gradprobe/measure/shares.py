"""Of which backward passes a gradient is made that was put into ``.grad`` by hand, or changed there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gradprobe.measure.presence import Change

One = TypeVar("One", bound=Hashable)
"""A pass, or what stands for one."""

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_COARSE = 0.03  # of bfloat16 and float16
# Equations for each unknown. A normalisation over n features, and a softmax over as many classes, each leave n - 1
# degrees of freedom of n; with n = 3 these are 4 of 9 elements.
_NEEDED = 9 / 4


def made_of(gradient: Tensor, passes: Sequence[Tensor], *, is_unscaled: bool = False) -> list[bool | None] | None:
    """Which passes a gradient is a combination of, as gradient surgery makes one of those of several losses.

    The least-squares solution tells: each of Yu et al. 2020 (arXiv 2001.06782, equation 1), Desideri 2012 and
    their like is a weighted sum of the losses' gradients, and so is what is left after clipping by the norm.

    Args:
        gradient: Elements of it.
        passes: The same elements of what each pass has come to.
        is_unscaled: Whether it has to be the plain sum of some of them, each with the weight one.

    Returns:
        For each pass, True if the gradient contains it, False if not, and None if the pass shows nothing, since it
        is zero, or too small beside the gradient. An empty list if several passes are too alike to tell apart, or
        the elements are too few. None if the gradient is not such a sum of the passes.

    Example:
        >>> a, b = torch.tensor([1.0, 0.0, 2.0, 5.0, 3.0]), torch.tensor([0.0, 1.0, 3.0, -1.0, 4.0])
        >>> made_of(a + 2 * b, [a, b]), made_of(3 * b, [a, b]), made_of(a * b, [a, b])
        ([True, True], [False, True], None)
        >>> made_of(a, [a, 0 * a]), made_of(a, [a, a])
        ([True, None], [])
    """
    found = _factors(gradient, passes, is_unscaled=is_unscaled)
    return None if found is None else [None if one is None else one != 0 for one in found]


def _factors(
    gradient: Tensor, passes: Sequence[Tensor], *, is_unscaled: bool = False
) -> list[float | None] | None:
    """What each pass is multiplied by in the sum that `made_of` finds; 0 if it is not in it."""
    y = gradient.double().cpu()
    basis = torch.stack([one.double().cpu() for one in passes], 1)
    if not (y.isfinite().all() and basis.isfinite().all()):
        return None
    tolerance = _tolerance(gradient)
    sizes, size = basis.norm(dim=0), float(y.norm())
    least = tolerance * size if len(passes) > 1 else 0.0
    seen = [index for index, one in enumerate(sizes.tolist()) if one > least]
    result: list[float | None] = [None] * len(passes)
    if not seen:
        return result if size == 0 else None
    unit = basis[:, seen] / sizes[seen]
    weights = torch.linalg.lstsq(unit, y.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    if float((unit @ weights - y).norm()) > tolerance * max(size, 1e-300):
        return None
    used = weights.abs() > tolerance * size
    factors = torch.where(used, weights / sizes[seen], 0.0)
    is_sum = bool((factors[used] - 1).abs().le(tolerance).all())
    if is_unscaled and not is_sum:
        return None
    says_enough = is_sum or _says_enough(unit, used, y, tolerance)
    if len(seen) > 1 and not (says_enough and _are_distinct(unit, tolerance)):
        return []
    # of one that would not show if it were there with the smallest of the factors, the numbers say nothing
    shows = (factors[used].abs().min() if used.any() else 1.0) * sizes[seen] > tolerance * size
    for index, factor, would_show in zip(seen, factors.tolist(), shows.tolist(), strict=True):
        result[index] = factor if factor or would_show else None
    return result


def _tolerance(gradient: Tensor) -> float:
    return _TOLERANCES.get(gradient.dtype, _COARSE)


def _are_distinct(unit: Tensor, tolerance: float) -> bool:
    """Whether no column of unit length is a combination of the others."""
    return unit.shape[1] <= unit.shape[0] and float(torch.linalg.svdvals(unit)[-1]) > 10 * tolerance


def _says_enough(unit: Tensor, used: Tensor, y: Tensor, tolerance: float) -> bool:
    """Whether not any gradient would be a combination of the columns, or of what is used of them."""
    y, chosen = (y / y.norm()).unsqueeze(1), unit[:, used]
    if _equations(torch.cat([unit, y], 1), tolerance) <= _NEEDED * unit.shape[1]:
        return False
    if chosen.shape[1] > 1:
        return _equations(torch.cat([chosen, y], 1), tolerance) > _NEEDED * chosen.shape[1]
    return _varies(chosen, tolerance)


def _varies(elements: Tensor, tolerance: float) -> bool:
    """Whether elements differ in size, those apart that are zero."""
    sizes = elements.abs()
    seen = sizes[sizes > 10 * tolerance * sizes.max()]
    return bool(len(seen) and sizes.max() - seen.min() > 10 * tolerance * sizes.max())


def _equations(rows: Tensor, tolerance: float) -> int:
    """How many rows say something of their own: not those of zeros, nor multiples of others.

    The gradient of a head of two classes has each row twice, with another sign; that of a dead unit has zeros.
    """
    sizes = rows.norm(dim=1)
    rows = rows[sizes > 10 * tolerance * sizes.max()]
    unit = rows / rows.norm(dim=1, keepdim=True)
    alike = 1 - (unit @ unit.T).abs() < max(50 * tolerance**2, 1e-12)
    return int((~alike.tril(-1).any(1)).sum())


@dataclass(frozen=True)
class Question(Generic[One]):
    """A gradient of a layer that several passes may be in.

    Attributes:
        now: Elements of each of the layer's gradients as they stand.
        before: The same as they stood the last time; empty if that was not seen.
        shares: The same of what each pass has come to; empty for one that was not seen.
        inside: The passes that were in it the last time.
        unseen: Whether a derivative by torch.func may be in it. What that came to is not seen. It may be a
            weighted sum of what others came to, since a layer's gradients may have few degrees of freedom.
        untold: Whether it could not be told the last time.
        change: What was done to it since then.
    """

    now: Sequence[Tensor]
    before: Sequence[Tensor]
    shares: Mapping[One, Sequence[Tensor]]
    inside: Set[One]
    unseen: bool = False
    untold: bool = False
    change: Change = "replaced"


def answers(questions: Mapping[str, Question[One]]) -> dict[str, set[One] | None]:
    """Which passes are in the gradients of layers: for each a set, or None if that cannot be told.

    A pass that comes to zero in one layer shows nothing there; the other layers tell.

    Example:
        >>> a, b = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0])
        >>> shares = {"loss": [a], "other loss": [b]}
        >>> answers({"fc": Question([a + b], [b], shares, {"other loss"})}) == {"fc": {"loss", "other loss"}}
        True
        >>> answers({"fc": Question([a * b + 3], [b], shares, {"other loss"})})
        {'fc': None}
    """
    parts = {name: _parts(question) for name, question in questions.items()}
    # what was cleared in one layer and stayed in another is put back, or not, in the one alone
    votes = _votes(questions, parts)
    # zeros may stand there since the layer was cleared alone: they do not tell what is in others
    filled = {name: question for name, question in questions.items() if not is_zero(question.now)}
    of_filled = _votes(filled, parts)
    of_changed = _votes({name: question for name, question in filled.items() if question.change != "none"}, parts)
    result: dict[str, set[One] | None] = {}
    for name, question in questions.items():
        part, others = parts[name] or {}, of_filled if name in filled else votes
        key = {one: (one, one in question.inside) for one in part}
        counting = {one: _only(others[key[one]]) if counts is None else counts for one, counts in part.items()}
        if all(len(others[key[one]]) < 2 for one in part):
            _let_go_together(counting, question)
        else:  # some were cleared by themselves, and perhaps what shows nothing here
            counting = dict(part)
        told = parts[name] is not None and None not in counting.values()
        if name in filled:
            told = told and any(counting.values())
        elif any(counting.values()):  # only if what would show here was not put into others, and cleared here
            told = told and all(False in of_changed[key[one]] for one, counts in part.items() if counts is False)
        result[name] = {one for one, counts in counting.items() if counts} if told else None
    return result


def _votes(
    questions: Mapping[str, Question[One]], parts: Mapping[str, Mapping[One, bool | None] | None]
) -> defaultdict[tuple[One, bool], set[bool]]:
    """What layers say of each pass: by the pass, and whether it was in the layer the last time."""
    votes = defaultdict[tuple[One, bool], set[bool]](set)
    for name, question in questions.items():
        for one, counts in (parts[name] or {}).items():
            if counts is not None:
                votes[one, one in question.inside].add(counts)
    return votes


def _only(votes: Iterable[bool | None]) -> bool | None:
    """What all that say something say; None if they do not agree, or nobody says anything."""
    said = {vote for vote in votes if vote is not None}
    return said.pop() if len(said) == 1 else None


def _let_go_together(counting: dict[One, bool | None], question: Question[One]) -> None:
    """A pass that shows nothing stays or goes with the others that stood there; zeros stay, if nothing was put."""
    stood = _only(counts for one, counts in counting.items() if one in question.inside)
    is_put = any(counts for one, counts in counting.items() if one not in question.inside)
    for one in [one for one, counts in counting.items() if counts is None and one in question.inside]:
        counting[one] = True if stood is None and not is_put and is_zero(question.shares[one]) else stood


def _parts(question: Question[One]) -> dict[One, bool | None] | None:
    """For each pass whether it is in a layer's gradient, None if it shows nothing; None if it cannot be told."""
    shares, inside = question.shares, question.inside
    if is_zero(question.now):  # what has come to zero itself shows nothing
        return (
            None if question.unseen else {one: None if is_zero(share) else False for one, share in shares.items()}
        )
    if is_multiple(question.now, question.before):
        is_same = all(torch.equal(one, other) for one, other in zip(question.now, question.before, strict=True))
        if question.untold or (question.unseen and (question.change == "replaced" or not is_same)):
            return None  # the derivatives of two batches may be equal, where their labels are all that counts
        return _parts_of_multiple(question, is_same)
    found = _made_of_each(question.now, list(shares.values()), question.unseen)
    if found is None:
        others = question.unseen or question.untold or any(one not in inside for one in shares)
        return None if others else dict.fromkeys(shares, True)
    if question.unseen and True not in found:
        return None  # cleared, or the derivative that was put there is zero
    hidden = _may_be_hidden(question) if False in found else set()
    return {
        one: None if counts is False and one in hidden else counts
        for one, counts in zip(shares, found, strict=True)
    }


def _may_be_hidden(question: Question[One]) -> set[One]:
    """The passes that were in a gradient, and would not show any longer if they were divided as others were."""
    hidden = {*question.inside} & question.shares.keys()
    if not hidden or [one.shape for one in question.now] != [one.shape for one in question.before]:
        return set()
    for place, (now, before) in enumerate(zip(question.now, question.before, strict=True)):
        shares = {one: share[place] for one, share in question.shares.items()}
        inside = [one for one in shares if one in question.inside]
        of_now = dict(zip(shares, _factors(now, list(shares.values())) or [], strict=False))
        of_before = dict(zip(inside, _factors(before, [shares[one] for one in inside]) or [], strict=False))
        ratios = [abs((of_now.get(one) or 0) / factor) for one, factor in of_before.items() if factor]
        ratio = min((one for one in ratios if one), default=1.0)
        for one in hidden & of_before.keys():
            size = abs(of_before[one] or 0) * ratio * float(shares[one].norm())
            if size > _tolerance(now) * float(now.norm()):
                hidden = hidden - {one}
    return hidden


def _parts_of_multiple(question: Question[One], is_same: bool) -> dict[One, bool | None]:
    """The same for a gradient that is a multiple of what it was.

    What is a multiple of it itself may have been added to it, or stand in its place; what is very small beside it
    may have been added.
    """
    others = {one: share for one, share in question.shares.items() if one not in question.inside}
    alike = {one for one, share in others.items() if not is_same and is_multiple(share, question.before)}
    hidden = {one for one, share in others.items() if _does_not_show(share, question.before)}
    stays = None if alike else True
    return {
        one: stays if one in question.inside else None if one in alike | hidden else False
        for one in question.shares
    }


def is_zero(gradients: Sequence[Tensor]) -> bool:
    """Whether nothing but zeros is in gradients."""
    return not any(bool(one.any()) for one in gradients)


def _does_not_show(share: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether a gradient would still be a multiple of what it was with a share added to it."""
    if is_zero(share) or [one.shape for one in share] != [one.shape for one in before]:
        return is_zero(share)
    return is_multiple([one + other.to(one) for one, other in zip(before, share, strict=True)], before)


def is_multiple(now: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether gradients are what stood there before, or a multiple of it, as after clipping by the norm."""
    if [one.shape for one in now] != [one.shape for one in before]:
        return False
    found = [made_of(one, [other]) for one, other in zip(now, before, strict=True)]
    return [True] in found and all(one in ([True], [None]) for one in found)


def are_multiples(now: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """Whether gradients are multiples of what they were, each by itself, without waiting for their device.

    Returns:
        Shape ``(1,)``, a bool.

    Example:
        >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> are_multiples([2 * a], [a]), are_multiples([a + b], [a])
        (tensor([True]), tensor([False]))
    """
    flags = []
    for one, other in zip(now, before, strict=True):
        tolerance = _tolerance(one)
        a, b = one.double(), other.double()
        size, size_before = a @ a, b @ b
        # by what is left of it: 1 minus the squared cosine is lost in the rounding of the products
        rest = a - (a @ b) / size_before * b
        parallel = (rest @ rest <= tolerance**2 * size) & (size > 0)
        flags.append(parallel | (size_before == 0) | ~(size + size_before).isfinite())
    return torch.stack(flags).all().unsqueeze(0)


def _made_of_each(
    gradients: Sequence[Tensor], shares: Sequence[Sequence[Tensor]], is_unscaled: bool
) -> list[bool | None] | None:
    """Which passes the gradients of a layer are made of, each in its own proportion; None if it cannot be told."""
    if not shares or any([one.shape for one in share] != [one.shape for one in gradients] for share in shares):
        return None
    found = [
        made_of(part, [share[place] for share in shares], is_unscaled=is_unscaled)
        for place, part in enumerate(gradients)
    ]
    if None in found:
        return None
    columns = [{one[place] for one in found if one} - {None} for place in range(len(shares))]
    return [True in column if column else None for column in columns]
