"""Calls of a model beside that which it is trained by: they have to get what they got before. Nothing is run."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from typing import Any

from gradprobe.script.advice.edits import INSTEAD, Edit
from gradprobe.script.advice.losses import Loss
from gradprobe.script.advice.source import functions, line_of, of_function, own_expressions, stored

Names = Mapping[str, str]  # what the model is called, and what its trunk is called


def other_calls(source: str, file: str, loss: Loss, trunks: Names) -> Iterator[Edit]:
    r"""The other calls of a model in a file, of its trunk, unless the function calls ``eval()`` before.

    A supervised model returns more in training mode, and a validation may leave it there.

    Args:
        source: The file.
        file: Its name.
        loss: Where it is trained.
        trunks: What the model is called there, and what its trunk will be.

    Example:
        >>> from gradprobe.script.advice.losses import loss_at
        >>> from gradprobe.script.advice.source import statements
        >>> source = "l = f(net(x), y)\nl.backward()\nsgd.step()\ndef test(x):\n    return net(x)"
        >>> loss = loss_at(list(statements(source, 3)), "t.py", ["net"], 3)
        >>> [edit.code for edit in other_calls(source, "t.py", loss, {"net": "net.trunk"})]
        [('return net.trunk(x)',)]
    """
    for function in functions(source):
        known = _names_in(function, source, trunks, loss)
        in_eval = False
        for node in of_function(function) if known else ():
            text = ast.unparse(node) if not getattr(node, "body", None) else ""
            if any(f"{name}.eval()" in text for name in known):
                in_eval = True
            elif any(f"{name}.train(" in text for name in known):
                in_eval = False
            elif not in_eval and not _is_same(node, loss) and text:
                changed = _Trunks(known).visit(copy.deepcopy(node))
                if ast.unparse(changed) != text:
                    yield Edit(INSTEAD, line_of(node, file), (ast.unparse(changed),))


def _is_same(node: ast.stmt, loss: Loss) -> bool:
    return node.lineno in (loss.call.lineno, loss.statement.lineno)


def _names_in(function: ast.AST, source: str, trunks: Names, loss: Loss) -> dict[str, str]:
    """What a function can call the model: names that it does not give to something else, and its parameters."""
    if isinstance(function, ast.Module):
        return dict(trunks)
    body = of_function(function)
    if any(node.lineno == loss.call.lineno for node in body):
        return dict(trunks)
    arguments = getattr(function, "args", None)
    own = [one.arg for one in (arguments.posonlyargs + arguments.args if arguments else ())]
    assigned = {name for node in body for name in stored(node)} | set(own)
    known = {name: trunk for name, trunk in trunks.items() if name not in assigned}
    for name in _passed(getattr(function, "name", ""), own, source, trunks):
        known[name] = f"{name}.trunk"
    return known


def _passed(function: str, parameters: list[str], source: str, trunks: Names) -> Iterator[str]:
    """The parameters of a function that get the bare model somewhere."""
    bare = {name for name, trunk in trunks.items() if trunk == f"{name}.trunk"}
    for caller in functions(source):
        for node in of_function(caller):
            for call in own_expressions(node):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == function:
                    given = zip(parameters, call.args, strict=False)
                    yield from (name for name, value in given if ast.unparse(value) in bare)


class _Trunks(ast.NodeTransformer):
    """Calls the trunk where the model is called."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> Any:
        """Replace what is called."""
        self.generic_visit(node)
        trunk = self._names.get(ast.unparse(node.func))
        if trunk is not None:
            node.func = ast.parse(trunk, mode="eval").body
        return node
