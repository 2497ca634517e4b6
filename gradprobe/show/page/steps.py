"""What to do next, with the code to paste."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gradprobe.decide.causes.finding import CAUSES
from gradprobe.decide.diagnosis import diagnose, what_to_compare
from gradprobe.decide.explain import explain
from gradprobe.decide.findings import unreached, with_default_flags
from gradprobe.decide.remedies import REMEDIES, remedy_code
from gradprobe.record.branches import BRANCH_NAMES
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.text import quoted
from gradprobe.show.headline import is_scale, remedy_name
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import Comparison


@dataclass(frozen=True)
class NextStep:
    """Something to do: a title, a sentence, and code to paste if there is some."""

    title: str
    text: str
    code: str = ""
    inserts: bool = False  # branches, by code for any script


def _remedy_code(name: str) -> str:
    on_optimizer = name in REMEDIES and REMEDIES[name].on_optimizer
    where = (
        "in place, after the optimizer; history: what gp.scan gives"
        if on_optimizer
        else "in place, before the optimizer; x: a batch as the model gets it"
    )
    return f"from gradprobe import remedies\n\n{remedy_code(name)}  # {where}"


_INITIALISE = NextStep(
    "Try another initialisation or normalisation",
    "Often as good as a branch, and free, but only for a model trained from scratch: new weights with which every "
    "layer returns unit variance (LSUV), or a normalisation layer after each flagged one. Then measure again.",
    _remedy_code("lsuv"),
)
_SCALE = NextStep(
    "Look at the scale of the loss first",
    "A sum instead of a mean, a loss scale or a larger batch changes every magnitude by the same factor. The "
    "relative rule does not depend on any of them. If it flags nothing, nothing has vanished; if the last layer's "
    "output is constant, the network is dead from there on.",
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
    "capacity rather than at the depth. A test makes sure that it stays so:",
    "from gradprobe.testing import assert_gradients_reach\n\nassert_gradients_reach(model, batches, loss_fn)",
)
_TITLES = {
    "checkpointed": "Let the gradient into the checkpoint",
    "not_held": "Freeze these layers, or train them",
    "unregistered": "Register the layers",
    "zero_weight": "Look at what goes into the layer",
    "bypassed": "Call the modules",
}
_AS_IT_IS = NextStep("Leave the network as it is", "No arm did better beyond the noise under these conditions.")

_IN_SCRIPT = "The same as was printed: with the script's own names, by file and line."
_NOTHING_RECORDED = "Measure again, over more iterations: nothing was recorded."
_AFTER_CHANGE = "The change alters the gradients: measure them before a branch is placed."
_LONGER = "Longer, and with several seeds: a difference on one seed may be chance."


def steps(
    state: str, history: GradientHistory, placement: Placement, comparison: Comparison | None, run: str
) -> list[NextStep]:
    """What to do next, the first thing first; of a script that was recorded the lines to change in it.

    Args:
        state: That of the verdict.
        history: The record.
        placement: The decision.
        comparison: The comparison, if there is one.
        run: Folder of the run, or empty.
    """
    found = _steps(state, history, placement, comparison, run)
    lines = history.conditions.get("advice")
    if not lines or comparison is not None:
        return found
    kept, first = [step for step in found if not step.inserts], int(state == "sick")
    return [*kept[:first], NextStep("Change the script", _IN_SCRIPT, "\n".join(lines)), *kept[first:]]


def _steps(
    state: str, history: GradientHistory, placement: Placement, comparison: Comparison | None, run: str
) -> list[NextStep]:
    if state == "sick":
        return _mend(history)
    placement = with_default_flags(history, placement)
    by_state = {
        "nonfinite": _find_nonfinite(history),
        "exploding": _CLIP,
        "unreached": _connect_unreached(history, placement),
        **{
            finding.cause: NextStep(_TITLES[finding.cause], finding.remedy)
            for finding in explain(history, placement)
            if finding.cause in _TITLES
        },
    }
    if placement.remedy:
        tried = (
            "In short trials the loss of the main output ended lower with it than as it is."
            if placement.rule == "trials"
            else "It is what the diagnosis names."
        )
        return [_change_first(placement.remedy, tried), by_state.get(state, _measure_again(_AFTER_CHANGE))]
    if state in by_state:
        return [by_state[state]]
    if state == "healthy" and (not placement.points or (history.evidence is not None and comparison is None)):
        return [_KEEP]
    if comparison is not None and state in ("helped", "no difference", "harmed"):
        return _after_comparison(state, history, placement, comparison)
    if placement.points:
        return _with_branches(history, placement, comparison)
    if is_scale(history, placement):
        return [_check_scale(run)]
    return [_INITIALISE] if placement.flagged else [_measure_again(_NOTHING_RECORDED)]


def _mend(history: GradientHistory) -> list[NextStep]:
    """Mend the causes; then see which of several changes helps; branches come last."""
    code = what_to_compare(history) or _compare_code(400, 3, history.conditions, "compare_arms")
    text = "Initial weights, normalisation and branches, side by side on the same batches and seeds."
    return [*_remedies(history), NextStep("Then compare what else may help", text, code)]


def _remedies(history: GradientHistory) -> list[NextStep]:
    """A remedy for each cause; none for a healthy network."""
    return [NextStep(f"Mend it: {CAUSES[one.cause]}", one.remedy) for one in diagnose(history).findings]


def _in_place_of_a_branch(history: GradientHistory, placement: Placement) -> list[NextStep]:
    """What may do more than a branch: the remedy of what is wrong; nothing where no layer is flagged either."""
    return _remedies(history) or ([_INITIALISE] if placement.flagged else [])


def _after_comparison(
    verdict: str, history: GradientHistory, placement: Placement, comparison: Comparison
) -> list[NextStep]:
    """What follows from a comparison that could tell."""
    if verdict == "helped":
        return [_insertion("Keep the branch", history, placement, comparison.conditions)]
    result = "The branch did not improve the main output" if verdict == "no difference" else "It did worse with it"
    return [
        NextStep("Leave the branches out", f"{result} under these conditions."),
        *_in_place_of_a_branch(history, placement),
    ]


def _with_branches(
    history: GradientHistory, placement: Placement, comparison: Comparison | None
) -> list[NextStep]:
    """Branches are placed, and nobody knows yet whether they help."""
    conditions = history.conditions if comparison is None else comparison.conditions
    insertion = _insertion("Insert the branch", history, placement, conditions)
    if comparison is not None:
        return [_compare_longer(conditions), *_in_place_of_a_branch(history, placement), insertion]
    text = "Often it does not. The same training with and without it, on several seeds, decides."
    return [
        insertion,
        NextStep("See whether it helps", text, _compare_code(400, 3, conditions)),
        *_in_place_of_a_branch(history, placement),
    ]


def arms_steps(history: GradientHistory, arms: ArmsComparison) -> list[NextStep]:
    """What to do after several arms were compared: what the best one did, and measure again."""
    placement, conditions = arms.placement, arms.conditions
    step = arms.next_step if arms.choice.lacks else None
    again = [] if step is None else [NextStep(step.why, _LONGER, step.lines)]
    if arms.choice.verdict == "cannot tell":
        return again or [_AS_IT_IS]
    if placement.remedy:
        best = f"Of {len(arms.arms)} arms it is the one to use."
        return [_change_first(placement.remedy, best), *again, _measure_again(_AFTER_CHANGE)]
    if placement.points:
        return [_insertion("Keep the branch", history, placement, conditions), *again]
    return [_AS_IT_IS, *again]


def _change_first(remedy: str, why: str) -> NextStep:
    """A remedy that does better than branches, with its code if it is one of ours."""
    title = f"Change the network first: {remedy_name(remedy)}"
    if remedy not in REMEDIES:
        return NextStep(title, why)
    return NextStep(title, f"{why} {REMEDIES[remedy].caution}", _remedy_code(remedy))


def _model_call(name: str, history: GradientHistory) -> str:
    """The call of a model on the inputs of a batch."""
    stars = {"dict": "**", "tuple": "*"}.get(str(history.conditions.get("inputs")), "")
    return f"{name}({stars}x)"


def _find_nonfinite(history: GradientHistory) -> NextStep:
    backward = f"loss_fn({_model_call('model', history)}, y).backward()"
    return NextStep(
        "Find the operation that makes them",
        "Lower the learning rate, check the inputs and the loss for NaN and for divisions and logarithms of zero, "
        "and let autograd name the operation.",
        f"with torch.autograd.set_detect_anomaly(True):\n    {backward}",
    )


def _connect_unreached(history: GradientHistory, placement: Placement) -> NextStep:
    listed = set(unreached(history)) <= set(placement.skipped)
    where = "above, under Why" if listed else "in the table of layers, under Evidence"
    return NextStep(
        "Connect these layers, or freeze them",
        f"The reason for each is {where}. Freeze a layer that is not meant to be trained with "
        "requires_grad_(False).",
    )


def _check_scale(run: str) -> NextStep:
    if not run:
        return _SCALE
    call = f"gp.place(gp.load({quoted(run)}).history, gp.RelativePolicy())"
    return replace(_SCALE, code=f"import gradprobe as gp\n\nprint({call})")


def _insertion(
    title: str, history: GradientHistory, placement: Placement, conditions: Mapping[str, Any]
) -> NextStep:
    """The lines that insert the branches, with this model's own names."""
    schedule = conditions.get("schedule", "cnds")
    total = "" if schedule == "constant" else ", total=epochs"
    weights = f', weights="{placement.weights}"' if placement.weights else ""
    names = ", ".join(quoted(point.name) for point in placement.points)
    kind, own_loss = _branch_kind(conditions), _branch_loss(conditions)
    net, model = _model_call("net", history), _model_call("model", history)
    code = (
        "import gradprobe as gp\n\n"
        f"net = gp.supervise(model, [{names}], inputs=x{kind})  # x: a batch as the model gets it\n"
        f"criterion = gp.DeepSupervisionLoss(loss_fn, weight={conditions.get('weight', 0.3):g}, "
        f'schedule="{schedule}"{total}{weights}{own_loss})\n'
        f"loss = criterion({net}, y)  # in place of loss_fn({model}, y)"
    )
    text = (
        "After the model is built and before the optimizer, which then gets net.parameters(). In eval() net "
        "returns what the model does, computed by the model alone."
    )
    title = title.replace("branch", "branches") if len(placement.points) > 1 else title
    return NextStep(title, text, code, inserts=True)


def _branch_kind(conditions: Mapping[str, Any]) -> str:
    """The argument that names the kind of branch, if another one than the default was asked for."""
    kind = conditions.get("branch", "auto")
    if kind == "auto":
        return ""
    own = kind if kind.isidentifier() else "make_branch"  # the name of a lambda cannot be written
    return f", branch={json.dumps(kind) if kind in BRANCH_NAMES else own}"


def _branch_loss(conditions: Mapping[str, Any]) -> str:
    """The argument that gives the branches the loss that they had, if it was one of their own."""
    return ", branch_loss=branch_loss" if conditions.get("branch_loss") else ""


def _compare_longer(conditions: Mapping[str, Any], function: str = "compare") -> NextStep:
    iterations = 3 * int(conditions.get("iterations", 300))
    seeds = max(3, len(conditions.get("seeds", [])))
    return NextStep("Compare again", _LONGER, _compare_code(iterations, seeds, conditions, function))


def _compare_code(iterations: int, seeds: int, conditions: Mapping[str, Any], function: str = "compare") -> str:
    asked_for = f"{_branch_kind(conditions)}{_branch_loss(conditions)}"
    call = f"gp.{function}(model, batches, loss_fn, iterations={iterations}, seeds=range({seeds}){asked_for})"
    return f"import gradprobe as gp\n\nprint({call})"


def _measure_again(text: str) -> NextStep:
    return NextStep(
        "Measure again",
        text,
        "import gradprobe as gp\n\nhistory = gp.scan(model, batches, loss_fn, iterations=50)",
    )
