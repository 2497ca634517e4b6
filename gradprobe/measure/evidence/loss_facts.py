"""What the loss is given, over the window: its targets, the outputs, and what happens to them in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradprobe.measure.evidence.loss_graph import OutputUse
from gradprobe.record.evidence import rounded

_CLASSES = 1024  # of more, how often each occurs is not counted
_SAMPLE = 4096
_UNITS = 1024  # of the targets of more units, this many are looked at one by one
_NUMBERS = ("rms", "min", "max", "mean", "std", "whole")


class LossFacts:
    """Adds up what was seen of each use of an output of the network, on the device.

    Example:
        >>> facts = LossFacts()
        >>> facts.add(OutputUse("fc", [], "mse", (4, 1), target=torch.tensor([[3.0], [5.0]])))
        >>> facts.result()[0]["target"]["mean"]
        4.0
    """

    def __init__(self) -> None:
        self._uses: dict[tuple[Any, ...], OutputUse] = {}
        self._seen: dict[tuple[Any, ...], int] = {}
        self._targets: dict[tuple[Any, ...], list[Tensor]] = {}
        self._outputs: dict[tuple[Any, ...], list[Tensor]] = {}
        self._clamped: dict[tuple[Any, ...], list[Tensor]] = {}
        self._counts: dict[tuple[Any, ...], Tensor] = {}
        self._off: dict[tuple[Any, ...], list[Tensor]] = {}
        self._negated: dict[tuple[Any, ...], int] = {}
        self._units: dict[tuple[Any, ...], _Units | None] = {}

    def add(self, use: OutputUse) -> None:
        """One output in one pass."""
        key = (use.layer, *use.activations, use.loss)
        if key not in self._uses or use.broadcast > self._uses[key].broadcast:
            self._uses[key] = use
        self._seen[key] = self._seen.get(key, 0) + 1
        self._negated[key] = self._negated.get(key, 0) + use.negated
        if use.clamped is not None:
            self._clamped.setdefault(key, []).append(use.clamped)
        if use.target is not None and use.target.numel():
            if use.activations[:1] == ["softmax"] and tuple(use.target.shape) == use.shape:
                self._off.setdefault(key, []).append(_off_simplex(use.target))
            self._targets.setdefault(key, []).append(_numbers(use.target))
            if use.loss != "nll":
                self._units[key] = _Units.with_one_more(self._units, key, use.target)
            if use.loss == "nll" and use.classes and use.classes <= _CLASSES:
                labels = use.target.reshape(-1)[:_SAMPLE].clamp(0, use.classes - 1)
                if key not in self._counts:
                    self._counts[key] = labels.new_zeros(use.classes)
                # not `bincount`, which waits for an accelerator
                self._counts[key].index_add_(0, labels, torch.ones_like(labels))
        if use.values is not None and use.values.numel():
            self._outputs.setdefault(key, []).append(_numbers(use.values))
        use.target = use.values = use.clamped = None  # what the graph holds is not kept

    def result(self) -> list[dict[str, Any]]:
        """Plain data: for each use its layer, functions and numbers. Waits for the device."""
        return [
            {
                "layer": use.layer,
                "activations": list(use.activations),
                "loss": use.loss,
                "shape": list(use.shape),
                "broadcast": use.broadcast,
                "classes": use.classes,
                "reduction": use.reduction,
                "plain": use.plain,
                "squared": use.squared,
                "across_examples": use.across_examples,
                "torn": list(use.torn),
                "seen": self._seen[key],
                "negated": self._negated[key],
                "clamped": rounded(float(torch.stack(self._clamped[key]).mean()))
                if key in self._clamped
                else None,
                "target": _over_window(self._targets.get(key)),
                "target_units": units.result() if (units := self._units.get(key)) else None,
                "output": _over_window(self._outputs.get(key)),
                "off_simplex": rounded(float(torch.stack(self._off[key]).mean())) if key in self._off else None,
                "labels": self._counts[key].tolist() if key in self._counts else None,
            }
            for key, use in self._uses.items()
        ]


@dataclass
class _Units:
    """The targets of each unit, over the examples of the window: a constant answer has one number for each unit.

    Attributes:
        middle: The mean of each unit's targets in the first batch, which is subtracted: sums of squares of what is
            far from zero tell nothing in float32.
        sums: Of each unit's targets.
        squares: Of their squares.
        count: The examples.
    """

    middle: Tensor
    sums: Tensor
    squares: Tensor
    count: int

    @classmethod
    def with_one_more(
        cls, found: Mapping[tuple[Any, ...], _Units | None], key: tuple[Any, ...], target: Tensor
    ) -> _Units | None:
        """With one more batch; None if batches have units of different numbers, or of a single one."""
        values = target.detach().reshape(len(target), -1) if target.dim() > 1 else target.new_zeros(0, 0)
        values = values[:, :: max(1, values.shape[1] // _UNITS)].float()
        before = found.get(key)
        if values.shape[1] < 2 or (key in found and (before is None or len(before.sums) != values.shape[1])):
            return None
        middle = values.mean(0) if before is None else before.middle
        values = values - middle
        one = cls(middle, values.sum(0), values.square().sum(0), len(values))
        if before is None:
            return one
        return cls(middle, before.sums + one.sums, before.squares + one.squares, before.count + one.count)

    def result(self) -> dict[str, float | None] | None:
        """The mean variance of a unit, and its mean entropy if targets are shares; both without bias."""
        if self.count < 2:
            return None
        middle, sums, squares = (one.cpu().double() for one in (self.middle, self.sums, self.squares))
        off, squares = sums / self.count, squares / self.count
        variance = (squares - off.square()).clamp(min=0) * self.count / (self.count - 1)
        shares = (middle + off).clamp(0, 1)
        entropy = -(torch.xlogy(shares, shares) + torch.xlogy(1 - shares, 1 - shares))
        bias = ((shares > 0) & (shares < 1)) / (2 * self.count)  # Miller 1955, of two outcomes
        return {"variance": rounded(float(variance.mean())), "entropy": rounded(float((entropy + bias).mean()))}


def _numbers(tensor: Tensor) -> Tensor:
    """RMS, smallest and largest value, mean, standard deviation and the share of whole numbers, of a sample."""
    values = tensor.detach().reshape(-1)
    values = values[:: max(1, values.numel() // _SAMPLE)].float()
    # few kernels: on an accelerator this is read in the middle of a step
    deviation, mean = torch.std_mean(values, correction=0)
    rms = torch.linalg.vector_norm(values) / values.numel() ** 0.5
    whole = (values == values.round()).mean(dtype=torch.float32)
    return torch.stack([rms, *torch.aminmax(values), mean, deviation, whole])


def _off_simplex(target: Tensor) -> Tensor:
    """The share of examples whose targets do not add up to 1 over the classes, as the output of a softmax does."""
    rows = target.detach()[: _SAMPLE // max(1, target.shape[-1])].float()
    return ((rows.sum(-1) - 1).abs() > 0.01).float().mean()


def _over_window(rows: list[Tensor] | None) -> dict[str, float | None] | None:
    if not rows:
        return None
    table = torch.stack([row.cpu() for row in rows]).double()
    rms, low, high, mean, _, whole = table.unbind(1)
    variance = (rms.square().mean() - mean.mean().square()).clamp(min=0)
    numbers = (rms.square().mean().sqrt(), low.amin(), high.amax(), mean.mean(), variance.sqrt(), whole.amin())
    return {name: rounded(float(value)) for name, value in zip(_NUMBERS, numbers, strict=True)}
