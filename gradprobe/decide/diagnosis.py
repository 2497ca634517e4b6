"""Why a network does not learn, and what mends it: a pure function from a history. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gradprobe.decide.causes import loss, rate, sequence, signal, steps, unlearned
from gradprobe.decide.causes.facts import Reading
from gradprobe.decide.causes.finding import CAUSES, Finding
from gradprobe.decide.findings import findings
from gradprobe.record.history import GradientHistory, check_history
from gradprobe.record.html import block, folded, layer_names, paragraph, table, title
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import CNDS_THRESHOLD, short
from gradprobe.record.text import printable

VERDICTS = ("healthy", "sick", "unclear")
_RULES: tuple[Callable[[Reading], Iterator[Finding]], ...] = (
    steps.causes,
    loss.causes,
    signal.causes,
    sequence.causes,
    rate.causes,
)

REMEDIABLE = frozenset(
    {"signal_collapse", "dead_units", "saturated", "exploding", "symmetry", "lr_high", "lr_low"}
)
"""Causes that one of `gradprobe.remedies` may mend."""

_LOST = frozenset({"signal_collapse", "dead_units", "saturated", "lr_low"})
_GROWN = frozenset({"exploding", "lr_high"})
EXPLAINS: dict[str, frozenset[str]] = {
    "not_in_optimizer": _LOST | {"symmetry", "no_activation"},
    "step_missing": _LOST | {"symmetry"},
    "detached": _LOST | {"no_activation", "frozen", "symmetry"},
    "frozen": _LOST | {"symmetry", "no_activation"},
    "zero_grad_missing": _LOST | _GROWN,
    "grad_zeroed": _LOST | {"symmetry", "detached", "step_missing"},
    "clipped": _LOST | {"update_lost"},
    "loss_scale": _LOST | {"clipped", "update_lost"},
    "update_lost": _LOST,
    "double_softmax": _LOST,
    "double_sigmoid": _LOST,
    "output_activation": _LOST | _GROWN | {"target_scale"},
    "loss_wrong": _LOST | _GROWN | {"target_scale", "output_activation"},
    "loss_broadcast": _LOST,
    "labels_wrong": _LOST | _GROWN,
    "eval_mode": _LOST | _GROWN,
    "bn_batch1": _LOST | _GROWN,
    "input_scale": _LOST | _GROWN,
    "target_scale": _LOST | _GROWN,
    "symmetry": _LOST | {"clipped"},
    "exploding": _LOST | {"lr_high"},
    "lr_high": _LOST | {"exploding"},
    "dead_units": frozenset({"signal_collapse", "lr_low"}),
    "saturated": frozenset({"signal_collapse", "lr_low"}),
    "signal_collapse": frozenset({"lr_low"}),
}
"""Which causes have which others as their consequences: where the first is found, the others are not named."""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, why, and what mends it.

    Attributes:
        verdict: ``"healthy"``, ``"sick"``, or ``"unclear"`` where too little was measured, or nothing is learned
            and no cause was found.
        findings: The causes, in the order in which they should be dealt with.
        sentence: The result in one sentence.
        step: What to do first.
    """

    verdict: str
    findings: tuple[Finding, ...] = ()
    sentence: str = ""
    step: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, where numbers are finite."""
        return {"verdict": self.verdict, "findings": [asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        lines = [f"{self.verdict.capitalize()}. {self.sentence}", self.step]
        lines += [f"{CAUSES[one.cause].capitalize()}: {one.sentence} {one.remedy}" for one in self.findings[1:]]
        return printable("\n".join(filter(None, lines)))

    def _repr_html_(self) -> str:
        return diagnosis_html(self)


def diagnosis_html(diagnosis: Diagnosis) -> str:
    """A diagnosis for a notebook: the verdict, the first step, and each cause with its layers and its source.

    Example:
        >>> "Nothing to do." in diagnosis_html(Diagnosis("healthy", (), "All is well.", "Nothing to do."))
        True
    """
    first = "".join(f": {CAUSES[one.cause]}" for one in diagnosis.findings[:1])
    parts = [title(diagnosis.verdict.capitalize() + first)]
    parts += [paragraph(diagnosis.sentence), paragraph(diagnosis.step)]
    rows = [
        (CAUSES[one.cause], layer_names(one.layers), one.sentence, one.remedy, one.source)
        for one in diagnosis.findings
    ]
    found = table(("cause", "layers", "what is wrong", "what mends it", "source"), rows)
    return block([*parts, folded("causes", found, is_open=len(rows) > 1) if rows else ""])


def diagnose(history: GradientHistory) -> Diagnosis:
    """What is wrong, why, and what mends it: causes, not their consequences.

    Args:
        history: The record of one window, as a probe with ``stats="all"`` makes it.

    Raises:
        TypeError: If it is not a history.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, "fc", 0, "output", 1e-3, 1e-3, 1e-3, 0.0, 0)]
        >>> print(diagnose(GradientHistory(tidy(rows), {}, (Layer("fc", 0, "Linear", 9),), (), None)))
        Unclear. Only gradients were recorded, not what layers return and how steps move them.
        Record the run again with this version of gradprobe.
    """
    check_history(history)
    if history.evidence is None:
        return _unclear(history)
    if not history.iterations:
        return _never_stepped(history) if history.evidence.network.get("losses") else _unclear(history)
    reading = Reading(history)
    found = list(without_consequences(finding for rule in _RULES for finding in rule(reading)))
    if {finding.cause for finding in found} <= {"lr_low"}:  # what does not learn at all needs no larger steps
        found = list(unlearned.causes(reading))[:1] or found
    if not found and reading.stands_still:
        return _no_cause(reading)
    if not found:
        return Diagnosis("healthy", (), _all_is_well(reading), "Nothing to do.")
    return Diagnosis("sick", tuple(found), found[0].sentence, found[0].remedy)


def without_consequences(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The causes among some findings, each once, in the order in which to deal with them.

    Example:
        >>> [one.cause for one in without_consequences([Finding("lr_low", ()), Finding("detached", ())])]
        ['detached']
    """
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(finding.cause, finding)
    explained = {
        cause for found in first for cause in EXPLAINS.get(found, ()) if found not in EXPLAINS.get(cause, ())
    }
    return (first[cause] for cause in CAUSES if cause in first and cause not in explained)


def layers_by_code(history: GradientHistory, placement: Placement) -> dict[str, list[str]]:
    """What ``--fail-on`` may name: the findings of the gradients and the causes, each with its layers."""
    found = findings(history, placement)
    for one in diagnose(history).findings:
        found[one.cause] = list(dict.fromkeys([*found.get(one.cause, ()), *one.layers]))
    return found


def what_the_rule_means(history: GradientHistory, placement: Placement, diagnosis: Diagnosis) -> str:
    """What it means that a rule flags layers, given what is wrong; empty where it flags none.

    A rule looks at magnitudes alone, which are small in healthy networks too, and shows no cause.

    Args:
        history: The record, with its evidence.
        placement: With what the rule flags.
        diagnosis: What is wrong.
    """
    if not placement.flagged or history.evidence is None:
        return ""
    limit = f"mean |dL/d {placement.of}| below {short(placement.threshold or 0)}"
    name = "CNDS' rule" if placement.threshold == CNDS_THRESHOLD and placement.of == "output" else "The rule"
    says = f"{name} ({limit}) flags {len(placement.flagged)} of {len(history.layers)} layers."
    if diagnosis.verdict == "sick":
        return f"{says} Mend the cause first: a branch does not. Then measure again."
    updates = history.evidence.median("update")
    moved = sorted(updates[name] for name in placement.flagged if name in updates)
    if not moved:
        return f"{says} Nothing shows that it matters here."
    step = short(moved[len(moved) // 2])
    return (
        f"{says} It does not matter here: a step moves their weights by {step} of their size, and their output "
        "depends on the input as it should. No branch is needed."
    )


def what_to_compare(history: GradientHistory) -> str:
    """The command that compares remedies and branches, where the cause is one that they may mend; else empty."""
    causes = {one.cause for one in diagnose(history).findings if "std_left" not in one.evidence}
    return str(history.conditions.get("compare") or "") if causes & REMEDIABLE else ""


def branches_after(history: GradientHistory, placement: Placement) -> str | None:
    """When the branches of a placement are to be inserted: a clause, empty for now, None for not at all.

    A rule that looks at magnitudes places branches in healthy networks too, where they are not needed.
    """
    verdict = diagnose(history).verdict
    if not placement.points or (verdict == "healthy" and placement.rule in ("threshold", "relative")):
        return None
    return "once the cause is mended, if gradients still do not arrive" if verdict == "sick" else ""


def _never_stepped(history: GradientHistory) -> Diagnosis:
    """There were backward passes, and no iteration: no optimizer has stepped."""
    finding = Finding(
        "step_missing",
        tuple(layer.name for layer in history.layers),
        {"steps": 0},
        "There are backward passes, but no optimizer ever steps: the weights stay as they are.",
        "Call optimizer.step() after loss.backward().",
        "exact: the steps of the optimizers",
    )
    return Diagnosis("sick", (finding,), finding.sentence, finding.remedy)


def _unclear(history: GradientHistory) -> Diagnosis:
    if not history.iterations:
        return Diagnosis("unclear", (), "Nothing was recorded.", "Record a few steps of training.")
    sentence = "Only gradients were recorded, not what layers return and how steps move them."
    return Diagnosis("unclear", (), sentence, "Record the run again with this version of gradprobe.")


def _no_cause(reading: Reading) -> Diagnosis:
    """Nothing that is looked at is wrong, and yet nothing is learned."""
    sentence = (
        f"No cause was found, but after {len(reading.losses)} iterations the loss ({reading.end:.3g}) is still "
        f"that of a constant answer ({reading.constant:.3g})."
    )
    step = "Record more iterations, and look at some pairs of input and target as the loss gets them."
    return Diagnosis("unclear", (), sentence, step)


def _all_is_well(reading: Reading) -> str:
    said = ["the signal and the gradient arrive", "every trained layer moves"]
    is_default = reading.history.conditions.get("default_optimizer")
    if reading.finite_losses and reading.fell > 0.01:
        said.append(f"the loss falls from {reading.start:.3g} to {reading.end:.3g}")
    elif reading.finite_losses and not is_default:
        said.append("the steps have a sensible size")
    sentence = f"Nothing is wrong: {', '.join(said[:-1])}, and {said[-1]}."
    return f"{sentence} No optimizer was given, so the learning rate is not judged." if is_default else sentence
