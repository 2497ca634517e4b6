"""Read from a script's source where its model is built and its loss is computed. Nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_WRAPPERS = (
    "DistributedDataParallel",
    "DDP",
    "DataParallel",
    "compile",
    "fully_shard",
    "FSDP",
    "prepare",
    "script",
)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class SourceLine:
    """A line of a script.

    Attributes:
        file: Its name.
        line: Its number.
        text: The statement there, on one line.
    """

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        where = f"line {self.line} of {self.file}"
        return f"{where}, `{self.text}`" if self.text else where


@dataclass(frozen=True)
class Loss:
    """Where a script computes the loss.

    Attributes:
        place: The line.
        function: What computes it from two arguments, as source; None: the model does so itself.
        arguments: The arguments as source: what the model returns and the target, or what it returns alone; empty
            if it is not clear what the model returns.
        joint: The loss as a function of these two, where the call does more with them than pass them on.
    """

    place: SourceLine
    function: str | None
    arguments: tuple[str, ...]
    joint: str | None = None


@dataclass(frozen=True)
class Site:
    """What is known of a script, for one of its models.

    Attributes:
        model: What the script calls the model.
        built: Where it is assigned, before anything is wrapped around it; None if that is not clear.
        optimizer: Where its optimizer is built, or where the library is called that builds it.
        loss: Where its loss is computed; None if that is not clear.
        part: Name of the part of the model that is called, where the model itself never is (``LightningModule``).
    """

    model: str | None = None
    built: SourceLine | None = None
    optimizer: SourceLine | None = None
    loss: Loss | None = None
    part: str = ""


def built_at(source: str, file: str, name: str, before: int) -> SourceLine | None:
    r"""Where a name last got a value at or before a line, in the same function, wrappers aside.

    Example:
        >>> source = "model = Net()\nmodel = model.to(device)\nmodel = DDP(model)\noptimizer = SGD(model)"
        >>> built_at(source, "train.py", "model", 4)
        SourceLine(file='train.py', line=2, text='model = model.to(device)')
    """
    assignments = [
        node
        for node in _statements(source, before)
        if name in _targets(node) and _last_line(node) <= before and not _wraps(node)
    ]
    return _source_line(file, assignments[-1], _last_line(assignments[-1])) if assignments else None


def is_loop_variable(source: str, name: str, line: int) -> bool:
    r"""Whether a ``for`` gives a name its values, in the function around a line.

    Example:
        >>> is_loop_variable("for net in nets:\n    train(net)", "net", 2)
        True
    """
    return any(isinstance(node, ast.For) and name in _stored(node) for node in _statements(source, line))


def loss_at(source: str, file: str, step: int, models: Collection[str]) -> Loss | None:
    r"""Where the loss is computed whose backward pass comes before the optimizer's step in the same function.

    Args:
        source: The script.
        file: Its name.
        step: The line of the step.
        models: What the model is called there.

    Example:
        >>> source = "loss = F.nll_loss(model(x), y)\nscaler.scale(loss / 4).backward()\nscaler.step(optimizer)"
        >>> loss = loss_at(source, "train.py", 3, ["model"])
        >>> loss.function, loss.arguments
        ('F.nll_loss', ('model(x)', 'y'))
        >>> source = "out = model(x)\nloss = F.nll_loss(out.log_softmax(1), y)\nloss.backward()\noptimizer.step()"
        >>> loss_at(source, "train.py", 4, ["model"]).joint
        'lambda out, y: F.nll_loss(out.log_softmax(1), y)'
        >>> loss_at("out = model(x, labels=y)\nout.loss.backward()\noptimizer.step()", "train.py", 3, ["model"])
    """
    statements = list(_statements(source, step))
    backward = next((node for node in reversed(statements) if node.lineno <= step and _differentiated(node)), None)
    if backward is None:
        return None
    names = _differentiated(backward)
    for node in reversed(statements):
        if node.lineno <= backward.lineno and isinstance(node, ast.Assign) and names & set(_targets(node)):
            loss = _loss(node, file, statements, models)
            if loss is not None:
                return loss
    return None


def _loss(node: ast.Assign, file: str, statements: Sequence[ast.stmt], models: Collection[str]) -> Loss | None:
    value, place = node.value, _source_line(file, node, node.lineno)
    if isinstance(value, ast.Attribute) and value.attr == "loss":
        return Loss(place, None, (ast.unparse(value.value),))
    if not isinstance(value, ast.Call) or len(value.args) != 2 or value.keywords:
        return None
    function, (prediction, target) = ast.unparse(value.func), value.args
    output = _output(value, prediction, statements[: statements.index(node)], models)
    if output is None:
        return Loss(place, function, ())
    arguments = (ast.unparse(output), ast.unparse(target))
    if output is prediction:
        return Loss(place, function, arguments)
    used = {part.id for part in ast.walk(value) if isinstance(part, ast.Name)}
    names = [_parameter_name(output, "out", used), _parameter_name(target, "y", used)]
    changed = ast.unparse(_Replaced(output, names[0]).visit(prediction))
    return Loss(place, function, arguments, f"lambda {', '.join(names)}: {function}({changed}, {names[1]})")


def _output(
    value: ast.Call, prediction: ast.expr, before: Sequence[ast.stmt], models: Collection[str]
) -> ast.expr | None:
    """What the model returns, if the loss gets it in the prediction alone: its one call, or a name for it."""

    def calls(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func) in models

    def has_output(name: str) -> bool:
        setting = next((one for one in reversed(before) if name in _stored(one)), None)
        return setting is not None and _targets(setting) == [name] and calls(getattr(setting, "value", None))

    outputs = [
        node
        for node in ast.walk(value)
        if isinstance(node, ast.expr) and (calls(node) or (isinstance(node, ast.Name) and has_output(node.id)))
    ]
    inside = list(ast.walk(prediction))
    same = len({ast.unparse(node) for node in outputs}) == 1 and not any(map(calls, outputs[1:]))
    return outputs[0] if same and all(node in inside for node in outputs) else None


def _parameter_name(argument: ast.expr, default: str, used: set[str]) -> str:
    """The argument's own name if it is one, else the default with underscores until it is not used yet."""
    if isinstance(argument, ast.Name):
        return argument.id
    while default in used:
        default += "_"
    return default


class _Replaced(ast.NodeTransformer):
    """Puts a name where a node is."""

    def __init__(self, old: ast.expr, name: str) -> None:
        self._old, self._name = old, name

    def visit(self, node: ast.AST) -> Any:
        return ast.Name(self._name, ast.Load()) if node is self._old else self.generic_visit(node)


def _stored(node: ast.stmt) -> set[str]:
    """The names that a statement assigns; those that statements nested in it assign do not count."""
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        parts: list[ast.AST] = [node]
    else:
        items = [item.optional_vars for item in getattr(node, "items", ())]
        parts = [part for part in (getattr(node, "target", None), *items) if part is not None]
    inside = [name for part in parts for name in ast.walk(part)]
    return {name.id for name in inside if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}


def _differentiated(node: ast.stmt) -> set[str]:
    """The names in what ``backward`` is called on or with, if this is a simple statement that calls it."""
    if not isinstance(node, (ast.Expr, ast.Assign)):
        return set()
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "backward":
            inside = [call.func.value, *call.args]
            return {part.id for tree in inside for part in ast.walk(tree) if isinstance(part, ast.Name)}
    return set()


def _statements(source: str, line: int) -> Iterator[ast.stmt]:
    """The statements of the innermost function around a line, or of the module, in order; nested blocks too."""
    try:
        tree: ast.AST = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    while True:
        inner = [node for node in _within(tree) if isinstance(node, _FUNCTIONS) and _encloses(node, line)]
        if not inner:
            break
        tree = inner[0]
    yield from sorted(
        (node for node in _within(tree) if isinstance(node, ast.stmt) and not isinstance(node, _FUNCTIONS)),
        key=lambda node: node.lineno,
    )


def _within(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function or module, nested functions included, but not the nodes of these."""
    for child in ast.iter_child_nodes(tree):
        yield child
        if not isinstance(child, _FUNCTIONS):
            yield from _within(child)


def _encloses(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= _last_line(node)


def _targets(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets]
    return [ast.unparse(node.target)] if isinstance(node, ast.AnnAssign) and node.value else []


def _wraps(node: ast.stmt) -> bool:
    value = getattr(node, "value", None)
    return isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in _WRAPPERS


def _last_line(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _source_line(file: str, node: ast.stmt, line: int) -> SourceLine:
    return SourceLine(file, line, shorten_text(ast.unparse(node)))


def shorten_text(text: str, width: int = 80) -> str:
    """A statement cut to a width.

    Example:
        >>> shorten_text("model = Net(a, b, c)", 12)
        'model = Net…'
    """
    return text if len(text) <= width else f"{text[: width - 1]}…"
