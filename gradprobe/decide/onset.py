"""Where NaN or infinity began: in which iteration, at which layer, and in which direction. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from gradprobe.record.history import GradientHistory
from gradprobe.record.text import middle

WHERE = ("forward", "loss", "forward or loss", "backward", "weight")


@dataclass(frozen=True)
class Onset:
    """Where the first gradients that are not finite come from.

    A gradient runs from the loss to the first layer, so it began at the affected layer nearest the loss. If that
    is the last one of all, it was not finite when it left the loss.

    Attributes:
        iteration: The first iteration that has some, counted from 0.
        layer: The affected layer nearest the loss.
        where: One of `WHERE`. ``"forward"``: the loss itself was not finite. ``"loss"``: the loss was finite, its
            derivative was not. ``"forward or loss"``: one of them, the loss was not recorded. ``"backward"``: on
            the way back, at the layer. ``"weight"``: in the gradient of the layer's weight alone.
        after: The next layer towards the loss, whose gradient is finite, or None.
    """

    iteration: int
    layer: str
    where: str
    after: str | None = None

    def __str__(self) -> str:
        layer, after = middle(self.layer, 40), middle(self.after or "", 40)
        first = f"{layer} is the first layer that they reach on the way back"
        return {
            "forward": f"the loss is not finite, so they begin in the forward pass or in the loss; {first}",
            "loss": f"the loss is finite, its derivative is not; {first}",
            "forward or loss": f"they begin in the forward pass or in the loss; {first}",
            "backward": f"they begin on the way back at {layer}; the gradient of {after}, after it, is finite",
            "weight": f"they begin on the way back in the weight of {layer}",
        }[self.where]


def onset(history: GradientHistory) -> Onset | None:
    """Where NaN or infinity began, or None where all is finite.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> bad = {(1, "a"), (2, "a"), (2, "b")}
        >>> rows = [
        ...     (i, name, depth, "output", 1.0, 1.0, 1.0, 0.0, int((i, name) in bad))
        ...     for i in range(3)
        ...     for depth, name in enumerate("ab")
        ... ]
        >>> layers = (Layer("a", 0, "Linear", 9), Layer("b", 1, "Linear", 9))
        >>> onset(GradientHistory(tidy(rows), {}, layers, (), None))
        Onset(iteration=1, layer='a', where='backward', after='b')
    """
    frame = history.rows_of_layers
    bad = frame[(frame["nonfinite"] > 0).fillna(False).astype(bool)]
    if not len(bad):
        return None
    first = int(bad["iteration"].min())
    rows = frame[(frame["iteration"] == first) & frame["nonfinite"].notna()]
    rows = rows.sort_values("depth", kind="stable")
    outputs = rows[rows["of"] == "output"]
    reached = outputs[outputs["nonfinite"] > 0]
    if not len(reached):
        last = str(rows.loc[rows["nonfinite"] > 0, "layer"].iloc[-1])
        return Onset(first, last, "weight" if len(outputs) else _source(history, first))
    last = str(reached["layer"].iloc[-1])
    later = [str(name) for name in outputs["layer"]]
    later = later[later.index(last) + 1 :]
    return Onset(first, last, "backward", later[0]) if later else Onset(first, last, _source(history, first))


def _source(history: GradientHistory, iteration: int) -> str:
    """What a gradient that left the loss as NaN or infinity says, with the loss if it was recorded."""
    losses = history.conditions.get("losses") or []
    if iteration >= len(losses):
        return "forward or loss"
    return "forward" if losses[iteration] is None else "loss"
