"""What to do after the diagnosis, from the record alone: the policy ``auto``. No torch.

Healthy: nothing. Sick: the remedy for the cause. `gradprobe.prove.trials` tries what the evidence leaves open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from gradprobe.decide.causes.facts import Reading
from gradprobe.decide.causes.finding import Finding
from gradprobe.decide.causes.signal import SHARE, SPREAD
from gradprobe.decide.diagnosis import Diagnosis, diagnose
from gradprobe.decide.remedies import REMEDIES
from gradprobe.decide.step_size import learning_rate_factor
from gradprobe.decide.usual import BranchesPolicy
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import short

AUTO = "auto, after the diagnosis"
_RANDOM = 0.5  # of the layers: trained weights have heavier tails than any initialisation
_SMALL = 0.1  # times 1/sqrt(inputs), which keeps the size of the signal (LeCun et al. 1998); torch's have .58
_FADED = 0.1  # share at the start
_NEW_WEIGHTS = ("kaiming", "xavier", "lsuv", "within_channel", "orthogonal")


@dataclass(frozen=True)
class AutoPolicy:
    """Do what the diagnosis asks for: nothing, a remedy, or branches where the gradient alone is lost.

    It looks at the record and tries nothing. ``gradprobe scan --policy auto`` and `gradprobe.place_by_trials` try
    what the record leaves open, a window each.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, "fc", 0, "output", 1e-3, 1e-3, 1e-3, 0.0, 0)]
        >>> placement = AutoPolicy()(GradientHistory(tidy(rows), {}, (Layer("fc", 0, "Linear", 9),), (), None))
        >>> placement.points, placement.remedy
        ((), None)
    """

    def __str__(self) -> str:
        return AUTO

    def __call__(self, history: GradientHistory) -> Placement:
        """Decide."""
        diagnosis = diagnose(history)
        empty = Placement(AUTO, (), (), "", rule="auto", **history.output)
        if diagnosis.verdict != "sick":
            head = "No branch and no remedy" if diagnosis.verdict == "healthy" else "This cannot tell what to do"
            return replace(empty, reason=f"{head}: {diagnosis.sentence}")
        names = open_remedies(history, diagnosis)
        if names:
            return replace(empty, remedy=names[0], reason=_why(history, diagnosis, names))
        if only_gradient_lost(history, diagnosis):
            branches = BranchesPolicy()(history)
            if branches.points:
                return replace(
                    branches, policy=AUTO, rule="auto", reason=f"{diagnosis.sentence} {branches.reason}"
                )
        return replace(empty, reason=f"Mend the cause first, in the script: {diagnosis.sentence} {diagnosis.step}")


def open_remedies(history: GradientHistory, diagnosis: Diagnosis | None = None) -> tuple[str, ...]:
    """The remedies that may mend the first cause, by what is measured, the most likely first.

    Names out of `gradprobe.remedies`. None where nothing is wrong, or where the cause is in the script: a loss
    that gets a softmax too many is not mended by other weights. Where nothing is learned and no cause was found,
    those that mend what is most often the cause.

    Args:
        history: The record.
        diagnosis: That of the record, if it was made already.
    """
    diagnosis = diagnosis or diagnose(history)
    if history.evidence is None or diagnosis.verdict == "healthy":
        return ()
    reading = Reading(history)
    rule = _lost if not diagnosis.findings else _RULES.get(diagnosis.findings[0].cause)
    if rule is None:
        return ()
    names = rule(reading, diagnosis.findings[0] if diagnosis.findings else None)
    trained = _was_trained(reading)
    return tuple(name for name in names if not (trained and name in _NEW_WEIGHTS))


def only_gradient_lost(history: GradientHistory, diagnosis: Diagnosis) -> bool:
    """Whether the signal arrives and the gradient does not: what a branch is for, which then sees the input."""
    if history.evidence is None or not any(one.cause == "signal_collapse" for one in diagnosis.findings):
        return False
    reading = Reading(history)
    return reading.spread_at_end >= SPREAD and reading.share_at_start < SHARE


Rule = Callable[[Reading, "Finding | None"], tuple[str, ...]]


def _lost(reading: Reading, finding: Finding | None) -> tuple[str, ...]:
    """A signal or a gradient that is lost over depth, or over the steps of a sequence."""
    if finding is not None and "std_left" in finding.evidence:  # whatever weights it begins with, they shrink
        return ()
    if _has(reading, "RNN", "LSTM", "GRU"):
        return ("orthogonal", "lsuv")
    # LSUV scales what is the same for every input with what is not: after sigmoids most is the same
    weights = "within_channel" if _bends_by(reading, "sigmoid") else "lsuv"
    if not _takes_normalisation(reading) or _begins_at_nothing(reading):
        return (weights,)
    return ("normalised",) if weights == "within_channel" else (weights, "normalised")


def _dead(reading: Reading, finding: Finding | None) -> tuple[str, ...]:
    return ("kaiming", "normalised") if _takes_normalisation(reading) else ("kaiming",)


def _saturated(reading: Reading, finding: Finding | None) -> tuple[str, ...]:
    if _has(reading, "RNN", "LSTM", "GRU"):
        return ("orthogonal",)
    return ("xavier", "normalised") if _takes_normalisation(reading) else ("xavier",)


def _alike(reading: Reading, finding: Finding | None) -> tuple[str, ...]:
    return ("xavier",)


def _exploding(reading: Reading, finding: Finding | None) -> tuple[str, ...]:
    if finding is not None and "growth" in finding.evidence:  # over the steps of a sequence
        return ("clipping", "orthogonal")
    if reading.start > 10 * (reading.constant or reading.start):  # it began too large
        return ("lsuv", "residual_scaled") if not _takes_normalisation(reading) else ("lsuv", "normalised")
    return ("learning_rate", "clipping")


def _too_high(reading: Reading, finding: Finding | None) -> tuple[str, ...]:
    return ("learning_rate",)


def _too_low(reading: Reading, finding: Finding | None) -> tuple[str, ...]:
    """With SGD steps are small where the gradient is: both may be the reason."""
    faded = reading.share_at_start < _FADED and _takes_normalisation(reading)
    return ("learning_rate", "normalised") if faded else ("learning_rate",)


_RULES: dict[str, Rule] = {
    "signal_collapse": _lost,
    "dead_units": _dead,
    "saturated": _saturated,
    "symmetry": _alike,
    "exploding": _exploding,
    "lr_high": _too_high,
    "lr_low": _too_low,
}
"""What may mend each cause that is not in the script."""


def _has(reading: Reading, *kinds: str) -> bool:
    return any(layer.kind.startswith(kinds) for layer in reading.layers)


def _takes_normalisation(reading: Reading) -> bool:
    """Whether batch normalisation can be put in: there is none, and no recurrent layer or attention."""
    return not any(
        word in layer.kind for layer in reading.layers for word in ("Norm", "RNN", "LSTM", "GRU", "Attention")
    )


def _begins_at_nothing(reading: Reading) -> bool:
    """Whether most weights begin far below the usual size: that is the cause, and normalisation leaves them so."""
    sizes = [
        facts["std"] * facts["fan_in"] ** 0.5 for facts in reading.facts.values() if facts.get("std") is not None
    ]
    return bool(sizes) and sorted(sizes)[len(sizes) // 2] < _SMALL


def _bends_by(reading: Reading, activation: str) -> bool:
    """Whether this is the activation after most of the layers that have one."""
    after = Counter(reading.fact("after").values())
    return 2 * after[activation] > sum(after.values())


def _was_trained(reading: Reading) -> bool:
    """Whether the weights are not as any initialisation leaves them: then they are not to be drawn anew."""
    kurtosis = [facts["kurtosis"] for facts in reading.facts.values() if facts.get("count", 0) >= 1000]
    heavy = [value for value in kurtosis if value > 4]  # 1.8 of a uniform distribution, 3 of a normal one
    return len(heavy) > _RANDOM * len(kurtosis)


def _why(history: GradientHistory, diagnosis: Diagnosis, names: tuple[str, ...]) -> str:
    first, *others = names
    how = REMEDIES[first].change
    if first == "learning_rate":
        how = f"{short(learning_rate_factor(history))} times the learning rate"
    sentence = f"{diagnosis.sentence} What mends it: {how} ({first})."
    if not others:
        return sentence
    rest = " or ".join(f"{REMEDIES[name].change} ({name})" for name in others)
    return f"{sentence} The record does not tell whether {rest} does better: trials would."
