"""Which metric is measured on held-out batches, and its value for a network."""

from __future__ import annotations

import contextlib
import copy
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradprobe.measure.batches import Batches, Source
from gradprobe.network.losses import LossFunction
from gradprobe.network.preserve import preserved
from gradprobe.network.tensors import main_tensor, tensors
from gradprobe.prove.held_out.accuracy import Accuracy, is_classified, labels_in
from gradprobe.prove.held_out.evaluation import Meter, through
from gradprobe.prove.held_out.overlap import Dice, MeanIoU
from gradprobe.tracebacks import in_a_line
from gradprobe.verdict.metric import ACCURACY, HELD_OUT_LOSS, Metric

MetricFunction = Callable[[Any, Any], Any]
METERS: dict[str, Callable[[], Meter]] = {"accuracy": Accuracy, "dice": Dice, "mean_iou": MeanIoU}
METRICS = (*METERS, "loss")
_IN_EVAL = " (the model is in eval mode there; metric= can be something else)"


@dataclass(frozen=True)
class Measured:
    """A metric on all held-out batches.

    Attributes:
        metric: Which one.
        value: Its value; infinitely bad where that is no finite number.
        size: How many held-out targets it was taken on, or samples.
        chance: Of an accuracy that of a constant answer, else None.
    """

    metric: Metric
    value: float
    size: int
    chance: float | None = None


@dataclass(frozen=True)
class HeldOut:
    """Held-out batches, and what is measured on them.

    Attributes:
        batches: The batches.
        loss_fn: Of the training.
        metric: A name out of `METRICS`, a function ``(output, target) -> number``, a metric of torchmetrics or
            MONAI, or None: the accuracy where the output has a score for each class, else the loss.
    """

    batches: Batches
    loss_fn: LossFunction
    metric: str | MetricFunction | None = None

    @classmethod
    def checked(cls, source: Source | None, metric: Any, loss_fn: LossFunction) -> HeldOut | None:
        """From the arguments of a comparison.

        Raises:
            TypeError: If the batches or the metric are of a wrong type.
            ValueError: If no metric has that name, or if there are no data to measure it on.
        """
        check_metric(metric)
        if source is None:
            if metric is not None:
                raise ValueError("expected held_out= batches to take metric= on, got none")
            return None
        return cls(Batches(source, "held_out"), loss_fn, metric)

    def measure(self, model: nn.Module) -> Measured:
        """The metric of a network, which is in eval mode meanwhile and left as it was.

        Raises:
            ValueError: If there is no batch, or if the metric raises.

        Example:
            >>> import torch
            >>> batches = Batches([(torch.ones(4, 1), torch.zeros(4, 1))])
            >>> HeldOut(batches, nn.functional.mse_loss).measure(nn.Identity())
            Measured(metric=Metric(name='loss', higher_is_better=False), value=1.0, size=4, chance=None)
        """
        meter: Meter | None = None
        metric, size = HELD_OUT_LOSS, 0
        with contextlib.closing(through(model, self.batches)) as results:
            for output, target in results:
                if meter is None:
                    metric, meter = self._begin(output, target)
                meter.add(output, target)
                size += _samples(output, target)
        assert meter is not None  # `through` raises if there is no batch
        value = meter.value()
        worst = -metric.sign * math.inf
        value = value if math.isfinite(value) else worst
        if isinstance(meter, Accuracy):
            return Measured(metric, value, meter.targets, meter.chance)
        return Measured(metric, value, size)

    def _begin(self, output: Any, target: Any) -> tuple[Metric, Meter]:
        metric = self.metric
        if metric is None:
            scores = main_tensor(output)
            classes = scores is not None and is_classified(scores, labels_in(target))
            metric = "accuracy" if classes else "loss"
        if metric == "loss":
            return HELD_OUT_LOSS, _Mean(self.loss_fn, "the loss", _IN_EVAL)
        if isinstance(metric, str):
            return ACCURACY if metric == "accuracy" else Metric(metric), METERS[metric]()
        higher = getattr(metric, "higher_is_better", None)
        described = Metric(metric_name(metric), True if higher is None else bool(higher))
        return described, _of_users(metric, described.name)


def check_metric(metric: Any) -> None:
    """Raise if this is no metric.

    Raises:
        TypeError: If it is neither a name nor a function.
        ValueError: If no metric is called so.
    """
    if isinstance(metric, str) and metric not in METRICS:
        close = difflib.get_close_matches(metric, METRICS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"no metric is called {metric!r}; {hint}Metrics are {', '.join(METRICS)}")
    if isinstance(metric, type) or not (metric is None or isinstance(metric, str) or callable(metric)):
        got = f"the class {metric.__name__}" if isinstance(metric, type) else type(metric).__name__
        raise TypeError(f"expected metric= to be a name or a function (output, target) -> number, got {got}")


def metric_name(metric: MetricFunction) -> str:
    """The name of a user's metric: of its function, or of its class.

    Example:
        >>> metric_name(lambda output, target: 0), metric_name(nn.L1Loss()), metric_name(nn.functional.l1_loss)
        ('metric', 'L1Loss', 'l1_loss')
    """
    name = str(getattr(metric, "__name__", type(metric).__name__))
    return "metric" if name == "<lambda>" else name


def _of_users(metric: Any, name: str) -> Meter:
    for compute in ("compute", "aggregate"):  # torchmetrics, MONAI
        if callable(getattr(metric, compute, None)) and callable(getattr(metric, "reset", None)):
            return _Collecting(copy.deepcopy(metric), name, compute)  # the user's own may be in use
    return _Mean(metric, f"the metric `{name}`", "")


class _Mean:
    """The mean of a function over the batches, weighted by their sizes; the function is left as it was."""

    def __init__(self, function: MetricFunction, name: str, hint: str) -> None:
        self._function, self._name, self._hint = function, name, hint
        self._sum = 0.0
        self._samples = 0

    def add(self, output: Any, target: Any) -> None:
        with preserved(nn.Module(), self._function):  # a loss may have a running state
            value = _called(self._function, output, target, self._name, self._hint)
        samples = _samples(output, target)
        self._sum += samples * _number(value, self._name)
        self._samples += samples

    def value(self) -> float:
        return self._sum / self._samples


class _Collecting:
    """A metric that collects batches itself: ``update`` or a call for each, then ``compute`` or ``aggregate``."""

    def __init__(self, metric: Any, name: str, compute: str) -> None:
        self._metric, self._name, self._compute = metric, f"the metric `{name}`", getattr(metric, compute)
        metric.reset()

    def add(self, output: Any, target: Any) -> None:
        _called(getattr(self._metric, "update", self._metric), output, target, self._name, "")

    def value(self) -> float:
        return _number(self._compute(), self._name)


def _called(function: MetricFunction, output: Any, target: Any, name: str, hint: str) -> Any:
    try:
        return function(output, target)
    except Exception as error:
        raise ValueError(f"{name} failed on a held-out batch{hint}: {in_a_line(error)}") from error


def _number(value: Any, name: str) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"expected {name} to return one number, got a tensor of shape {tuple(value.shape)}: take its mean"
        )
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected {name} to return one number, got {type(value).__name__}") from None


def _samples(output: Any, target: Any) -> int:
    """How many samples a batch has: the length of the first tensor that has one."""
    return next((len(tensor) for tensor in tensors((target, output)) if tensor.dim()), 1)
