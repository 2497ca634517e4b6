"""Where a script computes the loss of a model, and the same with the losses of its branches. Nothing is run."""

from __future__ import annotations

import ast
import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.script.advice.edits import INSTEAD, Edit
from gradprobe.script.advice.expressions import (
    OUT,
    Swapped,
    calls_of,
    copied,
    differentiated,
    free_name,
    has_output,
    is_part,
    is_unpacked,
    labels_of,
    only_logs,
    only_scales,
    terms_of,
    values_of,
    with_texts,
)
from gradprobe.script.advice.source import encloses, line_of, own_expressions, stored, targets

_KEPT = "supervised"
_CUTS = ("detach", "item", "numpy", "tolist")  # no gradient passes
_BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.Try, ast.Match)


@dataclass(frozen=True)
class Loss:
    """How a script computes the loss of a model.

    Attributes:
        call: The statement that calls the model.
        statement: The statement that makes the loss of its output.
        function: What computes it of the output and the target, as source; None: the model does so itself.
        target: The target as source; ``"None"`` where there is none.
        edits: The same with the losses of the branches.
    """

    call: ast.stmt
    statement: ast.stmt
    function: str | None
    target: str
    edits: tuple[Edit, ...]


def loss_at(
    found: Sequence[ast.stmt],
    file: str,
    models: Collection[str],
    step: int | None = None,
    tensors: Collection[str] | None = None,
) -> Loss | None:
    r"""The loss that a function differentiates, or returns; None where it cannot be told apart.

    Args:
        found: The statements of the function.
        file: Its file.
        models: What the model is called there.
        step: The line of the optimizer's step; None: the function returns the loss, or a library steps.
        tensors: Names that hold tensors there; None where that is not known.

    Example:
        >>> from gradprobe.script.advice.source import statements
        >>> source = "loss = F.nll_loss(model(x), y)\nscaler.scale(loss / 4).backward()\nscaler.step(optimizer)"
        >>> loss = loss_at(list(statements(source, 3)), "train.py", ["model"], 3)
        >>> loss.function, loss.target
        ('F.nll_loss', 'y')
        >>> source = "out = model(x)\nloss = F.nll_loss(out.log_softmax(1), y)\nloss.backward()\noptimizer.step()"
        >>> loss_at(list(statements(source, 4)), "train.py", ["model"], 4).function
        'lambda out, y: F.nll_loss(out.log_softmax(1), y)'
    """
    end = _differentiates(found, step)
    if end is None:
        return None
    ahead = list(found[: found.index(end) + 1])
    calling = [node for node in ahead if calls_of(node, models)]
    if not calling:
        return None
    last = calling[-1]
    if getattr(last, "body", None):
        return None
    calls, rest = calls_of(last, models), ahead[ahead.index(last) :]
    if len(calls) == 1:
        return _Flow(calls[0], rest, found, tensors).loss(file)
    return _sum_at(last, [_Flow(call, rest, found, tensors) for call in calls], file)


def _sum_at(node: ast.stmt, flows: Sequence[_Flow], file: str) -> Loss | None:
    """A loss that is a sum over several calls of the model, each in a term of its own."""
    value = getattr(node, "value", None)
    terms = [term for term in terms_of(value) if any(one.call in ast.walk(term) for one in flows)]
    if len(terms) != len(flows) or not flows[0].makes_the_loss(node):
        return None
    joint = [flow.joint(term) for flow, term in zip(flows, terms, strict=True)]
    texts = [
        (term, f"{one[0]}({ast.unparse(flow.call)}, {one[2]})")
        for flow, term, one in zip(flows, terms, joint, strict=True)
        if one
    ]
    if len(texts) != len(terms) or joint[0] is None:
        return None
    edit = Edit(INSTEAD, line_of(node, file), (with_texts(node, *texts),))
    return Loss(node, node, joint[0][1], joint[0][2], (edit,))


def _differentiates(found: Sequence[ast.stmt], step: int | None) -> ast.stmt | None:
    """The statement with the backward pass before the step, or that returns the loss."""
    simple = [node for node in found if not getattr(node, "body", None)]
    backward = [node for node in simple if differentiated(node) and (step is None or node.lineno <= step)]
    if backward:
        return backward[-1]
    returns = [node for node in simple if isinstance(node, ast.Return) and node.value is not None]
    return returns[-1] if step is None and returns else None


class _Flow:
    """How the output of one call becomes the loss: names, and what they are of the output."""

    def __init__(
        self,
        call: ast.Call,
        found: Sequence[ast.stmt],
        function: Sequence[ast.stmt],
        tensors: Collection[str] | None,
    ) -> None:
        self.call, self.first, self.found, self.function, self.tensors = call, found[0], found, function, tensors
        self.known: dict[str, ast.expr] = {}

    def loss(self, file: str) -> Loss | None:
        """The loss, and what to write in its place."""
        for node in self.found:
            if self.makes_the_loss(node):
                value = self._scalar(self._value_of(node))
                joint = self.joint(value) if self._runs_in_line(node) else None
                if joint is None:
                    return None
                edits = self._edits(node, value, joint[0], joint[2], file)
                return Loss(self.first, node, *joint[1:], tuple(edits))
            if not self._note(node):
                return None
        return None

    def _value_of(self, node: ast.stmt) -> ast.expr:
        """The expression of a statement that matters here, as it stands in the script."""
        values = values_of(node)
        return next((one for one in values if self._uses(one)), values[-1])

    def _scalar(self, value: ast.expr) -> ast.expr:
        """The loss itself in what is scaled, or added to, afterwards."""
        while True:
            if isinstance(value, ast.BinOp) and not isinstance(value.op, ast.Sub):
                sides = [side for side in (value.left, value.right) if self._uses(side)]
            elif isinstance(value, ast.Call) and getattr(value.func, "attr", "") == "scale":  # a gradient scaler's
                sides = [side for side in value.args if self._uses(side)]
            else:
                return value
            if len(sides) != 1:
                return value
            value = sides[0]

    def _uses(self, node: ast.AST) -> bool:
        """Whether an expression is of the output, so that a gradient comes back to it."""
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in _CUTS:
            return False
        mine = node is self.call or (isinstance(node, ast.Name) and node.id in self.known)
        return mine or any(self._uses(one) for one in ast.iter_child_nodes(node))

    def makes_the_loss(self, node: ast.stmt) -> bool:
        """Whether what a statement makes of the output is only scaled and added to from there on."""
        if not self._uses(self._value_of(node)):
            return False
        if node is self.found[-1]:
            return True
        names, rest = set(targets(node)), self.found[self.found.index(node) + 1 :]
        if len(names) != 1:
            return False
        for later in rest:
            used = {one.id for part in values_of(later) for one in ast.walk(part) if isinstance(one, ast.Name)}
            if later is self.found[-1]:
                return bool(names & used) and not (self.known.keys() - names) & used
            if differentiated(later):  # of another loss
                continue
            if names & stored(later) and not (isinstance(later, ast.AugAssign) or only_scales(later, names)):
                return False
            if names & used and (set(targets(later)) - names) and not only_logs(later):
                if not only_scales(later, names):
                    return False
                names |= set(targets(later))
        return False

    def _note(self, node: ast.stmt) -> bool:
        """Keep in mind what a statement makes of the output; whether that can be told."""
        changed = stored(node)
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and self._uses(node.value):
            target, value = node.targets[0], self._of_output(node.value)
            if isinstance(target, ast.Name):
                self.known[target.id] = value
                return self._runs_in_line(node)
            if isinstance(target, (ast.Tuple, ast.List)) and all(isinstance(one, ast.Name) for one in target.elts):
                for place, name in enumerate(target.elts):
                    assert isinstance(name, ast.Name)
                    self.known[name.id] = ast.Subscript(value, ast.Constant(place), ast.Load())
                return self._runs_in_line(node)
            return True
        return not changed & self.known.keys()

    def _runs_in_line(self, node: ast.stmt) -> bool:
        """Whether a statement runs once whenever the call does."""
        around = [one for one in self.function if isinstance(one, _BLOCKS) and encloses(one, node.lineno)]
        return node is self.first or all(encloses(one, self.first.lineno) for one in around)

    def _of_output(self, value: ast.expr) -> ast.expr:
        """An expression in which the model's output is called `OUT`, whatever the script calls it."""
        call, known = self.call, self.known

        class Replaced(ast.NodeTransformer):
            def visit(self, node: ast.AST) -> Any:
                if node is call:
                    return ast.Name(OUT, ast.Load())
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in known:
                    return copy.deepcopy(known[node.id])
                return self.generic_visit(node)

        return Replaced().visit(copied(value, call))  # type: ignore[no-any-return]

    def joint(self, value: ast.expr) -> tuple[str, str | None, str] | None:
        """The joint loss of an expression, as source; the function in it; and the target."""
        inside = self._of_output(value)
        target = self._target(inside)
        is_own = target is None and is_part(inside)
        if target is None:
            target = labels_of(self.call)
        if is_own and target is None:
            return None
        function = None if is_own else self._function(inside, target)
        shown = "None" if target is None else ast.unparse(target)
        return f'gp.DeepSupervisionLoss({function}, weight=0.3, schedule="constant")', function, shown

    def _edits(self, node: ast.stmt, value: ast.expr, joint: str, target: str, file: str) -> Iterator[Edit]:
        """The loss in place of that of the output alone, and the call where its output is used for more."""
        call = ast.unparse(self.call)
        if node is self.first and not is_unpacked(node, self.call):
            yield Edit(INSTEAD, line_of(node, file), (with_texts(node, (value, f"{joint}({call}, {target})")),))
            return
        names = stored(self.first)
        is_whole = getattr(self.first, "value", None) is self.call and len(targets(self.first)) == 1
        if is_whole and not any(self._loads(one, names) for one in self.function if one not in (self.first, node)):
            simple = with_texts(node, (value, f"{joint}({next(iter(names))}, {target})"))
            yield Edit(INSTEAD, line_of(node, file), (simple,))
            return
        kept = _KEPT
        while any(kept in stored(one) for one in self.function):
            kept += "_"
        first = (f"{kept} = {call}", with_texts(self.first, (self.call, f"{kept}.output")))
        if node is self.first:  # the model returns its loss beside its output
            yield Edit(INSTEAD, line_of(node, file), (*first, f"{ast.unparse(value)} = {joint}({kept}, {target})"))
            return
        yield Edit(INSTEAD, line_of(self.first, file), first)
        yield Edit(INSTEAD, line_of(node, file), (with_texts(node, (value, f"{joint}({kept}, {target})")),))

    @staticmethod
    def _loads(node: ast.stmt, names: Collection[str]) -> bool:
        return any(isinstance(one, ast.Name) and one.id in names for one in own_expressions(node))

    def _target(self, value: ast.expr) -> ast.expr | None:
        """What the output is compared to: the other argument of a call, or the other side of an operation."""
        for node in ast.walk(value):
            if isinstance(node, ast.Call):
                sides = [one for one in node.args if not isinstance(one, ast.Starred)]
            elif isinstance(node, ast.BinOp):
                sides = [node.left, node.right]
            else:
                continue
            if any(map(has_output, sides)):
                others = [one for one in sides if not has_output(one) and self._is_tensor(one)]
                if others:
                    return others[0]
        return None

    def _is_tensor(self, node: ast.expr) -> bool:
        names = [one for one in ast.walk(node) if isinstance(one, ast.Name)]
        if self.tensors is None:
            return bool(names)
        return any(one.id in self.tensors or one.id == "self" for one in names)

    def _function(self, value: ast.expr, target: ast.expr | None) -> str:
        if isinstance(value, ast.Call) and not value.keywords and len(value.args) == 2:
            is_plain = isinstance(value.args[0], ast.Name) and value.args[1] is target
            if is_plain and not has_output(value.func):
                return ast.unparse(value.func)
        used = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
        out = next((name for name, of in self.known.items() if isinstance(of, ast.Name)), None)
        out = out or free_name("out", used)
        y = target.id if isinstance(target, ast.Name) else free_name("y", used)
        text = ast.unparse(Swapped(target, y).visit(value))
        return f"lambda {out}, {y}: {text.replace(OUT, out)}"
