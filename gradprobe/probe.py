"""Attach to a network, collect its gradients on the device, detach whatever happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.history import GradientHistory, Layer, tidy
from gradprobe.hooks import Attached, Hook
from gradprobe.layers import choose, first_tensor, named_layers, own_parameters, weights
from gradprobe.magnitude import QUANTITIES, Tally, finish
from gradprobe.topology import Survey

STATS = ("all", "mean")
Slot = tuple[str, str]  # (layer, of)


class GradientProbe:
    """Records the gradient magnitudes of every layer over the first iterations of a training loop.

    An iteration is one optimizer step. With ``optimizer=`` it ends by itself just before the step; without,
    call `step` there. When the window is full the hooks come off and training goes on at full speed. The
    statistics stay on the device until `history` is asked for.

    Args:
        model: Any module.
        optimizer: The optimizer whose steps end the iterations.
        iterations: Length of the window.
        of: ``"output"`` (gradient of each layer's output), ``"weight"`` (of its parameters other than biases).
        stats: ``"all"`` or ``"mean"`` (mean absolute value only, fewer passes over the data).
        layers: Names or shell patterns of the layers to record; all by default.
        conditions: Facts to keep with the record, such as the seed or where the data comes from.

    Raises:
        TypeError: The model is not a module.
        ValueError: No parameters, none of them trainable, or an argument out of range.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with GradientProbe(net, optimizer=optimizer, iterations=10) as probe:
        ...     for _ in range(2):
        ...         optimizer.zero_grad()
        ...         net(torch.ones(8, 4)).mean().backward()
        ...         optimizer.step()
        >>> probe.history.iterations
        2
        >>> probe.history.aggregate("output")["2"]  # dL/d output of a mean over 8 numbers is 1/8
        np.float64(0.125)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        iterations: int = 50,
        of: str | Iterable[str] = ("output", "weight"),
        stats: str = "all",
        layers: Iterable[str] | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        check_trainable(model)
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise ValueError(f"expected a number of iterations of at least 1, got {iterations!r}")
        if stats not in STATS:
            raise ValueError(f"expected stats out of {list(STATS)}, got {stats!r}")
        self.model = model
        self.optimizer = optimizer
        self.iterations = iterations
        self.of = _quantities(of)
        self.stats = stats
        self.recorded = 0
        self._given = dict(conditions or {})
        modules = named_layers(model)
        self._layers = {name: modules[name] for name in choose(modules, layers)}
        self._weights = {name: weights(module) for name, module in self._layers.items()}
        self._survey = Survey(model)
        self._hooks = Attached()
        self._attached = False
        self._tallies: dict[Slot, Tally] = {}
        self._closed: list[_Iteration] = []
        self._calls: Counter[str] = Counter()
        self._tapped: Counter[str] = Counter()

    def __enter__(self) -> GradientProbe:
        self._attached = True
        try:
            self._survey.attach()
            if "output" in self.of:
                for name, module in self._layers.items():
                    self._hooks.add(module.register_forward_hook(Hook(partial(self._tap, name))))
            if self.optimizer is not None:
                self._hooks.add(self.optimizer.register_step_pre_hook(Hook(self._before_step)))
        except BaseException:
            self.detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def detach(self) -> None:
        """Take every hook off. Happens by itself at the end of the window and of the ``with`` block."""
        self._attached = False
        self._survey.detach()
        self._hooks.remove()
        self._tallies = {}

    def step(self) -> None:
        """End the iteration: read the weight gradients as they stand and begin the next one.

        Call it after ``backward`` and before the optimizer's step, if the probe has no optimizer.
        """
        if not self._attached:
            return
        if "weight" in self.of:
            for name, parameters in self._weights.items():
                for parameter in parameters:
                    if parameter.grad is not None:
                        self._add((name, "weight"), parameter.grad)
        self._closed.append(_Iteration(self._tallies))
        self._tallies = {}
        self.recorded += 1
        if self.recorded == 1:
            self._survey.finish()
        if self.recorded >= self.iterations:
            self.detach()

    @property
    def history(self) -> GradientHistory:
        """What was recorded so far. Waits for the device."""
        topology = self._survey.finish()
        order = [name for name in topology.order if name in self._layers]
        numbers = [iteration.numbers() for iteration in self._closed]
        arrived = {slot for iteration in numbers for slot in iteration}
        rows = []
        for index, iteration in enumerate(numbers):
            for depth, name in enumerate(order):
                for of in self._quantities_of(name):
                    values = iteration.get((name, of), (None,) * 5)
                    rows.append((index, name, depth, of, *values))
        layers = tuple(
            Layer(
                name,
                depth,
                type(self._layers[name]).__name__,
                sum(parameter.numel() for parameter in own_parameters(self._layers[name]).values()),
                self._unreached(name, arrived),
                topology.unserved.get(name),
            )
            for depth, name in enumerate(order)
        )
        conditions = self._conditions(topology.batch_size)
        return GradientHistory(tidy(rows), conditions, layers, topology.points, topology.output_shape)

    def _tap(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self._calls[name] += 1
        tensor = first_tensor(output)
        if tensor is None or not tensor.requires_grad:
            return
        self._tapped[name] += 1
        handle = tensor.register_hook(Hook(partial(self._add, (name, "output"))))
        if tensor.is_leaf:  # a parameter handed out as it is would keep the hook for good
            self._hooks.add(handle)

    def _add(self, slot: Slot, gradient: Tensor) -> None:
        if not self._attached:
            return
        with torch.no_grad():
            self._tallies.setdefault(slot, Tally()).add(gradient, every=self.stats == "all")

    def _before_step(self, *_: Any) -> None:
        self.step()

    def _quantities_of(self, name: str) -> list[str]:
        return [of for of in self.of if of == "output" or self._weights[name]]

    def _unreached(self, name: str, arrived: set[Slot]) -> dict[str, str]:
        reasons = {"output": self._why_no_output(name), "weight": self._why_no_weight(name)}
        return {of: reasons[of] for of in self._quantities_of(name) if (name, of) not in arrived and self._closed}

    def _why_no_output(self, name: str) -> str:
        if not self._calls[name]:
            return "never called as a module"
        if self._tapped[name]:
            return "no path from its output to the loss"
        if any(parameter.requires_grad for parameter in own_parameters(self._layers[name]).values()):
            return "its output holds no tensor that requires a gradient (detached, or under no_grad)"
        return "frozen: neither it nor anything before it is trained"

    def _why_no_weight(self, name: str) -> str:
        if not any(parameter.requires_grad for parameter in self._weights[name]):
            return "frozen: requires_grad is False"
        if "output" in self.of and not self._calls[name]:
            return "never called as a module"
        return "no path from its weight to the loss"

    def _conditions(self, batch_size: int | None) -> dict[str, Any]:
        parameter = next(self.model.parameters())
        found = {
            "window": self.iterations,
            "complete": self.recorded >= self.iterations,
            "batch_size": batch_size,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": str(parameter.device),
            "optimizer": describe_optimizer(self.optimizer),
            "torch": str(torch.__version__),
            "stats": self.stats,
        }
        return {**found, **self._given}


class _Iteration:
    """The tallies of one iteration, one stacked tensor for each device until the host asks."""

    def __init__(self, tallies: Mapping[Slot, Tally]) -> None:
        by_device: dict[torch.device, list[tuple[Slot, Tally]]] = {}
        for slot, tally in tallies.items():
            if tally.sums is not None:
                by_device.setdefault(tally.sums.device, []).append((slot, tally))
        self._parts = [
            (
                [(slot, tally.count) for slot, tally in part],
                torch.stack([tally.sums for _, tally in part if tally.sums is not None]),
            )
            for part in by_device.values()
        ]

    def numbers(self) -> dict[Slot, tuple[float, ...]]:
        return {
            slot: finish(sums, count)
            for slots, stacked in self._parts
            for (slot, count), sums in zip(slots, stacked.tolist(), strict=True)
        }


def check_trainable(model: nn.Module) -> None:
    """Raise the sentence for a model that has no gradient to record."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError("the model has lazy parameters without a shape: run one batch through it first")
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameters, so it has no gradient to record")
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(
            f"all {len(parameters)} parameters of {type(model).__name__} are frozen (requires_grad is False), "
            "so no gradient would arrive: unfreeze at least one"
        )


def describe_optimizer(optimizer: torch.optim.Optimizer | None) -> str | None:
    """Name and main settings of an optimizer.

    Example:
        >>> describe_optimizer(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9))
        'SGD lr 0.1, momentum 0.9'
    """
    if optimizer is None:
        return None
    settings = optimizer.param_groups[0]
    shown = {"lr": settings.get("lr"), "momentum": settings.get("momentum"), "betas": settings.get("betas")}
    text = ", ".join(f"{name} {value}" for name, value in shown.items() if value)
    return f"{type(optimizer).__name__} {text}".strip()


def _quantities(of: str | Iterable[str]) -> tuple[str, ...]:
    asked = (of,) if isinstance(of, str) else tuple(of)
    if not asked or set(asked) - set(QUANTITIES):
        raise ValueError(f"expected of= to name some of {list(QUANTITIES)}, got {of!r}")
    return tuple(name for name in QUANTITIES if name in asked)
