"""The page of a run, in a real browser: Debian's chromium, headless."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect
from support.browser import column, flagged_in, settle
from support.histories import HOSTILE, compared, made, odd_history, several, vanishing

import gradprobe as gp
from gradprobe.record.history import AGGREGATES, GradientHistory, Layer, tidy
from gradprobe.record.points import Point

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


def test_a_recurrent_layer_has_a_row_for_each_of_its_weights(show):
    sizes = {"rnn": 0.25, "rnn.weight_ih_l0": 0.5, "rnn.weight_hh_l0": 1e-3}
    rows = [(0, name, 0, "weight", size, size, size, 0.0, 0) for name, size in sizes.items()]
    layer = Layer("rnn", 0, "RNN", 9, weights=("rnn.weight_ih_l0", "rnn.weight_hh_l0"))
    page = show(GradientHistory(tidy(rows), {}, (layer,), (), None))
    assert page.locator("#table tbody th").all_inner_texts() == ["rnn", "weight_ih_l0", "weight_hh_l0"]
    numbers = page.locator("#table tr.is-weight .number").all_inner_texts()
    assert [number for number in numbers if number] == ["5.00e-1", "1.00e-3"]


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


# how it looks and who can use it ---------------------------------------------------------------------------------


def paper(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def ink_of_the_curves(page):
    return page.evaluate("CHARTS[0].canvas.toDataURL()")


def drawn(page):
    """The curves once they are drawn: out of sight that waits until the browser is idle."""
    settle(page)
    page.wait_for_function("!CHARTS[0].isStale")
    return ink_of_the_curves(page)


def test_it_is_light_and_dark_and_can_be_switched(show):
    light = show(vanishing())
    of_light = drawn(light)
    dark = show(vanishing(), scheme="dark")
    assert paper(light) == "rgb(255, 255, 255)" != paper(dark)
    before = drawn(dark)
    dark.locator("#theme").click()
    assert drawn(dark) == of_light != before
    assert paper(dark) == paper(light)
    dark.locator("#theme").click()
    assert drawn(dark) == before


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
    # the heat map shows all of them without scrolling in it, and the last one can be pointed at
    heat = page.locator("#heat figure").first
    assert heat.evaluate("(box) => box.getBoundingClientRect().height") < 700
    assert heat.evaluate("(box) => [...box.querySelectorAll('*')].every((part) => part.scrollTop === 0)")
    chart = "CHARTS.find((chart) => chart instanceof HeatMap)"
    assert page.evaluate(f"{chart}.layerAt({chart}.inner.left + 1, {chart}.positionOf(999)[1]).row") == 999
    assert page.evaluate(f"{chart}.inner.top + {chart}.inner.height - {chart}.positionOf(999)[1]") < 1


def test_of_layers_that_share_a_line_the_one_that_matters_is_drawn(show):
    """In a thousand layers of size one: a small one, an exact zero, one that is not finite, and one unreached."""
    odd = {301: (1e-9, 0), 503: (0.0, 0), 707: (float("nan"), 3), 901: (None, None)}
    layers = tuple(Layer(f"l{row}", row, "Linear", 9) for row in range(1000))
    rows = [
        (0, f"l{row}", row, "output", *(odd[row][0],) * 3, 0, odd[row][1])
        if row in odd
        else (0, f"l{row}", row, "output", 1.0, 1.0, 1.0, 0, 0)
        for row in range(1000)
    ]
    page = show(GradientHistory(tidy(rows), {}, layers, (), (8, 10)))
    drawn = page.evaluate("[...CHARTS.find((chart) => chart instanceof HeatMap).inLanes()].map(String)")
    lanes = {int(row * len(drawn) / 1000): row for row in odd}
    assert {lane for lane, log in enumerate(drawn) if log != "0"} == set(lanes) - {int(901 * len(drawn) / 1000)}
    said = {lanes[lane]: drawn[lane] for lane in lanes}
    assert float(said.pop(301)) == pytest.approx(-9)
    assert said == {503: "-Infinity", 707: "Infinity", 901: "0"}


def test_on_a_phone_the_numbers_are_on_the_screen(show):
    names = [f"encoder.layers.{row}.attention.output.dense" for row in range(12)]
    page = show(made(10.0 ** (np.arange(12)[:, None] - 10.0) * np.ones((1, 3)), names=names), width=390)
    heads = [head.strip() for head in page.locator("#table thead th").all_inner_texts()]
    assert heads[:2] == ["layer", "magnitude"]
    edges = (
        page.locator("#table tbody tr")
        .first.locator("td")
        .evaluate_all("(cells) => cells.map((cell) => cell.getBoundingClientRect().right)")
    )
    assert edges[0] <= 390, "the magnitude"
    page.set_viewport_size({"width": 1440, "height": 900})
    settle(page)
    assert page.locator("#table thead th").first.inner_text().startswith("depth")


@pytest.mark.parametrize(
    ("iterations", "said"),
    [
        ([1.0, np.inf], "only iteration 0 is finite"),
        ([1.0, 1.0, np.inf], "iterations 0 to 1 are finite"),
        ([1.0, np.inf, 1.0], "2 of 3 iterations are finite"),
        ([np.inf], "no iteration is finite"),
    ],
)
def test_the_figures_say_which_iterations_are_finite(show, iterations, said):
    page = show(made(np.array(iterations) * np.array([[1e-3], [1.0]])))
    for figure in ("#curves", "#profile", "#heat"):
        assert said in page.locator(f"{figure} .finding").first.inner_text()
    if len(iterations) == 2:  # the one value of the first layer is a dot that can be seen
        chart = "CHARTS.find((chart) => chart instanceof Curves)"
        x, y = page.evaluate(f"{chart}.positionOf(0, 0)")
        look = f"[...{chart}.canvas.getContext('2d').getImageData(2 * {x} + 4, 2 * {y}, 1, 1).data]"
        assert page.evaluate(look)[3] > 200
