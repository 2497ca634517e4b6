"""Attach to a network, collect its gradients on the device, detach whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradprobe.measure.accumulator import Accumulator, Iteration, Key, ReducedGradients, statistics, table
from gradprobe.measure.amp import LossScale, ScalerListener
from gradprobe.measure.output_gradients import CAPTURED, OutputGradients, OutputHook, is_captured
from gradprobe.measure.preview import Preview
from gradprobe.measure.ranks import RankGroup, active_ddp_wrapper, world_size, wrapper_name
from gradprobe.measure.reduction import Reducer
from gradprobe.measure.unreached import UnreachedReasons, came_late
from gradprobe.measure.weight_gradients import WeightGradients, parameter_ids
from gradprobe.network.checks import as_optimizers, as_quantities, check_trainable, check_window
from gradprobe.network.hooks import Attached, Eager, Hook
from gradprobe.network.layers import (
    frozen_fast_path_modules,
    is_compiled,
    matching_names,
    named_layers,
    own_parameters,
    unwrap,
    weight_names,
)
from gradprobe.network.survey import Survey, Topology
from gradprobe.record.history import GradientHistory, Layer, tidy

Sums = list[list[list[float]]]  # `gradprobe.measure.accumulator.table` as numbers


class GradientProbe:
    """Records the gradient magnitudes of every layer over the first iterations of a training loop.

    An iteration is one optimizer step. With ``optimizer=`` it ends by itself just before the step; without,
    call `step` there. When the window is full the hooks come off and training goes on at full speed. The
    statistics stay on the device until then.

    The values are those that the optimizer is about to use: after accumulation, after averaging over ranks,
    after clipping, with the scale of a gradient scaler taken out. Outputs are on the same footing.

    Args:
        model: Any module, wrapped (DistributedDataParallel, ``fully_shard``, ``torch.compile``) or not.
        optimizer: The optimizer whose steps end the iterations. Of several, an iteration ends when each has
            stepped once, or when one of them is about to step again.
        iterations: Length of the window.
        of: ``"output"`` (gradient of each layer's output), ``"weight"`` (of its parameters other than biases).
        stats: ``"all"`` or ``"mean"`` (mean absolute value only, fewer passes over the data).
        layers: Names or shell patterns of the layers to record; all by default.
        conditions: Facts to keep with the record, such as the seed or where the data comes from.

    Raises:
        TypeError: The model is not a module, or an optimizer is none.
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
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        iterations: int = 50,
        of: str | Iterable[str] = ("output", "weight"),
        stats: str = "all",
        layers: Iterable[str] | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        check_trainable(model)
        check_window(iterations, stats)
        self.model = model
        self.optimizers = as_optimizers(optimizer)
        self.iterations = iterations
        self.of = as_quantities(of)
        self.stats = stats
        self.recorded = 0
        self._given = dict(conditions or {})
        modules = self._known = named_layers(model)
        self._layers = {name: modules[name] for name in matching_names(modules, layers)}
        self._weights = {name: weight_names(module) for name, module in self._layers.items()}
        self._slots = [(name, of) for name in self._layers for of in self._quantities_of(name)]
        self._survey = Survey(unwrap(model))
        self._hooks = Attached()
        self._attached = False
        self._inside: Mapping[int, Any] | None = None  # the hooks that torch is going through
        self._closed: list[Iteration] = []
        self._table = table([], self._slots)
        refused = self._refused = dict[Key, str]()
        reducer = Reducer(every=stats == "all")
        self._passes = OutputGradients(model, reducer, refused, self._hooks)
        self._taps = {name: OutputHook(self._passes, name) for name in self._layers}
        self._reader = WeightGradients(self._layers, self._weights)
        self._collected = Accumulator(reducer, refused)
        self._reasons = UnreachedReasons(self._layers, self._weights, self._taps, refused)
        self._eager = False
        self._combined = ""
        self._scale = LossScale(self._scaler_stepped)
        self._begin()

    def __enter__(self) -> GradientProbe:
        self._attached = True
        self._passes.resume()
        self._meeting = RankGroup(self._slots)
        try:
            self._attach()
        except BaseException:
            self._let_go()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = None
        if kind is None:
            self.detach()
        else:  # other ranks may not come to the end of the window: this one does not wait for them
            self._let_go()
            self._hooks.remove()

    def detach(self) -> None:
        """Take every hook off. Happens by itself at the end of the window and of the ``with`` block."""
        if self._attached:
            self._let_go()
            self._table, self._combined = self._meeting.combine(self._table)
        self._hooks.remove(inside=self._inside)

    def step(self) -> None:
        """End the iteration: read the weight gradients as they stand and begin the next one.

        Call it after ``backward`` and before the optimizer's step, if the probe has no optimizer. Before
        ``clip_grad_norm_`` it records the raw gradients, behind it the clipped ones.
        """
        if self._attached:
            self._gather()
            self._close()
            self._scale.clear()
            self._detach_if_full()

    @property
    def full(self) -> bool:
        """Whether as many iterations are recorded as were asked for."""
        return self.recorded >= self.iterations

    @property
    def history(self) -> GradientHistory:
        """What was recorded so far. Waits for the device."""
        topology = self._survey.finish()
        sums = (table(self._closed, self._slots) if self._attached else self._table).tolist()
        layers = self._hooked(topology, sums)
        late = came_late(self._known, named_layers(self.model), self.of, len(layers))
        unmeasured = (
            (index, layer.name, layer.depth, of, *(None,) * 5)
            for index, layer, of in product(range(len(sums)), late, self.of)
        )
        return GradientHistory(
            tidy([*self._rows_of(layers, sums), *unmeasured]),
            self._conditions(topology.batch_size),
            layers + late,
            tuple(topology.points),
            topology.output_shape,
            topology.output_channels,
            topology.head,
            topology.activation,
        )

    def glimpse(self, loss: Tensor, of: str = "output") -> Preview:
        """The newest iteration and a loss on their way to the host; unlike `history` it waits for nothing.

        Args:
            loss: A scalar on any device.
            of: The quantity.
        """
        order = self._survey.finish().order if self.recorded else ()
        return Preview(self._closed[-1:], [name for name in order if name in self._layers], of, loss)

    def _attach(self) -> None:
        # hooks do not run in compiled code: it runs eagerly while the window is open (design, fact 4)
        self._eager = "torch._dynamo" in sys.modules
        if self._eager:
            self._hooks.add(Eager())
        self._survey.attach()
        if "output" in self.of:
            alone = frozen_fast_path_modules(unwrap(self.model))
            for name, module in self._layers.items():
                if module not in alone:
                    self._hooks.add(module.register_forward_hook(self._taps[name]))
        for optimizer in self.optimizers:
            self._hooks.add(optimizer.register_step_pre_hook(Hook(self._before_step)))
            self._hooks.add(optimizer.register_step_post_hook(Hook(self._after_step)))
        self._hooks.add(ScalerListener(self._scale))

    def _let_go(self) -> None:
        self._attached = False
        self._survey.detach()
        self._hooks.remove(inside=self._inside)
        # a graph that outlives the window still has its tensor hooks: they must neither measure nor hold
        self._passes.pause()
        self._passes.clear()
        self._collected.clear()
        self._table = table(self._closed, self._slots)

    # one iteration ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._scales: dict[str, Tensor | float] = {}
        self._unscaled = set[Key]()
        self._skipped: Tensor | bool = False
        self._stepped: set[int] = set()

    def _gather(self, only: set[int] | None = None) -> None:
        """Read the weights' gradients as they stand, all or only those with these ids, and take what came by."""
        if "weight" in self.of:
            self._reader.read(self._collected, only)
        came_by = self._take()
        self._collected.put(came_by)
        if self._scale.value is not None:
            if came_by:
                self._scales["output"] = self._scale.value
            self._scales["weight"] = self._scale.value
            self._unscaled |= self._reader.all_in(self._scale.taken_out)

    def _take(self) -> list[ReducedGradients]:
        return self._passes.take()

    def _close(self) -> None:
        scales = {**self._scales, "output": self._scales.get("output", 1.0) * self._passes.averaged}
        like = self._closed[-1] if self._closed else None
        self._closed.append(Iteration.of(self._collected.take(), scales, self._skipped, self._unscaled, like))
        self._begin()
        self.recorded += 1
        if self.recorded == 1:
            self._survey.finish()

    def _detach_if_full(self) -> None:
        if self.full:
            self.detach()

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._attached or self.full:
            return None
        if is_captured():
            self._passes.refuse(self._slots, CAPTURED)
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer itself
        if callable(closure):
            # the gradients that this step uses are made inside it: those of the closure's first call count
            rest = {key: value for key, value in kwargs.items() if key != "closure"}
            return (optimizer, partial(self._first_call, optimizer, closure, [True]), *args[2:]), rest
        self._step_of(optimizer)
        return None

    def _first_call(self, optimizer: Optimizer, closure: Callable[[], Any], first: list[bool]) -> Any:
        loss = closure()
        if first:
            first.clear()
            self._step_of(optimizer)
            self._passes.pause()
        return loss

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._attached:
            return
        self._passes.resume()
        self._inside = optimizer._optimizer_step_post_hooks
        try:
            self._detach_if_full()
        finally:
            self._inside = None

    def _step_of(self, optimizer: Optimizer, skipped: bool = False) -> None:
        if id(optimizer) in self._stepped:
            self._close()
        if not self.full:
            self._end_for(optimizer, skipped)

    def _end_for(self, optimizer: Optimizer, skipped: bool) -> None:
        self._stepped.add(id(optimizer))
        fused = getattr(optimizer, "grad_scale", None)
        if fused is None:
            self._scale.unscaled(optimizer)
        alone = len(self.optimizers) == 1
        self._gather(None if alone else parameter_ids(optimizer))
        if fused is not None:  # unscaled only inside the kernel (design, fact 5)
            self._scales["weight"] = fused.detach().clone()
            self._skipped = optimizer.found_inf.detach().clone()  # type: ignore[attr-defined]
        if skipped:
            self._skipped = True
        if len(self._stepped) == len(self.optimizers):
            self._close()
            self._scale.clear()

    def _scaler_stepped(self, optimizer: Optimizer, called: bool) -> None:
        """A gradient scaler stepped an optimizer, or skipped it for an overflow: that is recorded as such."""
        if not called and any(optimizer is own for own in self.optimizers):
            self._step_of(optimizer, skipped=True)
            self._detach_if_full()

    # what to say of it ------------------------------------------------------------------------------------------

    def _quantities_of(self, name: str) -> list[str]:
        return [of for of in self.of if of == "output" or self._weights[name]]

    def _hooked(self, topology: Topology, sums: Sums) -> tuple[Layer, ...]:
        """The layers that were there from the beginning, and why no gradient arrived where none did."""
        arrived = {slot for row in sums for slot, six in zip(self._slots, row, strict=True) if any(six)}
        looked = bool(self._closed or self._refused)
        return tuple(
            Layer(
                name,
                depth,
                type(self._layers[name]).__name__.removeprefix("FSDP"),
                sum(parameter.numel() for parameter in own_parameters(self._layers[name]).values()),
                self._reasons.unreached(name, set(self._quantities_of(name)), arrived) if looked else {},
                topology.points.unserved.get(name),
            )
            for depth, name in enumerate(name for name in topology.order if name in self._layers)
        )

    def _rows_of(self, layers: Sequence[Layer], sums: Sums) -> Iterator[tuple[Any, ...]]:
        """The rows of the frame: one for each iteration, layer and quantity."""
        place = {slot: index for index, slot in enumerate(self._slots)}
        counts = {slot: self._true_count(*slot) for slot in self._slots}
        slots = [(layer.name, layer.depth, of) for layer in layers for of in self._quantities_of(layer.name)]
        for index, row in enumerate(sums):
            for name, depth, of in slots:
                yield index, name, depth, of, *statistics(row[place[name, of]], counts[name, of])

    def _true_count(self, name: str, of: str) -> int | None:
        """Elements of a layer's weights, of which several ranks may have counted copies."""
        if of == "output" or world_size() == 1:
            return None
        own = own_parameters(self._layers[name])
        return sum(own[local].numel() for local in self._weights[name] if local in own)

    def _conditions(self, batch_size: int | None) -> dict[str, Any]:
        parameter = next(self.model.parameters())
        scales = [
            closed.scales["output"] for closed in self._closed if isinstance(closed.scales["output"], Tensor)
        ]
        found = {
            "window": self.iterations,
            "complete": self.full,
            "batch_size": batch_size,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": str(parameter.device),
            "optimizer": " and ".join(map(describe_optimizer, self.optimizers)) or None,
            "torch": str(torch.__version__),
            "stats": self.stats,
            "amp_scale": float(scales[0]) / self._passes.averaged if scales else None,
            "skipped": [index for index, closed in enumerate(self._closed) if bool(closed.skipped)],
            "micro_batches": self._passes.micro_batches,
            "world_size": world_size(),
            "ranks": self._combined,
            "wrapper": wrapper_name(active_ddp_wrapper(self.model)),
            "compile": "ran eagerly during the window" if self._eager and is_compiled(self.model) else None,
        }
        return {**found, **self._given}


def describe_optimizer(optimizer: Optimizer) -> str:
    """Name and main settings of an optimizer.

    Example:
        >>> describe_optimizer(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9))
        'SGD lr 0.1, momentum 0.9'
    """
    settings = optimizer.param_groups[0]
    shown = {"lr": settings.get("lr"), "momentum": settings.get("momentum"), "betas": settings.get("betas")}
    text = ", ".join(f"{name} {value}" for name, value in shown.items() if value)
    return f"{type(optimizer).__name__} {text}".strip()
