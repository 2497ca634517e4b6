"""What trainings are compared by: the name of a metric and its direction. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

_WRITTEN = {"dice": "Dice", "mean_iou": "mean IoU"}  # every other metric is written as it is called
_LOSSES = ("loss", "training loss")


@dataclass(frozen=True)
class Metric:
    """What trainings are compared by.

    Attributes:
        name: ``"accuracy"``, ``"loss"``, ``"dice"``, ``"mean_iou"``, the name of a function of the user's own, or
            ``"training loss"`` where nothing was measured on held-out data.
        higher_is_better: Its direction.

    Example:
        >>> Metric("mean_iou").title, Metric("loss", False).title, TRAINING_LOSS.title
        ('held-out mean IoU', 'held-out loss', 'training loss')
        >>> Metric("mae", False).described
        'held-out mae (lower is better)'
    """

    name: str
    higher_is_better: bool = True

    @property
    def held_out(self) -> bool:
        """Whether it is measured on held-out data."""
        return self != TRAINING_LOSS

    @property
    def column(self) -> str:
        """Its column in a `learning_frame`."""
        return "metric" if self.held_out else "loss"

    @property
    def sign(self) -> int:
        """1, or -1 where lower is better."""
        return 1 if self.higher_is_better else -1

    @property
    def short(self) -> str:
        """Its name in words."""
        return _WRITTEN.get(self.name, self.name)

    @property
    def title(self) -> str:
        """The same, with the data that it is measured on."""
        return f"held-out {self.short}" if self.held_out else self.short

    @property
    def described(self) -> str:
        """The same, with its direction where that does not go without saying."""
        obvious = self.higher_is_better or self.name in _LOSSES
        return self.title if obvious else f"{self.title} (lower is better)"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


TRAINING_LOSS = Metric("training loss", higher_is_better=False)
ACCURACY = Metric("accuracy")
HELD_OUT_LOSS = Metric("loss", higher_is_better=False)


def metric_of(frame: pd.DataFrame, conditions: Mapping[str, Any]) -> Metric:
    """What the trainings in a frame are compared by.

    Args:
        frame: Columns ``loss`` and ``metric``.
        conditions: ``metric`` with its ``name`` and ``higher_is_better``. Records of older versions have none:
            they knew the accuracy alone.
    """
    known = conditions.get("metric")
    if known:
        return Metric(known["name"], known["higher_is_better"])
    return ACCURACY if frame["metric"].notna().any() else TRAINING_LOSS
