"""Which backward passes are in a layer's ``.grad``, and so in what its optimizer is about to use.

An output's gradient is that of the backward passes whose gradient is in the ``.grad`` of the layer's weights when
the optimizer steps (docs/which-gradient.md). What is in ``.grad`` is not asked of the calls that the user makes,
since gradients are cleared and put back in many ways; it is read from ``.grad`` itself, of one parameter for each
layer: at its arrival in a pass, at the end of the pass, before the next pass, and at the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial

import torch
from torch import Tensor, nn

from gradprobe.measure.accumulator import Accumulator, ReducedGradients
from gradprobe.measure.presence import (
    Change,
    Gate,
    GradientState,
    Look,
    Presence,
    is_immediate,
    look,
    settled,
    still_there,
)
from gradprobe.measure.shares import made_of
from gradprobe.network.hooks import Attached, GuardedHook
from gradprobe.network.layers import own_parameters, parameter_place

_Place = tuple[dict[str, nn.Parameter | None], str]


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
        unused: Layers that are trained and that it arrived at, but whose weights it makes no gradient for.
        into: Layers whose ``.grad`` has its gradient now, each with a gate that is open if it is still there.
        level: How many of torch.func's transforms it runs in; 0 outside.
        keeps_graph: Whether another pass may go through the same outputs.
        creates_graph: Whether its gradients are themselves to be differentiated.
        accumulates: Whether it puts gradients into parameters.
        own_scale: What its loss was multiplied by, if a gradient scaler did so.
        counted: Whether an iteration has counted it as one of its backward passes.
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
        self.counted = False
        self.spoiled: set[str] = set()
        self.is_over = False
        self.trained = False
        self.shares: dict[str, tuple[Look, Look | None]] = {}
        self._hooks = Attached()
        self._returned: dict[str, dict[int, Tensor]] = {}
        self._accumulates_first: bool | None = None
        self._before: dict[str, tuple[nn.Parameter, GradientState]] = {}
        self._done: set[str] = set()

    @property
    def root(self) -> Pass:
        """The outermost pass that this one runs inside of: itself, mostly."""
        return self if self.outer is None else self.outer.root

    def close(self) -> None:
        """It is over."""
        self.unused = set(self._before)
        gradients = {name: [of[place] for place in sorted(of)] for name, of in self._returned.items() if of}
        seen = look(list(gradients.values()))
        self.shares |= {name: (now, None) for name, now in zip(gradients, seen, strict=True)}
        self._returned.clear()
        self._before.clear()
        self._hooks.remove()
        self.is_over = True

    @property
    def scale(self) -> Tensor | None:
        """What the loss was multiplied by, if a gradient scaler did so."""
        return self.root.own_scale

    @property
    def candidates(self) -> set[str]:
        """The layers that it may be in the ``.grad`` of."""
        return {*self.into, *self.made_for, *(self.reached if self.level else ())}

    def arrived(self, name: str, parameters: Sequence[nn.Parameter]) -> None:
        """It arrived at an output of a layer; the first and the last of these stand for the layer's weights."""
        self.reached.add(name)
        self.trained = self.trained or bool(parameters)
        if parameters and name not in self._before and name not in self._done:
            self._before[name] = parameters[0], GradientState(parameters[0])
            if not self.level:
                self._look_at_returned(name, parameters)

    def _look_at_returned(self, name: str, parameters: Sequence[nn.Parameter]) -> None:
        """What autograd.grad hands to the caller is seen nowhere else, but that it may be put into ``.grad``."""
        if self._accumulates_first is None:
            self._accumulates_first = _role(parameters[0]) == "accumulated"
        if self._accumulates_first:
            return
        for place, parameter in enumerate(parameters):
            if _role(parameter) == "returned":
                note = partial(self._returned.setdefault(name, {}).__setitem__, place)
                self._hooks.add(parameter.register_hook(GuardedHook(note, self._unseen)))

    def _unseen(self, error: Exception) -> None:
        """Without a look at it, what is put into ``.grad`` cannot be told apart."""

    def flush(self) -> None:
        """Reduce what was collected: afterwards the gradients may change."""
        for collected, rows in ((self.collected, self.rows), (self.collected_inside, self.rows_inside)):
            collected.flush()
            self.spoiled.update(name for name, _ in collected.spoiled)
            rows += collected.take()

    def outcome(self, names: Iterable[str] | None, *, ended: bool) -> list[str]:
        """The layers into whose weights it has put a gradient since the last time; afterwards they are done with.

        Args:
            names: Of these, or of all that it arrived at.
            ended: Whether it is at its end, but still running, so that the engine can be asked.
        """
        put = []
        for name in list(self._before if names is None else self._before.keys() & set(names)):
            parameter, state = self._before[name]
            change = state.change(parameter)
            if change in ("touched", "replaced"):
                put.append(name)
            elif ended and not self.level:
                role = _role(parameter)
                if role == "accumulated":
                    put.append(name)  # and used up in the pass itself
                elif role == "returned" and self.outer is None:
                    self.made_for.add(name)
        for name in put:
            del self._before[name]
        self._done.update(put)
        self.made_for.update(put)
        return put

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


def _role(parameter: nn.Parameter) -> str:
    """What the running pass does with a parameter's gradient: accumulated, returned (to autograd.grad) or none."""
    try:
        node = torch.autograd.graph.get_gradient_edge(parameter).node
        return "accumulated" if torch._C._will_engine_execute_node(node) else "none"
    except RuntimeError:  # a leaf that is an input of autograd.grad
        return "returned" if torch._C._current_graph_task_id() != -1 else "none"


def _made_of_parts(gradients: list[Tensor], shares: list[list[Tensor]]) -> list[bool | None] | None:
    """Which passes the gradients of a layer are made of, each in its own proportion; None if it cannot be told."""
    if not shares or any([one.shape for one in share] != [one.shape for one in gradients] for share in shares):
        return None
    found = [made_of(part, [share[place] for share in shares]) for place, part in enumerate(gradients)]
    if None in found or not any(found):
        return None
    answers = [set(column) - {None} for column in zip(*filter(None, found), strict=True)]
    return [max(answer) if answer else None for answer in answers]


class PassesInGrad:
    """Keeps, for every layer, which passes are in the ``.grad`` of its weights.

    Args:
        modules: The layers by name.

    Attributes:
        passes: Those that may still be in some layer's ``.grad``, or get there by hand.
        untold: Layers with something in ``.grad`` of which it cannot be told which passes it came from.
        ambiguous: Those of them whose optimizers have stepped with it in this iteration.
        has_trained: Whether any of the layers is trained, or was.
        broken: Layers whose record has ended, since something of ours failed.
        nested: Layers that were reached by a pass inside another one, which put nothing into their weights.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._places: dict[str, list[_Place]] = {
            name: [parameter_place(module, local) for local in own_parameters(module)]
            for name, module in modules.items()
        }
        self._after: dict[str, GradientState] = {}
        self._standing: dict[str, Look] = {}
        self.passes: list[Pass] = []
        self.ambiguous: set[str] = set()
        self.untold: set[str] = set()
        self.nested: set[str] = set()
        self.broken: set[str] = set()
        self.has_trained = any(self.parameter(name) is not None for name in self._places)

    def parameter(self, name: str) -> nn.Parameter | None:
        """The first parameter of a layer that is trained: it stands for all of them."""
        for owner, local in self._places[name]:
            parameter = owner.get(local)
            if parameter is not None and parameter.requires_grad and parameter.numel():
                return parameter
        return None

    def _looked_at(self, name: str) -> nn.Parameter | None:
        """The parameter whose gradient was looked at the last time; it may be frozen by now."""
        state = self._after.get(name)
        if state is not None:
            for owner, local in self._places[name]:
                parameter = owner.get(local)
                if parameter is not None and id(parameter) == state.owner:
                    return parameter
        trained = self.parameter(name)
        if trained is not None:
            return trained
        parameters = (owner.get(local) for owner, local in self._places[name])
        return next((one for one in parameters if one is not None and one.grad is not None), None)

    def _parameters(self, name: str) -> list[nn.Parameter]:
        """The first and the last parameter of a layer that are trained: a weight and a bias, mostly."""
        found = [owner.get(local) for owner, local in self._places[name]]
        trained = [one for one in found if one is not None and one.requires_grad and one.numel()]
        return trained if len(trained) < 2 else [trained[0], trained[-1]]

    def _gradients(self, name: str, parameter: nn.Parameter) -> list[Tensor]:
        """What stands in the ``.grad`` of the parameter that is looked at, and of the last one beside it."""
        parameters = [owner.get(local) for owner, local in self._places[name]]
        others = [one for one in parameters if one is not None and one is not parameter and one.grad is not None]
        gradients = [one.grad for one in (parameter, *others[-1:]) if one.grad is not None]
        first = gradients[0]
        return [one for one in gradients if one.dtype == first.dtype and one.device == first.device]

    def names_of(self, parameters: Set[int] | None) -> list[str]:
        """The layers that have one of the parameters with these ids; None for all layers."""
        if parameters is None:
            return list(self._places)
        return [
            name
            for name, places in self._places.items()
            if any(id(owner.get(local)) in parameters for owner, local in places)
        ]

    def arrived(self, run: Pass, name: str) -> None:
        """A pass arrived at an output of a layer."""
        parameter = self.parameter(name)
        if parameter is not None and parameter.grad is not None and name not in self._after:
            # it was there before the window
            found = look([self._gradients(name, parameter)])[0]
            self._after[name], self._standing[name] = GradientState(parameter), found
            if (found.presence.known() or [False])[found.place]:
                self.untold.add(name)
        run.arrived(name, self._parameters(name))

    def was_reached(self, name: str) -> bool:
        """Whether any pass arrived at a layer since its optimizer's last step."""
        return any(name in run.reached for run in self.passes)

    def note_untold(self, names: Iterable[str]) -> None:
        """The optimizer of these layers is about to step: of some it cannot be told what it uses."""
        self.ambiguous |= self.untold.intersection(names)

    def began(self, run: Pass) -> None:
        """A pass begins: gradients may have been cleared or replaced since the one before."""
        if run.outer is None:
            self.check(at_step=False)
        self.passes.append(run)

    def ended(self, run: Pass, *, running: bool = True) -> None:
        """A pass has ended; ``running`` is False if it was found later that it had been broken off."""
        put = run.outcome(None, ended=running)
        self._put(run, put)
        run.accumulates = run.accumulates or bool(put)
        self.has_trained = self.has_trained or run.trained
        run.close()
        if run.outer is not None:
            self.nested |= run.unused
        standing = {
            name: one for name in put if (one := self.parameter(name)) is not None and one.grad is not None
        }
        gradients = [self._gradients(name, parameter) for name, parameter in standing.items()]
        for name, now in zip(standing, look(gradients), strict=True):
            run.shares[name] = now, self._standing.get(name)
            self._standing[name] = now

    def settle(self, names: Iterable[str]) -> None:
        """An optimizer steps inside a running pass: note what that has put into these layers by now."""
        for run in self.passes:
            self._put(run, run.outcome(names, ended=False))

    def _put(self, run: Pass, names: Iterable[str]) -> None:
        for name in names:
            run.into[name] = ()
            parameter = self.parameter(name)
            if parameter is not None:
                self._after[name] = GradientState(parameter)

    def check(self, names: Iterable[str] | None = None, *, at_step: bool) -> None:
        """Look at what has become of the gradients since the last look: of these layers, or of all in use."""
        if names is None:
            names = dict.fromkeys(name for run in self.passes for name in run.candidates)
            names |= dict.fromkeys(self.untold)
        changed: dict[str, tuple[Change, list[Tensor]]] = {}
        for name in names:
            parameter = self._looked_at(name)
            if parameter is None:
                continue
            state, gradient = self._after.get(name), parameter.grad
            change: Change = "replaced" if state is None else state.change(parameter)
            if gradient is None:
                self._take_out(name)
                self._standing.pop(name, None)
            elif change != "none" or not at_step or self._has_several(name):
                changed[name] = change, self._gradients(name, parameter)
            if change != "none":
                self._after[name] = GradientState(parameter)
        self._judge(changed)

    def _judge(self, changed: Mapping[str, tuple[Change, list[Tensor]]]) -> None:
        """Gradients were changed in place, or put there by hand: what are they made of, or are they zeros?"""
        now = dict(zip(changed, look([gradients for _, gradients in changed.values()]), strict=True))
        unclear = [name for name, (change, _) in changed.items() if self._is_unclear(name, change, now[name])]
        clear = [name for name in changed if name not in set(unclear)]
        replaced = [name for name in clear if changed[name][0] == "replaced"]
        put = [name for name in replaced if self._sources(name)]
        for name, found in zip(put, still_there([now[name] for name in put], None), strict=True):
            self._fill(name, dict.fromkeys(self._sources(name), (found,)))
        for kind in ("replaced", "touched", "none"):  # what was cleared at once was cleared in the same way
            same = [name for name in clear if changed[name][0] == kind and name not in set(put)]
            before = [self._standing.get(name) for name in same]
            for name, found in zip(same, still_there([now[name] for name in same], before), strict=True):
                self._keep(name, found)
        self._explain({name: now[name] for name in unclear})
        self._standing |= now

    def _keep(self, name: str, found: tuple[Presence, int]) -> None:
        """What was in the ``.grad`` of a layer is in it still, if there is anything."""
        passes = {run: (*run.into[name], found) for run in self.passes if name in run.into}
        if passes and name not in self.untold:
            self._fill(name, passes)
        elif settled((found,)) is None:
            self._take_out(name)
        else:
            self.untold.add(name)

    def _has_several(self, name: str) -> bool:
        """Whether a layer's gradient may be of other passes than the one that has just been through it."""
        if name in self.untold:
            return True
        runs = [run for run in self.passes if name in run.candidates]
        return len(runs) > 1 or any(name not in run.reached or name not in run.into for run in runs)

    def _outside(self, name: str) -> list[Pass]:
        """The passes that made a gradient for a layer since its last step which is not in ``.grad`` now."""
        return [run for run in self._made(name) if name not in run.into]

    def _made(self, name: str) -> list[Pass]:
        made = [run for run in self.passes if name in run.made_for]
        # of a gradient that is itself differentiated, as that of an inner loop is, the loss is another one
        return [run for run in made if not run.creates_graph or run.accumulates] or made

    def _transformed(self, name: str) -> list[Pass]:
        """The passes of torch.func since the last step: the innermost derivatives are not of them."""
        found = [run for run in self.passes if name in run.reached and run.level and run.outer is None]
        return [run for run in found if run.level == min(run.level for run in found)]

    def _is_unclear(self, name: str, change: Change, now: Look) -> bool:
        """Whether several passes may be in what stands there now."""
        if not is_immediate(now.elements.device):
            return False
        if change == "replaced":
            if name in self.untold:
                return True
            candidates = dict.fromkeys(run for run in self.passes if name in run.into or name in run.made_for)
            return len(candidates) + len(self._transformed(name)) > 1
        if name in self.untold:
            return False
        return bool(self._outside(name) or (change == "touched" and self._transformed(name)))

    def _sources(self, name: str) -> list[Pass]:
        """Of what a gradient is made that was put there by hand: of what passes have made since the last step."""
        made, transformed = self._made(name), self._transformed(name)
        if made or transformed:
            return made or (transformed if len(transformed) == 1 else [])
        # FSDP takes the gradients of weights that it has gathered, and puts their shards there after the pass
        return [run for run in self.passes if name in run.unused & run.reached and run.accumulates]

    def _explain(self, now: Mapping[str, Look]) -> None:
        """Tell by the numbers which passes are in gradients that several may be in."""
        parts = {name: self._parts(name, seen) for name, seen in now.items()}
        votes: dict[Pass, set[bool]] = {}
        for part in parts.values():
            for run, counts in (part or {}).items():
                if counts is not None:
                    votes.setdefault(run, set()).add(counts)
        for name, part in parts.items():
            if part is None:
                self._give_up(name)
                continue
            for run, counts in part.items():  # a pass of zeros shows nothing here, but may do so elsewhere
                answers = votes.get(run, set()) if counts is None else {counts}
                part[run] = answers.pop() if len(answers) == 1 else None
            certain = {
                run: True if counts is None and name in run.into else counts for run, counts in part.items()
            }
            if None in certain.values():
                self._give_up(name)
            else:
                self._fill(name, {run: () for run, counts in certain.items() if counts})

    def _parts(self, name: str, now: Look) -> dict[Pass, bool | None] | None:
        """Which of the passes that may be in a layer's ``.grad`` are; None if that cannot be told."""
        candidates = dict.fromkeys([run for run in self.passes if name in run.into] + self._made(name))
        shares = {run: run.share(name) for run in candidates}
        if self._is_multiple(name, now):
            shown = {run: any(bool(part.any()) for part in share) for run, share in shares.items()}
            return (
                None
                if name in self.untold
                else {run: True if name in run.into else False if shown[run] else None for run in candidates}
            )
        found = _made_of_parts(now.values, list(shares.values()))
        if found is None:
            others = self._outside(name) or self._transformed(name) or name in self.untold
            return None if others else dict.fromkeys(candidates, True)
        if self._transformed(name) and True not in found:
            return None  # cleared, or the derivative that was put there is zero
        return dict(zip(candidates, found, strict=True))

    def _is_multiple(self, name: str, now: Look) -> bool:
        """Whether a gradient is what stood there before, or a multiple of it, as after clipping by the norm."""
        before = self._standing.get(name)
        if before is None or before.lengths != now.lengths:
            return False
        found = [made_of(one, [other]) for one, other in zip(now.values, before.values, strict=True)]
        return [True] in found and all(one in ([True], [None]) for one in found)

    def _give_up(self, name: str) -> None:
        transformed = self._transformed(name)
        if len(transformed) == 1 and not self._made(name):
            self._fill(name, dict.fromkeys(transformed, ()))
            return
        self._take_out(name)
        self.untold.add(name)

    def _fill(self, name: str, passes: Mapping[Pass, Gate]) -> None:
        """These passes, and no others, are in the ``.grad`` of a layer now."""
        self._take_out(name)
        for run, gate in passes.items():
            left = settled(gate)
            if left is not None:
                run.into[name] = left

    def _take_out(self, name: str) -> None:
        self.untold.discard(name)
        for run in self.passes:
            run.into.pop(name, None)

    def put_in_by_hand(self, names: Iterable[str]) -> None:
        """Where no ``.grad`` is used at all, what passes handed to the caller are the gradients of the step."""
        if any(run.into for run in self.passes) or any(name in self._standing for name in names):
            return
        for name in names:
            self._fill(name, dict.fromkeys(self._sources(name), ()))

    def stepped(self, names: Iterable[str]) -> None:
        """The optimizer of these layers is about to step, and what it uses has been taken."""
        names = set(names)
        for run in self.passes:
            run.forget(names)
        for name in names:
            parameter = self._looked_at(name)
            if parameter is None or parameter.grad is None:
                self._take_out(name)

    def is_unused(self, name: str) -> bool:
        """Whether passes arrived at a layer that is trained, and none has made a gradient for its weights."""
        runs = [run for run in self.passes if name in run.reached]
        return any(name in run.unused for run in runs) and not any(name in run.candidates for run in runs)

    def forget(self, names: Iterable[str]) -> None:
        """What is in the ``.grad`` of these layers is of passes that were not seen."""
        names = set(names)
        for run in self.passes:
            run.forget(names)
        for name in names:
            self._take_out(name)
            self._after.pop(name, None)

    def drop_finished(self, untrained: Iterable[str], running: Iterable[Pass]) -> None:
        """Let go of the passes that are in no layer's ``.grad`` and cannot get there any more."""
        names, kept = set(untrained), set(running)
        for run in self.passes:
            run.forget(names)
        self.passes = [run for run in self.passes if run.candidates or run in kept]

    def clear(self) -> None:
        """Forget everything."""
        self.passes.clear()
        self._after.clear()
        self._standing.clear()
