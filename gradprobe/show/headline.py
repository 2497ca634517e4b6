"""The result of a run in one sentence, and the first thing to do: the same on the page and in the terminal."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gradprobe.decide.causes.finding import CAUSES
from gradprobe.decide.diagnosis import Diagnosis, diagnose, what_the_rule_means
from gradprobe.decide.explain import explain, trained
from gradprobe.decide.findings import with_default_flags
from gradprobe.decide.remedies import REMEDIES
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.text import counted
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import Comparison


@dataclass(frozen=True)
class State:
    """How a kind of verdict is shown: words, a symbol and a tone, so that nothing depends on colour alone."""

    badge: str
    symbol: str
    tone: str


STATES = {
    "healthy": State("Healthy", "\N{HEAVY CHECK MARK}", "good"),
    "sick": State("Sick", "\N{HEAVY BALLOT X}", "bad"),
    "helped": State("Helped", "\N{HEAVY CHECK MARK}", "good"),
    "likely helped": State("Likely helped", "\N{HEAVY CHECK MARK}", "warn"),
    "vanishing": State("Vanishing", "\N{DOWNWARDS BLACK ARROW}", "bad"),
    "exploding": State("Exploding", "\N{UPWARDS BLACK ARROW}", "bad"),
    "nonfinite": State("Not finite", "\N{HEAVY BALLOT X}", "bad"),
    "harmed": State("Harmed", "\N{HEAVY BALLOT X}", "bad"),
    "unreached": State("Unreached", "\N{EMPTY SET}", "warn"),
    "checkpointed": State("Cut off", "\N{EMPTY SET}", "bad"),
    "not_held": State("Not held", "\N{EMPTY SET}", "warn"),
    "unregistered": State("Unregistered", "\N{EMPTY SET}", "bad"),
    "zero_weight": State("Exactly zero", "0", "warn"),
    "bypassed": State("Outputs not seen", "?", "unknown"),
    "no difference": State("Did not help", "=", "warn"),
    "cannot tell": State("Cannot tell", "?", "unknown"),
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
        state: A key of `STATES`; ``"sick"`` where the diagnosis finds a cause.
        sentence: One sentence.
        details: Further sentences.
        step: What to do first, or empty.
        cause: The first cause that the diagnosis found, or empty.
    """

    state: str
    sentence: str
    details: tuple[str, ...] = ()
    step: str = ""
    cause: str = ""

    @property
    def look(self) -> State:
        """How it is shown: of what is sick the cause."""
        state = STATES[self.state]
        return replace(state, badge=f"{state.badge}: {CAUSES[self.cause]}") if self.cause else state


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
    if not history.iterations and diagnose(history).verdict != "sick":
        return Verdict("cannot tell", "Nothing was recorded, so there is no verdict.")
    health = _diagnosed(history, placement) if history.evidence is not None else _health(history, placement)
    if comparison is not None:
        health = replace(health, details=(*health.details, *str(comparison).splitlines()))
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


def _diagnosed(history: GradientHistory, placement: Placement) -> Verdict:
    """The verdict of the diagnosis; what the gradients alone show stands after it."""
    diagnosis: Diagnosis = diagnose(history)
    if diagnosis.verdict == "sick":
        first, *others = diagnosis.findings
        causes = [f"{CAUSES[one.cause].capitalize()}: {one.sentence} {one.remedy}" for one in others]
        rule = what_the_rule_means(history, with_default_flags(history, placement), diagnosis)
        return Verdict("sick", first.sentence, tuple(filter(None, [*causes, rule])), first.remedy, first.cause)
    if diagnosis.verdict == "unclear":
        return Verdict("cannot tell", diagnosis.sentence, (), diagnosis.step)
    found = [one for one in explain(history, placement) if one.cause not in ("vanishing", "exploding")]
    details = tuple(f"{one.sentence} {one.remedy}" for one in found)
    flagged = what_the_rule_means(history, with_default_flags(history, placement), diagnosis)
    return Verdict("healthy", diagnosis.sentence, tuple(filter(None, [*details, flagged])), diagnosis.step)


def _health(history: GradientHistory, placement: Placement) -> Verdict:
    """The verdict on the gradients alone, of a run that holds nothing else."""
    found = explain(history, with_default_flags(history, placement))
    if is_scale(history, placement) and all(finding.cause != "nonfinite" for finding in found):
        sentence = "Every layer is flagged, so the scale of the loss hides what depth does."
        return Verdict("cannot tell", sentence, step="Decide by the relative rule, which no scale changes.")
    if not found:
        return _healthy(history, placement)
    first, *others = found
    return Verdict(first.cause, first.sentence, tuple(finding.sentence for finding in others), first.remedy)


def _healthy(history: GradientHistory, placement: Placement) -> Verdict:
    """Nothing is wrong, as far as was measured."""
    if not any(len(history.aggregate(of)) for of in history.of):
        return Verdict(
            "cannot tell", "No gradient arrived anywhere.", (placement.reason,), "Measure a training step."
        )
    layers = trained(history)
    frozen = len(history.layers) - len(layers)
    every = f"each of {counted(len(layers), 'trained layer')} ({frozen} are frozen)" if frozen else "every layer"
    return Verdict("healthy", f"The gradient reaches {every}.", (placement.reason,), "Nothing to do.")


def is_scale(history: GradientHistory, placement: Placement) -> bool:
    """Whether every measured layer is flagged: the cause is then the scale of the loss, not the depth."""
    placement = with_default_flags(history, placement)
    measured = len(history.aggregate(placement.of)) if placement.of in history.of else 0
    return measured > 1 and len(placement.flagged) == measured
