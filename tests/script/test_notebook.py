"""The cell magic, in a notebook that is executed: the cells of docs/recipes.md first."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"
IDLE = "other = torch.nn.Linear(3, 2)\nidle = torch.optim.SGD(other.parameters(), lr=0.1)"
FAILS = """%%gradprobe -n 20
net = plain_mlp(depth=3)
sgd = torch.optim.SGD(net.parameters(), lr=0.1)
for x, y in data.batches[:3]:
    sgd.zero_grad()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    sgd.step()
raise ValueError("mine")"""
NOTHING = "%%gradprobe\n1 + 1"
STATE = "[len(one._forward_hooks) for one in net.modules()], history.iterations, type(history).__name__"


def recipe():
    """The cells of the recipe."""
    text = RECIPES.read_text(encoding="utf-8").partition("## In a notebook")[2].partition("\n## ")[0]
    return re.findall(r"^```ipython\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def outputs():
    """What stands below each cell: of the recipe's three, and then of these, by their source."""
    load, train, diagnose = recipe()
    cells = [load, IDLE, train, diagnose, STATE, FAILS, NOTHING, "%%gradprobe -n x\n1"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=600, kernel_name="python3", allow_errors=True).execute()
    found = {cell.source: cell.outputs for cell in notebook.cells}
    return found | {"train": found[train], "diagnose": found[diagnose]}


def shown(outputs):
    """The HTML and the text of the one display of a cell."""
    [display] = [one for one in outputs if one.output_type == "display_data"]
    return display.data["text/html"], display.data["text/plain"]


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the kernel's own machinery


def test_a_training_cell_shows_verdict_figures_and_table_in_one_place(outputs):
    html, text = shown(outputs["train"])
    assert html.count("<img") == 4  # iterations, depth, heat map, signal
    assert "Sick: signal lost" in html
    assert "<td" in html.partition("gradient history: 24 layers, 50 iterations")[2]
    assert text.startswith("Sick. Signal and gradient are lost")
    assert "other" not in html  # an optimizer of an earlier cell that does not step here is no part of it


def test_the_magic_prints_nothing_else_and_leaves_nothing(outputs):
    assert [one.output_type for one in outputs["train"]] == ["display_data"]
    [state] = outputs[STATE]
    hooks, iterations, kind = eval(state.data["text/plain"])
    assert (set(hooks), iterations, kind) == ({0}, 50, "GradientHistory")


def test_a_diagnosis_shows_itself(outputs):
    [result] = outputs["diagnose"]
    assert "Sick: signal lost" in result.data["text/html"]


def test_a_cell_that_fails_shows_what_was_recorded_and_its_own_error(outputs):
    html, text = shown(outputs[FAILS])
    assert "the cell failed after 3 of 20 iterations" in text
    assert "gradient history: 3 layers, 3 iterations" in html
    [error] = [one for one in outputs[FAILS] if one.output_type == "error"]
    assert (error.ename, error.evalue) == ("ValueError", "mine")


def test_a_cell_without_training_says_so_and_has_its_value(outputs):
    assert "no optimizer" in shown(outputs[NOTHING])[1]
    [result] = [one for one in outputs[NOTHING] if one.output_type == "execute_result"]
    assert result.data["text/plain"] == "2"


def test_an_option_that_is_wrong_is_named(outputs):
    [said] = outputs["%%gradprobe -n x\n1"]
    assert "UsageError" in said.text
    assert "--iterations" in said.text
