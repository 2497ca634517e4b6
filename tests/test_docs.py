"""What the documentation says can be typed can be typed; what it points at is there; and it is not stale."""

import ast
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch.distributed as dist
from support.awkward import CASES

from gradprobe.cli import main
from gradprobe.decide.causes.finding import CAUSES
from gradprobe.decide.policies import POLICIES
from gradprobe.record.history import UNREACHED
from gradprobe.testing import assert_gradients_reach

ROOT = Path(__file__).parent.parent
FRONT = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = sorted([*FRONT, *(ROOT / "docs").glob("*.md")])
A_TEST = "A test in continuous integration"  # of the recipes
# packages that warn when they are imported, and functions that another process has to find in __main__
APART = re.compile(r'^(import|from) (accelerate|lightning|monai|transformers)|engine="processes"', re.MULTILINE)
WRITTEN = [page for page in PAGES if page.name != "reference.md"]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def without_blocks(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def sections(page):
    """The parts under a heading of the second level, by heading; code is not looked at for headings."""
    parts = re.split(r"^## (.*)$", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def by_section(page):
    """The Python of a page, one parameter for each section that has some."""
    found = {title: blocks(text, "python") for title, text in sections(ROOT / page).items()}
    return [pytest.param(code, id=title) for title, code in found.items() if code and title != A_TEST]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder, and a process group of one for whoever asks for it."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    alone = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    yield {**os.environ, **alone, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if dist.is_initialized():  # by what failed before it came to its end
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("code", by_section("docs/recipes.md"))
def test_every_recipe_runs_as_it_stands(code, alone):
    program = "\n".join(code)
    if not APART.search(program):  # a process of its own costs seconds
        exec(program, {"__name__": "__main__"})
        return
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=alone, check=False)
    assert done.returncode == 0, done.stderr


def test_the_test_in_the_recipes_is_one():
    (code,) = blocks(sections(ROOT / "docs/recipes.md")[A_TEST], "python")
    space = {}
    exec(code, space)
    space["test_the_gradient_reaches_every_layer"](assert_gradients_reach)


@pytest.mark.parametrize("page", ["how-it-works", "which-gradient"])
def test_its_code_runs_too(page):
    space = {}
    codes = blocks((ROOT / f"docs/{page}.md").read_text(), "python")
    assert codes
    for code in codes:
        exec(code, space)


@pytest.mark.parametrize("code", by_section("docs/facts.md"))
def test_every_fact_still_holds(code, alone):
    for block in code:
        exec(block, {})


# commands -------------------------------------------------------------------------------------------------------


def commands(page):
    """Every line of a shell that calls gradprobe, as the words after its name."""
    for block in blocks(page.read_text(), "console"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if "-m" in words[:-1] and words[words.index("-m") + 1] == "gradprobe":
                yield words[words.index("-m") + 2 :]
            elif words[:1] == ["gradprobe"]:
                yield words[1:]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_command_in_a_shell_is_one_that_gradprobe_takes(page):
    for words in commands(page):
        command = main.commands[words[0]]
        parent = click.Context(main, **main.context_settings)
        command.make_context(words[0], words[1:], parent=parent)  # raises UsageError at what is not known


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_option_that_is_named_exists(page):
    known = {name for command in main.commands.values() for option in command.params for name in option.opts}
    known |= {"--help", "--version"}
    text = without_blocks(page.read_text())
    codes = re.findall(r"`([^`\n]*)`", text)
    named = {option for code in codes for option in re.findall(r"(?<!\S)--[a-z-]+", code)}
    others = {"--nproc-per-node"}  # of torchrun
    assert named - known - others == set()


def test_the_help_names_every_command_it_is_asked_for():
    text = (ROOT / "docs" / "reference.md").read_text()
    assert all(f"### gradprobe {name}\n" in text for name in main.commands)


def test_every_policy_can_be_asked_for():
    for name in ("scan", "compare", "run", "place"):
        (option,) = [option for option in main.commands[name].params if option.name == "policy"]
        assert set(POLICIES) <= set(option.type.choices)


# links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page, anchors):
    text = without_blocks(page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        aimed = page.parent / file if file else page
        assert aimed.exists(), target
        if anchor and aimed.suffix == ".md":
            assert anchor in anchors(aimed), target


def test_every_page_can_be_reached_from_the_readme():
    linked = set(re.findall(r"/blob/main/(docs/[\w-]+\.md)", (ROOT / "README.md").read_text()))
    assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


# what is written by a command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build(load_script):
    return load_script(ROOT / "docs" / "build.py")


def test_the_reference_is_not_stale(build):
    assert build.reference() == build.PAGE.read_text(), "run `make docs`"


def test_the_reference_has_every_public_name(build):
    import gradprobe as gp

    headings = set(re.findall(r"^#### (\w+)$", build.PAGE.read_text(), re.MULTILINE))
    assert set(gp.__all__) - {"__version__"} <= headings


@pytest.fixture(scope="module")
def architecture(load_script):
    return load_script(ROOT / "docs" / "architecture.py")


def test_what_the_architecture_shows_of_the_code_is_not_stale(architecture):
    assert architecture.page() == architecture.PAGE.read_text(), "run `make docs`"


@pytest.fixture
def limits(load_script):
    return load_script(ROOT / "docs" / "limits.py")


def test_the_limits_are_those_that_tests_hold(limits):
    assert limits.page() == limits.PAGE.read_text(), "run `make docs`"


SAYS, ALSO = "@pytest.mark.limit('a loop', 'exact', 'missing')\n", "@pytest.mark.limit('a loop')\n"
ONE, TWO = "def test_one(): ...\n", "def test_two(): ...\n"


def test_a_limit_has_the_names_of_the_tests_that_hold_it(limits, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(limits, "TESTS", tmp_path)
    signal = "@pytest.mark.limit('a loop', signal='of a sample')\n"
    for also, says in ((ALSO, "not checked"), (signal, "of a sample")):
        (tmp_path / "test_it.py").write_text(SAYS + ONE + also + TWO)
        assert limits.set_ups().splitlines()[2:] == [
            f"| a loop | exact | missing | {says} | `test_it.py::test_one`<br>`test_it.py::test_two` |"
        ]


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (ALSO + ONE, "no test says what holds"),
        (SAYS + ONE + SAYS + TWO, "by one test alone"),
        (SAYS + "@pytest.mark.xfail(strict=True)\n" + ONE, "a test that runs and passes"),
        (SAYS + "@pytest.mark.skipif(True, reason='')\n" + ONE, "a test that runs and passes"),
        (SAYS + "def one(): ...\n", "not collected"),
        ("@pytest.mark.limit('a loop', 'exact')\n" + ONE, "expected limit"),
        ("@pytest.mark.limit('a loop', other='exact')\n" + ONE, "expected limit"),
    ],
)
def test_a_limit_that_no_test_holds_is_refused(limits, tmp_path, monkeypatch, tests, message):
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(limits, "TESTS", tmp_path)
    (tmp_path / "test_it.py").write_text(tests)
    with pytest.raises(ValueError, match=message):
        limits.set_ups()


def test_the_zoo_is_as_large_as_the_limits_say():
    assert f"{len(CASES)} models and loops" in (ROOT / "docs" / "limits.md").read_text().replace("\n", " ")


def test_the_picture_has_every_folder_and_no_arrow_that_others_imply(architecture):
    arrows = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert {folder: architecture._direct(folder, arrows) for folder in arrows} == {
        "a": {"b"},
        "b": {"c"},
        "c": set(),
    }
    picture = architecture.picture()
    for folder in architecture.folder_arrows():
        assert f" {folder}[{folder}/]" in picture


def defined(path):
    """The names at the top of a Python file, and those in its classes as ``Class.name``."""

    def names(body):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}.{inner}" for inner in names(node.body))

    return set(names(ast.parse(path.read_text()).body))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_file_and_name_in_a_page_exists(page):
    text = without_blocks(page.read_text())
    for file, name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|c|js|md|csv))(?:::([\w.]+))?`", text):
        path = ROOT / file if (ROOT / file).exists() else ROOT / "gradprobe" / file
        assert path.is_file(), file
        assert not name or name in defined(path), f"{file}::{name}"


def test_every_reason_for_a_missing_number_is_explained():
    text = sections(ROOT / "docs" / "which-gradient.md")["What is missing, and why"]
    assert tuple(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == UNREACHED


def test_every_cause_is_explained():
    pages = sections(ROOT / "docs" / "diagnosis.md")
    rows = [line for text in pages.values() for line in text.splitlines() if line.startswith("| `")]
    assert {code for row in rows for code in re.findall(r"`(\w+)`", row.split("|")[1])} == set(CAUSES)


def test_every_fact_that_the_code_cites_is_there():
    facts = set(re.findall(r"^## (\d+)\. ", (ROOT / "docs" / "facts.md").read_text(), re.MULTILINE))
    sources = [*(ROOT / "gradprobe").rglob("*.py"), *(ROOT / "gradprobe").rglob("*.c")]
    cited = [number for path in sources for number in re.findall(r"docs/facts\.md, (\d+)", path.read_text())]
    assert cited
    assert set(cited) <= facts
    assert [int(number) for number in sorted(facts, key=int)] == list(range(1, len(facts) + 1))
