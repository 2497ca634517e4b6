"""The words of the page: the numbers, the reasons, the conditions."""

from __future__ import annotations

from typing import Any

from gradprobe.decide.findings import default_rule, looks_at_magnitudes, with_default_flags
from gradprobe.decide.onset import onset
from gradprobe.record.conditions import with_codes
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import short
from gradprobe.record.text import shorten
from gradprobe.show.headline import Verdict
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import Comparison
from gradprobe.version import __version__

DEPENDS = (
    "With a mean loss a magnitude scales with one over the batch size, and always with the scale of the loss: "
    "compare it only under the same conditions.",
    "A small gradient need not matter: Adam takes steps of the same size whatever its scale.",
)


def facts(history: GradientHistory, placement: Placement) -> list[tuple[str, str]]:
    """A few numbers: the number, and what it counts."""
    placement = with_default_flags(history, placement)
    below = "" if placement.threshold is None else f" below {short(placement.threshold)}"
    return [
        (str(len(history.layers)), "layer" if len(history.layers) == 1 else "layers"),
        (str(len(placement.flagged)), f"flagged{below}"),
        (str(len(placement.points)), "branch placed" if len(placement.points) == 1 else "branches placed"),
        (str(history.iterations), "iteration" if history.iterations == 1 else "iterations"),
    ]


def why(history: GradientHistory, placement: Placement, said: Verdict) -> list[tuple[str, str]]:
    """How the decision was made: a heading and a sentence for each part of it that the verdict has not said."""
    rows = [("Rule", _rule(history, placement))]
    if placement.reason not in " ".join([said.sentence, *said.details]):
        rows.append(("Placement", placement.reason))
    if placement.points:
        names = ", ".join(shorten(point.name, 40) for point in placement.points)
        rows.append(("Branch" if len(placement.points) == 1 else "Branches", f"after {names}"))
    if placement.disagreement:
        rows.append(("Second opinion", placement.disagreement))
    finite = _finite(history)
    if finite:
        rows.append(("Finite", finite))
    if history.conditions.get("stopped"):
        rows.append(("Incomplete", f"The record ended early: {history.conditions['stopped']}."))
    return rows


def _finite(history: GradientHistory) -> str:
    """Which iterations were finite, where one was not; empty where all were."""
    began = onset(history)
    if began is None:
        return ""
    frame = history.rows_of_layers
    every = sorted(map(int, frame["iteration"].unique()))
    bad = set(map(int, frame.loc[(frame["nonfinite"] > 0).fillna(False).astype(bool), "iteration"]))
    before = [iteration for iteration in every if iteration < began.iteration]
    later = [iteration for iteration in every if iteration > began.iteration]
    span = f"{before[0]} to {before[-1]}" if len(before) > 1 else "".join(map(str, before))
    first = (
        f"Iteration{'s' * (len(before) > 1)} {span} {'were' if len(before) > 1 else 'was'} finite"
        if before
        else ""
    )
    came = f"NaN or infinity came in iteration {began.iteration}: {began}."
    again = sum(iteration not in bad for iteration in later)
    rest = f" Of the {len(later)} after it {again} were finite." if later else ""
    return f"{first}. {came}{rest}" if first else f"{came}{rest}"


def _rule(history: GradientHistory, placement: Placement) -> str:
    """The rule that flags layers, and the one that places branches where it is another one."""
    if looks_at_magnitudes(placement):
        return f"A layer is flagged by: {placement.policy}."
    placed = f"Branches are placed by: {placement.policy}."
    if placement.rule == "every":
        placed = "A branch at every supervision point (Deeply-Supervised Nets)."
    return f"{placed} A layer is flagged by: {default_rule(history)}."


_ALWAYS = {
    "target": "target",
    "data": "data",
    "batch_size": "batch size",
    "loss": "loss and reduction",
    "optimizer": "optimizer",
    "dtype": "dtype",
    "amp_scale": "loss scale (AMP)",
    "device": "device",
    "world_size": "world size",
    "seed": "seed",
    "torch": "torch",
}
_SOMETIMES = {
    "learning_rates": "learning rate, first and last",
    "micro_batches": "micro-batches in an iteration",
    "skipped": "skipped steps (overflow)",
    "ranks": "ranks",
    "wrapper": "wrapper",
    "compile": "torch.compile",
    "kernels": "kernels on the accelerator",
    "stats": "statistics",
    "window": "window",
    "inputs": "inputs of the model",
    "stopped": "ended early",
    "loose_parameters": "parameters of no module",
    "branch": "kind of branch",
    "branch_loss": "loss of the branches",
}
# those above, and what the page shows elsewhere or in other words
_LISTED = {*_ALWAYS, *_SOMETIMES, "losses", "complete", "reduction", "synthetic", "default_optimizer", "compare"}
_COMPARISON = {
    "iterations": "length of each training",
    "seeds": "seeds",
    "weight": "weight of the branches",
    "schedule": "schedule",
    "branch": "kind of branch",
    "branch_loss": "loss of the branches",
    "metric": "judged by",
    "held_out": "held-out targets",
    "chance": "accuracy of a constant answer",
}


def conditions(history: GradientHistory, comparison: Comparison | ArmsComparison | None) -> list[tuple[str, str]]:
    """What the numbers depend on, as names and values; every record lists those of `_ALWAYS`, known or not."""
    known = with_codes(history.conditions)
    if known.get("loss") and not known.get("reduction"):
        known["loss"] = f"{known['loss']}, reduction unknown"
    if known.get("batch_size", 0) is None:
        known["batch_size"] = "unknown"
    rows = [(name, _in_words(known.get(key, "not recorded")) or "none") for key, name in _ALWAYS.items()]
    usual: tuple[Any, ...] = (None, [], 1)
    rows += [(name, _in_words(known[key])) for key, name in _SOMETIMES.items() if known.get(key) not in usual]
    others = {key: value for key, value in known.items() if key not in _LISTED and value is not None}
    rows += [(key, _in_words(value)) for key, value in others.items()]
    if comparison is not None:
        facts = {**comparison.conditions, "metric": comparison.metric.described}
        rows += [(name, _in_words(facts[key])) for key, name in _COMPARISON.items() if facts.get(key) is not None]
    return [*rows, ("gradprobe", __version__)]


def _in_words(value: Any) -> str:
    """A value in words; nothing for None.

    Example:
        >>> _in_words([0, 1]), _in_words(0.30000001), _in_words(None), _in_words(True)
        ('0, 1', '0.3', '', 'yes')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_in_words, value))
    return short(value) if isinstance(value, float) else str(value)
