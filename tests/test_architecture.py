"""The house has four floors, and imports go down only (never between ground rooms)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gradprobe"
FLOORS = [
    {"magnitude", "layers", "history", "hooks", "reduction", "snapshot", "cuts", "version", "zoo", "sparkline"}
    | {"origin", "wording"},
    {"probe", "door", "reasons", "passes", "scaling", "ranks", "window", "weights", "batches"}
    | {"entries", "graph", "passage", "topology", "policies", "diagnosis", "branches", "comparison", "verdict"}
    | {"loss", "own_loss", "stand_in", "companion", "glimpse", "remedies", "arms", "engines", "loop"},
    {"scanning", "trials", "training", "comparing", "comparing_arms", "supervision"}
    | {"plots", "page", "report", "tree", "run", "markup"}
    | {"script", "frames", "owners", "following", "attaching"}
    | {"running", "advice", "reading", "integrations", "testing", "plugin", "difference"},
    {"cli", "__main__", "asked", "outcome", "options", "terminal", "live", "demo"}
    | {"importing", "target", "target_data"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def room_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gradprobe":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("gradprobe."))


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    room = room_of(path)
    for other in set(imported_rooms(path)) - {room}:
        if FLOOR_OF[room] == 0:
            pytest.fail(f"{room} is on the ground but imports {other}")
        assert FLOOR_OF[other] <= FLOOR_OF[room], f"{room} imports {other}, which is above it"


def test_imports_have_no_cycle():
    edges = {}
    for path in FILES:
        edges.setdefault(room_of(path), set()).update(set(imported_rooms(path)) - {room_of(path)})
    while leaves := {room for room, others in edges.items() if not others}:
        edges = {room: others - leaves for room, others in edges.items() if room not in leaves}
    assert not edges, f"cycle among {sorted(edges)}"


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
        ("import gradprobe.cli.commands", {"torch", "matplotlib", "pandas", "jinja2"}),
        (
            "import gradprobe.runs.run, gradprobe.decide.policies, gradprobe.show.plots, gradprobe.show.page",
            {"torch", "click"},
        ),
        ("import gradprobe; gradprobe.scan", {"matplotlib", "click"}),
    ],
)
def test_what_an_import_does_not_load(code, absent):
    assert not modules_after(code) & absent


def test_only_the_roof_uses_click():
    users = {room_of(path) for path in FILES if "click" in path.read_text()}
    assert users <= FLOORS[3]
