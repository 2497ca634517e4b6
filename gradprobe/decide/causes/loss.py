"""Causes between the output and the loss: what the loss gets is not what it expects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gradprobe.decide.causes.facts import WELL, Reading
from gradprobe.decide.causes.finding import Finding

_RANGES = {
    "relu": (0.0, None),
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softmax": (0.0, 1.0),
    "clamp_min": (0.0, None),
    "log_softmax": (None, 0.0),
    "log_sigmoid": (None, 0.0),
    "softplus": (0.0, None),
    "recurrent": (-1.0, 1.0),  # the state of an LSTM or a GRU is a tanh times or between sigmoids
}
_NAMES = {name: name for name in _RANGES} | {"relu": "ReLU", "clamp_min": "clamp"}
_ENDS = {
    "relu": "never below 0",
    "sigmoid": "between 0 and 1",
    "tanh": "between -1 and 1",
    "softmax": "between 0 and 1",
    "clamp_min": "never below its limit",
    "log_softmax": "never above 0",
    "log_sigmoid": "never above 0",
    "softplus": "never below 0",
    "recurrent": "between -1 and 1",
}
_SLACK = 0.02  # of the target's range: label smoothing and rounding
_OFF_SIMPLEX = 0.1  # of the examples
CLAMPED = 0.5  # of the output held at the end of a ReLU
_GRAPH = "exact: the graph of the loss"


def causes(reading: Reading) -> Iterator[Finding]:
    """The findings of this kind."""
    for use in reading.uses:
        yield from _labels(use)
        yield from _sign(reading, use)
        yield from _fits(use)
        yield from _broadcast(use)
        yield from _twice(use)
        yield from _activation(reading, use)
    yield from _no_activation(reading)


def _found(
    cause: str, use: Mapping[str, Any], sentence: str, remedy: str, source: str = _GRAPH, **evidence: Any
) -> Finding:
    shown = {"activations": list(use["activations"]), "loss": use["loss"], **evidence}
    return Finding(cause, (use["layer"],), shown, sentence, remedy, source)


def _labels(use: Mapping[str, Any]) -> Iterator[Finding]:
    labels, target = use["labels"], use["target"]
    seen = sum(labels) if labels else 0
    one_class = bool(labels) and sum(count > 0 for count in labels) == 1 and len(labels) > 1 and seen >= 16
    # not of mse and bce: the generator of a GAN is trained towards a constant target
    constant = target is not None and use["loss"] in ("smooth_l1", "huber")
    if one_class:
        yield _found(
            "labels_wrong", use,
            f"All {seen} labels in the window are the same class, of {len(labels)} classes.",
            "Look at how the labels are made: a division, a cast to integers or an index may have removed them.",
            "exact: the labels that the loss was given", labels_seen=seen,
        )  # fmt: skip
    elif (
        constant
        and use["plain"]
        and not target["std"]
        and use["shape"]
        and use["shape"][0] > 1
        and not use["activations"]
    ):
        yield _found(
            "labels_wrong", use, f"All targets in the window are the same: {target['mean']:g}.",
            "Look at how the targets are made.", "exact: the targets that the loss was given", target_std=0.0,
        )  # fmt: skip


def _sign(reading: Reading, use: Mapping[str, Any]) -> Iterator[Finding]:
    """A loss that is maximised; not where some passes are, as those of a generator through its critic."""
    optimizers = reading.network.get("optimizers") or ()
    maximizes = bool(optimizers) and all(one.get("maximize") for one in optimizers)
    share, by_hand = use.get("negated", 0) / use["seen"], use["loss"] == "likelihood"
    if use["loss"] == "other" or share != (0 if maximizes else 1) or (maximizes and not (use["plain"] or by_hand)):
        return
    if maximizes:
        why, remedy = "the loss larger: its optimizer has maximize=True", "Leave maximize=True out."
    elif by_hand:
        why, remedy = "the right answers less likely: it minimises log-probabilities", "Put a minus before them."
    else:
        why, remedy = "the loss larger: it is made negative before its backward pass", "Take out the minus sign."
    yield _found("loss_wrong", use, f"The training makes {why}.", remedy, negated=share)


def _is_known(target: Mapping[str, Any] | None) -> bool:
    """Whether the target was seen and is finite."""
    return target is not None and None not in target.values()


def _fits(use: Mapping[str, Any]) -> Iterator[Finding]:
    loss, target, output = use["loss"], use["target"], use["output"]
    activations = use["activations"]
    if (
        loss in ("bce", "bce_with_logits")
        and _is_known(target)
        and (target["max"] > 1.001 or target["min"] < -0.001)
    ):
        yield _found(
            "loss_wrong", use,
            f"Binary cross entropy gets targets from {target['min']:g} to {target['max']:g}; it is "
            "defined for 0 to 1.",
            "For classes 0, 1, 2, ... use one output for each and nn.CrossEntropyLoss; for numbers nn.MSELoss.",
            "the definition of the loss", target_min=target["min"], target_max=target["max"],
        )  # fmt: skip
    elif loss == "nll" and "log_softmax" not in activations and output is not None and (output["max"] or 0) > 1e-6:
        yield _found(
            "loss_wrong", use,
            "NLLLoss expects the logarithms of probabilities, and gets positive numbers.",
            "Use nn.CrossEntropyLoss on the logits, or put a log_softmax before nn.NLLLoss.",
            "the definition of the loss", output_max=output["max"],
        )  # fmt: skip
    elif loss == "ctc" and "log_softmax" not in activations:
        yield _found(
            "loss_wrong", use,
            "CTCLoss expects the logarithms of probabilities over the symbols, and gets other numbers.",
            "Give it output.log_softmax(-1).",
            "the definition of the loss",
        )  # fmt: skip
    elif loss == "kl_div" and activations[-1:] == ["softmax"] and (use.get("off_simplex") or 0) <= _OFF_SIMPLEX:
        yield _found(
            "loss_wrong", use,
            "KLDivLoss expects the logarithms of probabilities, and gets the probabilities.",
            "Use log_softmax in place of softmax.",
            "the definition of the loss",
        )  # fmt: skip
    elif use.get("across_examples") and loss in ("nll", "bce", "mse", "kl_div"):
        yield _found(
            "loss_wrong", use,
            f"The softmax goes over the {use['classes']} examples of the batch, and not over the classes.",
            "Let it go over the classes: dim=1.",
            across_examples=True,
        )  # fmt: skip
    elif use.get("torn") and loss == "nll":
        before = tuple(use["torn"])
        yield _found(
            "loss_wrong", use,
            f"The output {before} is viewed as rows of {before[1]} numbers, so that a row holds neighbours of "
            "one class and not the classes of one place.",
            "Give nn.CrossEntropyLoss the output as it is, with the classes on axis 1, or move them to the end "
            "first: output.movedim(1, -1).flatten(0, -2).",
            shape=before,
        )  # fmt: skip
    elif "log_softmax" in activations and use["classes"] == 1:
        yield _found(
            "loss_wrong", use, "Cross entropy over one class is 0 whatever the "
            "output.",
            "Use one output for each class, or nn.BCEWithLogitsLoss for one.",
            "the definition of the loss", classes=1,
        )  # fmt: skip


def _broadcast(use: Mapping[str, Any]) -> Iterator[Finding]:
    if use["broadcast"] > 1:
        shape = tuple(use["shape"])
        yield _found(
            "loss_broadcast", use,
            f"The loss compares every output of the batch to every target: the output {shape} and the target are "
            f"broadcast to {use['broadcast']} times as many elements.",
            "Give output and target the same shape: y.unsqueeze(1), or output.squeeze(1).",
            broadcast=use["broadcast"],
        )  # fmt: skip


def _twice(use: Mapping[str, Any]) -> Iterator[Finding]:
    activations, loss = use["activations"], use["loss"]
    first = activations[0] if activations else ""
    if first == "softmax" and use["classes"] != 1 and ("log_softmax" in activations or loss == "bce_with_logits"):
        yield _found(
            "double_softmax", use,
            "The output goes through a softmax, and the loss applies another one: gradients are small, and "
            "probabilities cannot come near 0 and 1.",
            "Give the loss the logits: take the softmax out of the model's forward.",
        )  # fmt: skip
    elif first == "sigmoid" and loss == "bce_with_logits":
        yield _found(
            "double_sigmoid", use,
            "The output goes through a sigmoid, and the loss applies another one: probabilities stay between .5 "
            "and .73.",
            "Give nn.BCEWithLogitsLoss the logits: take the sigmoid out of the model's forward, or "
            "use nn.BCELoss.",
        )  # fmt: skip


def _activation(reading: Reading, use: Mapping[str, Any]) -> Iterator[Finding]:
    target = use["target"]
    activations = use["activations"] or ["recurrent"] * _is_recurrent(reading, use["layer"])
    if not activations:
        return
    first = activations[0]
    if first == "softmax" and use["classes"] == 1:
        yield _found(
            "output_activation", use, "A softmax over one unit is 1 whatever the input: the output cannot change.",
            "Use a sigmoid for one unit, or leave the activation to the loss (nn.BCEWithLogitsLoss).", classes=1,
        )  # fmt: skip
    elif first in ("sigmoid", "tanh", "relu") and (
        "log_softmax" in activations[1:] or (first != "sigmoid" and use["loss"] == "bce_with_logits")
    ):
        yield _found(
            "output_activation", use,
            f"The loss expects logits of any size and sign, and gets the output of a {_NAMES[first]}, which is "
            f"{_ENDS[first]}.",
            f"Take the {_NAMES[first]} out of the last layer.",
        )  # fmt: skip
    elif (
        target is not None
        and _is_known(target)
        and first in _RANGES
        and use["loss"] in ("mse", "smooth_l1", "huber", "difference", "bce")
    ):
        yield from _out_of_range(use, first, target)
        if first == "softmax" and (use.get("off_simplex") or 0) > _OFF_SIMPLEX:
            yield _found(
                "output_activation", use,
                f"The targets of {use['off_simplex']:.0%} of the examples do not add up to 1, and what a softmax "
                "returns always does.",
                "For several labels at once give the logits to nn.BCEWithLogitsLoss.",
                off_simplex=use["off_simplex"], threshold=_OFF_SIMPLEX,
            )  # fmt: skip
        if first == "relu" and (use["clamped"] or 0) > CLAMPED and not reading.learned:
            yield _found(
                "output_activation", use,
                f"The last ReLU holds {use['clamped']:.0%} of the output at 0, and no gradient passes there.",
                "Take the ReLU off the last layer, or use one that passes gradients (softplus).",
                clamped=use["clamped"], threshold=CLAMPED,
            )  # fmt: skip


def _out_of_range(use: Mapping[str, Any], activation: str, target: Mapping[str, float]) -> Iterator[Finding]:
    low, high = _RANGES[activation]
    slack = _SLACK * max(target["max"] - target["min"], 1e-12)
    too_low = low is not None and target["min"] < low - slack
    too_high = high is not None and target["max"] > high + slack
    if too_low or too_high:
        yield _found(
            "output_activation", use,
            f"The targets go from {target['min']:.3g} to {target['max']:.3g}, but what {_article(activation)} "
            f"returns is {_ENDS[activation]}.",
            "Put an nn.Linear after it."
            if activation == "recurrent"
            else f"Take the {_NAMES[activation]} off the last layer, or scale the targets into its range.",
            target_min=target["min"], target_max=target["max"],
        )  # fmt: skip


def _article(activation: str) -> str:
    return "an LSTM or a GRU" if activation == "recurrent" else f"a {_NAMES[activation]}"


def _is_recurrent(reading: Reading, name: str) -> bool:
    """Whether a layer returns the state of an LSTM or a GRU, and not a projection of it."""
    found = [layer for layer in reading.layers if layer.name == name and layer.kind.startswith(("LSTM", "GRU"))]
    return any(not any("weight_hr" in row for row in layer.weights) for layer in found)


def _is_linear_on_purpose(reading: Reading) -> bool:
    """A linear network may be meant: one that learns well all the same, or that has a bottleneck and learns."""
    if reading.constant and reading.end < WELL * reading.constant:
        return True
    sizes = [reading.facts[name] for name in reading.trained if "units" in reading.facts.get(name, {})]
    if not reading.learned or len(sizes) < 2:
        return False
    ends = min(sizes[0]["fan_in"], sizes[-1]["units"])
    return bool(min(facts["units"] for facts in sizes[:-1]) < ends)


def _no_activation(reading: Reading) -> Iterator[Finding]:
    weighted = reading.network.get("weighted") or 0
    if reading.network.get("bends") is False and weighted > 1 and not _is_linear_on_purpose(reading):
        yield Finding(
            "no_activation", tuple(reading.trained), {"products": weighted, "activations": 0},
            f"There is no activation between the {weighted} layers: together they are one linear function.",
            "Put an activation (ReLU, GELU, tanh) between the layers.", _GRAPH,
        )  # fmt: skip
