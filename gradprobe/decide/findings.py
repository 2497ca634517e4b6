"""What is wrong in a history, for any policy: the kinds of finding, and the layers of each. No torch."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from gradprobe.decide.rules import ThresholdPolicy
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement

NOT_HELD = ("not_held", "not_held_new")  # codes out of `gradprobe.record.layer.UNREACHED`
_NO_FINDING = (
    "frozen",
    "bypassed",
    "other_tensor",
    "opaque",
    *NOT_HELD,
)  # these do not say that no gradient arrives
EXPLODING = 1e3  # a mean |gradient| that no sensible loss gives a sensible network


def findings(history: GradientHistory, placement: Placement) -> dict[str, list[str]]:
    """What is wrong: the layers by kind of finding, without the kinds that no layer has.

    ``vanishing``: flagged by the placement, or by the rule of CNDS where the placement's policy flags nothing by
    a magnitude (every point, short trials, by hand). ``exploding``: mean_abs above 1e3 in some iteration.
    ``nonfinite``: NaN or inf in some gradient. ``unreached``: no gradient arrived, and the layer is not just
    frozen; for a layer with a weight it is the weight's gradient that counts, since its module may never be called
    (a projection in attention). ``not_held``: it gets gradients, and no optimizer holds its weight.
    ``zero_weight``: the weight's gradient is exactly zero in every iteration, and the layer does not vanish.
    ``unregistered``: parameters, by shape, that take part in the forward pass and belong to no module.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, "a", 0, "weight", float("nan"), None, None, 0, 3)]
        >>> history = GradientHistory(tidy(rows), {}, (Layer("a", 0, "Linear", 9),), (), None)
        >>> findings(history, Placement("by hand", (), (), ""))
        {'nonfinite': ['a']}
    """
    frame, flagged = history.rows_of_layers, list(with_default_flags(history, placement).flagged)
    by_kind = {
        "vanishing": flagged,
        "exploding": _layers(frame[frame["mean_abs"] > EXPLODING]),
        "nonfinite": _layers(frame[frame["nonfinite"] > 0]),
        "unreached": unreached(history),
        "not_held": [x.name for x in history.layers if x.unreached_code.get("weight") in NOT_HELD],
        "zero_weight": [name for name in _zero_weights(history) if name not in flagged],
        "unregistered": [str(tuple(shape)) for shape in history.conditions.get("loose_parameters") or ()],
    }
    return {kind: layers for kind, layers in by_kind.items() if layers}


def with_default_flags(history: GradientHistory, placement: Placement) -> Placement:
    """The placement with the layers that CNDS' rule flags, where its own policy does not look at gradients.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, name, depth, "output", 10.0 ** (depth - 8), 0, 0, 0, 0) for depth, name in enumerate("ab")]
        >>> layers = (Layer("a", 0, "Linear", 9), Layer("b", 1, "Linear", 9))
        >>> history = GradientHistory(tidy(rows), {}, layers, (), None)
        >>> placement = with_default_flags(history, Placement("by hand", (), (), ""))
        >>> placement.flagged, placement.threshold
        (('a',), 1e-07)
    """
    if looks_at_magnitudes(placement):
        return placement
    decided = default_rule(history)(history)
    return replace(placement, flagged=decided.flagged, of=decided.of, threshold=decided.threshold)


def looks_at_magnitudes(placement: Placement) -> bool:
    """Whether the policy looked for layers that the gradient does not reach."""
    return placement.threshold is not None or bool(placement.flagged)


def default_rule(history: GradientHistory) -> ThresholdPolicy:
    """CNDS' rule on the outputs, or on the weights if only those were recorded."""
    return ThresholdPolicy(of=history.main_quantity or "output")


def unreached(history: GradientHistory) -> list[str]:
    """Layers without a gradient (at the weight if recorded, else at the output) that are not just frozen.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> projection = Layer("out_proj", 0, "Linear", 9, {"output": "never called as a module"})
        >>> rows = [(0, "out_proj", 0, of, value, 0, 0, 0, 0) for of, value in [("output", None), ("weight", 1.0)]]
        >>> unreached(GradientHistory(tidy(rows), {}, (projection,), (), None))
        []
    """
    weighted = set(history.rows_of_layers.loc[history.rows_of_layers["of"] == "weight", "layer"])
    names = []
    for layer in history.layers:
        of = "weight" if layer.name in weighted else "output"
        if of in layer.unreached and layer.unreached_code.get(of) not in _NO_FINDING:
            names.append(layer.name)
    return names


def _zero_weights(history: GradientHistory) -> list[str]:
    """Layers whose weight's gradient is exactly zero in every iteration, of several.

    In one iteration it may be: behind a weight that begins at zero (a residual branch, a low-rank adapter).
    """
    rows = history.rows_of_layers[
        (history.rows_of_layers["of"] == "weight") & history.rows_of_layers["nonfinite"].notna()
    ]
    by_layer = rows.groupby("layer", sort=False)
    is_zero = by_layer["mean_abs"].max().eq(0) & by_layer["nonfinite"].sum().eq(0) & by_layer.size().gt(1)
    return [str(name) for name in is_zero.index[is_zero.to_numpy(dtype=bool)]]


def _layers(rows: pd.DataFrame) -> list[str]:
    return [str(name) for name in rows["layer"].unique()]
