"""Finding what changed from one run to another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradprobe.decide.diagnosis import diagnose
from gradprobe.decide.findings import findings
from gradprobe.decide.policies import ThresholdPolicy, place
from gradprobe.record.files.fields import as_tuples
from gradprobe.record.history import GradientHistory
from gradprobe.runs.difference import Difference, LayerChange
from gradprobe.runs.explanations import remarks
from gradprobe.runs.matching import same_layers
from gradprobe.runs.run import Run

_RECORDED = {"losses", "skipped", "complete", "window", "ranks", "stats", "inputs"}  # not part of the set-up
_CODES = {"reduction", "synthetic", "compare", "advice"}  # of what stands in other conditions too


def compare_runs(
    first: Run | GradientHistory, second: Run | GradientHistory, *, of: str | None = None, factor: float = 10.0
) -> Difference:
    """Find which layers changed between two runs, and what explains it.

    Layers are matched by name; a layer whose name is in only one of the runs is matched with one of the other run
    that has the same kind and size at the same place.

    Args:
        first: The run to compare with; for a history CNDS' rule decides.
        second: The run that is compared to it.
        of: ``"output"`` or ``"weight"``; None takes what the second run's placement looked at.
        factor: How many times larger or smaller a magnitude (median over the iterations) has to be to count.

    Raises:
        ValueError: If the quantity was not recorded in both, or the factor is not above 1.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> def history(*sizes):
        ...     rows = [(0, f"conv{i}", i, "output", size, 0, 0, 0, 0) for i, size in enumerate(sizes)]
        ...     layers = tuple(Layer(f"conv{i}", i, "Conv2d", 9) for i in range(len(sizes)))
        ...     return GradientHistory(tidy(rows), {}, layers, (), None)
        >>> print(compare_runs(history(1e-5, 1e-3), history(1e-9, 1e-3)))
        1 of 2 layers changed from first to second
        mean |dL/d output|, median over the iterations; changes beyond 10 times
        layer           was        now       times
        conv0          1e-5       1e-9        1e-4  down, newly vanishing
        newly vanishing: conv0
    """
    if not factor > 1:
        raise ValueError(f"expected a factor above 1, got {factor!r}")
    names = _names(first, second)
    one, other = _decided(first), _decided(second)
    of = of or other.placement.of
    layers = tuple(_layer_changes(one, other, of, factor))
    conditions = _conditions(one.history, other.history)
    histories = [run.history for run in (one, other) if run.history.evidence is not None]
    diagnoses = tuple(map(diagnose, histories)) if len(histories) == 2 else ()
    said = tuple(remarks(one, other, of, layers))
    return Difference(names, of, factor, layers, conditions, said, diagnoses)


def _names(first: Run | GradientHistory, second: Run | GradientHistory) -> tuple[str, str]:
    folders = [str(run.folder) if isinstance(run, Run) else "" for run in (first, second)]
    if all(folders) and folders[0] != folders[1]:
        return folders[0], folders[1]
    return "first", "second"


def _decided(run: Run | GradientHistory) -> Run:
    """A run as it was decided; of a history that has no gradients of outputs, those of weights decide."""
    if isinstance(run, Run):
        return run
    return Run(Path(), run, place(run, ThresholdPolicy(of=run.main_quantity or "output")))


def _layer_changes(one: Run, other: Run, of: str, factor: float) -> Iterator[LayerChange]:
    matched = same_layers(one.history.layers, other.history.layers)
    before = {layer.name: layer for layer in one.history.layers}
    first_sizes, second_sizes = (run.history.aggregate(of).to_dict() for run in (one, other))
    first_kinds, second_kinds = _kinds(one), _kinds(other)
    for layer in other.history.layers:
        second, has = second_sizes.get(layer.name), second_kinds.get(layer.name, ())
        if layer.name not in matched:
            yield LayerChange(None, layer, None, second, "added", has)
            continue
        old = before[matched[layer.name]]
        first, had = first_sizes.get(old.name), first_kinds.get(old.name, ())
        new, gone = tuple(kind for kind in has if kind not in had), tuple(kind for kind in had if kind not in has)
        yield LayerChange(old, layer, first, second, _change(first, second, factor), new, gone)
    for layer in one.history.layers:
        if layer.name not in matched.values():
            yield LayerChange(layer, None, first_sizes.get(layer.name), None, "removed")


def _kinds(run: Run) -> dict[str, tuple[str, ...]]:
    """The findings of each layer that has some."""
    by_kind = findings(run.history, run.placement)
    names = dict.fromkeys(name for layers in by_kind.values() for name in layers)
    return {name: tuple(kind for kind, layers in by_kind.items() if name in layers) for name in names}


def _change(first: float | None, second: float | None, factor: float) -> str:
    if first == second:
        return ""
    if first is None:
        return "found"
    if second is None:
        return "lost"
    if second > factor * first:
        return "up"
    return "down" if second * factor < first else ""


def _conditions(first: GradientHistory, second: GradientHistory) -> dict[str, tuple[Any, Any]]:
    """The conditions that differ; one that is not recorded is None."""
    one, other = ({**history.conditions, "iterations": history.iterations} for history in (first, second))
    keys = [key for key in {**one, **other} if key not in _RECORDED | _CODES]
    pairs = {key: (one.get(key), other.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if as_tuples(pair[0]) != as_tuples(pair[1])}
