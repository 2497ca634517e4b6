"""Whether gradients are still there: a gradient that is cleared in place is the same tensor, full of zeros."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gradprobe.measure.reduction.values import is_immediate, is_plain, local_part

_SAMPLE = 256  # elements that are looked at: others tell whether a gradient with zeros there was cleared


class Presence:
    """For each of several gradients, whether it is there; it stays on the device until the host can know it.

    Args:
        flags: One bool for each gradient.

    Example:
        >>> presence = Presence(torch.tensor([True, False]))
        >>> presence.known()
        [True, False]
    """

    def __init__(self, flags: Tensor) -> None:
        self.flags = flags
        self._known: list[bool] | None = None
        self._copied: torch.Event | None = None
        if is_immediate(flags.device):
            self._known = flags.tolist()
        elif flags.device.type == "cuda":
            self._host = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True)
            self._host.copy_(flags, non_blocking=True)
            self._copied = torch.Event(flags.device)
            self._copied.record()

    def known(self, *, wait: bool = False) -> list[bool] | None:
        """The flags, or None as long as the device is not that far; with ``wait`` it is waited for."""
        if self._known is None:
            if wait:
                self._known = self.flags.tolist()
            elif self._copied is not None and self._copied.query():
                self._known = self._host.tolist()
        return self._known


Gate = tuple[tuple[Presence, int], ...]
"""What is there only if all of these are; ``()`` is there for certain."""


def settled(gate: Gate) -> Gate | None:
    """A gate without what is known by now; None if it is known not to be there.

    Example:
        >>> presence = Presence(torch.tensor([True, False]))
        >>> settled(((presence, 0),)), settled(((presence, 0), (presence, 1)))
        ((), None)
    """
    left = []
    for presence, index in gate:
        known = presence.known()
        if known is None:
            left.append((presence, index))
        elif not known[index]:
            return None
    return tuple(left)


def is_open(gate: Gate) -> bool:
    """Whether it is there. Waits for the device."""
    return all((presence.known(wait=True) or ())[index] for presence, index in gate)


def joint(gates: Iterable[Gate]) -> Gate:
    """A gate that is open if one of these is.

    Example:
        >>> presence = Presence(torch.tensor([True, False]))
        >>> is_open(joint([((presence, 0),), ((presence, 1),)]))
        True
    """
    alike: dict[int, list[Gate]] = {}
    for gate in dict.fromkeys(gates):
        if not gate:
            return ()
        alike.setdefault(len(gate), []).append(gate)
    # few kernels for many layers: each has its own gate on an accelerator
    open_ones = [
        torch.cat([_flag(*part) for gate in several for part in gate]).view(-1, length).all(1).any()
        for length, several in alike.items()
    ]
    return ((Presence(torch.stack(open_ones).any().unsqueeze(0)), 0),)


def _flag(presence: Presence, index: int) -> Tensor:
    return presence.flags[index : index + 1]


def factor(gate: Gate) -> Tensor | float:
    """What a gradient has to be multiplied by: 1, or a tensor of one element that is 1 or 0."""
    if not gate:
        return 1.0
    return torch.stack([_flag(*part) for part in gate]).all(0).to(torch.float32)


class Look(NamedTuple):
    """What the first elements of a gradient were at some moment.

    Attributes:
        presence: Whether any of them is not zero, of this and other gradients.
        place: Its place among these.
        elements: The first elements of all of them, one after the other.
        start: Where its own begin.
        lengths: How many they are, of each of a layer's gradients.
    """

    presence: Presence
    place: int
    elements: Tensor
    start: int
    lengths: tuple[int, ...]

    @property
    def gate(self) -> tuple[Presence, int]:
        """A part of a gate that is open if it was not zero."""
        return self.presence, self.place

    @property
    def values(self) -> list[Tensor]:
        """The first elements, of each gradient by itself."""
        return list(self.elements[self.start : self.start + sum(self.lengths)].split(self.lengths))


def look(gradients: Sequence[Sequence[Tensor]]) -> list[Look]:
    """Look at the first elements of gradients as they stand, without waiting for a device.

    Args:
        gradients: For each layer one or more, all of one data type and on one device.

    Example:
        >>> first, second = look([[torch.ones(2)], [torch.zeros(3, 3), torch.zeros(3)]])
        >>> first.presence.known(), [values.numel() for values in second.values]
        ([True, False], [9, 3])
    """
    alike: dict[tuple[torch.device, torch.dtype], list[tuple[int, list[Tensor]]]] = {}
    for index, several in enumerate(gradients):
        samples = [_sample(gradient) for gradient in several]
        alike.setdefault((samples[0].device, samples[0].dtype), []).append((index, samples))
    result: dict[int, Look] = {}
    for group in alike.values():
        peaks = iter(_peaks([sample for _, samples in group for sample in samples]))
        of_each = [[next(peaks) for _ in samples] for _, samples in group]
        most = max(map(len, of_each))
        padded = [peak for own in of_each for peak in own + own[:1] * (most - len(own))]
        presence = Presence((torch.stack(padded).view(-1, most) != 0).any(1))
        elements, start = torch.cat([sample for _, samples in group for sample in samples]), 0
        for place, (index, samples) in enumerate(group):
            lengths = tuple(sample.numel() for sample in samples)
            result[index] = Look(presence, place, elements, start, lengths)
            start += sum(lengths)
    return [result[index] for index in range(len(gradients))]


def still_there(now: Sequence[Look], before: Sequence[Look | None] | None) -> list[tuple[Presence, int]]:
    """Whether gradients that were changed, or put there, hold anything, going by whether they did before.

    One that was not zero and is now was cleared. One that was zero before shows nothing, as that of a layer whose
    units are all dead: it was cleared if all of the others were.

    Args:
        now: The gradients as they stand.
        before: As they stood; None for one that was not looked at, or for all that are there anew: these go by
            each other as well.

    Example:
        >>> a, b = torch.ones(2), torch.zeros(2)
        >>> [presence.known()[index] for presence, index in still_there(look([[a * 2], [b]]), look([[a], [b]]))]
        [True, True]
        >>> [presence.known()[index] for presence, index in still_there(look([[a * 0], [b]]), look([[a], [b]]))]
        [False, False]
    """
    result = [one.gate for one in now]
    for presence in dict.fromkeys(one.presence for one in now):
        places = [index for index, one in enumerate(now) if one.presence is presence]
        flags = _flags([now[index] for index in places], presence.flags, unknown=False)
        earlier = [None if before is None else before[index] for index in places]
        surely, perhaps = _flags(earlier, flags, unknown=False), _flags(earlier, flags, unknown=True)
        all_gone = perhaps.any() & ~(flags & perhaps).any()
        judged = Presence(flags | ~(surely | all_gone))
        for place, index in enumerate(places):
            result[index] = (judged, place)
    return result


def _flags(before: Sequence[Look | None], like: Tensor, *, unknown: bool) -> Tensor:
    known = next((one.presence for one in before if one is not None), None)
    if known is not None and known.flags.device == like.device:
        in_order = [None if one is None else (one.presence, one.place) for one in before]
        if in_order == [(known, index) for index in range(len(known.flags))]:
            return known.flags
    nothing = like.new_full((1,), unknown)
    return torch.cat(
        [nothing if one is None else one.presence.flags[one.place : one.place + 1].to(like) for one in before]
    )


def _peaks(samples: list[Tensor]) -> Sequence[Tensor]:
    # the largest absolute value, not the sum of squares: 1e-30 has no square in float32
    with torch.no_grad():
        return torch._foreach_norm(samples, float("inf"))


def _sample(gradient: Tensor) -> Tensor:
    gradient = local_part(gradient.detach())
    if gradient.is_sparse:
        gradient = gradient._values()
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient)
    while gradient.dim() > 1 and not gradient.is_contiguous():
        gradient = gradient[0]
    sample = gradient.reshape(-1)[:_SAMPLE]
    return sample if sample.numel() else sample.new_zeros(1)


Change = Literal["none", "touched", "cleared", "replaced"]


class GradientState:
    """What stands in the ``.grad`` of a parameter, so that one can see later what became of it.

    Attributes:
        owner: The parameter, by `id`.

    Example:
        >>> parameter = torch.nn.Parameter(torch.ones(2))
        >>> parameter.grad = torch.ones(2)
        >>> state = GradientState(parameter)
        >>> state.change(parameter)
        'none'
        >>> _ = parameter.grad.mul_(2)
        >>> state.change(parameter)
        'touched'
        >>> parameter.grad = torch.ones(2)
        >>> state.change(parameter)
        'replaced'
    """

    __slots__ = ("_identity", "_memory", "_reference", "_version", "owner")

    def __init__(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        self.owner = id(parameter)
        self._reference = None
        if gradient is not None:
            self._identity, self._version = id(gradient), gradient._version
            self._memory = gradient.data_ptr() if is_plain(gradient) else None
            # a weak reference to the object of Python would be lost with it, though the tensor lives on
            self._reference = torch._C._WeakTensorRef(gradient)  # type: ignore[attr-defined]

    def empty(self) -> None:
        """The gradient is gone."""
        self._reference = None

    def change(self, parameter: Tensor) -> Change:
        """What became of it: touched is changed in place; replaced by another tensor, or put where none was."""
        gradient = parameter.grad
        if gradient is None:
            return "none" if self._reference is None else "cleared"
        if self._reference is None or self._reference.expired() or id(gradient) != self._identity:
            return "replaced"
        if self._memory is not None and gradient.data_ptr() != self._memory:  # ``grad.data = other``
            return "replaced"
        return "none" if gradient._version == self._version else "touched"
