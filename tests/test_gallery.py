"""The figures that the README and the gallery show are those that `make gallery` and `terminal.py` make."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def gallery(load_script):
    yield load_script(ROOT / "notebooks" / "gallery.py")
    plt.close("all")


def shown(text):
    return set(re.findall(r"notebooks/figures/(\w+)\.png", text))


def test_every_figure_that_is_shown_is_made_by_the_command(gallery):
    assert shown(gallery.PAGE.read_text(encoding="utf-8")) == set(gallery.FIGURES)
    assert shown((ROOT / "README.md").read_text(encoding="utf-8")) == {"demo"}
    assert {path.stem for path in gallery.FOLDER.glob("*.png")} == set(gallery.FIGURES)


def test_the_text_is_that_which_the_command_writes(gallery):
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page()


def test_a_figure_at_the_top_leads_to_its_heading(gallery):
    headings = set(re.findall(r"^## (\w+)$", gallery.page(), re.MULTILINE))
    assert set(re.findall(r"\(#(\w+)\)", gallery.table())) == set(gallery.AT_THE_TOP) <= headings


def test_every_figure_has_its_numbers(gallery):
    kept = json.loads(gallery.NUMBERS.read_text())
    assert set(kept) == set(gallery.FIGURES)


@pytest.mark.parametrize("name", ["iterations", "transformer"])
def test_a_figure_made_again_has_the_numbers_of_the_stored_one(gallery, name):
    if name == "transformer":
        pytest.importorskip("transformers")
    kept = json.loads(gallery.NUMBERS.read_text())[name]
    drawn = gallery.numbers(gallery.FIGURES[name]())
    assert drawn.keys() == kept.keys()
    for panel, values in kept.items():
        np.testing.assert_allclose(drawn[panel], values, rtol=0.05)


def test_an_unknown_figure_is_refused(gallery):
    with pytest.raises(SystemExit, match=r"expected names out of demo, .* got nothing"):
        gallery.main(["nothing"])


@pytest.fixture(scope="module")
def terminal(load_script):
    return load_script(ROOT / "notebooks" / "terminal.py")


def test_the_terminal_is_drawn_up_to_the_remedy_in_its_colours(terminal):
    text = "\x1b[1mSick\x1b[0m: <lost>\n    gp.apply_remedy(model)\nWhat to add\n"
    drawn = terminal.picture(terminal.shortened(text))
    words = re.sub(r"&#160;", " ", " ".join(re.findall(r">([^<]+)</text>", drawn)))
    assert "$ gradprobe run train.py" in words.replace("  ", " ")
    assert "&lt;lost&gt;" in words
    assert "gp.apply_remedy(model)" in words
    assert "What to add" not in words
    assert "font-weight: bold" in drawn


def test_the_picture_of_the_terminal_is_of_the_script_beside_it(terminal):
    drawn = terminal.PICTURE.read_text(encoding="utf-8").replace("&#160;", " ")
    assert terminal.COMMAND in drawn
    optimizer = next(line for line in terminal.SCRIPT.read_text().splitlines() if line.startswith("optimizer ="))
    assert "Adam" in optimizer
    assert "Adam lr 0.001" in drawn
