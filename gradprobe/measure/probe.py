"""The probe: attach to a network, collect its gradients iteration by iteration, detach whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import count
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradprobe.measure.accumulator import Accumulator, Key
from gradprobe.measure.amp import LossScale, ScalerListener
from gradprobe.measure.evidence.collect import EvidenceCollector
from gradprobe.measure.output_gradients import OutputGradients, OutputHook
from gradprobe.measure.ownership import Ownership
from gradprobe.measure.preview import Preview
from gradprobe.measure.ranks import RankGroup
from gradprobe.measure.reduction import Reducer
from gradprobe.measure.reduction.prepare import prepare
from gradprobe.measure.to_history import HookedLayers, conditions_of, elements_by_layer, unmeasured_rows
from gradprobe.measure.unreached import late_layers
from gradprobe.measure.weight_gradients import WeightGradients
from gradprobe.measure.window import Window
from gradprobe.network.checks import as_optimizers, as_quantities, check_trainable, check_window
from gradprobe.network.hooks import CAPTURED, Attached, Eager, GuardedHook, Hidden, failure, is_captured
from gradprobe.network.layers import (
    frozen_fast_path_modules,
    is_compiled,
    matching_names,
    named_layers,
    unwrap,
    weight_names,
)
from gradprobe.network.survey import Survey, Topology
from gradprobe.record.history import GradientHistory, tidy


class GradientProbe:
    """Records the gradient magnitudes of every layer over the first iterations of a training loop.

    An iteration is one optimizer step. With ``optimizer=`` it ends by itself just before the step; without,
    call `step` there. When the window is full the hooks come off and training goes on at full speed. The
    statistics stay on the device until then.

    The values are those that the optimizer is about to use: after accumulation, after averaging over ranks,
    after clipping, divided by the scale of a gradient scaler. Those of outputs belong to the same loss.

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
        TypeError: If the model is not a module, or an optimizer is not one of torch.
        ValueError: If the model has no trainable parameters, or an argument is out of range.

    Example:
        >>> import torch
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
        self._stopped: str | None = None
        self._conditions = dict(conditions or {})
        self._layers_at_start = named_layers(model)
        self._survey = Survey(unwrap(model))
        self._hooks = Attached()
        self._attached = False
        self._ran_eagerly = False
        self._registry: Mapping[int, Any] | None = None  # the hooks that torch is calling at the moment
        self._stepped: set[int] = set()  # optimizers, by id, that have stepped in this iteration
        self._ranks = ""
        refused = self._refused = dict[Key, str]()
        reducer = Reducer(every=stats == "all")
        modules = {name: self._layers_at_start[name] for name in matching_names(self._layers_at_start, layers)}
        weights = {name: weight_names(module) for name, module in modules.items()}
        self._scale = LossScale(self._scaler_stepped, self._failed)
        self._outputs = OutputGradients(model, modules, reducer, refused, self._hooks, self._scale, self._failed)
        hooks = {name: OutputHook(self._outputs, name) for name in modules}
        self._layers = HookedLayers(modules, weights, hooks, self.of, refused)
        self._keys = self._layers.keys()
        self._evidence = EvidenceCollector(model, modules, weights, self._scale, is_on=stats == "all")
        self._ownership = Ownership(model)
        self._window = Window(WeightGradients(modules, weights), Accumulator(reducer, refused))
        self._table = self._window.table(self._keys)

    def __enter__(self) -> GradientProbe:
        self._attached = True
        self._outputs.resume()
        self._rank_group = RankGroup(self._keys)
        try:
            self._attach()
        except BaseException:
            self._let_go()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._registry = None
        if kind is None:
            self.detach()
        else:  # other ranks may not come to the end of the window: this one does not wait for them
            self._let_go()
            self._hooks.remove()

    def detach(self) -> None:
        """Take every hook off. Happens by itself at the end of the window and of the ``with`` block."""
        if self._attached:
            self._let_go()
            self._table, self._ranks = self._rank_group.combine(self._table)
        self._hooks.remove(inside=self._registry)

    def step(self) -> None:
        """End the iteration: read the weight gradients as they stand and begin the next one.

        Call it after ``backward`` and before the optimizer's step, if the probe has no optimizer. Before
        ``clip_grad_norm_`` it records the raw gradients, after it the clipped ones.
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
        sums = (self._window.table(self._keys) if self._attached else self._table).tolist()
        now, held = named_layers(self.model), self._ownership.held
        is_complete, touched = bool(self.recorded or self._refused), self._outputs.shapes
        layers = self._layers.layers(topology, sums, is_complete=is_complete, held=held, now=now, touched=touched)
        recorded = {layer.name for layer in layers}
        late = late_layers(self._layers_at_start, now, self.of, len(layers), recorded, held)
        rows = [*self._layers.rows(layers, sums), *unmeasured_rows(late, self.of, len(sums))]
        evidence = self._evidence.result(elements_by_layer(self._keys, sums))
        conditions, points = self._all_conditions(topology), tuple(topology.points)
        output = (topology.output_shape, topology.output_channels, topology.head, topology.activation)
        return GradientHistory(tidy(rows), conditions, layers + late, points, *output, evidence)

    def _all_conditions(self, topology: Topology) -> dict[str, Any]:
        scale, held = self._scale.first, self._ownership.held
        eager = self._ran_eagerly and is_compiled(self.model)
        return {
            "window": self.iterations,
            "complete": self.full,
            "stats": self.stats,
            "ranks": self._ranks,
            "compile": "ran eagerly during the window" if eager else None,
            "stopped": self._stopped,
            **conditions_of(self.model, self.optimizers, self._window, self._outputs, scale, topology, held),
            **self._conditions,
        }

    def glimpse(self, loss: Tensor, of: str = "output") -> Preview:
        """The newest iteration and a loss on their way to the host; unlike `history` it waits for nothing.

        Args:
            loss: A scalar on any device.
            of: The quantity.
        """
        order = self._survey.finish().order if self.recorded else ()
        newest = self._window.iterations[-1] if self.recorded else None
        return Preview(newest, [name for name in order if name in self._layers.modules], of, loss)

    def _attach(self) -> None:
        # hooks do not run in compiled code, so it runs eagerly while the window is open (docs/facts.md, 4)
        self._ran_eagerly = "torch._dynamo" in sys.modules
        if self._ran_eagerly:
            self._hooks.add(Eager())
        prepare(parameter.device for parameter in self.model.parameters())
        self._survey.attach()
        self._hooks.add(Hidden())
        if "output" in self.of:
            on_fast_path = frozen_fast_path_modules(unwrap(self.model))
            for name, module in self._layers.modules.items():
                if module not in on_fast_path:
                    self._hooks.add(module.register_forward_hook(self._layers.hooks[name]))
        for optimizer in self.optimizers:
            self._ownership.add(optimizer)
            self._hooks.add(optimizer.register_step_pre_hook(GuardedHook(self._before_step, self._failed)))
            self._hooks.add(optimizer.register_step_post_hook(GuardedHook(self._after_step, self._failed)))
        self._hooks.add(ScalerListener(self._scale))
        self._evidence.attach(self._hooks)

    def _let_go(self) -> None:
        self._end()
        self._hooks.remove(inside=self._registry)

    def _end(self) -> None:
        self._attached = False
        self._survey.detach()
        self._evidence.ended()
        # a graph that outlives the window still has its tensor hooks: they must neither measure nor keep anything
        self._outputs.pause()
        self._outputs.clear()
        self._window.discard()
        self._table = self._window.table(self._keys)

    def _gather(self, optimizer: Optimizer | None = None) -> None:
        """Take the gradients as they stand, of the layers of an optimizer that is about to step, or of all."""
        held = None if optimizer is None else self._held_by(optimizer)
        scale = None if optimizer is None else self._scale.of_optimizer(optimizer)
        self._evidence.before_step(optimizer)
        if "weight" in self.of:
            self._window.read_weights(
                held, self._scale.divisor(optimizer, self._window.all_in, self._outputs.scale_in)
            )
        if "output" in self.of:
            self._window.add_outputs(self._outputs.take(held, scale, by_hand=optimizer is None))

    def _held_by(self, optimizer: Optimizer) -> Set[int] | None:
        return self._ownership.held_by(optimizer, alone=len(self.optimizers) == 1)

    def _close(self) -> None:
        self._window.add_outputs(self._outputs.close(self._ownership.not_held(self._outputs.contents.weights)))
        self._window.close(self._outputs.averaged)
        self._evidence.closed()
        self._stepped.clear()
        self.recorded += 1
        if self.recorded == 1:
            self._survey.finish()

    def _failed(self, error: Exception) -> None:
        """Something of ours failed: the record ends with the iterations that are complete."""
        self._outputs.refuse(self._keys, failure(error))
        self._stopped = self._stopped or failure(error)
        if self._attached:
            table, self._ranks = self._window.table(self._keys), "one process"
            self._end()  # torch may be iterating over hooks: they come off after the step, or with the window
            self._table = table

    def _detach_if_full(self) -> None:
        if self.full:
            self.detach()

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._attached or self.full:
            return None
        if is_captured():
            self._outputs.refuse(self._keys, CAPTURED)
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer itself
        if callable(closure):
            # the gradients that this step uses are made inside it: those of the closure's first call count
            rest = {key: value for key, value in kwargs.items() if key != "closure"}
            return (optimizer, self._reading_first_call(optimizer, closure), *args[2:]), rest
        self._step_of(optimizer)
        return None

    def _reading_first_call(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, with the iteration ended after its first call."""
        calls = count()
        read = GuardedHook(self._read_first_call, self._failed)

        def call() -> Any:
            loss = closure()
            if next(calls) == 0:
                read(optimizer)
            return loss

        return call

    def _read_first_call(self, optimizer: Optimizer) -> None:
        self._step_of(optimizer)
        self._outputs.pause()

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._evidence.after_step(optimizer)
        if not self._attached:
            self._registry = optimizer._optimizer_step_post_hooks
            try:
                self._hooks.remove(inside=self._registry)
            finally:
                self._registry = None
            return
        self._outputs.resume(lambda: self._held_by(optimizer))
        self._registry = optimizer._optimizer_step_post_hooks
        try:
            self._detach_if_full()
        finally:
            self._registry = None

    def _step_of(self, optimizer: Optimizer, skipped: bool = False) -> None:
        if id(optimizer) in self._stepped:
            self._close()
        if not self.full:
            self._end_for(optimizer, skipped)

    def _end_for(self, optimizer: Optimizer, skipped: bool) -> None:
        self._stepped.add(id(optimizer))
        self._gather(optimizer)
        if getattr(optimizer, "grad_scale", None) is not None:
            self._window.skip(optimizer.found_inf.detach().clone())  # type: ignore[attr-defined]
        if skipped:
            self._window.skip()
        if len(self._stepped) == len(self.optimizers):
            self._close()
            self._scale.clear()

    def _scaler_stepped(self, optimizer: Optimizer, called: bool) -> None:
        """A gradient scaler stepped an optimizer, or skipped it for an overflow: that is recorded as such."""
        if not called and any(optimizer is own for own in self.optimizers):
            self._step_of(optimizer, skipped=True)
            self._detach_if_full()
