"""Outputs of layers that several backward passes go through, and rows of gradients that are chosen by pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor

from gradprobe.measure.accumulator import Accumulator, Key, ReducedGradients
from gradprobe.measure.passes import Pass
from gradprobe.measure.presence import Gate, factor, joint
from gradprobe.measure.reduction import Reducer
from gradprobe.network.hooks import GuardedHook


class Output:
    """An output of one call of a layer.

    Attributes:
        key: Of the layer.
        kept: The gradients that arrived and may have to be added up, each with its pass.
        reduced: The passes of which only rows are left.
        is_shared: Whether a pass went through it after which another one may.
        is_inner: Whether it was computed inside a transform of torch.func.
        shape: Its shape.
    """

    __slots__ = ("is_inner", "is_shared", "kept", "key", "reduced", "shape")

    def __init__(self, key: Key, *, is_inner: bool = False) -> None:
        self.key, self.is_inner = key, is_inner
        self.shape: tuple[int, ...] = ()
        self.kept: list[tuple[Pass, Tensor]] = []
        self.reduced: set[Pass] = set()
        self.is_shared = False

    def keep(self, run: Pass, gradient: Tensor) -> None:
        """Keep a gradient that others may have to be added to."""
        self.kept.append((run, gradient.detach().clone()))
        self.is_shared = True
        self._set_apart({run})

    def reduce(self, runs: Set[Pass], rows: Iterable[ReducedGradients]) -> None:
        """Of these passes only the row of their sum is left: the last one has it."""
        last = [run for run, _ in self.kept if run in runs][-1]
        self.kept = [part for part in self.kept if part[0] not in runs]
        (last.rows_inside if self.is_inner else last.rows).extend(rows)
        for run in runs if len(runs) > 1 else ():
            run.together.setdefault(self.key[0], set()).update(runs)
        self._set_apart(runs)
        self.reduced |= runs

    def _set_apart(self, runs: Set[Pass]) -> None:
        for run in runs if self.reduced else ():
            run.apart.setdefault(self.key[0], set()).update(self.reduced - runs)
            for other in self.reduced - runs:
                other.apart.setdefault(self.key[0], set()).add(run)

    def fold(self) -> None:
        """Add up what is sure to share its fate, and let go of what can never count."""
        kept: list[tuple[Pass, Tensor]] = []
        for run, tensor in self.kept:
            if not run.may_count:
                continue
            if kept and _share_fate(kept[-1][0], run):
                tensor = tensor + kept.pop()[1]
            kept.append((run, tensor))
        self.kept = kept


def _share_fate(one: Pass, other: Pass) -> bool:
    """Whether two passes are in the ``.grad`` of the same layers, for certain, and have the same scale.

    One that an optimizer has used counts for frozen layers too when the iteration ends, wherever it is by then.
    """
    gates = (*one.into.values(), *other.into.values())
    alike = one.into.keys() == other.into.keys() and one.scale is other.scale
    alike = alike and one.is_counting == other.is_counting
    by_hand = any(run.made_for - run.into.keys() for run in (one, other))  # one of them may be put there alone
    return alike and bool(gates) and not any(gates) and not by_hand


class GradientHook(GuardedHook):
    """A hook of one output of one call.

    Args:
        add: Gets the output and its gradient.
        output: The output.
        failed: Gets what is raised.
    """

    __slots__ = ("_add", "_output")

    def __init__(
        self, add: Callable[[Output, Tensor], None], output: Output, failed: Callable[[Exception], None]
    ) -> None:
        super().__init__(None, failed)
        self._add, self._output = add, output

    def __call__(self, gradient: Tensor | None) -> None:
        """Collect the gradient; nothing is traced here, since no output of what is traced has a hook."""
        try:
            if gradient is not None:  # a node with several outputs has none where the loss does not depend on one
                self._add(self._output, gradient)
        except Exception as error:
            self.failed(error)


class Outputs:
    """The outputs that several passes have gone through, or may go through: their gradients are added up.

    Args:
        reducer: Reduces the sums.
        refused: Gets a sentence for each key that could not be measured.
    """

    def __init__(self, reducer: Reducer, refused: dict[Key, str]) -> None:
        self._reducer, self._refused = reducer, refused
        self._kept: dict[Output, None] = {}
        self._recomputed: dict[tuple[Any, str, int], Output] = {}
        self._calls = Counter[tuple[int, Any, str]]()

    def recomputed(self, key: Key, task: int) -> Output:
        """An output that a checkpoint computes inside a pass, anew in each: it is one output all the same."""
        node = torch._C._current_autograd_node()
        place = (task, node, key[0])
        self._calls[place] += 1
        return self._recomputed.setdefault((node, key[0], self._calls[place]), Output(key))

    def keep(self, output: Output, run: Pass, gradient: Tensor) -> None:
        """Keep a gradient that others may have to be added to."""
        output.keep(run, gradient)
        self._kept[output] = None

    def fold(self) -> None:
        """A pass has ended: keep no more than is needed."""
        for output in list(self._kept):
            output.fold()
            if not output.kept:
                del self._kept[output]

    def let_go(self, names: Set[str], but: Set[Pass] = frozenset()) -> None:
        """Let go of what is kept of these layers, not of passes that the next iteration may count.

        A pass that does not count now may do so later, if the layer is frozen then: its row stays.
        """
        for output in list(self._kept):
            if output.key[0] in names:
                for run in dict.fromkeys(run for run, _ in output.kept if run not in but and run.may_count):
                    total, divisor = _sum([(one, tensor, ()) for one, tensor in output.kept if one is run])
                    output.reduce({run}, self._reduced(output.key, total, divisor))
                output.kept = [part for part in output.kept if part[0] in but]
                if not output.kept:
                    del self._kept[output]
        if not self._kept:
            self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._recomputed.clear()
        self._calls.clear()

    def taken(
        self, chosen: Mapping[Pass, Mapping[str, Gate]], bad: Set[str], scale: Tensor | None, done: Set[str]
    ) -> list[ReducedGradients]:
        """The rows of the passes that count.

        Args:
            chosen: The passes that count, each with the layers that it counts for.
            bad: Layers that are left out.
            scale: What gradients of passes without a scale of their own are divided by.
            done: Layers that are let go of next, so that a row is all that is left of them.
        """
        taken: list[ReducedGradients] = []
        for inside in (False, True):
            # outputs inside a derivative that is a part of the loss are looked at only where there are no others
            bad = bad | {key[0] for part in taken for key in part.keys if key is not None}
            for run, gates in chosen.items():
                wanted = {name: gate for name, gate in gates.items() if name not in bad}
                rows = run.rows_inside if inside else run.rows
                taken += _chosen_rows(rows, wanted, run.scale if run.scale is not None else scale)
            taken += self._added_up(chosen, bad, scale, done, inside=inside)
        return taken

    def _added_up(
        self,
        chosen: Mapping[Pass, Mapping[str, Gate]],
        bad: Set[str],
        scale: Tensor | None,
        done: Set[str],
        *,
        inside: bool,
    ) -> list[ReducedGradients]:
        """The rows of the sums over passes."""
        taken = []
        for output in self._kept:
            name = output.key[0]
            parts = [
                (run, tensor, chosen[run][name]) for run, tensor in output.kept if name in chosen.get(run, {})
            ]
            if not parts or name in bad or output.is_inner != inside:
                continue
            reduced = self._reduced(output.key, *_sum(parts))
            taken += _chosen_rows(reduced, {name: joint(gate for *_, gate in parts)}, scale)
            if name in done:  # they count again if they are not cleared before the next step
                output.reduce({run for run, *_ in parts}, reduced)
        return taken

    def _reduced(self, key: Key, total: Tensor, divisor: Tensor | None) -> list[ReducedGradients]:
        rows = Accumulator(self._reducer, self._refused)
        rows.add_now(key, total)
        return [row if divisor is None else row._replace(divisor=divisor) for row in rows.take()]


def parted(chosen: Mapping[Pass, Mapping[str, Gate]]) -> set[str]:
    """The layers of which rows are left of some passes that count, but not of what they come to together."""
    several = [(run, (run.together.keys() | run.apart.keys()) & names.keys()) for run, names in chosen.items()]
    return {name for run, names in several for name in names if run.is_parted(name, chosen)}


def _chosen_rows(
    rows: Iterable[ReducedGradients], layers: Mapping[str, Gate], scale: Tensor | None
) -> list[ReducedGradients]:
    """The rows of some layers, each with a gate, to be divided by a scale."""
    by = 1.0 if scale is None else scale
    chosen = [one.chosen(layers, one.divisor if isinstance(one.divisor, Tensor) else by) for one in rows]
    return [one for one in chosen if one is not None]


def _sum(parts: list[tuple[Pass, Tensor, Gate]]) -> tuple[Tensor, Tensor | None]:
    """The gradients of one output from several passes, added up, and what to divide the sum by, if known."""
    scales = {id(run.scale): run.scale for run, *_ in parts}
    scale = parts[0][0].scale if len(scales) == 1 else None
    if len(parts) == 1:
        return parts[0][1], scale
    with torch.no_grad():
        terms = [tensor * factor(gate) for _, tensor, gate in parts]
        if len(scales) > 1:  # each loss has a scaler of its own
            own = [1.0 if run.scale is None else run.scale for run, *_ in parts]
            terms, scale = [term / one for term, one in zip(terms, own, strict=True)], torch.ones(())
        return torch.stack(terms).sum(0), scale
