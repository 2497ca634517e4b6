"""Which backward passes are in a layer's ``.grad``, and so in what its optimizer is about to use.

An output's gradient is that of the backward passes whose gradient is in the ``.grad`` of the layer's weights when
the optimizer steps (docs/which-gradient.md). What is in ``.grad`` is not asked of the calls that the user makes,
since gradients are cleared and put back in many ways; it is read from ``.grad`` itself, of one parameter for each
layer: at its arrival in a pass, at the end of the pass, before the next pass, and at the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from torch import Tensor, nn

from gradprobe.measure.layer_weights import LayerWeights
from gradprobe.measure.passes import Pass, Passes
from gradprobe.measure.presence import (
    Change,
    Gate,
    GradientState,
    Look,
    Presence,
    look,
    settled,
    still_there,
)
from gradprobe.measure.reduction.values import is_immediate
from gradprobe.measure.shares import Question, answers, are_multiples, is_zero

_ENOUGH = 2  # uneventful iterations, after which gradients are no longer looked at in advance


class PassesInGrad:
    """Keeps, for every layer, which passes are in the ``.grad`` of its weights.

    Args:
        modules: The layers by name.

    Attributes:
        passes: Those that may still be in some layer's ``.grad``, or get there by hand.
        untold: Layers with something in ``.grad`` of which it cannot be told which passes it came from.
        asked: Layers of which it will be known later whether it can be told, since a device was not waited for.
        ambiguous: Those of them whose optimizers have stepped with it in this iteration.
        has_trained: Whether any of the layers is trained, or was.
        broken: Layers whose record has ended, since something of ours failed.
        nested: Layers that were reached by a pass inside another one, which put nothing into their weights.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.weights = LayerWeights(modules)
        self._after: dict[str, GradientState] = {}
        self._standing: dict[str, Look] = {}
        self._is_immediate = True
        self._uneventful = 0  # iterations in a row in which nothing had been done to gradients before the step
        self._had_pass = False
        self.passes = Passes()
        self.ambiguous: set[str] = set()
        self.untold: set[str] = set()
        self.asked: list[tuple[str, tuple[Presence, int]]] = []
        self.nested: set[str] = set()
        self.broken: set[str] = set()
        self.has_trained = any(self.weights.first(name) is not None for name in self.weights)

    @property
    def _is_wary(self) -> bool:
        """Whether gradients are looked at in advance, since something may be done to them before the step."""
        return self._uneventful < _ENOUGH or not self._is_immediate

    def arrived(self, run: Pass, name: str) -> None:
        """A pass arrived at an output of a layer."""
        parameter = self.weights.first(name)
        if parameter is not None and parameter.grad is not None:
            if name not in self._after:  # it was there before the window
                found = look([self.weights.gradients(name, parameter)])[0]
                self._after[name], self._standing[name] = GradientState(parameter), found
                if (found.presence.known() or [False])[found.place]:
                    self.untold.add(name)
            self._uneventful = 0  # it will be added to what is there, which may have been cleared in any way
        run.arrived(name, parameter, self.weights)

    def was_reached(self, name: str) -> bool:
        """Whether any pass arrived at a layer since its optimizer's last step."""
        return any(name in run.reached for run in self.passes)

    def is_filled(self, name: str) -> bool:
        """Whether anything is in the ``.grad`` of a layer, as far as it is known."""
        return name in self.untold or any(name in run.into for run in self.passes)

    def told(self, names: Set[str]) -> Set[str]:
        """The optimizer of these layers is about to step: those of which it can be told what it uses."""
        self.ambiguous |= self.untold & names
        return names - self.untold

    def began(self, run: Pass) -> None:
        """A pass begins: gradients may have been cleared or replaced since the one before."""
        if run.outer is None:
            self.check()
        self._had_pass = True
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
        if not self._is_wary:
            for name in put:
                self._standing.pop(name, None)
            return
        standing = {
            name: one for name in put if (one := self.weights.first(name)) is not None and one.grad is not None
        }
        gradients = [self.weights.gradients(name, parameter) for name, parameter in standing.items()]
        for name, now in zip(standing, look(gradients), strict=True):
            run.shares[name] = now, self._standing.get(name)
            self._standing[name] = now

    def settle(self, names: Iterable[str]) -> None:
        """An optimizer steps inside a running pass: note what that has put into these layers by now."""
        for run in self.passes:
            self._put(run, run.outcome(names, ended=False))

    def _put(self, run: Pass, parameters: Mapping[str, nn.Parameter]) -> None:
        run.into |= dict.fromkeys(parameters, ())
        self._after |= {name: GradientState(parameter) for name, parameter in parameters.items()}

    def check(self, names: Iterable[str] | None = None) -> set[str]:
        """Look at what has become of the gradients since the last look: of these layers, or of all in use.

        Returns:
            The layers that have none.
        """
        if names is None:
            names = dict.fromkeys(name for run in self.passes for name in run.candidates)
            names |= dict.fromkeys(self.untold)
        changed: dict[str, tuple[Change, list[Tensor]]] = {}
        empty, gone = set[str](), set[str]()
        several = self.untold | self.passes.of_several()
        for name in names:
            state = self._after.get(name)
            # that which was looked at the last time; it may be frozen by now
            parameter = self.weights.looked_at(name, None if state is None else state.owner)
            if parameter is None or parameter.grad is None:
                (empty if parameter is None else gone).add(name)
                if state is not None and parameter is not None:
                    state.empty()
                continue
            change: Change = "replaced" if state is None else state.change(parameter)
            if change != "none":
                self._after[name] = GradientState(parameter)
                self._uneventful = 0
            if change != "none" or name in several or self._is_wary:
                changed[name] = change, self.weights.gradients(name, parameter)
        self._take_out(gone)
        for name in gone & self._standing.keys():
            del self._standing[name]
        self._judge(changed)
        return empty | gone

    def _judge(self, changed: Mapping[str, tuple[Change, list[Tensor]]]) -> None:
        """Gradients were changed in place, or put there by hand: what are they made of, or are they zeros?"""
        if not changed:
            return
        now = dict(zip(changed, look([gradients for _, gradients in changed.values()]), strict=True))
        unclear = [name for name, (change, _) in changed.items() if self._is_unclear(name, change, now[name])]
        clear = [name for name in changed if name not in set(unclear)]
        replaced = [name for name in clear if changed[name][0] == "replaced"]
        put = [name for name in replaced if self.passes.sources(name)]
        for name, found in zip(put, still_there([now[name] for name in put], None), strict=True):
            self._fill(name, dict.fromkeys(self.passes.sources(name), (found,)))
            if settled((found,)) is not None and self._may_have_been_cleared(name, now[name]):
                self._lose(name)
        put_elsewhere = {
            run for name in unclear if changed[name][0] == "touched" for run in self.passes.outside(name)
        }
        for kind in ("replaced", "touched", "none"):  # what was cleared at once was cleared in the same way
            same = [name for name in clear if changed[name][0] == kind and name not in set(put)]
            before = [self._standing.get(name) for name in same]
            for name, found in zip(same, still_there([now[name] for name in same], before), strict=True):
                if kind == "touched" and self._may_have_been_put(name, now[name], found, put_elsewhere):
                    unclear.append(name)
                else:  # zeros that no pass is in stay zeros
                    self._keep(name, found if self.is_filled(name) else now[name].gate)
        self._is_immediate = all(is_immediate(one.elements.device) for one in now.values())
        known = [name for name in unclear if is_immediate(now[name].elements.device)]
        self._explain({name: (changed[name][0], now[name]) for name in known})
        for name in set(unclear) - set(known):
            self._keep_multiple(name, now[name], changed[name][0])
        self._standing |= now

    def _keep(self, name: str, found: tuple[Presence, int]) -> None:
        """What was in the ``.grad`` of a layer is in it still, if there is anything."""
        passes = {run: (*run.into[name], found) for run in self.passes if name in run.into}
        if passes and name not in self.untold:
            self._fill(name, passes)
        elif settled((found,)) is None:
            self._take_out({name})
        else:
            self.untold.add(name)

    def _may_have_been_put(self, name: str, now: Look, part: tuple[Presence, int], elsewhere: Set[Pass]) -> bool:
        """Whether zeros that seem to have stayed may be another pass', or what is left of it after a clear."""
        is_kept = self.is_filled(name) and name not in self.untold and is_immediate(now.elements.device)
        if not is_kept or not is_zero(now.values):
            return False
        is_there, outside = settled((part,)) is not None, self.passes.outside(name)
        return any(is_there or (run in elsewhere and is_zero(run.share(name))) for run in outside)

    def _may_have_been_cleared(self, name: str, now: Look) -> bool:
        """Whether zeros that were put there may be no derivative by torch.func: what that came to is not seen."""
        if not is_immediate(now.elements.device) or not is_zero(now.values):
            return False
        return any(run.level and not run.is_silent(name) for run in self.passes.sources(name))

    def _is_unclear(self, name: str, change: Change, now: Look) -> bool:
        """Whether several passes may be in what stands there now."""
        if not is_immediate(now.elements.device):
            return self._is_mixed(name, change)
        if change == "replaced":
            if name in self.untold:
                return True
            candidates = [run for run in self.passes if name in run.into or name in run.made_for]
            if len(candidates) + len(self.passes.transformed(name)) > 1:
                return True
            return is_zero(now.values) and not all(is_zero(run.share(name)) for run in candidates)
        if name in self.untold or not (now.presence.known() or [True])[now.place]:
            return False
        return bool(self.passes.outside(name) or (change == "touched" and self.passes.transformed(name)))

    def _is_mixed(self, name: str, change: Change) -> bool:
        """The same where the numbers cannot be asked: whether derivatives of different kinds may be in it."""
        several = [run for run in self.passes if name in run.into or name in run.made_for]
        kinds = {run.accumulates for run in several}
        if change == "replaced":
            return len(kinds) + len(self.passes.transformed(name)) > 1
        return bool(self.passes.outside(name) or self.passes.transformed(name))

    def _explain(self, found: Mapping[str, tuple[Change, Look]]) -> None:
        """Tell by the numbers which passes are in gradients that several may be in, some of them put there."""
        for name, passes in answers({name: self._question(name, *of) for name, of in found.items()}).items():
            if passes is None:
                change, now = found[name]
                self._give_up(name, is_new=change == "replaced")
                if self._may_have_been_cleared(name, now):
                    self._lose(name)
            else:
                self._fill(name, dict.fromkeys(passes, ()))

    def _keep_multiple(self, name: str, now: Look, change: Change) -> None:
        """Without the numbers: what stood there counts if what is there now is a multiple, and none was added."""
        before = self._standing.get(name)
        added = any(not run.accumulates for run in self.passes.outside(name))
        inside = any(name in run.into for run in self.passes)
        if change == "replaced" or added or not inside or before is None or before.lengths != now.lengths:
            self._give_up(name)
        else:
            found = Presence(are_multiples(now.values, before.values)), 0
            self.asked.append((name, found))
            self._keep(name, found)

    def _question(self, name: str, change: Change, now: Look) -> Question[Pass]:
        inside = [run for run in self.passes if name in run.into]
        before = self._standing.get(name)
        return Question(
            now.values,
            [] if before is None else before.values,
            {run: run.share(name) for run in dict.fromkeys(inside + self.passes.made(name))},
            set(inside),
            bool(self.passes.transformed(name)),
            name in self.untold,
            change,
        )

    def _give_up(self, name: str, *, is_new: bool = False) -> None:
        transformed = self.passes.transformed(name)
        is_empty = is_new or not any(name in run.into for run in self.passes)
        if len(transformed) == 1 and not self.passes.made(name) and is_empty:
            self._fill(name, dict.fromkeys(transformed, ()))
            return
        self._lose(name)

    def _lose(self, name: str) -> None:
        """It cannot be told any more which passes are in the ``.grad`` of a layer."""
        self._take_out({name})
        self.untold.add(name)

    def _fill(self, name: str, passes: Mapping[Pass, Gate]) -> None:
        """These passes, and no others, are in the ``.grad`` of a layer now."""
        self._take_out({name})
        for run, gate in passes.items():
            left = settled(gate)
            if left is None:
                self._uneventful = 0
            else:
                run.into[name] = left

    def _take_out(self, names: Set[str]) -> None:
        self.untold -= names
        for run in self.passes:
            for name in names & run.into.keys():
                del run.into[name]

    def put_in_by_hand(self, names: Iterable[str]) -> None:
        """Where no ``.grad`` is used at all, what passes handed to the caller are the gradients of the step."""
        if any(run.into for run in self.passes) or any(name in self._standing for name in names):
            return
        for name in names:
            self._fill(name, dict.fromkeys(self.passes.sources(name), ()))

    def stepped(self, names: Set[str], empty: Set[str]) -> None:
        """The optimizer of these layers is about to step, and what it uses has been taken.

        Args:
            names: The layers.
            empty: Those that have no gradient.
        """
        for run in self.passes:
            run.is_newer = False
            run.forget(names)
        self._take_out(names & empty)

    def forget(self, names: Iterable[str]) -> None:
        """What is in the ``.grad`` of these layers is of passes that were not seen."""
        names = set(names)
        for run in self.passes:
            run.forget(names)
        for name in names:
            self._take_out({name})
            self._after.pop(name, None)

    def closed(self, untrained: Iterable[str], running: Iterable[Pass]) -> None:
        """An iteration has ended: let go of the passes that cannot get into any layer's ``.grad`` any more."""
        self._uneventful, self._had_pass = self._uneventful + self._had_pass, False
        names, kept = set(untrained), set(running)
        for run in self.passes:
            if not run.root.is_newer:
                run.forget(names)
        self.passes[:] = [run for run in self.passes if run.candidates or run.root.candidates or run in kept]

    def clear(self) -> None:
        """Forget everything."""
        for run in self.passes:
            run.let_go()
        self.passes.clear()
        self._after.clear()
        self._standing.clear()
