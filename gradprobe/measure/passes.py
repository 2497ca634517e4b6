"""The backward passes of an iteration, and what each has made for which layer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.accumulator import Accumulator, ReducedGradients
from gradprobe.measure.layer_weights import LayerWeights
from gradprobe.measure.presence import Gate, GradientState, Look, look
from gradprobe.network.hooks import Attached, GuardedHook

_NEAR = 100  # nodes between a layer's output and its weights, those of a parametrization among them


class Pass:
    """One run of the autograd engine: by ``backward()``, by ``torch.autograd.grad``, or inside another one.

    Attributes:
        outer: The pass that this one runs inside of, or None.
        collected: The outputs' gradients that arrived in it, until it ends.
        collected_inside: Those of outputs that were computed inside a transform of torch.func.
        rows: What was collected, reduced.
        rows_inside: The same of what was collected inside.
        reached: Layers that it arrived at since their optimizer's last step.
        made_for: Those of them for whose weights it made a gradient, in ``.grad`` or handed to the caller.
        unused: Layers that are trained and that it arrived at, but whose weights the outputs do not come from.
        into: Layers whose ``.grad`` has its gradient now, each with a gate that is open if it is still there.
        level: How many of torch.func's transforms it runs in; 0 outside.
        keeps_graph: Whether another pass may go through the same outputs.
        creates_graph: Whether its gradients are themselves to be differentiated.
        accumulates: Whether it puts gradients into parameters.
        own_scale: What its loss was multiplied by, if a gradient scaler did so.
        counted: Whether an iteration has counted it as one of its backward passes.
        is_counting: Whether the iteration that has not ended yet counts it.
        is_newer: Whether no optimizer has stepped since it began.
        together: For layers the passes, itself among them, that only the row of their sum is left of.
        apart: For layers the passes that went through the same output, but that a row of its own is left of.
        spoiled: Layers of whose outputs' gradients some could not be measured.
        is_over: Whether it has ended.
        trained: Whether it arrived at a layer that is trained.
        shares: For layers that it made a gradient for: what stood there after it, and before.
    """

    def __init__(
        self, task: int, outer: Pass | None, collected: Accumulator, collected_inside: Accumulator
    ) -> None:
        self.task, self.outer = task, outer
        self.collected, self.collected_inside = collected, collected_inside
        self.rows: list[ReducedGradients] = []
        self.rows_inside: list[ReducedGradients] = []
        self.reached: set[str] = set()
        self.made_for: set[str] = set()
        self.unused: set[str] = set()
        self.into: dict[str, Gate] = {}
        stack = torch._C._functorch.peek_interpreter_stack()
        self.level = 0 if stack is None else stack.level()
        retained = bool(torch._C._autograd._get_current_graph_task_keep_graph())
        self.keeps_graph: bool = retained if outer is None else outer.keeps_graph
        self.creates_graph = torch.is_grad_enabled()
        self.accumulates = False
        self.own_scale: Tensor | None = None
        self.counted = self.is_counting = False
        self.is_newer = True
        self.together: dict[str, set[Pass]] = {}
        self.apart: dict[str, set[Pass]] = {}
        self.spoiled: set[str] = set()
        self.is_over = False
        self.trained = False
        self.shares: dict[str, tuple[Look, Look | None]] = {}
        self._hooks = Attached()
        self._returned: dict[str, dict[int, Tensor]] = {}
        self._accumulates_first: bool | None = None
        self._before: dict[str, tuple[nn.Parameter, GradientState | None]] = {}
        self._nodes: dict[str, Any] = {}  # of the graph, where it arrived
        self._done: set[str] = set()

    @property
    def root(self) -> Pass:
        """The outermost pass that this one runs inside of: itself, mostly."""
        return self if self.outer is None else self.outer.root

    def let_go(self) -> None:
        """Take its hooks off, and let go of the graph."""
        self._hooks.remove()
        self._nodes.clear()

    def close(self) -> None:
        """It is over."""
        self.unused = {
            name for name, (one, _) in self._before.items() if not leads_to(self._nodes[name], {id(one)}, _NEAR)
        }
        gradients = {name: [of[place] for place in sorted(of)] for name, of in self._returned.items() if of}
        seen = look(list(gradients.values()))
        self.shares |= {name: (now, None) for name, now in zip(gradients, seen, strict=True)}
        self._returned.clear()
        self._before.clear()
        self.let_go()
        self.is_over = True

    @property
    def scale(self) -> Tensor | None:
        """What the loss was multiplied by, if a gradient scaler did so."""
        return self.root.own_scale

    @property
    def candidates(self) -> set[str]:
        """The layers that it may be in the ``.grad`` of."""
        return {*self.into, *self.made_for, *(self.reached if self.level else ())}

    @property
    def may_count(self) -> bool:
        """Whether it is in some layer's ``.grad``, or may get there; through frozen layers alone: as the outer."""
        if self.candidates or self.is_counting or not self.is_over:
            return True
        return self.outer is not None and (self.accumulates or not self.trained) and self.outer.may_count

    def is_parted(self, name: str, chosen: Mapping[Pass, Container[str]]) -> bool:
        """Whether it counts for a layer, and the sum of what does is not left: but of others, or of its parts."""
        if any(name not in chosen.get(other, ()) for other in self.together.get(name, ())):
            return True
        return any(name in chosen.get(other, ()) for other in self.apart.get(name, ()))

    def may_be_in(self, name: str) -> bool:
        """Whether it may be in the ``.grad`` of a layer."""
        return name in self.into or name in self.made_for or (bool(self.level) and name in self.reached)

    def arrived(self, name: str, parameter: nn.Parameter | None, weights: LayerWeights) -> None:
        """It arrived at an output of a layer; ``parameter`` is the first that is trained of its weights."""
        self.reached.add(name)
        if parameter is None or name in self._before or name in self._done:
            return
        self.trained = True
        self._before[name] = parameter, None if parameter.grad is None else GradientState(parameter)
        self._nodes[name] = torch._C._current_autograd_node()
        if self._accumulates_first is None and not self.level:
            self._accumulates_first = _role(parameter) == "accumulated"
        if self._accumulates_first is False:
            self._look_at_returned(name, weights.ends(name))

    def _look_at_returned(self, name: str, parameters: Sequence[nn.Parameter]) -> None:
        """What autograd.grad hands to the caller is seen nowhere else, but that it may be put into ``.grad``."""
        for place, parameter in enumerate(parameters):
            if _role(parameter) == "returned":
                note = partial(self._returned.setdefault(name, {}).__setitem__, place)
                hook = parameter.register_hook(GuardedHook(note, self._unseen))
                try:
                    self._hooks.add(hook)
                except Exception:  # nobody else would take it off
                    hook.remove()
                    raise

    def _unseen(self, error: Exception) -> None:
        """Without a look at it, what is put into ``.grad`` cannot be told apart."""

    def flush(self) -> None:
        """Reduce what was collected: afterwards the gradients may change."""
        for collected, rows in ((self.collected, self.rows), (self.collected_inside, self.rows_inside)):
            collected.flush()
            self.spoiled.update(name for name, _ in collected.spoiled)
            rows += collected.take()

    def outcome(self, names: Iterable[str] | None, *, ended: bool) -> dict[str, nn.Parameter]:
        """The layers into whose weights it has put a gradient since the last time; afterwards they are done with.

        Args:
            names: Of these, or of all that it arrived at.
            ended: Whether it is at its end, but still running, so that the engine can be asked.

        Returns:
            The parameter that was looked at of each.
        """
        put: dict[str, nn.Parameter] = {}
        before = self._before
        for name in list(before) if names is None else before.keys() & set(names) if before else ():
            parameter, state = before[name]
            if parameter.grad is not None and (state is None or state.change(parameter) != "none"):
                put[name] = parameter
            elif ended and not self.level:
                role = _role(parameter)
                if role == "accumulated":
                    put[name] = parameter  # and used up in the pass itself
                elif role == "returned" and self.outer is None:
                    self.made_for.add(name)
        for name in put:
            del self._before[name]
        self._done.update(put)
        self.made_for.update(put)
        return put

    def is_silent(self, name: str) -> bool:
        """Whether nothing but zeros arrived at a layer's outputs: so its weights' gradients are zeros as well."""
        sums = [
            row[0]
            for part in self.rows + self.rows_inside
            for key, row in zip(part.keys, part.rows, strict=True)
            if key is not None and key[0] == name
        ]
        return not any(bool(one) for one in sums)

    def share(self, name: str) -> list[Tensor]:
        """What it added to the first elements of a layer's gradients, or handed to the caller; [] if unseen."""
        if name not in self.shares:
            return []
        after, before = self.shares[name]
        if before is None or before.lengths != after.lengths:
            return after.values if before is None else []
        return [one.double() - other.double() for one, other in zip(after.values, before.values, strict=True)]

    def forget(self, names: Iterable[str]) -> None:
        """The optimizer of these layers has stepped: what is in ``.grad`` is all that remains of it."""
        self.reached.difference_update(names)
        self.made_for.difference_update(names)


class Passes(list[Pass]):
    """The passes that may be in some layer's ``.grad``, or get there by hand, in the order in which they began.

    Attributes:
        differentiated: Layers that were called with weights that a transform of torch.func differentiates by.
    """

    def __init__(self) -> None:
        super().__init__()
        self.differentiated: set[str] = set()

    def made(self, name: str) -> list[Pass]:
        """Those that made a gradient for a layer since its optimizer's last step."""
        made = [run for run in self if name in run.made_for]
        # of a gradient that is itself differentiated, as that of an inner loop is, the loss is another one
        return [run for run in made if not run.creates_graph or run.accumulates] or made

    @property
    def pending(self) -> set[str]:
        """The layers that they have made a gradient for since their optimizer's last step."""
        return {name for run in self for name in run.made_for}

    def unused(self, names: Set[str]) -> set[str]:
        """Those of some layers that they arrived at, though none has made a gradient for their weights."""
        left = {name for run in self for name in run.unused & run.reached} & names
        return {name for name in left if not any(run.may_be_in(name) for run in self)}

    def of_several(self) -> set[str]:
        """The layers whose gradient may be of others than the one that has just been there."""
        found, once, more = set[str](), set[str](), set[str]()
        candidates = [run.candidates for run in self]
        for own in candidates:
            more |= once & own
            once |= own
        for run, own in zip(self, candidates, strict=True):
            found |= own - more - (run.reached & run.into.keys())
        return found

    def outside(self, name: str) -> list[Pass]:
        """Those of them whose gradient is not for certain in ``.grad`` now."""
        return [run for run in self.made(name) if run.into.get(name) != ()]

    def transformed(self, name: str) -> list[Pass]:
        """The passes of torch.func since the last step that may have made a gradient for a layer's weights.

        The innermost derivatives are not of them, nor those by the inputs alone.
        """
        if name not in self.differentiated:
            return []
        found = [run for run in self if name in run.reached and run.level and run.outer is None]
        return [run for run in found if run.level == min(run.level for run in found)]

    def sources(self, name: str) -> list[Pass]:
        """Of what a gradient is made that was put there by hand: of what passes have made since the last step."""
        made, transformed = self.made(name), self.transformed(name)
        if made or transformed:
            return made or (transformed if len(transformed) == 1 else [])
        # FSDP takes the gradients of weights that it has gathered, and puts their shards there after the pass
        return [run for run in self if name in run.unused & run.reached and run.accumulates]


def _role(parameter: nn.Parameter) -> str:
    """What the running pass does with a parameter's gradient: accumulated, returned (to autograd.grad) or none."""
    try:
        node = torch.autograd.graph.get_gradient_edge(parameter).node
        return "accumulated" if torch._C._will_engine_execute_node(node) else "none"
    except RuntimeError:  # a leaf that is an input of autograd.grad
        return "returned" if torch._C._current_graph_task_id() != -1 else "none"


def leads_to(root: Any, parameters: Set[int], most: float = math.inf) -> bool:
    """Whether what a node of a graph made comes from any of some parameters, the nearest nodes first.

    Args:
        root: The node; None where nothing requires a gradient.
        parameters: The `id` of each.
        most: Nodes that are looked at.

    Example:
        >>> one, other = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> loss = one(torch.ones(4, 2)).mean()
        >>> [leads_to(loss.grad_fn, {id(layer.weight)}) for layer in (one, other)]
        [True, False]
        >>> leads_to(loss.grad_fn, {id(one.weight)}, most=2), leads_to(None, {id(one.weight)})
        (False, False)
    """
    waiting, seen = deque([root]), {None}
    while waiting and len(seen) <= most:
        node = waiting.popleft()
        if node not in seen:
            if id(getattr(node, "variable", None)) in parameters:
                return True
            seen.add(node)
            waiting.extend(child for child, _ in node.next_functions)
    return False


def accumulating(parameters: Iterable[nn.Parameter]) -> Iterator[Any]:
    """The nodes of graphs that put gradients into parameters."""
    for parameter in parameters:
        # a call of a function has other tensors in their place
        if parameter.is_leaf and not torch._C._functorch.is_functorch_wrapped_tensor(parameter):
            yield torch.autograd.graph.get_gradient_edge(parameter).node


def accumulates(model: nn.Module) -> bool:
    """Whether the running pass puts a gradient into any parameter of a model."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            node = torch.autograd.graph.get_gradient_edge(parameter).node
            try:
                if torch._C._will_engine_execute_node(node):
                    return True
            except RuntimeError:  # an input of autograd.grad
                return False
    return False


def unwrapped(gradient: Tensor) -> Tensor:
    """The values of a gradient inside torch.func's transforms."""
    while torch._C._functorch.is_functorch_wrapped_tensor(gradient):
        gradient = torch._C._functorch.get_unwrapped(gradient)
    return gradient
