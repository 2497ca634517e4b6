"""The figures that the README and the gallery show are those that `make gallery` makes."""

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
    readme, page = (path.read_text(encoding="utf-8") for path in (gallery.README, gallery.PAGE))
    assert shown(page) == set(gallery.FIGURES)
    assert shown(readme) <= set(gallery.FIGURES)
    assert shown(readme) >= {"demo", *gallery.IN_README}
    assert {path.stem for path in gallery.FOLDER.glob("*.png")} == set(gallery.FIGURES)


def test_the_texts_are_those_that_the_command_writes(gallery):
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page()
    assert gallery.table() in gallery.README.read_text(encoding="utf-8")


def test_a_figure_of_the_readme_leads_to_its_heading(gallery):
    headings = set(re.findall(r"^## (\w+)$", gallery.page(), re.MULTILINE))
    assert set(re.findall(r"docs/gallery\.md#(\w+)", gallery.table())) <= headings


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
