"""Draw what docs/architecture.md shows of the code, so that it cannot go stale.

``python docs/build.py`` (``make docs``) writes the page anew.

Imports and rules are read by the test that holds the code to them, tests/test_architecture.py.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gradprobe"
PAGE = ROOT / "docs" / "architecture.md"
WINGS = {
    "plain": "Plain wing: no torch, reads a saved run on any machine",
    "torch": "Torch wing",
    "people": "Where people meet it",
}
MEETING = ("script", "integrations", "cli", "zoo")


def page() -> str:
    """The page as it should be: what is written by hand, and what is drawn between markers."""
    text = PAGE.read_text(encoding="utf-8")
    for name, draw in (("picture", picture), ("rules", rules), ("files", files)):
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        if not (begin and end):
            raise ValueError(
                f"{PAGE.name} has no place for the {name}: expected <!-- {name} --> and <!-- /{name} -->"
            )
        text = before + begin + draw() + end + after
    return text


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_TEST = _load(ROOT / "tests" / "test_architecture.py")


# the picture ----------------------------------------------------------------------------------------------------


def picture() -> str:
    """The folders as a Mermaid flowchart; an arrow that a longer way implies is left out."""
    arrows = folder_arrows()
    lines = ["```mermaid", "flowchart TB"]
    for wing, title in WINGS.items():
        members = [folder for folder in arrows if _wing(folder) == wing]
        lines += [f'  subgraph {wing} ["{title}"]', *(f"    {folder}[{folder}/]" for folder in members), "  end"]
    lines += [f"  {of} --> {to}" for of in arrows for to in sorted(_direct(of, arrows))]
    return "\n".join([*lines, "```"])


def folder_arrows() -> dict[str, set[str]]:
    """Which folder imports which, from the imports of their files."""
    folders = [name for name in _TEST.FOLDERS if (PACKAGE / name).is_dir()]
    found: dict[str, set[str]] = {folder: set() for folder in folders}
    for source, target in _TEST.arrows(PACKAGE):
        of, to = _TEST.folder_of(source), _TEST.folder_of(target)
        if of != to and {of, to} <= found.keys():
            found[of].add(to)
    return found


def _direct(folder: str, arrows: dict[str, set[str]]) -> set[str]:
    return {to for to in arrows[folder] if not any(to in _reached(other, arrows) for other in arrows[folder])}


def _reached(folder: str, arrows: dict[str, set[str]]) -> set[str]:
    return arrows[folder].union(*(_reached(other, arrows) for other in arrows[folder]))


def _wing(folder: str) -> str:
    if folder in MEETING:
        return "people"
    return "torch" if any(map(_imports_torch, (PACKAGE / folder).rglob("*.py"))) else "plain"


def _imports_torch(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(name.split(".")[0] == "torch" for name in _TEST.imported(tree, {}))


# the tables -----------------------------------------------------------------------------------------------------


def rules() -> str:
    """What each folder holds and may import."""
    rows = [(_link(name), _holds(name), _others(name, rule)) for name, rule in _TEST.FOLDERS.items()]
    return _table(("folder or file", "holds", "may import"), rows)


def _others(name: str, rule: str) -> str:
    return ", ".join(f"`{other}`" for other in rule.split() if other != name) or "nothing of ours"


def files() -> str:
    """Every file of every folder, with the first line of what it says of itself."""
    parts = []
    for folder in sorted({path.parent for path in _sources()}, key=_place):
        name = _relative(folder)
        rows = [(_file_link(path), _says(path)) for path in sorted(_sources()) if path.parent == folder]
        parts += [f"### {name}/" if name != "." else "### gradprobe/", _table(("file", "what it does"), rows)]
    return "\n\n".join(parts)


def _sources() -> Iterator[Path]:
    for path in PACKAGE.rglob("*"):
        if path.suffix in (".py", ".c", ".js") and (path.name != "__init__.py" or _code(path)):
            yield path


def _code(path: Path) -> bool:
    return len(ast.parse(path.read_text(encoding="utf-8")).body) > 1


def _place(folder: Path) -> tuple[int, str]:
    """The folders in the order of their rules, the package itself last."""
    name = _relative(folder)
    order = list(_TEST.FOLDERS)
    return (order.index(name.split("/")[0]) if name != "." else len(order)), name


def _relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _link(name: str) -> str:
    folder = PACKAGE / name
    return f"[`{name}/`](#{name})" if folder.is_dir() else f"`{name}.py`"


def _file_link(path: Path) -> str:
    return f"[`{path.name}`](../gradprobe/{_relative(path)})"


def _holds(name: str) -> str:
    folder = PACKAGE / name
    return _says(folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py"))


def _says(path: Path) -> str:
    """The first sentence or two of a file: of Python its docstring, of other kinds the comment it begins with."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    else:
        said = _first_comment(text)
    return re.sub(r"\s+", " ", said).replace("``", "`").replace("|", r"\|")


def _first_comment(text: str) -> str:
    found = re.match(r"\s*(?:/\*+|\{#|//)\s*(.*?)\s*(?:\*/|#\}|\n(?!\s*//)|\.\s)", text, re.DOTALL)
    return re.sub(r"\n\s*(?://|\*)\s*", " ", found[1]) if found else ""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
