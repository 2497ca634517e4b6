"""What the page says in words: the verdict, why, what to do next, the conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.comparison import Comparison
from gradprobe.history import GradientHistory, shorten
from gradprobe.magnitude import short
from gradprobe.plots.style import counted
from gradprobe.policies import Placement, findings
from gradprobe.version import __version__

DEPENDS = (
    "With a mean loss a magnitude scales with one over the batch size, and always with the scale of the loss: "
    "compare it only under the same conditions.",
    "A small gradient need not matter: Adam takes steps of the same size whatever its scale.",
)


@dataclass(frozen=True)
class State:
    """A kind of verdict: a badge in a word or two, a symbol and a tone, so that colour never stands alone."""

    badge: str
    symbol: str
    tone: str


STATES = {
    "healthy": State("Healthy", "\N{HEAVY CHECK MARK}", "good"),
    "helped": State("Helped", "\N{HEAVY CHECK MARK}", "good"),
    "vanishing": State("Vanishing", "\N{DOWNWARDS BLACK ARROW}", "bad"),
    "exploding": State("Exploding", "\N{UPWARDS BLACK ARROW}", "bad"),
    "nonfinite": State("Not finite", "\N{HEAVY BALLOT X}", "bad"),
    "harmed": State("Harmed", "\N{HEAVY BALLOT X}", "bad"),
    "unreached": State("Unreached", "\N{EMPTY SET}", "warn"),
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
    """The verdict: which kind, one sentence, and what stands behind it.

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


@dataclass(frozen=True)
class Step:
    """Something to do: a title, a sentence, and code to paste if there is some."""

    title: str
    text: str
    code: str = ""


def verdict(history: GradientHistory, placement: Placement, comparison: Comparison | None = None) -> Verdict:
    """Say in one sentence what the run came to; a comparison counts for more than a threshold.

    Example:
        >>> from gradprobe.history import Layer, tidy
        >>> rows = [(0, "a", 0, "output", 1e-9, 0, 0, 0, 0), (0, "b", 1, "output", 1e-3, 0, 0, 0, 0)]
        >>> layers = (Layer("a", 0, "Linear", 9), Layer("b", 1, "Linear", 9))
        >>> found = verdict(GradientHistory(tidy(rows), {}, layers, (), None), Placement("by hand", ("a",), (), "so"))
        >>> found.state, found.sentence
        ('vanishing', 'The gradient does not reach 1 of 2 layers: a.')
    """
    if comparison is not None and comparison.verdict in _COMPARED:
        return Verdict(comparison.verdict, _COMPARED[comparison.verdict], tuple(str(comparison).splitlines()))
    if not history.iterations:
        return Verdict("cannot tell", "Nothing was recorded, so nothing can be said.")
    found = findings(history, placement)
    count = counted(len(history.layers), "layer")
    if "nonfinite" in found:
        said = f"Gradients are NaN or infinite in {len(found['nonfinite'])} of {count}: {_span(found['nonfinite'])}."
        return Verdict("nonfinite", said, _also(found, "nonfinite"))
    if _is_scale(history, placement):
        return Verdict("cannot tell", "Every layer is flagged, so the scale of the loss hides what depth does.")
    if "vanishing" in found:
        said = f"The gradient does not reach {len(placement.flagged)} of {count}: {_span(placement.flagged)}."
        return Verdict("vanishing", said, _also(found, "vanishing"))
    if "exploding" in found:
        said = f"The gradient explodes in {len(found['exploding'])} of {count}: {_span(found['exploding'])}."
        return Verdict("exploding", said, _also(found, "exploding"))
    if "unreached" in found:
        said = f"No gradient arrives at {len(found['unreached'])} of {count}: {_span(found['unreached'])}."
        return Verdict("unreached", said)
    if placement.policy == "every supervision point":
        return Verdict("cannot tell", "Every supervision point gets a branch; whether one is needed was not asked.")
    return Verdict("healthy", "The gradient reaches every layer.", (placement.reason,))


def _is_scale(history: GradientHistory, placement: Placement) -> bool:
    measured = len(history.aggregate(placement.of)) if placement.of in history.of else 0
    return measured > 1 and len(placement.flagged) == measured


def _span(names: Sequence[str]) -> str:
    """Some names in few words.

    Example:
        >>> _span(["fc1"]), _span(["fc1", "fc2", "fc3"])
        ('fc1', 'fc1 to fc3')
    """
    ends = [shorten(name, 32) for name in (names[0], names[-1])]
    return ends[0] if len(names) == 1 else f"{ends[0]} {'and' if len(names) == 2 else 'to'} {ends[1]}"


def _also(found: Mapping[str, Sequence[str]], said: str) -> tuple[str, ...]:
    """The other findings, in a sentence."""
    kinds = {"vanishing": "vanishing", "exploding": "exploding", "nonfinite": "not finite", "unreached": "unreached"}
    rest = [f"{counted(len(found[kind]), 'layer')} {word}" for kind, word in kinds.items() if kind in found]
    own = f"{counted(len(found[said]), 'layer')} {kinds[said]}"
    rest.remove(own)
    return (f"Also found: {', '.join(rest)}.",) if rest else ()


def facts(history: GradientHistory, placement: Placement) -> list[tuple[str, str]]:
    """A few numbers, each with what it counts."""
    below = "" if placement.threshold is None else f" below {short(placement.threshold)}"
    return [
        (str(len(history.layers)), "layer" if len(history.layers) == 1 else "layers"),
        (str(len(placement.flagged)), f"flagged{below}"),
        (str(len(placement.points)), "branch placed" if len(placement.points) == 1 else "branches placed"),
        (str(history.iterations), "iteration" if history.iterations == 1 else "iterations"),
    ]


def why(history: GradientHistory, placement: Placement) -> list[tuple[str, str]]:
    """How it was decided: what, in a word, and the sentence."""
    rows = [("Rule", f"A layer is flagged by: {placement.policy}.")]
    if placement.policy == "every supervision point":
        rows = [("Rule", "A branch at every supervision point (Deeply-Supervised Nets).")]
    rows.append(("Placement", placement.reason))
    if placement.points:
        names = ", ".join(shorten(point.name, 40) for point in placement.points)
        rows.append(("Branch" if len(placement.points) == 1 else "Branches", f"after {names}"))
    if placement.disagreement:
        rows.append(("Second opinion", placement.disagreement))
    if history.conditions.get("stopped"):
        rows.append(("Incomplete", f"The record ended early: {history.conditions['stopped']}."))
    return rows


def is_synthetic(history: GradientHistory) -> bool:
    """Whether the data was made up."""
    return "synthetic" in str(history.conditions.get("data", "")).lower()


# what to do next ------------------------------------------------------------------------------------------------

_KAIMING = """\
from torch import nn

for module in model.modules():
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)"""
_INITIALISE = Step(
    "Try another initialisation or normalisation",
    "Often as good as a branch, and free: initialise for the activation (here for ReLU), or put a normalisation "
    "layer behind each flagged one. Then measure again.",
    _KAIMING,
)
_SCALE = Step(
    "Look at the scale of the loss first",
    "A sum in place of a mean, a loss scale or a larger batch moves every magnitude alike. The relative rule does "
    "not change with any of them. If it flags nothing, nothing has vanished; if the last layer's output is constant, "
    "the network is dead from there on.",
)
_FINITE = Step(
    "Find the operation that makes them",
    "Lower the learning rate, check the inputs and the loss for NaN and for divisions and logarithms of zero, and "
    "let autograd name the operation.",
    "with torch.autograd.set_detect_anomaly(True):\n    loss_fn(model(x), y).backward()",
)
_CLIP = Step(
    "Lower the learning rate, or clip",
    "Clipping hides the cause but lets the network train. Also look at the initialisation and the scale of the "
    "inputs.",
    "loss.backward()\ntorch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\noptimizer.step()",
)
_REACH = Step(
    "Connect these layers, or freeze them",
    "The reason for each is in the table of layers below. A layer that is not meant to be trained says so with "
    "requires_grad_(False).",
)
_KEEP = Step(
    "Nothing to add",
    "No branch is needed. If the network still learns slowly, look at the learning rate, the data and the capacity "
    "rather than at the depth. A test keeps it so:",
    "from gradprobe.testing import assert_gradients_reach\n\nassert_gradients_reach(model, batches, loss_fn)",
)


def steps(
    state: str, history: GradientHistory, placement: Placement, comparison: Comparison | None, run: str
) -> list[Step]:
    """What to do next, the first thing first.

    Args:
        state: That of the verdict.
        history: The record.
        placement: The decision.
        comparison: The comparison, if there is one.
        run: Folder of the run, or empty.
    """
    alone = {"nonfinite": [_FINITE], "exploding": [_CLIP], "unreached": [_REACH], "healthy": [_KEEP]}
    if state in alone:
        return alone[state]
    if state == "helped":
        return [_insertion("Keep the branch", placement, comparison)]
    if state in ("no difference", "harmed"):
        left_out = "The branch brought the main output nothing" if state == "no difference" else "It did worse"
        return [Step("Leave the branches out", f"{left_out} under these conditions."), _INITIALISE]
    if placement.points:
        insertion = _insertion("Insert the branch", placement, comparison)
        return [_comparing(comparison), _INITIALISE, insertion] if comparison else [insertion, _comparing(None), _INITIALISE]
    if _is_scale(history, placement):
        again = f'print(gp.place(gp.load("{run}").history, gp.RelativePolicy()))' if run else ""
        code = f"import gradprobe as gp\n\n{again}" if again else ""
        return [Step(_SCALE.title, _SCALE.text, code)]
    return [_INITIALISE] if placement.flagged else [_again()]


def _insertion(title: str, placement: Placement, comparison: Comparison | None) -> Step:
    """The lines that put the branches in, with this model's own names."""
    conditions: Mapping[str, Any] = {} if comparison is None else comparison.conditions
    schedule = conditions.get("schedule", "cnds")
    total = "" if schedule == "constant" else ", total=epochs"
    names = ", ".join(json.dumps(point.name, ensure_ascii=False) for point in placement.points)
    branch = conditions.get("branch", "auto")
    kind = "" if branch == "auto" else f", branch={json.dumps(branch)}"
    several = len(placement.points) > 1
    code = (
        "import gradprobe as gp\n\n"
        f"net = gp.supervise(model, [{names}], inputs=x{kind})  # x: a batch as the model gets it\n"
        f"criterion = gp.DeepSupervisionLoss(loss_fn, weight={conditions.get('weight', 0.3):g}, "
        f'schedule="{schedule}"{total})\n'
        "loss = criterion(net(x), y)  # in place of loss_fn(model(x), y)"
    )
    text = (
        "After the model is built and before the optimizer, which then gets net.parameters(). In eval() net returns "
        "what the model does, computed by the model alone."
    )
    return Step(title.replace("branch", "branches") if several else title, text, code)


def _comparing(comparison: Comparison | None) -> Step:
    if comparison is None:
        text = "Often it does not. The same training with and without, on several seeds, decides."
        return Step("See whether it helps", text, _compare_code(400, 3))
    longer = 3 * int(comparison.conditions.get("iterations", 300))
    text = "Longer, and with several seeds: what one seed shows may be luck."
    return Step("Compare again", text, _compare_code(longer, max(3, len(comparison.conditions.get("seeds", [])))))


def _compare_code(iterations: int, seeds: int) -> str:
    call = f"gp.compare(model, batches, loss_fn, iterations={iterations}, seeds=range({seeds}))"
    return f"import gradprobe as gp\n\nprint({call})"


def _again() -> Step:
    text = "Measure again, over more iterations: from nothing nothing follows."
    return Step("Measure again", text, "history = gp.scan(model, batches, loss_fn, iterations=50)")


# conditions -----------------------------------------------------------------------------------------------------

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
    "stopped": "ended early",
}
_COMPARISON = {
    "iterations": "length of each training",
    "seeds": "seeds",
    "weight": "weight of the branches",
    "schedule": "schedule",
    "branch": "kind of branch",
    "held_out": "held-out targets",
    "chance": "accuracy of a constant answer",
}


def conditions(history: GradientHistory, comparison: Comparison | None) -> list[tuple[str, str]]:
    """What the numbers depend on: name and value. What belongs to every record and is missing is said to be."""
    known = dict(history.conditions)
    if known.get("loss") and not str(known["loss"]).endswith(")"):
        known["loss"] = f"{known['loss']}, which does not tell its reduction"
    rows = [(name, _said(known[key], "none") if key in known else "not recorded") for key, name in _ALWAYS.items()]
    rows += [(name, _said(known[key])) for key, name in _SOMETIMES.items() if known.get(key) not in (None, [], 1)]
    hidden = {*_ALWAYS, *_SOMETIMES, "losses", "complete"}
    rows += [(key, _said(value)) for key, value in known.items() if key not in hidden and value is not None]
    if comparison is not None:
        facts = comparison.conditions
        rows += [(name, _said(facts[key])) for key, name in _COMPARISON.items() if facts.get(key) is not None]
    return [*rows, ("gradprobe", __version__)]


def _said(value: Any, missing: str = "") -> str:
    """A value in words.

    Example:
        >>> _said([0, 1]), _said(0.30000001), _said(None, "not recorded"), _said(True)
        ('0, 1', '0.3', 'not recorded', 'yes')
    """
    if value is None:
        return missing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_said, value))
    return short(value) if isinstance(value, float) else str(value)
