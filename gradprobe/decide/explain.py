"""What is found wrong, each with a sentence and the step that mends it, in the order to deal with it. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gradprobe.decide.causes.finding import EXPLAINED, Finding
from gradprobe.decide.findings import findings
from gradprobe.decide.onset import onset
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.text import counted, few, layer_span, middle


def explain(history: GradientHistory, placement: Placement) -> list[Finding]:
    """What is wrong, the first thing to deal with first.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(i, "fc", 0, "weight", 0.0, 0.0, 0.0, 1.0, 0) for i in range(2)]
        >>> history = GradientHistory(tidy(rows), {}, (Layer("fc", 0, "Linear", 9),), (), None)
        >>> placement = Placement("by hand", (), (), "", of="weight", threshold=1e-99, rule="threshold")
        >>> [finding] = explain(history, placement)
        >>> finding.cause
        'zero_weight'
        >>> finding.sentence
        'fc does not learn (1 of 1 layer): the gradient of its weight is exactly zero in every iteration.'
    """
    by_cause: dict[str, Sequence[str]] = dict(findings(history, placement))
    missing = by_cause.get("unreached", ())
    cut_off = [name for name in missing if "checkpointed" in _codes(history, name)]
    by_cause["checkpointed"] = cut_off
    by_cause["unreached"] = [name for name in missing if name not in cut_off]
    by_cause["bypassed"] = [x.name for x in history.layers if x.unreached_code.get("output") == "bypassed"]
    texts = {cause: _TEXTS.get(cause, _reach) for cause in EXPLAINED if by_cause.get(cause)}
    found = []
    for cause, text in texts.items():
        sentence, remedy = text(history, by_cause[cause], cause)
        found.append(Finding(cause, tuple(by_cause[cause]), sentence=sentence, remedy=remedy))
    return found


def trained(history: GradientHistory) -> list[str]:
    """The layers that are not frozen, in depth order.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> frozen = Layer("a", 0, "Linear", 9, {"weight": "frozen"}, None, {"weight": "frozen"})
        >>> trained(GradientHistory(tidy([]), {}, (frozen, Layer("b", 1, "Linear", 9)), (), None))
        ['b']
    """
    return [layer.name for layer in history.layers if not layer.is_frozen]


def _codes(history: GradientHistory, name: str) -> Mapping[str, str]:
    return {
        code: of for layer in history.layers if layer.name == name for of, code in layer.unreached_code.items()
    }


def _span(history: GradientHistory, names: Sequence[str]) -> str:
    """Layers in few words; frozen ones between them do not count."""
    order = [layer.name for layer in history.layers if not layer.is_frozen or layer.name in set(names)]
    return layer_span(names, order, lambda name: middle(name, 40))


def _count(history: GradientHistory, names: Sequence[str]) -> str:
    frozen = len(history.layers) - len(trained(history))
    kind = "trained layer" if frozen else "layer"
    return f"{len(names)} of {counted(len(history.layers) - frozen, kind)}"


def _reach(history: GradientHistory, names: Sequence[str], cause: str) -> tuple[str, str]:
    beginning, step = _SAID[cause]
    return f"{beginning} {_count(history, names)}: {_span(history, names)}.", step


_SAID = {  # what comes before the number of layers, and what to do
    "vanishing": (
        "The gradient does not reach",
        "Look at the initial weights and at normalisation first; then see whether a branch helps.",
    ),
    "exploding": (
        "The gradient explodes in",
        "Lower the learning rate, or clip; look at the initial weights.",
    ),
    "unreached": (
        "No gradient arrives at",
        "Connect what should be trained with the loss, and freeze the rest with requires_grad_(False).",
    ),
}


def _zero_weight(history: GradientHistory, names: Sequence[str], cause: str) -> tuple[str, str]:
    does, its = ("does", "its") if len(names) == 1 else ("do", "their")
    return (
        f"{_span(history, names)} {does} not learn ({_count(history, names)}): the gradient of {its} weight is "
        "exactly zero in every iteration.",
        "Look at what goes into it: nothing but zeros, where units before it are dead or never fire.",
    )


def _nonfinite(history: GradientHistory, names: Sequence[str], cause: str) -> tuple[str, str]:
    began = onset(history)
    assert began is not None  # there are such layers
    since = f"from iteration {began.iteration} on" if began.iteration else "from the first iteration on"
    return (
        f"Gradients are NaN or infinite {since} in {_count(history, names)}: {began}.",
        f"Look at the batch and the loss of iteration {began.iteration} (the first is 0): a target that does not "
        "fit, a division by zero, the logarithm of zero. torch.autograd.set_detect_anomaly(True) names the "
        "operation.",
    )


def _not_held(history: GradientHistory, names: Sequence[str], cause: str) -> tuple[str, str]:
    new = [name for name in names if "not_held_new" in _codes(history, name)]
    if new:
        they, them = ("it was", "it") if len(new) == 1 else ("they were", "them")
        return (
            f"The optimizer does not hold {_span(history, new)}: {they} put in after the optimizer was built, "
            f"so no step changes {them}.",
            "Build the optimizer after the last change of the network.",
        )
    return (
        f"No optimizer holds the weights of {_count(history, names)}, and they are not frozen: "
        f"{_span(history, names)}.",
        "Freeze them with requires_grad_(False), or give them to the optimizer; where layers were replaced, build "
        "it after that.",
    )


def _checkpointed(history: GradientHistory, names: Sequence[str], cause: str) -> tuple[str, str]:
    return (
        f"{_span(history, names)} {'gets' if len(names) == 1 else 'get'} no gradient ({_count(history, names)}), "
        "because reentrant checkpointing cuts off what is inside where no input of it requires a gradient.",
        "Checkpoint with use_reentrant=False, or in transformers call model.enable_input_require_grads().",
    )


def _unregistered(history: GradientHistory, names: Sequence[str], cause: str) -> tuple[str, str]:
    are = "takes part and belongs" if len(names) == 1 else "take part and belong"
    return (
        f"{counted(len(names), 'parameter')} {are} to no module of the network, so no optimizer has them from "
        f"model.parameters(): of shape {few(names, 4)}.",
        "Put layers that are in a plain list or dict into an nn.ModuleList or an nn.ModuleDict.",
    )


def _bypassed(history: GradientHistory, names: Sequence[str], cause: str) -> tuple[str, str]:
    return (
        "The hooks were bypassed: parameters got gradients, but no module was called as one, so only the "
        "gradients of weights are known.",
        "Call module(x) in place of module.forward(x), or decide by the weights: --of weight.",
    )


_TEXTS: dict[str, Callable[[GradientHistory, Sequence[str], str], tuple[str, str]]] = {
    "nonfinite": _nonfinite,
    "not_held": _not_held,
    "zero_weight": _zero_weight,
    "checkpointed": _checkpointed,
    "unregistered": _unregistered,
    "bypassed": _bypassed,
}
