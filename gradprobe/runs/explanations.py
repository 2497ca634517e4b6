"""What may explain a difference: the batch size, the scale of the loss, another rule, another verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gradprobe.record.history import GradientHistory
from gradprobe.record.quantities import short
from gradprobe.runs.difference import LayerChange, extent, some
from gradprobe.runs.run import Run

ALIKE = 2.0  # ratios that differ by less than this count as one factor


def remarks(one: Run, other: Run, of: str, layers: Sequence[LayerChange]) -> Iterator[str]:
    """Sentences on what may explain that these layers changed; only those that apply."""
    yield from _scale_remarks(one, other, of, layers)
    if one.placement.policy != other.placement.policy:
        yield (
            f"The runs were decided by different rules ({one.placement.policy}; now {other.placement.policy}): "
            "`gradprobe place RUN --save` decides again."
        )
    if one.comparison and other.comparison and one.comparison.verdict != other.comparison.verdict:
        yield f"Deep supervision: {one.comparison.verdict}, now {other.comparison.verdict}."


def _scale_remarks(one: Run, other: Run, of: str, layers: Sequence[LayerChange]) -> Iterator[str]:
    """Why all layers may have changed by a common factor."""
    ratios = _ratios(layers)
    if not ratios:
        return
    first, second = _batch_size(one.history), _batch_size(other.history)
    if of == "output" and first and second and first != second and not _summed(one, other):
        yield from _batch_remarks(one, other, first, second, layers)
    elif _alike(list(ratios.values())):
        losses = [run.history.conditions.get("loss") for run in (one, other)]
        also = f" The loss differs: {losses[0]}, now {losses[1]}." if losses[0] != losses[1] else ""
        yield (
            f"Every layer changed by about the same factor ({extent(ratios.values())} times): that is the scale "
            f"of the loss, not the depth.{also}"
        )


def _ratios(layers: Sequence[LayerChange]) -> dict[str, float]:
    return {layer.name: layer.ratio for layer in layers if layer.ratio is not None}


def _alike(ratios: Sequence[float]) -> bool:
    """Whether there are several ratios, all about the same, and not about 1."""
    middle = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
    near = all(1 / ALIKE <= ratio / middle <= ALIKE for ratio in ratios)
    return len(ratios) > 1 and near and not 1 / ALIKE < middle < ALIKE


def _batch_remarks(one: Run, other: Run, first: int, second: int, layers: Sequence[LayerChange]) -> Iterator[str]:
    expected, ratios = first / second, _ratios(layers)
    rest = [name for name, ratio in ratios.items() if not 1 / ALIKE <= ratio / expected <= ALIKE]
    agreement = f"{len(ratios) - len(rest)} of the {len(ratios)} layers are within {ALIKE:g} times of that"
    if not rest:
        agreement = f"every layer is about there ({extent(ratios.values())} times), which explains it"
    yield (
        f"The batch size, {first} and now {second}, alone makes every output's gradient of a mean loss "
        f"{short(expected)} times what it was: {agreement}{f'; not {some(rest)}' if rest else ''}."
    )
    threshold = other.placement.threshold
    if threshold is None or threshold != one.placement.threshold or other.placement.of != "output":
        return
    flagged = [layer for layer in layers if "vanishing" in layer.new and layer.second is not None]
    above = [layer.name for layer in flagged if layer.second and layer.second / expected >= threshold]
    if above:
        yield f"At batch size {first} these would not be below {short(threshold)}: {some(above)}."


def _batch_size(history: GradientHistory) -> int | None:
    """Examples in a forward pass over all ranks, of which the loss is the mean."""
    size = history.conditions.get("batch_size")
    return None if size is None else int(size) * int(history.conditions.get("world_size") or 1)


def _summed(*runs: Run) -> bool:
    """Whether one of the losses is a sum."""
    return any(run.history.conditions.get("reduction") == "sum" for run in runs)
