"""What to do next, with the code to paste."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradprobe.decide.findings import unreached, with_default_flags
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.show.page.words import is_scale, remedied
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import Comparison


@dataclass(frozen=True)
class NextStep:
    """Something to do: a title, a sentence, and code to paste if there is some."""

    title: str
    text: str
    code: str = ""


_REMEDIES = {  # as in gradprobe.prove.remedies, which needs torch
    "kaiming": "It draws new weights, so it is only for a model trained from scratch.",
    "lsuv": "It draws new weights, so it is only for a model trained from scratch.",
    "normalised": "It puts batch normalisation behind each layer, so names below them change.",
}
_INITIALISE = NextStep(
    "Try another initialisation or normalisation",
    "Often as good as a branch, and free, but only for a model trained from scratch: new weights with which every "
    "layer returns unit variance (LSUV), or a normalisation layer behind each flagged one. Then measure again.",
    "from gradprobe import remedies\n\n"
    "remedies.lsuv(model, x)  # in place, before the optimizer; x: a batch as the model gets it",
)
_SCALE = NextStep(
    "Look at the scale of the loss first",
    "A sum in place of a mean, a loss scale or a larger batch moves every magnitude alike. The relative rule does "
    "not change with any of them. If it flags nothing, nothing has vanished; if the last layer's output is "
    "constant, the network is dead from there on.",
)
_CLIP = NextStep(
    "Lower the learning rate, or clip",
    "Clipping hides the cause but lets the network train. Also look at the initialisation and the scale of the "
    "inputs.",
    "loss.backward()\ntorch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\noptimizer.step()",
)
_KEEP = NextStep(
    "Nothing to add",
    "No branch is needed. If the network still learns slowly, look at the learning rate, the data and the "
    "capacity rather than at the depth. A test keeps it so:",
    "from gradprobe.testing import assert_gradients_reach\n\nassert_gradients_reach(model, batches, loss_fn)",
)

_NOTHING = "Measure again, over more iterations: from nothing nothing follows."
_AFTER = "After the change the gradients are others: measure them before anything is placed."


def steps(
    state: str, history: GradientHistory, placement: Placement, comparison: Comparison | None, run: str
) -> list[NextStep]:
    """What to do next, the first thing first.

    Args:
        state: That of the verdict.
        history: The record.
        placement: The decision.
        comparison: The comparison, if there is one.
        run: Folder of the run, or empty.
    """
    placement = with_default_flags(history, placement)
    facts: Mapping[str, Any] = {} if comparison is None else comparison.conditions
    alone = {
        "nonfinite": _finite(history),
        "exploding": _CLIP,
        "unreached": _reach(history, placement),
        "healthy": _again(_AFTER) if placement.remedy else _KEEP,
    }
    if placement.remedy:
        found = "In short trials the loss of the main output ended lower with it than as it is."
        return [_remedied(placement.remedy, found), alone.get(state, _again(_AFTER))]
    if state in alone and not (state == "healthy" and placement.points):
        return [alone[state]]
    if state == "helped":
        return [_insertion("Keep the branch", history, placement, facts)]
    if state in ("no difference", "harmed"):
        left_out = "The branch brought the main output nothing" if state == "no difference" else "It did worse"
        return [NextStep("Leave the branches out", f"{left_out} under these conditions."), _INITIALISE]
    if placement.points:
        insertion = _insertion("Insert the branch", history, placement, facts)
        return (
            [_comparing(comparison), _INITIALISE, insertion]
            if comparison
            else [insertion, _comparing(None), _INITIALISE]
        )
    if is_scale(history, placement):
        again = f'print(gp.place(gp.load("{run}").history, gp.RelativePolicy()))' if run else ""
        code = f"import gradprobe as gp\n\n{again}" if again else ""
        return [NextStep(_SCALE.title, _SCALE.text, code)]
    return [_INITIALISE] if placement.flagged else [_again(_NOTHING)]


def arms_steps(history: GradientHistory, arms: ArmsComparison) -> list[NextStep]:
    """What to do after several arms were compared: what the best one did, and measure again."""
    placement, verdict, facts = arms.placement, arms.choice.verdict, arms.conditions
    again = f"seeds=range({max(3, len(facts['seeds']))})"
    if verdict == "cannot tell":
        call = f"gp.compare_arms(model, batches, loss_fn, iterations={3 * int(facts['iterations'])}, {again})"
        text = "Longer, and with several seeds: what one seed shows may be luck."
        return [NextStep("Compare again", text, f"import gradprobe as gp\n\nprint({call})")]
    if placement.remedy:
        return [_remedied(placement.remedy, f"Of {len(arms.arms)} arms it is the one to use."), _again(_AFTER)]
    if placement.points:
        return [_insertion("Keep the branch", history, placement, facts)]
    return [NextStep("Leave the network as it is", "No arm did better beyond the noise under these conditions.")]


def _remedied(name: str, found: str) -> NextStep:
    """What was found better than a branch, as code where it is one of ours."""
    code = (
        "from gradprobe import remedies\n\n"
        f"remedies.{name}(model, x)  # in place, before the optimizer; x: a batch as the model gets it"
    )
    text = f"{found} {_REMEDIES.get(name, '')}"
    return NextStep(
        f"Change the network first: {remedied(name)}", text.rstrip(), code if name in _REMEDIES else ""
    )


def _called(name: str, history: GradientHistory) -> str:
    """The call of a model on the inputs of a batch."""
    stars = {"dict": "**", "tuple": "*"}.get(str(history.conditions.get("inputs")), "")
    return f"{name}({stars}x)"


def _finite(history: GradientHistory) -> NextStep:
    return NextStep(
        "Find the operation that makes them",
        "Lower the learning rate, check the inputs and the loss for NaN and for divisions and logarithms of zero, "
        "and let autograd name the operation.",
        f"with torch.autograd.set_detect_anomaly(True):\n    loss_fn({_called('model', history)}, y).backward()",
    )


def _reach(history: GradientHistory, placement: Placement) -> NextStep:
    listed = set(unreached(history)) <= set(placement.skipped)
    where = "above, under Why" if listed else "in the table of layers, under Evidence"
    return NextStep(
        "Connect these layers, or freeze them",
        f"The reason for each stands {where}. A layer that is not meant to be trained says so with "
        "requires_grad_(False).",
    )


def _insertion(
    title: str, history: GradientHistory, placement: Placement, conditions: Mapping[str, Any]
) -> NextStep:
    """The lines that put the branches in, with this model's own names."""
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
        f"loss = criterion({_called('net', history)}, y)  # in place of loss_fn({_called('model', history)}, y)"
    )
    text = (
        "After the model is built and before the optimizer, which then gets net.parameters(). In eval() net "
        "returns what the model does, computed by the model alone."
    )
    return NextStep(title.replace("branch", "branches") if several else title, text, code)


def _comparing(comparison: Comparison | None) -> NextStep:
    if comparison is None:
        text = "Often it does not. The same training with and without, on several seeds, decides."
        return NextStep("See whether it helps", text, _compare_code(400, 3))
    longer = 3 * int(comparison.conditions.get("iterations", 300))
    text = "Longer, and with several seeds: what one seed shows may be luck."
    return NextStep(
        "Compare again", text, _compare_code(longer, max(3, len(comparison.conditions.get("seeds", []))))
    )


def _compare_code(iterations: int, seeds: int) -> str:
    call = f"gp.compare(model, batches, loss_fn, iterations={iterations}, seeds=range({seeds}))"
    return f"import gradprobe as gp\n\nprint({call})"


def _again(text: str) -> NextStep:
    return NextStep(
        "Measure again",
        text,
        "import gradprobe as gp\n\nhistory = gp.scan(model, batches, loss_fn, iterations=50)",
    )
