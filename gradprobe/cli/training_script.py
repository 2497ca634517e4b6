"""Whether a target's file is a training script, which ``gradprobe run`` records: read in its source, not run."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_METHODS = ("backward", "fit")  # loss.backward(), accelerator.backward(loss), trainer.fit(model)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class TrainingScript:
    """A file that trains.

    Attributes:
        file: Its path.
        line: Where it trains.
        when_imported: The line where it does so as soon as it is imported, else None.
    """

    file: str
    line: int
    when_imported: int | None

    @property
    def advice(self) -> str:
        """What to call instead."""
        return f"{self.file} trains by itself (line {self.line}): `gradprobe run {self.file}` records it as it is"


def training_script(file: str) -> TrainingScript | None:
    r"""The training script in a file, or None if it is none, or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "train.py"
        ...     _ = path.write_text("def main():\n    loss.backward()\n\nmain()\n")
        ...     found = training_script(str(path))
        >>> found.line, found.when_imported
        (2, 4)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its escapes: they come when it is imported
            tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and _trains(node)]
    return TrainingScript(file, min(lines), _line_when_imported(tree)) if lines else None


def _line_when_imported(tree: ast.Module) -> int | None:
    """The first line that trains when the file is imported: there, or in a function of the file that it calls."""
    functions = {
        node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    training: set[str] = set()
    while True:  # until no function is found to train by calling another one
        more = {name for name, node in functions.items() if any(_runs(one, training) for one in ast.walk(node))}
        if more == training:
            break
        training = more
    return next((node.lineno for node in _run_at_import(tree) if _runs(node, training)), None)


def _trains(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in _METHODS or node.func.attr.endswith("Trainer")
    return isinstance(node.func, ast.Name) and node.func.id.endswith("Trainer")


def _runs(node: ast.AST, training: set[str]) -> bool:
    """Whether a node trains, by itself or by a call of one of these functions."""
    called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    return _trains(node) or called in training


def _run_at_import(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _FUNCTIONS) or _is_main_guard(child):
            continue
        if isinstance(child, ast.expr):
            yield child
        yield from _run_at_import(child)


def _is_main_guard(node: ast.AST) -> bool:
    """Whether it is ``if __name__ == "__main__":``."""
    names = (
        (part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)) if isinstance(node, ast.If) else ()
    )
    return "__name__" in names
