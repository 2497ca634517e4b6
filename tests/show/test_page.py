"""The page of a run, in a real browser: Debian's chromium, headless."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from playwright.sync_api import expect, sync_playwright
from torch import nn

import gradprobe as gp
from gradprobe.cli.commands import main
from gradprobe.prove import trials
from gradprobe.prove.remedies import REMEDIES
from gradprobe.record.history import AGGREGATES, GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.show.page import document, numbers, render, words
from gradprobe.show.page.steps import arms_steps, steps
from gradprobe.verdict.arm import ARMS
from gradprobe.verdict.comparison import Comparison, learning_frame
from gradprobe.zoo import plain_mlp

INSTALL = "no chromium: apt-get install -y --no-install-recommends chromium"
FLAGS = "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    '"',
    "<b>bold</b>",
    "{{ 7 * 7 }}",
    "a&amp;b",
    "constructor",
    "",
    "ä/b",
]


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail(INSTALL) if os.environ.get("CI") else pytest.skip(INSTALL)
    with sync_playwright() as playwright:
        flags = [f"--{flag}" for flag in [*FLAGS.split(), "disable-quic"]]
        running = playwright.chromium.launch(executable_path=path, args=flags)
        yield running
        running.close()


class Tabs:
    """A tab for each colour scheme, and what went wrong in them: a new tab takes longer than a page in an old one."""

    def __init__(self, browser):
        self.errors, self.requests = [], []
        self._browser, self._tabs = browser, {}

    def open(self, file, width, scheme):
        if scheme not in self._tabs:
            self._tabs[scheme] = self._new()
        page = self._tabs[scheme]
        page.mouse.move(1, 1)
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(media="screen", color_scheme=scheme)
        page.goto(file.as_uri())
        page.locator("html[data-ready]").wait_for()
        settle(page)
        return page

    def _new(self):
        page = self._browser.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        page.on("request", lambda request: self.requests.append(request.url))
        return page


@pytest.fixture(scope="module")
def tabs(browser):
    return Tabs(browser)


@pytest.fixture
def show(tabs, tmp_path):
    """Opens the page of a run from disk and checks that nothing goes wrong in it and that it requests nothing."""
    file = tmp_path / "page.html"
    tabs.errors.clear()
    tabs.requests.clear()

    def open_page(history, placement=None, comparison=None, *, arms=None, width=1440, scheme="light"):
        placement = placement or gp.place(history, gp.ThresholdPolicy(of=(history.of or ("output",))[0]))
        gp.write_page(file, history, placement, comparison, arms=arms)
        return tabs.open(file, width, scheme)

    yield open_page
    assert tabs.errors == []
    assert {url for url in tabs.requests if not url.startswith("data:")} <= {file.as_uri()}


def settle(page):
    """Wait until what was asked for is drawn: two frames."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def made(values, *, of=("output",), names=None, points=(), **conditions):
    """A history from magnitudes, layers by iterations: NaN is no gradient, inf one that holds NaN."""
    values = np.asarray(values, dtype=float)
    names = names or [f"block.{row}" for row in range(len(values))]
    missing = dict.fromkeys(of, "no path from its output to the loss")
    unreached = [np.isnan(row).all() for row in values]
    layers = tuple(
        Layer(name, row, "Linear", 10 + row, missing if unreached[row] else {}) for row, name in enumerate(names)
    )

    def stats(value):
        if np.isnan(value):
            return (None,) * 5
        return (None, None, None, 0.0, 3) if np.isinf(value) else (value, 2 * value, 9 * value, 0.25, 0)

    rows = [
        (column, name, row, quantity, *stats(values[row, column] * (100 if quantity == "weight" else 1)))
        for column in range(values.shape[1] if values.ndim > 1 else 0)
        for row, name in enumerate(names)
        for quantity in of
    ]
    return GradientHistory(tidy(rows), {"target": "net.py", **conditions}, layers, tuple(points), (8, 2))


def vanishing(layers=8, iterations=6, **options):
    """From 1e-10 in the first layer tenfold with each, rising a little."""
    depth, time = np.arange(layers)[:, None], np.arange(iterations)[None]
    names = [f"block.{row}" for row in range(layers)]
    points = [Point(f"block.{row}", (8, 4), row, (name,)) for row, name in enumerate(names[:-1])]
    return made(10.0 ** (depth - 10) * (1 + 0.01 * time), names=names, points=points, **options)


def compared(history, helped=True):
    placement = gp.place(history)
    frame = history.frame.copy()
    frame["mean_abs"] *= 1e4
    curve = [
        (seed, arm, iteration, 2.3 - (0.01 * iteration if arm == "supervised" and helped else 0), float("nan"))
        for seed in range(2)
        for arm in ("plain", "supervised")
        for iteration in range(100)
    ]
    supervised = replace(history, frame=frame) if placement.points else None
    conditions = {"iterations": 100, "seeds": [0, 1], "weight": 0.3, "schedule": "cnds", "branch": "auto"}
    return Comparison(history, supervised, placement, learning_frame(curve), conditions)


def flagged_in(page):
    return page.evaluate("flagged().map((row) => DATA.names[row])")


# it renders, whatever the run is ---------------------------------------------------------------------------------

RUNS = {
    "vanishing": vanishing(),
    "both quantities": vanishing(of=("output", "weight")),
    "only weights": vanishing(of=("weight",)),
    "nothing recorded": made(np.zeros((0, 0))),
    "layers but no iteration": made(np.zeros((3, 0))),
    "one layer": made([[1e-3, 1e-4]]),
    "one layer, one iteration": made([[1e-3]]),
    "one iteration": made(10.0 ** -np.arange(5.0)[:, None]),
    "interrupted": vanishing(stopped="interrupted after 6 of 50 iterations", complete=False),
    "no points": made(10.0 ** (np.arange(6.0)[:, None] - 10) * np.ones((1, 3))),
    "all zero": made(np.zeros((3, 4))),
    "all NaN": made(np.full((3, 4), np.inf)),
    "all unreached": made(np.full((3, 4), np.nan)),
    "everything odd": made([[0, 0, 1e-9], [np.inf, 1e-3, np.inf], [np.nan, 1e-2, np.nan], [np.nan] * 3]),
    "tiny": made([[1e-300, 1e-310], [1e-30, 1e-40]]),
}


@pytest.mark.parametrize("history", RUNS.values(), ids=RUNS)
def test_it_renders_whatever_was_recorded(show, history):
    page = show(history)
    assert page.locator("h1").count() == 1
    drawn = bool(history.iterations and history.layers)
    assert page.locator("#figures").is_visible() == drawn
    assert page.locator("#nothing").is_visible() != drawn
    assert page.locator("#table tbody tr").count() == (len(history.layers) if drawn else 0)


@pytest.mark.parametrize("helped", [True, False])
def test_a_comparison_has_both_arms_side_by_side(show, helped):
    comparison = compared(vanishing(), helped)
    page = show(comparison.plain, comparison.placement, comparison)
    assert page.locator("#curves figure").count() == page.locator("#heat figure").count() == 2
    assert page.locator("#learning figure").count() == 1
    left, right = (page.locator("#curves figure").nth(i).bounding_box() for i in (0, 1))
    assert left["y"] == right["y"]
    assert page.locator(".badge").inner_text().split()[-1] == ("Helped" if helped else "tell")


def test_a_comparison_without_branch_renders(show):
    history = made([[1e-3, 1e-3], [1e-2, 1e-2]])
    comparison = compared(history)
    page = show(history, comparison.placement, comparison)
    assert page.locator("#curves figure").count() == 1
    assert "Healthy" in page.locator(".badge").inner_text()


def several(history, ends):
    """Arms from the loss that each falls to, the same for two seeds."""
    rows = [
        (seed, arm, iteration, 2.3 - (2.3 - end) * iteration / 99, float("nan"))
        for arm, end in ends.items()
        for seed in range(2)
        for iteration in range(100)
    ]
    placed = {"cnds": gp.place(history)}
    arms = tuple(gp.Arm(name, placed.get(name), name if name in REMEDIES else None) for name in ends)
    return gp.ArmsComparison(history, arms, learning_frame(rows), {"iterations": 100, "seeds": [0, 1]})


def test_several_arms_have_a_table_and_a_line_each(show):
    arms = several(vanishing(), {"none": 2.3, "cnds": 1.5, "lsuv": 0.3})
    page = show(arms.plain, arms.placement, arms=arms, width=390)
    assert page.locator("#arms tbody th").all_inner_texts() == ["none", "cnds", "lsuv"]
    assert page.locator("#arms tr.best th").inner_text() == "lsuv"
    assert page.locator(".headline").inner_text().startswith("Use lsuv")
    assert page.locator(".badge").inner_text().split()[-1] == "Helped"
    assert "remedies.lsuv(model, x)" in page.locator("#next").inner_text()
    legend = page.locator("#learning .legend").inner_text()
    assert all(name in legend for name in ("none", "cnds", "lsuv"))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    # each line has its own colour
    colours = page.evaluate("DATA.learning[0].arms.map((arm) => themed(arm.colour))")
    assert len(set(colours)) == 3


def test_the_style_sheet_has_a_colour_for_every_arm():
    css = (Path(document.__file__).parent / "page.css").read_text()
    assert all(f"--arm-{name}:" in css for name in ARMS)


@pytest.mark.parametrize(
    ("ends", "title"),
    [
        ({"none": 2.3, "cnds": 0.3}, "Keep the branch"),
        ({"none": 2.3, "lsuv": 0.3}, "Change the network first: initial weights of unit variance (lsuv)"),
        ({"none": 0.3, "lsuv": 2.3}, "Leave the network as it is"),
        ({"none": 2.3, "lsuv": 2.3}, "Compare again"),
    ],
)
def test_what_to_do_next_is_what_the_best_arm_did(ends, title):
    arms = several(vanishing(), ends)
    assert arms_steps(arms.plain, arms)[0].title == title


def test_lines_are_drawn_where_the_numbers_say(show):
    page = show(made([[1e-2] * 5, [1e-6] * 5]))
    # the first layer's line is level: its colour is found at its height, and the page's half way to the other
    seen = page.evaluate(
        """() => {
          const chart = CHARTS[0];
          const sharp = chart.canvas.width / chart.width;
          const pen = new OffscreenCanvas(chart.canvas.width, chart.canvas.height).getContext("2d", {
            willReadFrequently: true,
          });
          pen.drawImage(chart.canvas, 0, 0);
          const at = (log) => [...pen.getImageData(chart.x(2) * sharp, chart.y(log) * sharp, 1, 1).data];
          return [at(-2), at(-4), ramp(0)];
        }"""
    )
    line, between, colour = seen
    assert line[:3] == pytest.approx(colour, abs=6)
    assert line[3] > 200
    assert between[3] == 0


# the rule in the page is the rule in Python ----------------------------------------------------------------------


def odd_history(seed):
    generator = np.random.default_rng(seed)
    values = 10.0 ** generator.uniform(-9, -5, (12, 7))
    values[generator.random(values.shape) < 0.1] = 0
    values[generator.random(values.shape) < 0.15] = np.inf
    values[generator.random(values.shape) < 0.15] = np.nan
    values[3], values[5] = np.nan, np.inf
    return made(values, of=("output", "weight"))


@pytest.mark.parametrize("seed", range(3))
def test_the_page_flags_what_the_policy_flags(show, seed):
    history = odd_history(seed)
    page = show(history)
    medians = history.aggregate("output")
    # also exactly at a magnitude, and next to it
    exact = [value for value in medians if 0 < value < np.inf][:2]
    thresholds = [1e-8, 1e-7, 3e-6, *exact, *(np.nextafter(value, 1) for value in exact)]
    rules = [
        {"of": of, "how": how, "threshold": float(threshold)}
        for of in history.of
        for how in AGGREGATES
        for threshold in thresholds
    ]
    found = page.evaluate(
        "(rules) => rules.map((rule) => { change(rule); return flagged().map((row) => DATA.names[row]); })", rules
    )
    for rule, names in zip(rules, found, strict=True):
        policy = gp.ThresholdPolicy(rule["threshold"], of=rule["of"], aggregate=rule["how"])
        assert tuple(names) == policy(history).flagged, rule


@pytest.mark.parametrize(
    "policy", [gp.ThresholdPolicy(1e-4, of="weight", aggregate="max"), gp.RelativePolicy(1e-3)], ids=str
)
def test_it_begins_with_what_was_decided(show, policy):
    history = vanishing(of=("output", "weight"))
    placement = gp.place(history, policy)
    page = show(history, placement)
    assert tuple(flagged_in(page)) == placement.flagged != ()
    assert "decided" not in page.locator("#count").inner_text()


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


def column(page, name):
    titles = page.locator("#table thead th").all_inner_texts()
    at = titles.index(name)
    return page.locator(f"#table tbody tr > :nth-child({at + 1})").all_inner_texts()


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


# names are text --------------------------------------------------------------------------------------------------


def test_hostile_names_are_text_everywhere(show):
    values = 10.0 ** (np.arange(len(HOSTILE))[:, None] - 10.0) * np.ones((1, 3))
    points = [Point(name, (8, 4), row, (name,)) for row, name in enumerate(HOSTILE[:-1])]
    history = made(values, names=HOSTILE, points=points, data="<img src=x onerror=alert(2)>")
    history = replace(history, conditions={**history.conditions, "target": "</title><script>alert(3)</script>"})
    placement = replace(gp.place(history), skipped=dict.fromkeys(HOSTILE, "<i>why</i>"))
    page = show(history, placement)
    page.evaluate("change({layer: 0})")
    settle(page)
    shown = [name or "(root)" for name in HOSTILE]
    assert column(page, "layer") == shown
    assert page.locator("#why .reasons code").all_text_contents() == shown
    assert page.locator("b, i, img, main script").count() == 0
    assert page.title().startswith("Vanishing: </title><script>")
    assert "<b>bold</b>" in page.locator("#profile svg text").all_text_contents()
    code = page.locator("pre").first.inner_text()
    assert json.dumps(placement.points[0].name) in code


def test_nothing_in_a_name_can_end_a_script_element():
    text = render(made([[1e-3]] * len(HOSTILE), names=HOSTILE), gp.Placement("by hand", (), (), "</script>"))
    assert text.count("</script>") == 2  # of the data and of the code
    for name in document.SCRIPTS:
        assert "</script" not in document._read_resource(name)


# how it looks and who can use it ---------------------------------------------------------------------------------


def paper(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def ink_of_the_curves(page):
    return page.evaluate("CHARTS[0].canvas.toDataURL()")


def test_it_is_light_and_dark_and_can_be_switched(show):
    light = show(vanishing())
    dark = show(vanishing(), scheme="dark")
    assert paper(light) == "rgb(255, 255, 255)" != paper(dark)
    before = ink_of_the_curves(dark)
    dark.locator("#theme").click()
    settle(dark)
    assert paper(dark) == paper(light)
    assert ink_of_the_curves(dark) == ink_of_the_curves(light) != before
    dark.locator("#theme").click()
    settle(dark)
    assert ink_of_the_curves(dark) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(show, scheme):
    """WCAG AA: 4.5 for text, for every colour that says something."""
    page = show(vanishing(), scheme=scheme)

    def luminance(name):
        channels = [int(part) / 255 for part in re.findall(r"\d+", page.evaluate(f"themed('{name}')"))[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for paper_colour in ("page", "raised"):
        for name in ("ink", "grey", "accent", "flagged", "branch", "good", "bad", "warn", "unknown"):
            dim, bright = sorted((luminance(name), luminance(paper_colour)))
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (name, paper_colour)


def test_a_phone_scrolls_in_one_direction_only(show):
    names = [f"encoder.layers.{row}.attention.output.dense.with_a_very_long_name" for row in range(12)]
    values = 10.0 ** (np.arange(12)[:, None] - 10.0) * np.ones((1, 20))
    points = [Point(name, (8, 16, 768), row, (name,)) for row, name in enumerate(names[:-1])]
    comparison = compared(made(values, names=names, points=points))
    page = show(comparison.plain, comparison.placement, comparison, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#curves figure").nth(0).bounding_box()["width"] > 300


def test_options_and_numbers_stay_on_one_line(show):
    comparison = compared(vanishing(), helped=False)
    page = show(comparison.plain, comparison.placement, comparison, width=390)
    assert {"--iterations", "1e-7", "1.03e-10"} <= set(page.locator(".unbroken").all_text_contents())
    for width in range(320, 420, 10):
        page.set_viewport_size({"width": width, "height": 900})
        lines = page.evaluate(
            "[...document.querySelectorAll('.unbroken')].map((it) => it.getClientRects().length)"
        )
        assert set(lines) == {1}, width


def test_on_paper_everything_is_open_light_and_without_controls(show):
    page = show(vanishing(), scheme="dark")
    page.locator("#close-all").click()
    page.emulate_media(media="print", color_scheme="dark")
    settle(page)
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("#controls").is_visible()
    assert paper(page) == "rgb(255, 255, 255)"
    assert page.evaluate("CHARTS.every((chart) => !chart.isStale)")
    page.emulate_media(media="screen", color_scheme="dark")
    settle(page)
    assert page.locator("details:not([open])").count() == 1
    assert paper(page) != "rgb(255, 255, 255)"


def test_the_outline_makes_sense(show):
    comparison = compared(vanishing())
    page = show(comparison.plain, comparison.placement, comparison)
    outline = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => [h.tagName, h.innerText])")
    assert [text for tag, text in outline if tag == "H1"] == ["Gradient report net.py"]
    sections = [text.lower() for tag, text in outline if tag == "H2"]
    assert sections == ["verdict", "why", "what to do next", "evidence", "conditions"]
    assert outline[0][0] == "H1"
    for landmark in ("banner", "main", "navigation", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1
    for name in ("Verdict", "Why", "What to do next", "Evidence", "Conditions"):
        assert page.get_by_role("region", name=name, exact=True).count() == 1


def test_figures_say_their_finding_in_words(show):
    page = show(vanishing())
    for canvas in page.locator("canvas").all():
        label = canvas.get_attribute("aria-label")
        assert "3 of 8 layers below 1e-7" in label
        assert "median from block.0 (1.03e-10) to block.7 (0.00103)" in label  # 1e-10 (1 + .01 * 2.5)
    page.locator("#threshold").fill("1e-5")
    settle(page)
    assert "5 of 8 layers below 1e-5" in page.locator("canvas").first.get_attribute("aria-label")
    assert page.locator("#count").get_attribute("aria-live") == "polite"


def test_everything_can_be_reached_by_keyboard_and_shows_it(show):
    page = show(vanishing())
    seen, outlined = [], []
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """(() => {
              const focused = document.activeElement;
              const { outlineStyle, outlineWidth } = getComputedStyle(focused);
              const isOutlined = outlineStyle !== "none" && parseFloat(outlineWidth) > 0;
              return [focused.id || focused.className || focused.tagName, isOutlined];
            })()"""
        )
        if found[0] == "BODY":
            break
        seen.append(found[0])
        outlined.append(found[1])
    assert {"skip", "theme", "copy", "aggregate", "threshold", "CANVAS", "tree", "filter", "table"} <= set(seen)
    assert all(outlined), [name for name, is_outlined in zip(seen, outlined, strict=True) if not is_outlined]


def test_the_code_is_copied(show):
    page = show(vanishing())
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".copy").first.click()
    expect(page.locator(".copy").first).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("pre").first.inner_text()


def test_synthetic_data_has_a_notice(show):
    page = show(vanishing(data="synthetic data (random normal (3, 2, 2))", synthetic=True))
    assert "SYNTHETIC DATA" in page.locator(".synthetic").inner_text().upper()
    assert show(vanishing(data="digits")).locator(".synthetic").count() == 0


# a thousand layers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thousand():
    """1,000 layers, 50 iterations, both quantities, a comparison; names as long as those of real networks."""
    names = [f"model.blocks.{row // 8}.attention.projection{row % 8}" for row in range(1000)]
    generator = np.random.default_rng(0)
    values = 10.0 ** (generator.normal(size=(1000, 50)) - np.linspace(10, 2, 1000)[:, None])
    index = pd.MultiIndex.from_product([range(50), range(1000), ("output", "weight")])
    frame = pd.DataFrame({"iteration": index.get_level_values(0), "depth": index.get_level_values(1)})
    frame.insert(1, "layer", [names[row] for row in frame["depth"]])
    frame["of"] = index.get_level_values(2)
    frame["mean_abs"] = np.repeat(values.T.ravel(), 2)
    for name, factor in (("rms", 2.0), ("max_abs", 9.0)):
        frame[name] = factor * frame["mean_abs"]
    frame["zero_fraction"], frame["nonfinite"] = 0.5, pd.array([0] * len(frame), dtype="Int64")
    layers = tuple(Layer(name, row, "Linear", 4096) for row, name in enumerate(names))
    points = tuple(Point(name, (8, 64), row, (name,)) for row, name in enumerate(names[:-1]))
    return compared(GradientHistory(frame, {"target": "deep.py"}, layers, points, (8, 10)))


def test_a_thousand_layers_stay_small_and_usable(show, thousand, tmp_path):
    page = show(thousand.plain, thousand.placement, thousand)
    assert (tmp_path / "page.html").stat().st_size < 6e6
    assert len(flagged_in(page)) == len(gp.ThresholdPolicy()(thousand.plain).flagged) > 100
    assert page.locator("#table tbody tr").count() == 200
    page.locator("#all-lines").click()
    assert page.locator("#table tbody tr").count() == 1000
    # a layer far down is brought into view in the heat map, a pixel and more to each
    page.evaluate("mark(990)")
    settle(page)
    assert page.locator("#heat .viewport").first.evaluate("(box) => box.scrollTop") > 300
    assert page.evaluate("CHARTS.find((chart) => chart instanceof HeatMap).rowHeight") >= 1


# in words --------------------------------------------------------------------------------------------------------

VERDICTS = {
    "vanishing": vanishing(),
    "healthy": made([[1e-3], [1e-2]]),
    "nonfinite": made([[np.inf], [1e-2]]),
    "exploding": made([[1e5], [1e-2]]),
    "unreached": made([[np.nan], [1e-2]]),
    "cannot tell": made([[1e-9], [1e-9]]),
}


@pytest.mark.parametrize(("state", "history"), VERDICTS.items(), ids=VERDICTS)
def test_the_verdict_and_what_to_do_next(state, history):
    placement = gp.place(history)
    said = words.verdict(history, placement)
    assert said.state == state
    assert said.sentence.endswith(".")
    advised = steps(state, history, placement, None, "runs/net")
    assert advised
    for step in advised:
        compile(step.code, "page", "exec")
    assert ("gp.supervise" in "".join(step.code for step in advised)) == bool(placement.points)


def test_where_branches_did_not_help_the_page_does_not_advise_them():
    comparison = compared(vanishing())
    advised = steps("no difference", comparison.plain, comparison.placement, comparison, "")
    assert "supervise" not in "".join(step.code for step in advised)
    assert any("lsuv" in step.code for step in advised)


def test_the_code_to_paste_does_what_it_says():
    torch.manual_seed(0)
    model, x, y = plain_mlp(depth=20, width=16), torch.randn(8, 64), torch.randint(10, (8,))
    history = gp.scan(model, [(x, y)], nn.functional.cross_entropy, iterations=3)
    placement = gp.place(history)
    insertion = steps("vanishing", history, placement, None, "")[0]
    space = {"model": model, "x": x, "y": y, "loss_fn": nn.functional.cross_entropy, "epochs": 5}
    exec(insertion.code, space)
    assert space["net"].points == tuple(point.name for point in placement.points) != ()
    space["loss"].backward()


class Twice(nn.Module):
    """A deep network that adds its two inputs first."""

    def __init__(self):
        super().__init__()
        self.net = plain_mlp(depth=20, width=16)

    def forward(self, a, b):
        return self.net(a + b)


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_the_code_to_paste_calls_the_model_as_the_batches_do(kind):
    torch.manual_seed(0)
    model, a, b, y = Twice(), torch.randn(8, 64), torch.randn(8, 64), torch.randint(10, (8,))
    x = {"a": a, "b": b} if kind == "dict" else (a, b)
    loss_fn = nn.functional.cross_entropy
    history = gp.scan(model, [(x, y)], loss_fn, iterations=3)
    assert history.conditions["inputs"] == kind
    assert gp.compare(model, [(x, y)], loss_fn, iterations=2).plain.conditions["inputs"] == kind
    placement = gp.place(history)
    for step in (
        steps("vanishing", history, placement, None, "")[0],
        steps("nonfinite", history, placement, None, "")[0],
    ):
        space = {"torch": torch, "model": model, "x": x, "y": y, "loss_fn": loss_fn, "epochs": 5}
        exec(step.code, space)
    assert any("lsuv" in step.code for step in steps("vanishing", history, placement, None, ""))


AUTO = Placement(trials.NAME, (), (), "Change the network before anything is placed: so.", remedy="lsuv")


def test_where_the_trials_advise_a_remedy_the_page_says_so_and_what_vanishes():
    history = vanishing()
    said = words.verdict(history, AUTO)
    assert said.state == "vanishing"
    assert said.sentence == (
        "The gradient does not reach 3 of 8 layers: block.0 to block.2. "
        "Change the network first: initial weights of unit variance (lsuv)."
    )
    assert AUTO.reason in said.details
    assert ("3", "flagged below 1e-7") in words.facts(history, AUTO)
    rule = dict(words.why(history, AUTO))["Rule"]
    assert rule.startswith(
        "Branches are placed by: auto, by short trials. A layer is flagged by: mean |dL/d output|"
    )
    assert numbers.page_data(history, AUTO, None)["flagged"] == [0, 1, 2]


@pytest.mark.parametrize("name", REMEDIES)
@pytest.mark.parametrize("state", ["vanishing", "healthy", "cannot tell"])
def test_a_remedy_is_the_first_thing_to_do_and_its_code_runs(state, name):
    advised = steps(state, VERDICTS[state], replace(AUTO, remedy=name), None, "")
    assert "assert_gradients_reach" not in "".join(step.code for step in advised)
    model, x = plain_mlp(depth=4, width=16), torch.randn(8, 64)
    before = [*model.named_modules()], [weight.detach().clone() for weight in model.parameters()]
    exec(advised[0].code, {"model": model, "x": x})
    same = [torch.equal(*pair) for pair in zip(before[1], model.parameters(), strict=False)]
    assert not all(same) or [*model.named_modules()] != before[0]


def test_where_every_point_gets_a_branch_the_gradients_are_judged_all_the_same():
    every = gp.EveryLayerPolicy()
    ill, well = vanishing(), made([[1e-3], [1e-2]], points=[Point("block.0", (8, 4), 0, ("block.0",))])
    assert words.verdict(ill, every(ill)).state == "vanishing"
    assert words.verdict(well, every(well)).state == "healthy"
    for history in (ill, well):
        assert (
            "gp.supervise"
            in steps(words.verdict(history, every(history)).state, history, every(history), None, "")[0].code
        )
    rule = dict(words.why(ill, every(ill)))["Rule"]
    assert rule.startswith("A branch at every supervision point")
    assert "flagged by: mean |dL/d output| below 1e-7" in rule


def test_the_headline_names_a_span_only_where_the_layers_are_contiguous():
    names = [f"encoder.layer.{row}.attention.output.dense_projection" for row in range(8)]
    values = np.full((8, 1), 1e-3)
    values[[0, 2, 3, 5]] = 1e-9
    history = made(values, names=names)
    first, second = "encoder.layer.0.atte…ut.dense_projection", "encoder.layer.2.atte…ut.dense_projection"
    said = words.verdict(history, gp.place(history)).sentence
    assert said == f"The gradient does not reach 4 of 8 layers: {first}, {second} and 2 more."


def test_where_the_reason_for_an_unreached_layer_stands_is_said_as_it_is():
    history = made([[np.nan], [1e-2]])
    placement = gp.place(history)
    assert "block.0" in placement.skipped
    assert "above, under Why" in steps("unreached", history, placement, None, "")[0].text
    assert "under Evidence" in steps("unreached", history, replace(placement, skipped={}), None, "")[0].text


def test_all_conditions_are_listed_and_what_is_missing_is_said():
    given = {"batch_size": 8, "amp_scale": 1024.0, "world_size": 2, "skipped": [3], "mine": "<x>", "losses": [1.0]}
    rows = dict(words.conditions(vanishing(**given), None))
    assert rows["batch size"] == "8"
    assert rows["loss scale (AMP)"] == "1020"
    assert rows["skipped steps (overflow)"] == "3"
    assert rows["mine"] == "<x>"
    assert rows["optimizer"] == "not recorded"
    assert "losses" not in rows


# on disk ---------------------------------------------------------------------------------------------------------


def test_every_run_has_its_page_and_report_writes_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr("gradprobe.show.plots.save_figures", lambda *_, **__: [])
    history = vanishing()
    folder = gp.save(tmp_path / "run", history, gp.place(history))
    first = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    done = CliRunner().invoke(main, ["report", str(folder)])
    assert done.output.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text() == first
    other = tmp_path / "new" / "page.html"
    assert CliRunner().invoke(main, ["report", str(folder), "--out", str(other)]).exit_code == 0
    assert other.read_text() == first
    assert CliRunner().invoke(main, ["report", str(tmp_path)]).exit_code == 2


def test_report_needs_neither_torch_nor_the_model(tmp_path):
    history = vanishing()
    folder = gp.save(tmp_path / "run", history, gp.place(history), figures=False)
    code = f"import sys; from gradprobe.cli.commands import main; main(['report', {str(folder)!r}], "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}standalone_mode=False); print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "False"


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    history = vanishing()
    file = gp.write_page(tmp_path / "page.html", history, gp.place(history))
    before = file.read_bytes()

    def fails(*_):
        raise OSError("no space left")

    monkeypatch.setattr(document.Path, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        gp.write_page(file, made([[1.0]]), gp.place(made([[1.0]])))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_learning_curves_are_thinned():
    rows = [(0, arm, i, 2.0, float("nan")) for arm in ("plain", "supervised") for i in range(5000)]
    history = vanishing()
    comparison = Comparison(history, history, gp.place(history), learning_frame(rows), {"iterations": 5000})
    (curve,) = numbers.page_data(history, comparison.placement, comparison)["learning"]
    assert len(curve["arms"][0]["iterations"]) <= numbers.MAX_CURVE_POINTS
