"""The page of a run when it is used: the threshold, linked layers, the table and the tree. In chromium."""

import numpy as np
import pytest
from support.browser import column, flagged_in, settle
from support.histories import compared, odd_history, vanishing

import gradprobe as gp

# the threshold moves ---------------------------------------------------------------------------------------------


def agrees(page, history):
    """The flagged set, the count, the table and the tree say the same as the policy at the page's threshold."""
    settle(page)
    threshold = page.evaluate("state.threshold")
    wanted = gp.ThresholdPolicy(threshold)(history).flagged
    assert tuple(flagged_in(page)) == wanted
    assert page.locator("#count").inner_text().startswith(f"{len(wanted)} of {len(history.layers)} layers below")
    assert page.locator("#table tbody tr.is-flagged").count() == len(wanted)
    marks = page.locator("#tree li li .mark.flagged").all_inner_texts()
    assert sum("flagged" in mark for mark in marks) == len(wanted)
    return threshold, wanted


@pytest.mark.parametrize("figure", ["#curves", "#profile"])
def test_the_threshold_can_be_dragged(show, figure):
    history = vanishing()
    page = show(history)
    line = page.locator(f"{figure} .threshold")
    line.scroll_into_view_if_needed()
    box = line.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before, few = agrees(page, history)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 60, steps=4)
    higher, more = agrees(page, history)
    page.mouse.move(x, y + 60, steps=4)
    page.mouse.up()
    lower, less = agrees(page, history)
    assert lower < before < higher
    assert len(less) < len(few) < len(more)


def test_the_threshold_moves_by_keyboard(show):
    history = vanishing()
    page = show(history)
    line = page.locator("#curves .threshold")
    line.focus()
    line.press("ArrowUp")
    assert agrees(page, history)[0] == pytest.approx(10**-6.9, rel=0.01)
    line.press("PageUp")
    assert agrees(page, history)[0] == pytest.approx(10**-5.9, rel=0.01)
    for _ in range(3):
        line.press("PageDown")
    assert agrees(page, history)[0] == pytest.approx(10**-8.9, rel=0.01)
    assert "below" in line.get_attribute("aria-valuetext")


def test_the_threshold_can_be_typed_and_is_checked(show):
    history = vanishing()
    page = show(history)
    field = page.locator("#threshold")
    field.fill("3e-5")
    assert agrees(page, history)[0] == 3e-5
    assert "decided: 3 flagged" in page.locator("#count").inner_text()
    for wrong in ("", "-1", "0", "abc", "1e999"):
        field.fill(wrong)
        assert field.get_attribute("aria-invalid") == "true"
        assert agrees(page, history)[0] == 3e-5
    page.locator("#reset").click()
    assert agrees(page, history)[0] == 1e-7
    assert field.input_value() == "1e-7"
    assert field.get_attribute("aria-invalid") == "false"


def test_the_quantity_and_the_aggregation_can_be_chosen(show):
    history = vanishing(of=("output", "weight"))
    page = show(history)
    page.get_by_label("weight", exact=True).check()
    settle(page)
    assert tuple(flagged_in(page)) == gp.ThresholdPolicy(of="weight")(history).flagged
    assert "mean |dL/d weight|" in page.locator("#table caption").inner_text()
    page.get_by_label("Over the iterations").select_option("max")
    settle(page)
    assert tuple(flagged_in(page)) == gp.ThresholdPolicy(of="weight", aggregate="max")(history).flagged


# layers are linked -----------------------------------------------------------------------------------------------


def current(page):
    return page.locator("#table tbody tr.is-current th").all_inner_texts()


def test_pointing_at_a_layer_marks_it_everywhere(show):
    comparison = compared(vanishing())
    page = show(comparison.plain, comparison.placement, comparison)
    heat = page.locator("#heat canvas").first
    heat.scroll_into_view_if_needed()
    box = heat.bounding_box()
    x, y = page.evaluate("CHARTS.find((chart) => chart instanceof HeatMap).positionOf(2, 1)")
    page.mouse.move(box["x"] + x, box["y"] + y)
    settle(page)
    assert current(page) == ["block.2"]
    assert page.locator("#tree .is-current .own").inner_text() == "2"
    assert page.locator("svg .current").count() == 5  # two curves, two heat maps, the profile
    tip = page.locator("#tip").inner_text()
    assert "block.2" in tip
    assert "without: 1.01e-8 at iteration 1" in tip
    assert "with: 1.01e-4 at iteration 1" in tip
    page.mouse.move(1, 1)
    settle(page)
    assert current(page) == []


def test_a_layer_is_found_under_its_line(show):
    page = show(vanishing())
    page.locator("#curves canvas").scroll_into_view_if_needed()
    box = page.locator("#curves canvas").bounding_box()
    x, y = page.evaluate("CHARTS[0].positionOf(5, 3)")
    page.mouse.move(box["x"] + x + 2, box["y"] + y + 2)
    settle(page)
    assert current(page) == ["block.5"]
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.mouse.move(1, 1)
    settle(page)
    assert current(page) == ["block.5"]  # a click keeps it
    page.keyboard.press("Escape")
    settle(page)
    assert current(page) == []


def test_the_arrow_keys_go_through_layers_and_iterations(show):
    page = show(vanishing())
    canvas = page.locator("#curves canvas")
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight"):
        canvas.press(key)
    settle(page)
    assert current(page) == ["block.2"]  # the first press shows the first layer
    assert "at iteration 1" in page.locator("#tip").inner_text()
    canvas.press("ArrowUp")
    settle(page)
    assert current(page) == ["block.1"]


# table and tree --------------------------------------------------------------------------------------------------


def test_the_table_sorts_by_every_column(show):
    history = odd_history(1)
    page = show(history)
    medians = history.aggregate("output").reindex([layer.name for layer in history.layers])
    page.get_by_role("button", name="magnitude", exact=True).click()
    up = [f"block.{row}" for row in np.argsort(medians.to_numpy(), kind="stable")]
    assert column(page, "layer") == up  # NaN, which no gradient arrived at, stands last
    assert page.locator("#table th[aria-sort=ascending]").inner_text() == "magnitude"
    page.get_by_role("button", name="magnitude", exact=True).click()
    assert column(page, "layer")[-1] == up[-1]
    assert column(page, "layer")[0] in {name for name, value in medians.items() if value == np.inf}
    assert page.locator("#table th[aria-sort=descending]").count() == 1
    for title in page.locator("#table thead th").all_inner_texts():
        page.get_by_role("button", name=title, exact=True).click()
        assert page.locator("#table th[aria-sort=ascending]").inner_text() == title
    page.get_by_role("button", name="layer", exact=True).click()
    page.get_by_role("button", name="layer", exact=True).click()
    assert column(page, "layer")[0] in ("block.0", "block.11")


def test_the_table_filters_and_says_why_a_layer_is_unreached(show):
    history = odd_history(0)
    page = show(history)
    page.locator("#filter").fill("block.3")
    assert column(page, "layer") == ["block.3"]
    assert column(page, "status") == ["unreached: no path from its output to the loss"]
    assert "1 of 12 layers shown" in page.locator("#shown").inner_text()
    page.locator("#filter").fill("")
    page.locator("#only-flagged").check()
    assert set(column(page, "layer")) == set(gp.place(history).flagged)


def test_all_statistics_are_in_the_table(show):
    page = show(vanishing())
    titles = page.locator("#table thead th").all_inner_texts()
    assert titles[:4] == ["depth", "layer", "status", "magnitude"]
    assert titles[4:] == ["rms", "largest", "zeros", "not finite", "kind", "parameters"]
    assert column(page, "rms")[0] == "2.05e-10"  # twice the median of 1e-10 (1 + .01 t), t = 0..5
    assert column(page, "zeros")[0] == "25.0 %"


def test_the_tree_marks_points_and_branches_and_folds(show):
    page = show(vanishing())
    assert page.locator("#tree .mark.branch").count() == 1
    assert page.locator("#tree .mark.point").count() == 6
    leaf = page.locator("#tree li li").first
    assert leaf.is_visible()
    page.locator("#close-all").click()
    assert not leaf.is_visible()
    page.locator("#tree summary").first.press("Enter")
    assert leaf.is_visible()
