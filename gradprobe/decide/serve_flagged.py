"""From flagged layers to branches: one for each contiguous run of them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import pandas as pd

from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point, place
from gradprobe.record.text import counted, few, shorten

STARVED = (
    1e3  # times: layer scales of ConvNeXt and CaiT begin at 1e-6 and 1e-4, what a layer does by itself is less
)


def serve_flagged(
    empty: Placement, history: GradientHistory, magnitudes: pd.Series[float], low: pd.Series[bool]
) -> Placement:
    """Complete a placement that flags nothing yet: what is flagged, where branches go, and why.

    Args:
        empty: The placement, which names the rule and the quantity.
        history: The record.
        magnitudes: A magnitude for each layer that a gradient arrived at, in depth order.
        low: Whether the rule flags it.
    """
    runs = [[str(name) for name, _ in run] for is_low, run in groupby(low.items(), lambda item: item[1]) if is_low]
    flagged = tuple(name for run in runs for name in run)
    decided = replace(empty, flagged=flagged, skipped=_unreached(history, magnitudes))
    if not flagged:
        return replace(decided, reason=_none_needed(history, magnitudes))
    if len(flagged) == len(magnitudes):
        reason = (
            "Every layer is flagged, the last one too: that is the scale of the loss (or a dead output), "
            "not the depth. A branch would not help."
        )
        return replace(decided, reason=reason)
    return _place_branches(decided, history, magnitudes, runs)


def _unreached(history: GradientHistory, magnitudes: pd.Series[float]) -> dict[str, str]:
    return {
        layer.name: f"{layer.missing(next(iter(layer.unreached)))}, {layer.why}"
        for layer in history.layers
        if layer.name not in magnitudes.index and layer.unreached and not layer.is_frozen
    }


def _none_needed(history: GradientHistory, magnitudes: pd.Series[float]) -> str:
    if not len(magnitudes):
        others = [of for of in history.of if len(history.aggregate(of))]
        if others:
            return f"Nothing can be decided by it: only the gradient of the {others[0]} was recorded."
        return "No gradient was recorded, so nothing can be decided."
    if magnitudes.min() == float("inf"):
        return "Nothing has vanished: every gradient is NaN or infinite in most iterations."
    lowest = shorten(str(magnitudes.idxmin()), 40)
    return f"None needed: the smallest gradient is {magnitudes.min():.2g}, of {lowest}."


def _place_branches(
    decided: Placement, history: GradientHistory, magnitudes: pd.Series[float], runs: Sequence[Sequence[str]]
) -> Placement:
    """A branch for each run of flagged layers that has a point; several runs may share one."""
    points: list[Point] = []
    reasons: list[str] = []
    starved: list[tuple[Sequence[str], Point, float]] = []
    skipped = dict(decided.skipped)
    for run in runs:
        point, why = _serve(history, run)
        times = _starved(magnitudes, run, point) if point is not None and decided.of == "output" else 0
        if point is not None and times:
            starved.append((run, point, times))
            skipped[run[-1]] = (
                f"{place(point)} arrives far more than in it, and a branch would meet the same factor"
            )
            continue
        reasons.append(why + (_blocked(magnitudes, run[-1]) if decided.of == "output" else ""))
        if point is None:
            skipped[run[-1]] = why
        elif point not in points:
            points.append(point)
    reason = " ".join(filter(None, [_first_reasons(reasons), _starved_runs(starved) if starved else ""]))
    return replace(decided, points=tuple(points), reason=reason, skipped=skipped)


def _serve(history: GradientHistory, run: Sequence[str]) -> tuple[Point | None, str]:
    """The point for a run of flagged layers: that of the one nearest the output which has one."""
    for name in reversed(run):
        point = next((point for point in history.points if name in point.layers), None)
        if point is not None:
            return (
                point,
                f"{_flagged(run)}: one branch {place(point)}, nearest the output.",
            )
    why = next((layer.unserved for layer in history.layers if layer.name == run[-1]), None)
    return None, f"{_flagged(run)} but none can feed a branch: {why or 'no point was found'}."


def _flagged(run: Sequence[str]) -> str:
    """Which layers are flagged, in words."""
    span = shorten(run[0], 40) if len(run) == 1 else f"{shorten(run[0], 40)} to {shorten(run[-1], 40)}"
    return f"{counted(len(run), 'layer', 'contiguous layers')} flagged ({span})"


def _starved(magnitudes: pd.Series[float], run: Sequence[str], point: Point) -> float:
    """How many times more arrives at a point than at the flagged layers, if that is far more; else 0.

    Then a factor between them holds their gradient down, as the layer scale of a residual block does (Touvron et
    al. 2021, CaiT, arXiv 2103.17239), and a branch meets the same factor.
    """
    strongest = float(magnitudes[list(run)].max())
    known = magnitudes[_shows_point(magnitudes, run, point)]
    times = float(known.min()) / strongest if strongest and len(known) else 0.0
    return times if STARVED <= times < float("inf") else 0.0


def _shows_point(magnitudes: pd.Series[float], run: Sequence[str], point: Point) -> list[str]:
    """The layers that show what arrives at a point, none if that is not known.

    It is the block itself where that owns its scale. Else it is the layer before the flagged ones together with
    the one after them: a later one in the block, as the scale may be, or one after a block of which all are
    flagged, for the shortcut leads from one to the other.
    """
    names = [str(name) for name in magnitudes.index]
    before, after = names[: names.index(run[0])], names[names.index(run[-1]) + 1 :]
    if point.name in after:
        return [point.name]
    later = [name for name in point.layers if name in after]
    is_block = len(point.layers) > 2 and f"{run[-1]}.".startswith(f"{point.module}.")
    following = later[-1:] or (after[:1] if is_block else [])
    return [*before[-1:], *following] if before and following else []


def _starved_runs(starved: Sequence[tuple[Sequence[str], Point, float]]) -> str:
    """A sentence about the layers that no branch would reach."""
    spans = few([f"{shorten(run[0], 24)} to {shorten(run[-1], 24)}" for run, _, _ in starved], 3)
    least, most = (f"{pick(times for _, _, times in starved):.0e}" for pick in (min, max))
    return (
        f"No branch for {spans}: where it could be put ({few([place(point) for _, point, _ in starved], 3)}) the "
        f"gradient is {least if least == most else f'{least} to {most}'} times theirs. A factor inside the block "
        "(a layer scale, a gain near zero) holds theirs down, and would hold down that of a branch as well."
    )


def _blocked(magnitudes: pd.Series[float], last: str) -> str:
    """A sentence to add where the gradient does not fade towards the last layer of a run but stops after it."""
    later = magnitudes.loc[last:].iloc[1:]
    if magnitudes[last] != 0 or not len(later):
        return ""
    following = shorten(str(later.index[0]), 40)
    return (
        f" But the gradient of {shorten(last, 40)} is exactly zero, and that of {following} after it "
        f"{later.iloc[0]:.2g}: what is between them lets nothing through (a dead activation, or a number format "
        "too small), and a branch does not change that."
    )


def _first_reasons(reasons: Sequence[str]) -> str:
    """The reasons one after the other; of many the first three, and how many more runs there are."""
    if len(reasons) <= 4:
        return " ".join(reasons)
    return " ".join([*reasons[:3], f"And so on: {len(reasons) - 3} more runs of flagged layers."])


def disagreement(placement: Placement, other: Placement) -> str | None:
    """How a scale-free rule sees it, in a sentence, where it flags other layers than the placement."""
    ours, theirs = set(placement.flagged), set(other.flagged)
    if ours == theirs:
        return None

    def names(flagged: tuple[str, ...], without: set[str]) -> str:
        return few([shorten(name, 24) for name in flagged if name not in without], 4)

    only_ours, only_theirs = names(placement.flagged, theirs), names(other.flagged, ours)
    parts = [f"does not flag {only_ours}"] if only_ours else []
    parts += [f"flags {only_theirs} as well"] if only_theirs else []
    return f"The scale-free rule ({other.policy}) disagrees: it {' and '.join(parts)}."
