"""Write the tables of docs/limits.md from the tests that hold them, so that they say nothing that no test holds.

``python docs/build.py`` (``make docs``) writes the page anew. The tests are read and not run.

- ``@pytest.mark.limit("set-up", "output", "weight")`` on a test makes a row: what holds of the gradients of
  outputs and of weights. ``@pytest.mark.limit("set-up")`` on further tests names these in the same row.
  ``@pytest.mark.limit("set-up", signal="...")`` on one of them says what holds of signal and update.
- A loop that is written out in tests/support/loops, and decorated with ``@case``, makes a row of the second table.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "limits.md"
TESTS = ROOT / "tests"
CASES = TESTS / "measure" / "test_cases.py"


def page() -> str:
    """The page as it should be: what is written by hand, and the tables between markers."""
    text = PAGE.read_text(encoding="utf-8")
    for name, draw in (("set-ups", set_ups), ("loops", loops)):
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        if not (begin and end):
            raise ValueError(f"{PAGE.name} has no place for the {name}: expected <!-- {name} --> and its end")
        text = before + begin + draw() + end + after
    return text


def set_ups() -> str:
    """A row for each set-up, in the order of the tests."""
    said: dict[str, tuple[str, str]] = {}
    signal: dict[str, str] = {}
    held: dict[str, list[str]] = {}
    for name, words in marked():
        set_up, *what = words
        held.setdefault(set_up, []).append(name)
        if len(what) == 1:
            signal[set_up] = what[0]
        elif what:
            if set_up in said:
                raise ValueError(f"{name}: expected what holds of {set_up!r} to be said by one test alone")
            output, weight = what
            said[set_up] = output, weight
    if held.keys() - said.keys():
        raise ValueError(f"no test says what holds of {sorted(held.keys() - said.keys())}")
    refused = {set_up: "refused" for set_up, what in said.items() if set(what) == {"refused"}}
    signal = {**dict.fromkeys(held, "not checked"), **refused, **signal}
    rows = [
        (set_up, *said[set_up], signal[set_up], "<br>".join(f"`{name}`" for name in names))
        for set_up, names in held.items()
    ]
    return _table(("set-up", "output", "weight", "signal and update", "held by"), rows)


def marked() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The tests with a limit, each with the words of it."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for test in _functions(path):
            for decorator in test.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.limit":
                    name = f"{path.relative_to(ROOT).as_posix()}::{test.name}"
                    yield name, _words(name, test, decorator)


def _words(name: str, test: ast.FunctionDef, limit: ast.Call) -> tuple[str, ...]:
    if not test.name.startswith("test_"):
        raise ValueError(f"{name}: expected a limit on a test, got one on a function that is not collected")
    for other in test.decorator_list:
        if any(word in ast.unparse(other) for word in ("mark.skip", "mark.xfail")):
            raise ValueError(f"{name}: expected a limit on a test that runs and passes")
    words = tuple(str(ast.literal_eval(argument)) for argument in limit.args)
    signal = tuple(str(ast.literal_eval(one.value)) for one in limit.keywords if one.arg == "signal")
    if len(words) not in (1, 3) or len(signal) != len(limit.keywords) or len(words) + len(signal) not in (1, 2, 3):
        expected = "limit(set-up), limit(set-up, output, weight) or limit(set-up, signal=...)"
        raise ValueError(f"{name}: expected {expected}, got {words}")
    return words + signal


def loops() -> str:
    """A row for each loop that is written out in the tests' support."""
    missing = _may_miss()
    rows = []
    for path in sorted((TESTS / "support" / "loops").glob("*.py")):
        for function in _functions(path):
            if any(ast.unparse(decorator) == "case" for decorator in function.decorator_list):
                layers = missing.pop(function.name, ())
                names = ", ".join(f"`{layer}`" for layer in sorted(layers))
                holds = f"exact; outputs of {names} may be missing with a reason" if names else "exact"
                rows.append((_said(function), holds, f"`{path.relative_to(ROOT).as_posix()}::{function.name}`"))
    if missing:
        raise ValueError(f"{CASES.name} names cases that there are not: {sorted(missing)}")
    return _table(("loop", "output and weight", "written out in"), rows)


def _may_miss() -> dict[str, set[str]]:
    """The loops of which a number may be missing, as the test has them, with the layers."""
    for node in ast.parse(CASES.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MAY_MISS":
            return dict(ast.literal_eval(node.value))
    raise ValueError(f"expected MAY_MISS in {CASES.name}")


def _said(function: ast.FunctionDef) -> str:
    name = function.name.replace("_", " ").capitalize()
    described = (ast.get_docstring(function) or "").split("\n\n")[0]
    return f"{name}. {' '.join(described.split())}" if described else name


def _functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
