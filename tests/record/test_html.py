"""What a notebook shows: complete, small, and every name text."""

import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point, Points
from gradprobe.runs.run import Run
from gradprobe.verdict.comparison import Comparison, learning_frame

HOSTILE = ("<script>alert(1)</script>", "a&b", '"><img src=x onerror=alert(1)>', "", "'quoted'", "层.1")
VOID = {"img", "br"}


class Page(HTMLParser):
    """The tags, attributes and words of a piece of HTML; fails where a tag is not closed by its own."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words, self.paths = [], [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag == "path":
            self.paths.append(dict(attrs))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def bars(page):
    """Height of every bar, from left to right, and whether it is coloured."""
    found = []
    for path in page.paths:
        for left, top in re.findall(r"M([\d.]+) 60V([\d.]+)H", path["d"]):
            found.append((float(left), 60 - float(top), path["fill"] == "#d55e00"))
    return [(height, coloured) for _, height, coloured in sorted(found)]


def history(*magnitudes, names=HOSTILE):
    layers = tuple(
        Layer(name, k, "Linear", 9, {"output": "never called"} if value is None else {})
        for k, (name, value) in enumerate(zip(names, magnitudes, strict=False))
    )
    rows = [
        (
            i,
            layer.name,
            layer.depth,
            "output",
            *((None,) * 5 if v is None else (v, v, v, 0.0, int(not math.isfinite(v)))),
        )
        for i in range(3)
        for layer, v in zip(layers, magnitudes, strict=True)
    ]
    return GradientHistory(tidy(rows), {"target": "<b>net</b>.py", "batch_size": 8}, layers, (), (8, 2))


def placement(names=HOSTILE):
    points = tuple(Point(name, (8, 4), k, (name,)) for k, name in enumerate(names[:2]))
    return Placement("rule <i>", tuple(names[:2]), points, "because <b>", {names[2]: "no <point>"}, "but <u>")


def comparison(supervised=True):
    rates = {"plain": 0.0, "supervised": 0.05}
    rows = [(0, arm, i, 2.3 - rate * i, float("nan")) for arm, rate in rates.items() for i in range(40)]
    plain, other = history(1e-9, 1e-8, 1e-3), history(1e-5, 1e-5, 1e-3)
    return Comparison(plain, other if supervised else None, placement(), learning_frame(rows), {"iterations": 40})


def everything(tmp_path):
    return {
        "history": history(1e-9, 1e-8, None, 0.0, float("inf"), 1e-3),
        "placement": placement(),
        "comparison": comparison(),
        "nothing to compare": comparison(supervised=False),
        "points": Points(placement().points, {HOSTILE[2]: "it <makes> the output"}),
        "run": Run(tmp_path, history(1e-9, 1e-3), placement(), comparison()),
        "nothing recorded": GradientHistory(tidy([]), {}, (), (), None),
        "no points": Points(),
    }


@pytest.mark.parametrize("which", everything(None))
def test_every_name_is_text(tmp_path, which):
    page = Page(everything(tmp_path)[which]._repr_html_())
    assert set(page.tags) <= {
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "svg",
        "path",
        "details",
        "summary",
    }
    assert not [name for name in page.attributes if name.startswith("on") or name in ("src", "href")]


def test_hostile_names_are_shown_as_they_are():
    page = Page(history(1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)._repr_html_())
    assert {*HOSTILE[:3], "(root)", *HOSTILE[4:]} <= set(page.words)
    assert "<b>net</b>.py, batch size 8" in page.text


def test_a_bar_for_each_layer_as_high_as_its_magnitude_on_a_log_scale():
    page = Page(history(1e-9, 1e-7, 1e-5, 1e-3)._repr_html_())
    heights = [height for height, _ in bars(page)]
    steps = [b - a for a, b in pairwise(heights)]
    assert heights[-1] == pytest.approx(60)
    assert heights[0] > 1
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
    assert [coloured for _, coloured in bars(page)] == [True, False, False, False]
    assert "1 of 4 layers below 1e-7 (coloured)" in page.text


def test_zero_infinite_and_unreached_are_told_apart():
    page = Page(history(1e-3, 0.0, float("inf"), None)._repr_html_())
    assert [height for height, _ in bars(page)] == pytest.approx([60, 1, 60])
    assert "1 exactly zero; 1 NaN or inf (hollow); 1 unreached" in page.text
    assert {"0", "inf", "unreached"} <= set(page.words)


def test_both_arms_of_a_comparison_are_on_one_scale():
    page = Page(comparison()._repr_html_())
    first, second = (bars(Page(part)) for part in re.findall(r"<svg.*?</svg>", comparison()._repr_html_()))
    assert first[2] == second[2], "the last layer gets the same in both"
    assert first[0][0] < second[0][0]
    assert [coloured for _, coloured in first] == [True, True, False]
    assert "comparison: helped" in page.text


def test_a_comparison_without_a_branch_says_so():
    text = Page(comparison(supervised=False)._repr_html_()).text
    assert "nothing to compare" in text
    assert "with deep supervision:" not in text.replace("without deep supervision:", "")


def test_a_thousand_layers_stay_small_and_show_the_smallest_gradients():
    names = [f"encoder.layers.{k}.attention.output.dense" for k in range(1000)]
    html = history(*(10 ** (-12 + 0.009 * k) for k in range(1000)), names=names)._repr_html_()
    page = Page(html)
    assert len(html) < 50_000
    assert len(bars(page)) == 1000
    assert "the 24 layers with the smallest gradients of 1000" in page.text
    assert "encoder.layers.23.attention.output.dense" in page.text
    assert "encoder.layers.24.attention.output.dense" not in page.text


def test_in_plain_text_names_are_not_escaped():
    assert str(placement()).startswith("placement (rule <i>): branches after <script>alert(1)</script>, a&b")


def test_a_decision_with_many_branches_is_short():
    from gradprobe import place

    names = [f"fc{k}" for k in range(40)]
    record = history(*(1e-9 if k % 2 else 1e-3 for k in range(39)), 1e-3, names=names)
    points = tuple(Point(name, (8, 4), k, (name,)) for k, name in enumerate(names[:-1]))
    decided = place(GradientHistory(record.frame, {}, record.layers, points, (8, 2)))
    assert len(decided.points) == 19
    assert decided.reason.endswith("And so on: 16 more runs of flagged layers.")
    assert len(decided.reason) < 300
    assert "fc1, fc3, fc5, fc7, fc9, fc11 and 13 more" in str(decided)
