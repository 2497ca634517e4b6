"""What was collected, on the device, and the plain data that it becomes at the end of the window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradprobe.measure.evidence.after_layers import Following
from gradprobe.measure.evidence.backward import ThrownAway
from gradprobe.measure.evidence.loss_facts import LossFacts
from gradprobe.measure.evidence.over_time import OverTime
from gradprobe.measure.evidence.signal import Signal
from gradprobe.measure.evidence.weights import WeightSamples, described
from gradprobe.measure.reduction.samples import STATISTICS
from gradprobe.record.evidence import Evidence, rounded


class LayerSteps:
    """What the steps of one iteration found of the gradients and did to the weights: a number for each layer.

    Args:
        layers: How many there are.
        device: Where the numbers are.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self.update = self.left = self.left_over = self.gradient = torch.full((layers,), math.nan, device=device)

    def found(
        self, held: Tensor, norms: Tensor, arrived: Tensor | None, left_over: Tensor | None, scale: Tensor | None
    ) -> None:
        """A step is about to use gradients of these norms.

        Args:
            held: Which layers it steps, on the device of the numbers.
            norms: Of the gradients as they stand.
            arrived: The same after the last backward pass.
            left_over: Which layers had a gradient before the first backward pass after their last step.
            scale: What the gradients were divided by since.
        """
        self.gradient = torch.where(held, norms, self.gradient)
        if arrived is not None:
            left = norms / arrived * (1.0 if scale is None else scale.to(norms.device))
            self.left = torch.where(held, left, self.left)
        if left_over is not None:
            there = (left_over & (norms != 0)).to(self.left_over.dtype)
            self.left_over = torch.where(held, there, self.left_over)

    def moved(self, held: Tensor, moved: Tensor, before: Tensor) -> None:
        """A step has moved the weights: by how much, and what their norms were."""
        update = torch.where(before > 0, moved / before, math.nan)
        self.update = torch.where(held, update, self.update)


class Collected:
    """The numbers of a window.

    Args:
        names: Of the layers that have weights, and of single weights of recurrent ones.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.sampled: list[int] = []
        self._signal: list[list[tuple[tuple[str, ...], Tensor]]] = []
        self._steps: list[LayerSteps] = []
        self.losses: list[tuple[int, Tensor]] = []
        self.passes = 0
        self.loss_scales: list[float] = []
        self.eval_mode: list[bool] = []
        self.initial: list[tuple[str, dict[str, Any], Tensor]] = []
        self.final: list[tuple[str, dict[str, Any], Tensor]] | None = None
        self._turned: tuple[Tensor, Tensor, Tensor] | None = None
        self._optimizers: dict[int, dict[str, Any]] = {}
        self._arrived: Tensor | None = None

    def add(self, iteration: int, signal: list[tuple[tuple[str, ...], Tensor]], steps: LayerSteps) -> None:
        """An iteration that was looked at has ended."""
        self.sampled.append(iteration)
        self._signal.append(signal)
        self._steps.append(steps)

    def note_arrived(self, norms: Tensor) -> None:
        """The norms of the layers' gradients after a backward pass."""
        there = norms > 0
        self._arrived = there if self._arrived is None else self._arrived | there

    def note_optimizer(self, optimizer: Optimizer) -> None:
        """Note its kind and settings as they are at a step."""
        known, group = self._optimizers.get(id(optimizer)), optimizer.param_groups[0]
        rate = None if isinstance(group.get("lr"), (Tensor, type(None))) else float(group["lr"])
        decay = group.get("weight_decay")
        if known is None:
            self._optimizers[id(optimizer)] = {
                "kind": type(optimizer).__name__,
                "lr": rate,
                "last_lr": rate,
                "maximize": bool(group.get("maximize")),
                "weight_decay": decay if isinstance(decay, (int, float)) else None,
                "momentum": group.get("momentum") if isinstance(group.get("momentum"), (int, float)) else None,
                "steps": 1,
            }
        else:
            known["steps"] += 1
            known["last_lr"] = rate

    def turn(self, weights: WeightSamples, gradients: Tensor, squares: Tensor, held: Tensor) -> None:
        """Add up gradients, to see later whether they keep their direction from batch to batch.

        Args:
            weights: Tells which element is whose.
            gradients: Of the sampled elements.
            squares: The sum of their squares, of each row.
            held: The rows that are stepped.
        """
        if self._turned is None:
            self._turned = torch.zeros_like(gradients), torch.zeros_like(squares), torch.zeros_like(squares)
        total, of_squares, count = self._turned
        total += gradients * weights.of_elements(held)
        of_squares += squares * held
        count += held.to(count.dtype)

    def result(
        self,
        signal: Signal,
        weights: WeightSamples,
        loss: LossFacts,
        over_time: OverTime,
        after: Following | None,
        thrown_away: ThrownAway,
        elements: Mapping[tuple[int, str], float],
        why: str | None,
    ) -> Evidence:
        """The plain data. Waits for the device."""
        layers = self._layer_facts(signal, weights, over_time, after)
        network = {
            "losses": self._losses(),
            "passes": self.passes,
            "loss": loss.result(),
            "loss_scale": min(self.loss_scales, default=None),
            "eval_mode": sum(self.eval_mode) / len(self.eval_mode) if self.eval_mode else None,
            "optimizers": list(self._optimizers.values()),
            "weighted": None if after is None else after.weighted,
            "bends": None if after is None else after.bends,
            "drawn": None if after is None else list(after.drawn),
            "thrown_away": thrown_away.result(),
            "input": _input(signal.input),
            "stopped": why,
        }
        return Evidence.from_rows(self._rows(elements), layers, _finite(network))

    def _losses(self) -> list[float | None]:
        """For each iteration the mean of the losses whose gradients it used; None where it is not finite."""
        if not self.losses:
            return []
        values = torch.stack([value.cpu() for _, value in self.losses]).tolist()
        by_iteration: dict[int, list[float]] = {}
        for (iteration, _), value in zip(self.losses, values, strict=True):
            by_iteration.setdefault(iteration, []).append(value)
        count = max(by_iteration) + 1
        means = [_mean(by_iteration.get(iteration, [])) for iteration in range(count)]
        return [mean if mean is None else rounded(mean) for mean in means]

    def _rows(self, elements: Mapping[tuple[int, str], float]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for iteration, groups, steps in zip(self.sampled, self._signal, self._steps, strict=True):
            seen = {
                name: row
                for names, table in groups
                for name, row in zip(names, table.double().cpu().tolist(), strict=True)
            }
            update = dict(zip(self._names, steps.update.tolist(), strict=True))
            left = dict(zip(self._names, steps.left.tolist(), strict=True))
            for name in dict.fromkeys([*seen, *self._names]):
                values = [
                    *seen.get(name, [math.nan] * len(STATISTICS)),
                    elements.get((iteration, name), math.nan),
                    update.get(name, math.nan),
                    left.get(name, math.nan),
                ]
                rows.append((iteration, name, *map(rounded, values)))
        return rows

    def _layer_facts(
        self, signal: Signal, weights: WeightSamples, over_time: OverTime, after: Following | None
    ) -> dict[str, dict[str, Any]]:
        times, no_signal, unread = over_time.result(), signal.missing(), set(weights.unread())
        units, over_window, final = signal.unit_shares(), signal.spread_over_window(), self._final(weights)
        initial, turned, left_over = described(self.initial), self._turns(weights), self._left_over()
        reached = [] if self._arrived is None else self._arrived.tolist()
        arrived = dict(zip(self._names, reached, strict=False))
        names = dict.fromkeys([*self._names, *units, *signal.calls])
        return {
            name: _plain(
                {
                    **initial.get(name, {}),
                    **units.get(name, {}),
                    "alike_now": final[name]["alike"] if name in final else None,
                    "std_now": final[name]["std"] if name in final else None,
                    "spread_over_window": over_window.get(name),
                    "over_time": times.get(name),
                    "no_signal": no_signal.get(name),
                    "no_update": "kind" if name in unread else None,
                    "turn": turned.get(name, (None, None))[0],
                    "turns_of": turned.get(name, (None, None))[1],
                    "arrived": arrived.get(name),
                    "left_over": left_over.get(name),
                    "after": None if after is None else after.activation.get(name),
                    "eval": _share(signal.eval_calls.get(name, 0), signal.calls.get(name)),
                    "one_example": _share(signal.of_one_example.get(name, 0), signal.calls.get(name)),
                }
            )
            for name in names
        }

    def _final(self, weights: WeightSamples) -> dict[str, dict[str, Any]]:
        """What the weights are at the end of the window, or now."""
        return described(weights.facts() if self.final is None else self.final)

    def _turns(self, weights: WeightSamples) -> dict[str, tuple[float, int]]:
        """Squared mean gradient over mean squared gradient: 1 where every batch gives the same direction.

        And the number of gradients it is of: independent ones give one over it.
        """
        if self._turned is None:
            return {}
        total, of_squares, count = self._turned
        turned = weights.sums(total.square()) / (count * of_squares)
        return {
            name: (value, round(number))
            for name, value, number in zip(self._names, turned.tolist(), count.tolist(), strict=True)
            if number > 3 and value == value
        }

    def _left_over(self) -> dict[str, float]:
        """For each layer, in which share of the steps a gradient from before the last step was used."""
        if not self._steps:
            return {}
        table = torch.stack([steps.left_over.cpu() for steps in self._steps])
        return {
            name: value
            for name, value in zip(self._names, table.nanmean(0).tolist(), strict=True)
            if value == value
        }


def _mean(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def _share(count: int, of: int | None) -> float | None:
    return None if not of else count / of


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: rounded(value) if isinstance(value, float) else value
        for key, value in facts.items()
        if value is not None
    }


def _finite(value: Any) -> Any:
    """The same with `rounded` numbers: a loss may be multiplied by infinity, a learning rate be NaN."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return rounded(value) if isinstance(value, float) else value


def _input(rows: Sequence[Tensor]) -> dict[str, float | None] | None:
    if not rows:
        return None
    names = ("rms", "mean", "std", "largest", "between")
    means = torch.stack([row.cpu() for row in rows]).double().mean(0).tolist()
    return {name: rounded(mean) for name, mean in zip(names, means, strict=True)}
