"""The folders, what each may import, and how large things may grow; docs/architecture.md explains them."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gradprobe"

PLAIN = "record decide verdict show runs"
# what each folder, or file beside them, may import of the others
FOLDERS = {
    "record": "",
    "decide": "record",
    "verdict": "record decide",
    "show": "record decide verdict version",
    "runs": f"{PLAIN} version",
    "network": "record",
    "measure": "network record",
    "insert": "network record",
    "prove": "measure insert network decide verdict record tracebacks",
    "script": "record decide network measure show runs",
    "integrations": "record decide network measure show runs",
    "cli": f"{PLAIN} network measure insert prove script integrations version tracebacks zoo",
    "testing": "decide measure network record",
    "plugin": "testing runs",
    "__main__": "cli",
    "zoo": "",
    "tracebacks": "",
    "version": "",
}
LINES, FUNCTION, MEDIAN, FILES = 350, 60, 8, 12
# the reasons stand in docs/architecture.md
LARGE_FOLDERS = {"show/plots", "show/page", "cli", "measure", "network"}
IMPORTERS = {"import_module", "__import__", "find_spec", "run_module", "getattr"}


def modules(package):
    """Every module of a package: its dotted name and its file."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(package.rglob("*.py"))
    }


def imported(tree, known):
    """The modules of the package that a syntax tree imports, in functions, for types and by name as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            yield from found
            # `from folder import file` runs the folder's __init__ too; the root's only hands out names
            if node.module != "gradprobe" or len(found) < len(node.names):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in IMPORTERS:
                yield from _named_in(node)


def _named_in(call):
    """Dotted names in the arguments of a call; of an f-string its beginning."""
    for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
        parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
        first = parts[0] if parts else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and "gradprobe." in first.value:
            yield first.value.rstrip(".")


def arrows(package):
    """Which module imports which, for all modules but the root, which only hands out names."""
    known = modules(package)
    for name, path in known.items():
        if name == "gradprobe":
            continue
        for other in imported(ast.parse(path.read_text(encoding="utf-8")), known):
            if other.split(".")[0] == "gradprobe" and other != name:
                yield name, other


def folder_of(module):
    return module.split(".")[1] if "." in module else ""


def forbidden(package):
    """The arrows that no rule allows."""
    for source, target in arrows(package):
        of, to = folder_of(source), folder_of(target)
        if of != to and to not in FOLDERS[of].split():
            yield f"{source} imports {target or 'the root'}"


def cycles(package):
    """Modules that import each other, directly or through others."""
    known = modules(package)
    edges = {name: set() for name in known}
    for source, target in arrows(package):
        if target in known:
            edges[source].add(target)
    while leaves := {name for name, others in edges.items() if not others}:
        edges = {name: others - leaves for name, others in edges.items() if name not in leaves}
    # what is left imports a cycle or is in one; take away what nothing left imports
    while roots := {name for name in edges if not any(name in others for others in edges.values())}:
        edges = {name: others for name, others in edges.items() if name not in roots}
    return sorted(edges)


def test_every_folder_has_a_rule():
    there = {folder_of(name) for name in modules(PACKAGE)} - {""}
    assert there == set(FOLDERS)


def test_imports_follow_the_rules():
    assert not list(forbidden(PACKAGE))


def test_imports_have_no_cycle():
    assert not cycles(PACKAGE)


PLANTED = {
    "at the top": "from gradprobe.show.tables import as_table\n",
    "of a folder": "from gradprobe import show\n",
    "as a module": "import gradprobe.show.tables\n",
    "inside a function": "def draw():\n    from gradprobe.show import tables\n    return tables\n",
    "for types only": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gradprobe.show.tables import as_table\n"
    ),
    "by name": 'import importlib\ntables = importlib.import_module("gradprobe.show.tables")\n',
    "by name, imported": (
        'from importlib import import_module\ntables = import_module(name="gradprobe.show.tables")\n'
    ),
    "by a name put together": (
        'import importlib\ndef get(name):\n    return importlib.import_module(f"gradprobe.show.{name}")\n'
    ),
    "by __import__": 'tables = __import__("gradprobe.show.tables")\n',
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_import_is_seen(kind, tmp_path):
    package = tmp_path / "gradprobe"
    for folder in ("record", "show"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "show" / "tables.py").touch()
    assert not list(forbidden(package))
    (package / "record" / "history.py").write_text(PLANTED[kind])
    assert list(forbidden(package))


def test_a_planted_cycle_is_seen(tmp_path):
    package = tmp_path / "gradprobe"
    (package / "record").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "record" / "__init__.py").touch()
    (package / "record" / "points.py").write_text("import gradprobe.record.history\n")
    (package / "record" / "history.py").write_text("def f():\n    from gradprobe.record import points\n")
    (package / "record" / "text.py").write_text("import gradprobe.record.points\n")
    assert cycles(package) == ["gradprobe.record.history", "gradprobe.record.points"]


def test_a_planted_cycle_through_a_folder_is_seen(tmp_path):
    package = tmp_path / "gradprobe"
    (package / "show").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "show" / "__init__.py").write_text("from gradprobe.show.heatmap import plot_heatmap\n")
    (package / "show" / "style.py").touch()
    heatmap = package / "show" / "heatmap.py"
    heatmap.write_text("from gradprobe.show import style\n")
    assert cycles(package) == ["gradprobe.show", "gradprobe.show.heatmap"]
    heatmap.write_text("import gradprobe.show.style as style\n")
    assert not cycles(package)


def test_a_folder_states_its_rule_and_holds_no_code():
    reexporting = {
        "show/plots",
        "show/page",
        "insert/branches",
        "prove/remedies",
        "zoo",
        "measure/reduction",
        "cli",
    }
    for path in PACKAGE.glob("*/**/__init__.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        if str(path.parent.relative_to(PACKAGE)) not in reexporting:
            assert len(tree.body) == 1, f"{path} holds more than its docstring"


def test_files_and_functions_stay_short():
    lengths = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lengths.append(node.end_lineno - node.lineno + 1)
                assert lengths[-1] <= FUNCTION, f"{node.name} in {path}"
    assert statistics.median(lengths) <= MEDIAN


def test_folders_stay_small():
    folders = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}
    count = {
        str(folder.relative_to(PACKAGE)): sum(
            path.suffix in (".py", ".js", ".c") and path.name != "__init__.py" for path in folder.iterdir()
        )
        for folder in folders
    }
    large = {folder for folder, files in count.items() if files > FILES}
    assert large <= LARGE_FOLDERS
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    assert all(f"`{folder}/`" in page for folder in large)


OLD_NAMES = """
asked outcome door passage entries glimpse owners reading attaching following running scanning comparing
comparing_arms supervision stand_in own_loss topology snapshot magnitude wording markup
"""


def test_no_module_has_its_old_name():
    there = {name.rpartition(".")[2] for name in modules(PACKAGE)}
    assert not there & set(OLD_NAMES.split())
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "docs").glob("*.md"), PACKAGE.parent / "README.md"]:
        text = path.read_text(encoding="utf-8")
        old = re.findall(rf"\bgradprobe\.(?:{'|'.join(OLD_NAMES.split())})\b", text)
        assert not old, f"{path} names {old}"


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import gradprobe", {"torch", "matplotlib", "click", "jinja2", "pandas"}),
        ("import gradprobe.cli", {"torch", "matplotlib", "pandas", "jinja2"}),
        (
            "import gradprobe.runs.compare_runs, gradprobe.decide.findings, gradprobe.show.plots, "
            "gradprobe.show.page, gradprobe.show.tables, gradprobe.verdict.arms_comparison",
            {"torch", "click"},
        ),
        ("import gradprobe; gradprobe.scan", {"matplotlib", "click"}),
        ("import gradprobe.show.page, gradprobe.show.tables", {"matplotlib", "torch"}),
    ],
)
def test_what_an_import_does_not_load(code, absent):
    assert not modules_after(code) & absent


def test_only_the_command_line_uses_click():
    known = modules(PACKAGE)
    users = {
        folder_of(name)
        for name, path in known.items()
        if any(other.split(".")[0] == "click" for other in imported(ast.parse(path.read_text()), known))
    }
    assert users == {"cli"}
