"""A script's source as statements, and where in it a model is built. Nothing is run."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass

WRAPPERS = (
    "DistributedDataParallel",
    "DDP",
    "DataParallel",
    "compile",
    "fully_shard",
    "FSDP",
    "FullyShardedDataParallel",
    "prepare",
    "setup",
    "script",
)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_ARMS = ("body", "orelse", "handlers", "finalbody", "cases")


@dataclass(frozen=True)
class SourceLine:
    """A statement of a script.

    Attributes:
        file: Its name.
        line: The number of its first line.
        text: The statement, on one line.
        last: The number of its last line; 0 where it has one line.
    """

    file: str
    line: int
    text: str = ""
    last: int = 0

    @property
    def end(self) -> int:
        """The number of its last line."""
        return self.last or self.line

    def __str__(self) -> str:
        where = f"lines {self.line} to {self.last}" if self.last > self.line else f"line {self.line}"
        where = f"{where} of {self.file}"
        return f"{where}, `{self.text}`" if self.text else where


def line_of(node: ast.stmt, file: str) -> SourceLine:
    """Where a statement is."""
    is_block = bool(getattr(node, "body", None))  # of a block the first line is shown
    text = ast.unparse(node).partition("\n")[0] if is_block else ast.unparse(node)
    last = end_of(node)
    return SourceLine(file, node.lineno, shorten_text(text), last if last > node.lineno else 0)


def built_at(
    source: str, file: str, name: str, before: int | None, made: int | None = None
) -> tuple[SourceLine, ast.stmt] | None:
    r"""After which statement a model is complete: it has its name, and nothing is wrapped around it yet.

    That is where it was made, or the last line up to the optimizer that gives the name another value or puts
    something into the model. Where the name gets its value in several branches of an ``if``, and it is not known
    in which, there is none.

    Args:
        source: The script.
        file: Its name.
        name: What the script calls the model.
        before: The line where the optimizer is built, in the same function; None: in another one.
        made: A line of the statement that made it, if that is known.

    Returns:
        The line, and the statement that gives the name its value.

    Example:
        >>> source = "model = Net()\nmodel = model.to(device)\nmodel = DDP(model)\noptimizer = SGD(model)"
        >>> str(built_at(source, "train.py", "model", 4)[0])
        'line 2 of train.py, `model = model.to(device)`'
    """
    found = list(statements(source, before or made or 1))
    inside = [node for node in found if before is None or end_of(node) < before or encloses(node, before)]
    assigning = [node for node in inside if name in targets(node) and not getattr(node, "body", None)]
    if made is not None:
        first = next((node for node in reversed(assigning) if encloses(node, made)), None)
    else:
        wrapping = next((node.lineno for node in inside if wraps(node, name)), before or 0)
        plain = [node for node in assigning if not wraps(node) and node.lineno < wrapping]
        first = plain[-1] if plain and not any(_exclusive(node, plain[-1], found) for node in plain[:-1]) else None
    if first is None:
        return None
    place = first
    for node in inside[inside.index(first) + 1 :] if not wraps(first) else ():
        if wraps(node, name) or (
            before is not None and encloses(node, before) and not getattr(node, "body", None)
        ):
            break
        if (name in targets(node) or _changes(node, name)) and not _exclusive(first, node, found):
            place = _outside(node, first, before, found)
    return line_of(place, file), first


def _changes(node: ast.stmt, name: str) -> bool:
    """Whether a statement puts something into what has a name: another head, for instance."""
    return any(target.startswith((f"{name}.", f"{name}[")) for target in targets(node))


def _outside(node: ast.stmt, first: ast.stmt, before: int | None, found: list[ast.stmt]) -> ast.stmt:
    """The largest block around a statement that the first one is not in, nor the optimizer."""
    for block in found:
        around = encloses(block, node.lineno) and getattr(block, "body", None)
        if around and not encloses(block, first.lineno) and not (before and encloses(block, before)):
            return block
    return node


def _exclusive(one: ast.stmt, other: ast.stmt, found: list[ast.stmt]) -> bool:
    """Whether only one of two statements can run: they are in different branches."""
    for block in found:
        if isinstance(block, (ast.If, ast.Try, ast.Match)) and encloses(block, one.lineno):
            arms = [_arm_of(block, node.lineno) for node in (one, other)]
            if encloses(block, other.lineno) and arms[0] != arms[1]:
                return True
    return False


def _arm_of(block: ast.stmt, line: int) -> tuple[str, int] | None:
    """Which branch of an ``if``, a ``try`` or a ``match`` a line is in."""
    begun = [
        (_begins(node), arm, place if arm in ("handlers", "cases") else 0)
        for arm in _ARMS
        for place, node in enumerate(getattr(block, arm, ()))
    ]
    before = [one for one in begun if one[0] <= line]
    return max(before)[1:] if before else None


def _begins(node: ast.AST) -> int:
    return node.pattern.lineno if isinstance(node, ast.match_case) else getattr(node, "lineno", 0)


def is_loop_variable(source: str, name: str, line: int) -> bool:
    r"""Whether a ``for`` gives a name its values, in the function around a line.

    Example:
        >>> is_loop_variable("for net in nets:\n    train(net)", "net", 2)
        True
    """
    return any(isinstance(node, ast.For) and name in stored(node) for node in statements(source, line))


def first_statement(source: str, file: str) -> SourceLine | None:
    r"""The statement that an import can stand before: not the docstring, nor an import from ``__future__``.

    Example:
        >>> print(first_statement('"What it is."\nfrom __future__ import annotations\nimport os', "train.py"))
        line 3 of train.py, `import os`
    """
    tree = parsed(source)
    for node in tree.body if tree is not None else ():
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_text and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            decorated = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
            return SourceLine(file, decorated, line_of(node, file).text)
    return None


def statement_at(source: str, line: int) -> ast.stmt | None:
    """The innermost statement that a line belongs to, in its function."""
    around = [node for node in statements(source, line) if encloses(node, line)]
    return max(around, key=lambda node: (node.lineno, -end_of(node))) if around else None


def statements(source: str, line: int) -> Iterator[ast.stmt]:
    """The statements of the innermost function around a line, or of the module, in order; nested blocks too."""
    tree: ast.AST | None = parsed(source)
    while tree is not None:
        inner = [node for node in _within(tree) if isinstance(node, _FUNCTIONS) and encloses(node, line)]
        if not inner:
            break
        tree = inner[0]
    if tree is not None:
        yield from of_function(tree)


def of_function(tree: ast.AST) -> list[ast.stmt]:
    """The statements of a function or a module, without those of the functions in it."""
    found = (node for node in _within(tree) if isinstance(node, ast.stmt) and not isinstance(node, _FUNCTIONS))
    return sorted(found, key=lambda node: (node.lineno, -end_of(node)))


def functions(source: str) -> list[ast.AST]:
    """The module, and each function in it, however deep."""
    tree = parsed(source)
    return [] if tree is None else [tree, *(node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS))]


@functools.lru_cache(maxsize=16)
def parsed(source: str) -> ast.Module | None:
    """The syntax tree, None where there is none."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def _within(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function or module, nested functions included, but not the nodes of these."""
    for child in ast.iter_child_nodes(tree):
        yield child
        if not isinstance(child, _FUNCTIONS):
            yield from _within(child)


def encloses(node: ast.stmt, line: int) -> bool:
    """Whether a line belongs to a statement, or to the block that it begins."""
    return node.lineno <= line <= end_of(node)


def end_of(node: ast.stmt) -> int:
    """The number of its last line."""
    return node.end_lineno or node.lineno


def targets(node: ast.stmt) -> list[str]:
    """What a statement assigns, as source: of several at once each."""
    if isinstance(node, ast.Assign):
        return [ast.unparse(one) for target in node.targets for one in _parts(target)]
    return [ast.unparse(node.target)] if isinstance(node, ast.AnnAssign) and node.value else []


def _parts(target: ast.expr) -> list[ast.expr]:
    return (
        [one for part in target.elts for one in _parts(part)]
        if isinstance(target, (ast.Tuple, ast.List))
        else [target]
    )


def stored(node: ast.stmt) -> set[str]:
    """The names that a statement assigns; those that statements nested in it assign do not count."""
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        parts: list[ast.AST] = [node]
    else:
        items = [item.optional_vars for item in getattr(node, "items", ())]
        parts = [part for part in (getattr(node, "target", None), *items) if part is not None]
    inside = [name for part in parts for name in ast.walk(part)]
    return {name.id for name in inside if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}


def wraps(node: ast.stmt, name: str | None = None) -> bool:
    """Whether a statement wraps something around a model, or compiles it; with a name, that of this model."""
    value = getattr(node, "value", None)
    if not isinstance(value, ast.Call) or ast.unparse(value.func).rpartition(".")[2] not in WRAPPERS:
        return False
    return name is None or name in map(ast.unparse, value.args)


def own_expressions(node: ast.stmt) -> list[ast.AST]:
    """The nodes of a statement; of one that begins a block those of its first line."""
    if not getattr(node, "body", None):
        return list(ast.walk(node))
    parts = [getattr(node, name, None) for name in ("test", "iter", "subject")]
    parts += [item.context_expr for item in getattr(node, "items", ())]
    return [inner for part in parts if part is not None for inner in ast.walk(part)]


def shorten_text(text: str, width: int = 80) -> str:
    """A statement cut to a width.

    Example:
        >>> shorten_text("model = Net(a, b, c)", 12)
        'model = Net…'
    """
    return text if len(text) <= width else f"{text[: width - 1]}…"
