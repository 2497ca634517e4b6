"""The words of the page: the verdict, the reasons, the conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradprobe.decide.findings import default_rule, findings, looks_at_magnitudes, with_default_flags
from gradprobe.record.conditions import with_codes
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import short
from gradprobe.record.text import counted, layer_span, shorten
from gradprobe.verdict.arm import REMEDIES
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import Comparison
from gradprobe.version import __version__

DEPENDS = (
    "With a mean loss a magnitude scales with one over the batch size, and always with the scale of the loss: "
    "compare it only under the same conditions.",
    "A small gradient need not matter: Adam takes steps of the same size whatever its scale.",
)


@dataclass(frozen=True)
class State:
    """How a kind of verdict is shown: words, a symbol and a tone, so that nothing depends on colour alone."""

    badge: str
    symbol: str
    tone: str


STATES = {
    "healthy": State("Healthy", "\N{HEAVY CHECK MARK}", "good"),
    "helped": State("Helped", "\N{HEAVY CHECK MARK}", "good"),
    "likely helped": State("Likely helped", "\N{HEAVY CHECK MARK}", "warn"),
    "vanishing": State("Vanishing", "\N{DOWNWARDS BLACK ARROW}", "bad"),
    "exploding": State("Exploding", "\N{UPWARDS BLACK ARROW}", "bad"),
    "nonfinite": State("Not finite", "\N{HEAVY BALLOT X}", "bad"),
    "harmed": State("Harmed", "\N{HEAVY BALLOT X}", "bad"),
    "unreached": State("Unreached", "\N{EMPTY SET}", "warn"),
    "no difference": State("Did not help", "=", "warn"),
    "cannot tell": State("Cannot tell", "?", "unknown"),
}
_FINDINGS = {  # the worst first
    "nonfinite": "Gradients are NaN or infinite in",
    "vanishing": "The gradient does not reach",
    "exploding": "The gradient explodes in",
    "unreached": "No gradient arrives at",
}
_COMPARED = {
    "helped": "Deep supervision helped.",
    "harmed": "Deep supervision harmed.",
    "no difference": "Deep supervision did not help beyond the noise.",
    "cannot tell": "This run cannot tell whether deep supervision helps.",
}


@dataclass(frozen=True)
class Verdict:
    """The verdict: which kind, one sentence, and the reasons.

    Attributes:
        state: A key of `STATES`.
        sentence: One sentence.
        details: Further sentences.
    """

    state: str
    sentence: str
    details: tuple[str, ...] = ()

    @property
    def look(self) -> State:
        """How it is shown."""
        return STATES[self.state]


def verdict(
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None = None,
    arms: ArmsComparison | None = None,
) -> Verdict:
    """The result of a run in one sentence; a comparison counts for more than a threshold.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, "a", 0, "output", 1e-9, 0, 0, 0, 0), (0, "b", 1, "output", 1e-3, 0, 0, 0, 0)]
        >>> layers = (Layer("a", 0, "Linear", 9), Layer("b", 1, "Linear", 9))
        >>> history = GradientHistory(tidy(rows), {}, layers, (), None)
        >>> result = verdict(history, Placement("by hand", ("a",), (), "so"))
        >>> result.state, result.sentence
        ('vanishing', 'The gradient does not reach 1 of 2 layers: a.')
    """
    if arms is not None:
        first, *more = arms.choice.sentences
        return Verdict(arms.choice.verdict, first, (*more, *arms.failures))
    if comparison is not None and comparison.verdict in _COMPARED:
        return Verdict(comparison.verdict, _COMPARED[comparison.verdict], tuple(str(comparison).splitlines()))
    if not history.iterations:
        return Verdict("cannot tell", "Nothing was recorded, so there is no verdict.")
    health = _health(history, placement)
    if not placement.remedy:
        return health
    sentence = f"{health.sentence} Change the network first: {remedy_name(placement.remedy)}."
    return replace(health, sentence=sentence, details=tuple(dict.fromkeys([*health.details, placement.reason])))


def remedy_name(name: str) -> str:
    """What a remedy changes, and its name.

    Example:
        >>> remedy_name("lsuv"), remedy_name("of my own")
        ('initial weights of unit variance (lsuv)', 'of my own')
    """
    return f"{REMEDIES[name].change} ({name})" if name in REMEDIES else name


def _health(history: GradientHistory, placement: Placement) -> Verdict:
    """The verdict on the gradients alone."""
    layers = findings(history, with_default_flags(history, placement))
    if is_scale(history, placement) and "nonfinite" not in layers:
        return Verdict("cannot tell", "Every layer is flagged, so the scale of the loss hides what depth does.")
    kind = next((kind for kind in _FINDINGS if kind in layers), None)
    if kind is None:
        return Verdict("healthy", "The gradient reaches every layer.", (placement.reason,))
    count = f"{len(layers[kind])} of {counted(len(history.layers), 'layer')}"
    order = [layer.name for layer in history.layers]
    names = layer_span(layers[kind], order, lambda name: _middle(name, 40))
    return Verdict(kind, f"{_FINDINGS[kind]} {count}: {names}.", _also(layers, kind))


def is_scale(history: GradientHistory, placement: Placement) -> bool:
    """Whether every measured layer is flagged: the cause is then the scale of the loss, not the depth."""
    placement = with_default_flags(history, placement)
    measured = len(history.aggregate(placement.of)) if placement.of in history.of else 0
    return measured > 1 and len(placement.flagged) == measured


def _middle(name: str, width: int) -> str:
    """A name, or its beginning and its end.

    Example:
        >>> _middle("encoder.layer.11.attention.output.dense", 24)
        'encoder.laye…utput.dense'
    """
    printable = shorten(name, max(len(name), len("(root)")))
    tail = (width - 1) // 2
    return printable if len(printable) <= width else f"{printable[: width - 1 - tail]}…{printable[-tail:]}"


def _also(layers: Mapping[str, Sequence[str]], verdict: str) -> tuple[str, ...]:
    """The findings other than that of the verdict, in a sentence."""
    rest = [
        f"{counted(len(names), 'layer')} {STATES[kind].badge.lower()}"
        for kind, names in layers.items()
        if kind != verdict
    ]
    return (f"Also found: {', '.join(rest)}.",) if rest else ()


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


def why(history: GradientHistory, placement: Placement) -> list[tuple[str, str]]:
    """How the decision was made: a heading and a sentence for each part of it."""
    rows = [("Rule", _rule(history, placement))]
    rows.append(("Placement", placement.reason))
    if placement.points:
        names = ", ".join(shorten(point.name, 40) for point in placement.points)
        rows.append(("Branch" if len(placement.points) == 1 else "Branches", f"after {names}"))
    if placement.disagreement:
        rows.append(("Second opinion", placement.disagreement))
    if history.conditions.get("stopped"):
        rows.append(("Incomplete", f"The record ended early: {history.conditions['stopped']}."))
    return rows


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
    "micro_batches": "micro-batches in an iteration",
    "skipped": "skipped steps (overflow)",
    "ranks": "ranks",
    "wrapper": "wrapper",
    "compile": "torch.compile",
    "stats": "statistics",
    "window": "window",
    "inputs": "inputs of the model",
    "stopped": "ended early",
}
# those above, and what the page shows elsewhere or in other words
_LISTED = {*_ALWAYS, *_SOMETIMES, "losses", "complete", "reduction", "synthetic"}
_COMPARISON = {
    "iterations": "length of each training",
    "seeds": "seeds",
    "weight": "weight of the branches",
    "schedule": "schedule",
    "branch": "kind of branch",
    "held_out": "held-out targets",
    "chance": "accuracy of a constant answer",
}


def conditions(history: GradientHistory, comparison: Comparison | ArmsComparison | None) -> list[tuple[str, str]]:
    """What the numbers depend on, as names and values; every record lists those of `_ALWAYS`, known or not."""
    known = with_codes(history.conditions)
    if known.get("loss") and not known.get("reduction"):
        known["loss"] = f"{known['loss']}, reduction unknown"
    rows = [(name, _in_words(known.get(key, "not recorded")) or "none") for key, name in _ALWAYS.items()]
    usual: tuple[Any, ...] = (None, [], 1)
    rows += [(name, _in_words(known[key])) for key, name in _SOMETIMES.items() if known.get(key) not in usual]
    others = {key: value for key, value in known.items() if key not in _LISTED and value is not None}
    rows += [(key, _in_words(value)) for key, value in others.items()]
    if comparison is not None:
        facts = comparison.conditions
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
