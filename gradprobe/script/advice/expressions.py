"""Expressions of a script: what they are of, and the same with another text in a place. Nothing is run."""

from __future__ import annotations

import ast
import copy
from collections.abc import Collection, Iterator
from typing import Any

from gradprobe.script.advice.source import own_expressions, targets

OUT, _JOINT = "__output__", "__joint__"
_LABELS = ("labels", "label", "targets", "target", "y")


def terms_of(value: ast.expr | None) -> Iterator[ast.expr]:
    """The terms of a sum."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        yield from terms_of(value.left)
        yield from terms_of(value.right)
    elif value is not None:
        yield value


def differentiated(node: ast.stmt) -> list[ast.expr]:
    """What ``backward`` is called on, or with, in a simple statement."""
    for call in ast.walk(node) if isinstance(node, (ast.Expr, ast.Assign)) else ():
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "backward":
            return [*call.args, call.func.value]
    return []


def calls_of(node: ast.stmt, models: Collection[str]) -> list[ast.Call]:
    """The calls of a model in a statement."""
    inside = own_expressions(node)
    return [one for one in inside if isinstance(one, ast.Call) and ast.unparse(one.func) in models]


def is_unpacked(node: ast.stmt, call: ast.Call) -> bool:
    """Whether a statement takes what a call returns apart."""
    return isinstance(node, ast.Assign) and node.value is call and len(targets(node)) > 1


def copied(value: ast.expr, call: ast.Call) -> ast.expr:
    """A copy of an expression that holds the same node for the call."""
    return copy.deepcopy(value, {id(call): call})


def values_of(node: ast.stmt) -> list[ast.expr]:
    """The expressions that a simple statement is of: of a backward pass what it differentiates."""
    value = getattr(node, "value", None)
    return differentiated(node) or [value if isinstance(value, ast.expr) else ast.Constant(None)]


def only_scales(node: ast.stmt, names: Collection[str]) -> bool:
    """Whether a statement takes a name times, or plus, what has nothing to do with it."""
    value = getattr(node, "value", None)
    if isinstance(value, ast.Name):
        return True
    if not isinstance(value, ast.BinOp):
        return False
    return any(isinstance(side, ast.Name) and side.id in names for side in (value.left, value.right))


def only_logs(node: ast.stmt) -> bool:
    """Whether a statement takes a number out, as a log does."""
    text = ast.unparse(node)
    return any(word in text for word in (".item()", ".detach()", "float("))


def has_output(node: ast.AST) -> bool:
    """Whether an expression is of the model's output."""
    return any(isinstance(one, ast.Name) and one.id == OUT for one in ast.walk(node))


def is_part(value: ast.expr) -> bool:
    """Whether an expression is a part of the output: its own loss."""
    if isinstance(value, ast.Attribute):
        return value.attr == "loss" and has_output(value.value)
    return isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id == OUT


def labels_of(call: ast.Call) -> ast.expr | None:
    """The labels that a model is called with."""
    for keyword in call.keywords:
        if keyword.arg in _LABELS:
            return keyword.value
    for keyword in call.keywords:
        if keyword.arg is None:
            return ast.Subscript(keyword.value, ast.Constant("labels"), ast.Load())
    return call.args[-1] if len(call.args) > 1 else None


def free_name(name: str, used: Collection[str]) -> str:
    """The name with underscores until it is not used yet."""
    while name in used:
        name += "_"
    return name


def with_texts(node: ast.stmt, *texts: tuple[ast.expr, str]) -> str:
    """A statement on one line, with texts in place of parts of it."""
    node = copy.deepcopy(node, {id(part): part for part, _ in texts})
    for place, (part, _) in enumerate(texts):
        node = Swapped(part, f"{_JOINT}{place}_").visit(node)
    text = ast.unparse(node)
    for place, (_, new) in enumerate(texts):
        text = text.replace(f"{_JOINT}{place}_", new)
    return text


class Swapped(ast.NodeTransformer):
    """Puts a name where a node is."""

    def __init__(self, old: ast.expr | None, name: str) -> None:
        self._old, self._name = old, name

    def visit(self, node: ast.AST) -> Any:
        """Replace the node, or look into it."""
        return ast.Name(self._name, ast.Load()) if node is self._old else self.generic_visit(node)
