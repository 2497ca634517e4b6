"""Gradients of outputs as they arrive: kept apart by backward pass, until it is known which passes count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.accumulator import Accumulator, Key, ReducedGradients
from gradprobe.measure.amp import LossScale
from gradprobe.measure.in_grad import PassesInGrad
from gradprobe.measure.outputs import GradientHook, Output, Outputs, parted
from gradprobe.measure.passes import Pass, accumulates, accumulating, unwrapped
from gradprobe.measure.presence import Gate, Presence, is_open, joint
from gradprobe.measure.ranks import active_ddp_wrapper, averaged_over
from gradprobe.measure.reduction import Reducer
from gradprobe.network.hooks import CAPTURED, Attached, GuardedHook, failure, is_captured
from gradprobe.network.tensors import base_of_full_view, measured_tensor

AMBIGUOUS = "it cannot be told of which of several derivatives its weights' gradient is made"
PARTED = "several passes went through one output, and since a step was between, no sum of those that count is left"
NESTED = (
    "computed anew inside a custom backward pass, as adjoint methods do: the loss' gradient does not go through it"
)
_PLAINLY = nullcontext()


class OutputGradients:
    """Collects the gradients of outputs, and gives those that are of the passes in the weights' ``.grad``.

    After a pass that keeps the graph another one may go through the same output: their gradients are added up
    before they are measured.

    Args:
        model: The whole network.
        modules: Its layers by name.
        reducer: Reduces the gradients.
        refused: Gets a sentence for each key that could not be measured.
        hooks: Gets the hooks that torch would not drop by itself.
        scale: What losses were multiplied by.
        failed: Gets what a hook of ours raised.

    Attributes:
        contents: Which passes are in the weights' ``.grad``.
        micro_batches: How many backward passes an iteration had, at most.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        reducer: Reducer,
        refused: dict[Key, str],
        hooks: Attached,
        scale: LossScale,
        failed: Callable[[Exception], None],
    ) -> None:
        self.failed = failed
        self._model = model
        self._reducer = reducer
        self._refused = refused
        self._hooks = hooks
        self._scale = scale
        self._averaged: int | None = None
        self._paused = self._ignored = False
        self._running: dict[int, Pass] = {}  # by the number that the engine gives them
        self._outputs = Outputs(reducer, refused)
        self._undecided: set[str] = set()
        self._counted: dict[Pass, list[Gate]] = {}
        self._parted: set[str] = set()
        self.contents = PassesInGrad(modules)
        self.micro_batches = 1
        self._ambiguous: dict[str, list[int]] = {}
        self._asked: list[tuple[str, int, tuple[Presence, int]]] = []
        self._iteration = 0
        self.shapes: dict[str, tuple[int, ...]] = {}  # of each layer's first output that a gradient arrived at

    @property
    def averaged(self) -> int:
        """Over how many ranks the loss is averaged; 1 before the first output."""
        return self._averaged or 1

    @property
    def ambiguous(self) -> dict[str, list[int]]:
        """For layers the iterations in which it could not be told which passes count. Waits for the device."""
        found = {name: set(iterations) for name, iterations in self._ambiguous.items()}
        for name, iteration, gate in self._asked:
            if not is_open((gate,)):
                found.setdefault(name, set()).add(iteration)
        return {name: sorted(iterations) for name, iterations in found.items()}

    def add_hook(self, tensor: Tensor, key: Key) -> None:
        """Collect the gradient of an output of a layer."""
        self._averaged = self._averaged or averaged_over(active_ddp_wrapper(self._model))
        output = self._output(key)
        if key[0] not in self.shapes:
            output.shape = () if tensor.is_nested else tuple(tensor.shape)
        self._register(base_of_full_view(tensor), output)
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            # what a transform of torch.func sees of it is one thing, what the pass of the loss sees another
            with torch._C._DisableFuncTorch():
                if (inner := unwrapped(tensor)).requires_grad:
                    self._register(base_of_full_view(inner), Output(key, is_inner=True))

    def _register(self, tensor: Tensor, output: Output) -> None:
        handle = tensor.register_hook(GradientHook(self.add, output, self.failed))
        if tensor.is_leaf:  # a parameter that is returned as it is would keep the hook for good
            self._hooks.add(handle)

    def begin_at_weights(self, name: str) -> None:
        """A pass through a derivative of a layer may come to its weights before it comes to any output."""
        if self.contents.weights.are_inside(name):
            self.contents.passes.differentiated.add(name)
        with torch._C._DisableFuncTorch():
            for node in accumulating(self.contents.weights.ends(name)):
                if (self, name) not in node.metadata:
                    node.metadata[self, name] = True
                    note = partial(self._at_weights, name)
                    self._hooks.add(node.register_prehook(GuardedHook(note, self.failed)))

    def _at_weights(self, name: str, _: Any) -> None:
        self._arrive(name)

    def _output(self, key: Key) -> Output:
        task = torch._C._current_graph_task_id()
        if task == -1:
            for run in list(self._running.values()):  # an error has ended them
                self._end(run, running=False)
            return Output(key)
        self._current(task)
        return self._outputs.recomputed(key, task)

    def broke(self, key: Key, error: Exception) -> None:
        """A hook of ours failed: the record of its layer ends."""
        self.refuse([key], failure(error))
        self.contents.broken.add(key[0])

    def refuse(self, keys: Iterable[Key], sentence: str) -> None:
        """Note why these are not measured."""
        self._refused.update(dict.fromkeys(keys, sentence))

    def pause(self) -> None:
        """Ignore gradients until `resume`: an optimizer evaluates its closure again."""
        self._paused = True

    def resume(self, held: Callable[[], Set[int] | None] = lambda: None) -> None:
        """Collect again; in the ``.grad`` of these parameters, by `id`, is what was ignored."""
        if self._ignored:
            self.contents.forget(self.contents.weights.names_of(held()))
        self._paused = self._ignored = False

    def clear(self) -> None:
        """Forget what arrived."""
        self.contents.clear()
        self._running.clear()
        self._outputs.clear()
        self._counted, self._undecided, self._parted = {}, set(), set()

    # as the gradients arrive

    def add(self, output: Output, gradient: Tensor) -> None:
        """Collect a gradient that arrived at an output."""
        run = self._arrive(output.key[0])
        if run is None:
            return
        self.shapes.setdefault(output.key[0], output.shape)
        try:
            if run.level or run.keeps_graph or run.creates_graph or output.is_shared or output.is_inner:
                with torch._C._DisableFuncTorch() if run.level else _PLAINLY:
                    self._collect(run, output, gradient)
            else:
                run.collected.add(output.key, gradient)
        except Exception as error:  # of this layer alone: what is known of the passes is whole
            self.broke(output.key, error)

    def _arrive(self, name: str) -> Pass | None:
        """The running pass has come to an output of a layer, or to its weights; None if it is to be ignored."""
        if self._paused:
            self._ignored = True
            return None
        run = self._current(torch._C._current_graph_task_id())
        with torch._C._DisableFuncTorch() if run.level else _PLAINLY:
            self.contents.arrived(run, name)
        return run

    def _collect(self, run: Pass, output: Output, gradient: Tensor) -> None:
        if run.level:
            run.collected.add_now(output.key, unwrapped(gradient))
        elif run.keeps_graph or output.is_shared:
            self._outputs.keep(output, run, gradient)
        else:
            (run.collected_inside if output.is_inner else run.collected).add(output.key, gradient)
        if run.creates_graph:
            self.begin_at_weights(output.key[0])

    def _current(self, task: int) -> Pass:
        run = self._running.get(task)
        return self._begin(task) if run is None else run

    def _begin(self, task: int) -> Pass:
        outer = next(reversed(self._running.values()), None)
        accumulators = (Accumulator(self._reducer, self._refused) for _ in range(2))
        run = self._running[task] = Pass(task, outer, *accumulators)
        with torch._C._DisableFuncTorch():
            self.contents.began(run)
        # a gradient waits no longer than its pass: afterwards torch may add to it in place
        torch.autograd.Variable._execution_engine.queue_callback(GuardedHook(partial(self._end, run), self.failed))
        return run

    def _end(self, run: Pass, *, running: bool = True) -> None:
        if self._running.pop(run.task, None) is None:
            return
        run.own_scale = self._scale.of_pass(run.task)
        # inside a transform of torch.func, what is computed here would be a part of it
        with torch._C._DisableFuncTorch(), torch.no_grad():
            run.flush()
            self.contents.ended(run, running=running)
            if run.outer is None and not run.accumulates and not run.level and running:
                run.accumulates = accumulates(self._model)
            self._outputs.fold()

    # what counts

    def scale_in(self, name: str, otherwise: Tensor) -> Tensor:
        """The scale of the passes that are in the ``.grad`` of a layer, as far as it is known."""
        scales = [run.scale for run in self.contents.passes if name in run.into and run.scale is not None]
        return scales[-1] if scales else otherwise

    def take(
        self, parameters: Set[int] | None, scale: Tensor | None = None, *, by_hand: bool = False
    ) -> list[ReducedGradients]:
        """The gradients of the outputs of layers whose optimizer is about to step.

        Args:
            parameters: The parameters that it holds, by `id`; None for all.
            scale: What it divided their gradients by, if a gradient scaler did so.
            by_hand: Whether there may be no optimizer at all, and weights that are changed without ``.grad``.
        """
        names = self.contents.weights.names_of(parameters)
        self.contents.settle(names)
        empty = self.contents.check(names)
        if by_hand:
            self.contents.put_in_by_hand(names)
        for run in self.contents.passes:
            run.flush()
        trained = {name for name in names if self.contents.weights.first(name) is not None}
        if not by_hand:  # an optimizer uses what is in ``.grad``, of frozen weights as well
            trained |= set(filter(self.contents.is_filled, set(names) - trained))
        told = self.contents.told(trained)
        chosen: dict[Pass, dict[str, Gate]] = {}
        for run in self.contents.passes:
            chosen[run] = {name: run.into[name] for name in names if name in run.into and name in told}
            if chosen[run]:
                run.is_counting = True
                self._counted.setdefault(run, []).extend(chosen[run].values())
        self._undecided |= {*names} - trained | self.contents.passes.unused(trained)
        taken = self._taken(chosen, scale, trained)
        self.contents.stepped(trained, empty)
        self._outputs.let_go(trained)
        return taken

    def close(self, not_held: Set[str]) -> list[ReducedGradients]:
        """End the iteration: the gradients of layers that no pass makes a gradient for, as the others' of it.

        Args:
            not_held: Layers that no optimizer holds.
        """
        names = self._undecided | not_held
        # the others are trained by now: the next step of their optimizer decides
        done = names - (self.contents.passes.pending - not_held)
        if self.contents.ambiguous:  # so it cannot be told of these either
            self.contents.ambiguous |= set(filter(self.contents.was_reached, names))
            names = set()
        counted = {run: joint(gates) for run, gates in self._counted.items()}
        self._count_micro_batches(counted)
        if not counted and not self.contents.has_trained:  # only frozen layers were asked for
            counted = {run: () for run in self.contents.passes if run.accumulates}
        chosen = {}
        for run in self.contents.passes:
            gate = counted.get(run)
            if gate is None and run.outer is not None and (run.accumulates or not run.trained):
                gate = counted.get(run.root)
            if gate is not None:
                chosen[run] = dict.fromkeys(names, gate)
        taken = self._taken(chosen, None, done)
        self._counted, self._undecided = {}, set()
        self.contents.closed(done, self._running.values())
        self._outputs.let_go(done, {run for run in self.contents.passes if run.root.is_newer})
        self._note_reasons()
        self._iteration += 1
        return taken

    def _count_micro_batches(self, counted: Iterable[Pass]) -> None:
        new = {run.root for run in counted if not run.counted}
        for run in counted:
            run.counted, run.is_counting = True, False
        self.micro_batches = max(self.micro_batches, len(new))

    def _taken(
        self, chosen: Mapping[Pass, Mapping[str, Gate]], scale: Tensor | None, done: Set[str]
    ) -> list[ReducedGradients]:
        now_parted = parted(chosen)
        self._parted |= now_parted
        spoiled = {name for run, names in chosen.items() for name in run.spoiled & names.keys()}
        return self._outputs.taken(chosen, now_parted | spoiled | self.contents.broken, scale, done)

    def _note_reasons(self) -> None:
        for name in sorted((self.contents.ambiguous | self._parted) & self.shapes.keys()):  # if anything came
            self._refused.setdefault((name, "output"), PARTED if name in self._parted else AMBIGUOUS)
            self._ambiguous.setdefault(name, []).append(self._iteration)
        for name in self.contents.nested:
            self._refused.setdefault((name, "output"), NESTED)
        self._asked += [(name, self._iteration, found) for name, found in self.contents.asked]
        self.contents.ambiguous, self.contents.asked, self._parted = set(), [], set()


class OutputHook(GuardedHook):
    """A forward hook of a layer, which puts a hook on its output.

    Attributes:
        calls: How often the layer was called.
        differentiable_calls: How often its output required a gradient.
    """

    __slots__ = ("_gradients", "_key", "calls", "differentiable_calls")

    def __init__(self, gradients: OutputGradients, name: str) -> None:
        self._gradients = gradients
        self._key = (name, "output")
        super().__init__(None, partial(gradients.broke, self._key))
        self.calls = self.differentiable_calls = 0

    def run(self, module: nn.Module, args: Any, output: Any) -> None:
        """Put a hook on the output of a call."""
        self.calls += 1
        if is_captured():
            self._gradients.refuse([self._key], CAPTURED)
            return
        tensor = output if type(output) is Tensor else measured_tensor(output)
        if tensor is None:
            return
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            self._gradients.begin_at_weights(self._key[0])
        if tensor.requires_grad:
            self.differentiable_calls += 1
            self._gradients.add_hook(tensor, self._key)
