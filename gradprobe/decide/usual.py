"""Where branches are usual: at decoder stages, at each decoder layer, along plain chains. No torch.

The kind of network is read from the shapes of its points and of its output, and from what was measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gradprobe.decide.causes.facts import Reading
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.record.text import counted, few, shorten

FADED = 1e-2  # of the gradient at the branch after it, or at the output; healthy trainings keep more of it
SIGNAL = 1e-2  # spread below which a branch would see hardly more than a constant (Schoenholz et al. 2017)


@dataclass(frozen=True)
class BranchesPolicy:
    """Branches where they are usual for the kind of network, whether or not they are needed.

    - Dense prediction with a decoder: at the end of each decoder stage of a lower resolution than the output, but
      for the lowest where there are several, each with half the weight of the one after it (nnU-Net, Isensee et
      al. 2021, arXiv 1904.08128).
    - An encoder-decoder with a stream of queries: at each decoder layer but the last, with equal weights (DETR,
      Carion et al. 2020, arXiv 2005.12872, section 3.2).
    - Any other: from the output back, a branch wherever less than a hundredth of the gradient is left of that
      at the branch before it, if the signal still arrives there (CNDS, Wang et al. 2015, repeated).

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> from gradprobe.record.points import Point
        >>> sizes = {"down": 8, "bottom": 2, "up3": 4, "up2": 8, "up1": 16}
        >>> points = tuple(Point(n, (2, 4, s, s), d, (n,), 1, 0, 0) for d, (n, s) in enumerate(sizes.items()))
        >>> layers = tuple(Layer(name, depth, "Conv2d", 9) for depth, name in enumerate(sizes))
        >>> placement = BranchesPolicy()(GradientHistory(tidy([]), {}, layers, points, (2, 3, 16, 16)))
        >>> [point.name for point in placement.points], placement.weights
        (['up2'], 'halving')
    """

    def __str__(self) -> str:
        return "branches where they are usual for the kind of network"

    def __call__(self, history: GradientHistory) -> Placement:
        """Decide."""
        placement = Placement(str(self), (), (), "", rule="branches", **history.output)
        points = tuple(history.points)
        if stages := decoder_stages(points, history.output_shape):
            reason = (
                f"Dense prediction: a branch at the end of {counted(len(stages), 'decoder stage')} "
                f"({_names(stages)}), as nnU-Net has, each with half the weight of the one after it."
            )
            return replace(placement, points=stages, reason=reason, weights="halving")
        if decoder := decoder_layers(points, history.output_shape):
            reason = (
                f"A decoder of queries: a branch at each of its layers but the last ({_names(decoder)}), as DETR "
                "has, all with the same weight."
            )
            return replace(placement, points=decoder, reason=reason)
        chain, reason = along_chain(history)
        return replace(placement, points=chain, reason=reason)


def _names(points: Sequence[Point]) -> str:
    return few([shorten(point.name, 24) for point in points], 4)


def _size(point: Point) -> int | None:
    """How many positions its maps have; None where it has no maps, or the axes are not known."""
    if len(point.shape) < 3 or point.channels is None:
        return None
    batch = 0 if point.batch is None else point.batch
    return math.prod(
        n for axis, n in enumerate(point.shape) if axis not in (batch, point.channels % len(point.shape))
    )


def decoder_stages(points: Sequence[Point], output_shape: object) -> tuple[Point, ...]:
    """The ends of the decoder stages below the output's resolution; none where the resolution never rises again.

    Args:
        points: In forward order.
        output_shape: Of the network's output.
    """
    sized = [(point, size) for point in points if (size := _size(point)) is not None]
    if len(sized) < 2 or not _is_shape(output_shape):
        return ()
    lowest = min(size for _, size in sized)
    bottom = max(index for index, (_, size) in enumerate(sized) if size == lowest)
    stages = {size: point for point, size in sized[bottom + 1 :] if size > lowest}  # the last of each size
    whole = max(stages, default=0)
    inner = [stages[size] for size in sorted(stages) if size < whole or not _is_full(whole, output_shape)]
    return tuple(inner[1:] if len(inner) > 1 else inner)


def _is_shape(shape: object) -> bool:
    return isinstance(shape, tuple) and len(shape) >= 3 and all(isinstance(size, int) for size in shape)


def _is_full(size: int, output_shape: object) -> bool:
    """Whether a map of so many positions is as large as the output: that one feeds the last layer."""
    assert isinstance(output_shape, tuple)
    return math.prod(output_shape[2:]) <= size


def decoder_layers(points: Sequence[Point], output_shape: object) -> tuple[Point, ...]:
    """All layers alike but the last whose stream is as long as the output, after a stream of another length.

    Args:
        points: In forward order.
        output_shape: Of the network's output, or of several of them.
    """
    shapes = [shape[:2] for shape in _shapes(output_shape) if len(shape) == 3]
    run: list[Point] = []
    for point in reversed(points):
        if run and (point.shape != run[-1].shape or _like(point) != _like(run[-1])):
            break
        run.insert(0, point)
    before = [point for point in points if point not in run]
    is_stream = run and len(run[0].shape) == 3 and sorted(run[0].shape[:2]) in [sorted(one) for one in shapes]
    if len(run) < 2 or not is_stream or all(point.shape == run[0].shape for point in before):
        return ()
    return tuple(run[:-1])


def _like(point: Point) -> str:
    """Its name without the numbers: modules of a list are alike."""
    return re.sub(r"\d+", "#", point.name)


def _shapes(value: object) -> Iterator[tuple[int, ...]]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        if value and all(isinstance(size, int) for size in value):
            yield tuple(value)
        else:
            for part in value:
                yield from _shapes(part)


def along_chain(history: GradientHistory) -> tuple[tuple[Point, ...], str]:
    """Points from the output back, each where the gradient has faded since the one before; and why these."""
    if not history.points:
        return (), "The network has no supervision point."
    if history.evidence is None:
        return (), "Only gradients were recorded, so nothing says where a branch would see the input."
    reading = Reading(history)
    chosen: list[Point] = []
    lost: list[Point] = []
    arrives = 1.0
    for point in reversed(history.points):
        share = min((reading.share[name] for name in point.layers if name in reading.share), default=math.nan)
        spread = max((reading.spread[name] for name in point.layers if name in reading.spread), default=math.nan)
        if spread < SIGNAL:
            lost.append(point)
        elif share < FADED * arrives:
            chosen.insert(0, point)
            arrives = share
    return tuple(chosen), _why(chosen, lost, len(history.points))


def _why(chosen: Sequence[Point], lost: Sequence[Point], count: int) -> str:
    where = f"{len(lost)} of {counted(count, 'point')}"
    rest = f" At {where} the signal is lost: a branch there would see a constant." if lost else ""
    if not chosen and not lost:
        return "None needed: the gradient arrives at every point."
    if not chosen:
        return f"Nowhere is there a signal and too little gradient.{rest}"
    return (
        f"A plain chain: {counted(len(chosen), 'branch', 'branches')} ({_names(chosen)}), each where less than "
        f"{FADED:g} of the gradient at the branch after it, or at the output, is left.{rest}"
    )
