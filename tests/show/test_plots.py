from __future__ import annotations

import dataclasses
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure

from gradprobe.record.conditions import describe_conditions
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.record.quantities import label
from gradprobe.show.plots import (
    comparison_figure,
    paper_figure,
    plot_comparison,
    plot_heatmap,
    plot_history,
    plot_learning,
    plot_profile,
    save_figure,
    save_figures,
    save_side_by_side,
)
from gradprobe.show.plots.depth import label_rows
from gradprobe.show.plots.grid import Grid
from gradprobe.show.plots.labels import EndLabels, move_apart
from gradprobe.verdict.comparison import Comparison, learning_frame

CONDITIONS = {"target": "net.py", "data": "digits", "batch_size": 64, "seed": 0}
LONG = {  # 150 characters, as a model of the user's own with data and optimizer has them
    "target": "awkward_model.py",
    "data": "awkward_model.py:batches",
    "batch_size": 16,
    "loss": "cross_entropy",
    "optimizer": "AdamW lr 0.0003, betas (0.9, 0.95), weight_decay 0.1",
    "dtype": "float32",
    "device": "cpu",
    "seed": 0,
}
USUAL = {**LONG, "target": "awk.py", "data": "awk.py:batches", "optimizer": "SGD lr 0.01"}
AWKWARD = ("0", "nan", "", "$x_1$", "_hidden", "a$b$c", "[0-9]", "None")
ZERO, NAN, MISSING = (0.0, 0), (float("nan"), 2), (None, None)


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def make(values, names=None, *, of="output", conditions=None) -> GradientHistory:
    """A history from (layers, iterations) of magnitudes; a cell may be ZERO, NAN or MISSING."""
    names = names or [f"net.{k}" for k in range(len(values))]
    rows = []
    for depth, (name, line) in enumerate(zip(names, values, strict=True)):
        for iteration, cell in enumerate(line):
            size, nonfinite = cell if isinstance(cell, tuple) else (cell, 0)
            rows.append((iteration, name, depth, of, size, size, size, None if size is None else 0.0, nonfinite))
    reached = [any(cell != MISSING for cell in line) for line in values]
    layers = tuple(
        Layer(name, k, "Conv2d", 9, {} if there else {of: "no gradient arrived"})
        for k, (name, there) in enumerate(zip(names, reached, strict=True))
    )
    points = tuple(Point(name, (8, 4), k, (name,)) for k, name in enumerate(names))
    return GradientHistory(tidy(rows), CONDITIONS if conditions is None else conditions, layers, points, (8, 10))


def ramp(count, iterations=10, low=-11.0, high=-3.0, names=None) -> GradientHistory:
    rng = np.random.default_rng(0)
    levels = np.linspace(low, high, count)[:, None] + 0.1 * rng.normal(size=(count, iterations))
    return make((10**levels).tolist(), names)


def put(values, cells) -> list:
    values = [list(line) for line in values]
    for (row, column), cell in cells.items():
        values[row][column] = cell
    return values


def compare(count=8, flagged=4, *, supervised=True, seeds=1, accuracy=True, branches=1) -> Comparison:
    plain = ramp(count)
    points = plain.points[flagged - branches : flagged] if supervised else ()
    names = tuple(layer.name for layer in plain.layers[:flagged])
    rows = [
        (seed, arm, i, 2.3 - rate * i, i / 100 if accuracy and i % 20 == 19 else float("nan"))
        for seed in range(seeds)
        for arm, rate in (("plain", 0.001), ("supervised", 0.01 + 0.001 * seed))[: 1 + supervised]
        for i in range(100)
    ]
    placement = Placement("rule", names, points, "because")
    other = ramp(count, low=-6) if supervised else None
    return Comparison(plain, other, placement, learning_frame(rows), {"chance": 0.1})


def by_gid(ax: Axes, gid: str) -> list:
    return [artist for artist in ax.get_children() if (artist.get_gid() or "").startswith(gid)]


def legend(ax: Axes) -> list[str]:
    return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]


def labels(ax: Axes) -> list:
    return [text for text in ax.texts if getattr(text, "arrow_patch", None) is not None]


def axes(**options) -> Axes:
    return Figure(**options).subplots()


def laid_out(**options) -> Axes:
    return axes(layout="constrained", **options)


def draw(ax: Axes) -> None:
    ax.figure.figure.draw_without_rendering()


def boxes(texts) -> list:
    # the text alone, without the line that ties it to its place
    return [super(type(text), text).get_window_extent() for text in texts]


def overlapping(texts) -> list[tuple[str, str]]:
    found = list(zip(texts, boxes(texts), strict=True))
    return [
        (a.get_text(), b.get_text())
        for i, (a, box) in enumerate(found)
        for b, other in found[i + 1 :]
        if box.padded(-0.5).overlaps(other.padded(-0.5))
    ]


FIGURES = [plot_history, plot_profile, plot_heatmap]


class TestEveryFigure:
    @pytest.mark.parametrize("plot", FIGURES)
    @pytest.mark.parametrize("count", [1, 8, 1000])
    def test_any_depth(self, plot, count):
        ax = plot(ramp(count, iterations=4), ax=laid_out())
        draw(ax)

    @pytest.mark.parametrize("plot", FIGURES)
    def test_draws_into_the_given_axes_only(self, plot):
        figure, (left, right) = plt.subplots(1, 2)
        before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
        assert plot(ramp(8), ax=left) is left
        assert dict(matplotlib.rcParams) == before
        assert plt.get_fignums() == open_figures
        assert figure.axes == [left, right]
        assert not right.has_data()

    @pytest.mark.parametrize("plot", [plot_history, plot_profile])
    def test_axes_that_share_a_scale_show_all_of_both(self, plot):
        left, right = Figure().subplots(1, 2, sharey=True)
        plot(make([[1e-12] * 3, [1e-9] * 3]), ax=left)
        plot(make([[1e-5] * 3, [1e-1] * 3]), ax=right)
        for ax in (left, right):
            assert ax.get_ylim()[0] < 1e-12
            assert ax.get_ylim()[1] > 1e-1

    @pytest.mark.parametrize("plot", FIGURES)
    def test_makes_a_figure_of_its_own(self, plot):
        before = dict(matplotlib.rcParams)
        ax = plot(ramp(8))
        assert plt.get_fignums() == [ax.figure.number]
        assert dict(matplotlib.rcParams) == before

    @pytest.mark.parametrize("plot", FIGURES)
    def test_names_the_statistic(self, plot):
        values = [[1e-3, 1e-4]]
        ax = plot(make(values, of="weight"), of="weight", ax=axes())
        shown = [text.get_text() for text in ax.figure.findobj(matplotlib.text.Text)]
        assert any(text.startswith(label("weight")) for text in shown)
        assert not any("CNDS" in text for text in shown), "the rule of CNDS is about outputs"

    @pytest.mark.parametrize("plot", FIGURES)
    def test_quantity_that_was_not_recorded(self, plot):
        with pytest.raises(ValueError, match="recorded quantities"):
            plot(ramp(2), of="weight", ax=axes())

    @pytest.mark.parametrize("plot", FIGURES)
    def test_awkward_names_are_printed_as_they_are(self, plot):
        ax = plot(ramp(len(AWKWARD), names=AWKWARD), ax=axes())
        draw(ax)
        texts = [*labels(ax), *ax.get_xticklabels(), *ax.get_yticklabels()]
        shown = {text.get_text().strip() for text in texts if not text.get_parse_math()}
        assert {name or "(root)" for name in AWKWARD} <= shown

    @pytest.mark.parametrize("plot", FIGURES)
    @pytest.mark.parametrize("cell", [ZERO, NAN, MISSING, (float("inf"), 0), 1e-45])
    def test_nothing_but_one_kind_of_cell(self, plot, cell):
        ax = plot(make([[cell] * 3] * 2), ax=axes())
        draw(ax)
        assert np.all(np.isfinite(ax.get_ylim()))

    @pytest.mark.parametrize("plot", FIGURES)
    def test_without_threshold(self, plot):
        ax = plot(ramp(8), threshold=None, ax=axes())
        assert not by_gid(ax, "threshold")
        assert "below" not in ax.get_title("left")

    @pytest.mark.parametrize("plot", FIGURES)
    @pytest.mark.parametrize("width", [3.5, 7.4])
    def test_header_stays_inside(self, plot, width):
        conditions = {**CONDITIONS, "target": "$" + "m" * 40, "data": "synthetic data: " + "some words and " * 20}
        history = dataclasses.replace(ramp(20), conditions=conditions)
        ax = plot(history, ax=laid_out(figsize=(width, 4)))
        draw(ax)
        words = next(text for text in ax.texts if text.get_text().startswith("$m"))
        title = next(
            text for text in ax.get_children() if getattr(text, "get_text", str)() == ax.get_title("left")
        )
        parts = [part for part in (words, title, ax.get_legend()) if part is not None]
        extents = [part.get_window_extent() for part in parts]
        assert all(extent.x0 >= 0.99 * ax.bbox.x0 for extent in extents)
        assert all(extent.x1 <= ax.figure.bbox.x1 for extent in extents)
        assert all(not a.overlaps(b) for i, a in enumerate(extents) for b in extents[i + 1 :])
        assert "…" in words.get_text()


class TestHistory:
    def test_one_line_for_each_layer_with_its_data(self):
        history = ramp(8)
        ax = plot_history(history, ax=axes())
        lines = by_gid(ax, "layer ")
        assert [line.get_gid() for line in lines] == [f"layer net.{k}" for k in range(8)]
        for k, line in enumerate(lines):
            rows = history.frame[history.frame["layer"] == f"net.{k}"]
            np.testing.assert_array_equal(line.get_ydata(), rows["mean_abs"])
            np.testing.assert_array_equal(line.get_xdata(), rows["iteration"])
        assert ax.get_yscale() == "log"

    def test_colours_get_lighter_with_depth_but_stay_visible(self):
        ax = plot_history(ramp(30), ax=axes())
        light = [np.dot(to_rgb(line.get_color()), (0.2126, 0.7152, 0.0722)) for line in by_gid(ax, "layer ")]
        assert np.all(np.diff(light) > 0)
        assert light[-1] < 0.72

    def test_threshold(self):
        ax = plot_history(ramp(8), ax=axes())
        (line,) = by_gid(ax, "threshold")
        assert set(line.get_ydata()) == {1e-7}
        assert "threshold 1e-7 (CNDS)" in [text.get_text() for text in labels(ax)]
        ax = plot_history(ramp(8), threshold=2.5e-6, ax=axes())
        assert "threshold 2.5e-6" in [text.get_text() for text in labels(ax)]

    def test_flagged_layers_are_emphasised(self):
        ax = plot_history(ramp(8), ax=axes())
        widths = [line.get_linewidth() for line in by_gid(ax, "layer ")]
        assert min(widths[:4]) > max(widths[4:])
        assert ax.get_title("left").endswith("4 of 8 layers below 1e-7")
        ax = plot_history(ramp(8), flagged=["net.7"], ax=axes())
        widths = [line.get_linewidth() for line in by_gid(ax, "layer ")]
        assert widths[7] > max(widths[:7])
        assert ax.get_title("left").endswith("1 of 8 layers flagged")

    @pytest.mark.parametrize("size", [(7.4, 4.6), (5, 2.6)])
    def test_labels_do_not_overlap(self, size):
        history = make([[1e-5 * (1 + 1e-6 * k)] * 5 for k in range(12)])
        ax = plot_history(history, ax=laid_out(figsize=size))
        draw(ax)
        assert len(labels(ax)) == 13
        assert not overlapping(labels(ax))
        ax.figure.set_size_inches(size[0], 1.5 * size[1])
        draw(ax)
        assert not overlapping(labels(ax)), "labels are arranged anew when the size changes"

    def test_labels_are_inside_the_figure(self):
        ax = plot_history(
            ramp(8, names=["encoder.layers.11.attention.output.dense"[k:] for k in range(8)]), ax=laid_out()
        )
        draw(ax)
        assert all(box.x1 <= ax.figure.bbox.x1 for box in boxes(labels(ax)))

    def test_label_stands_by_its_line_where_there_is_room(self):
        ax = plot_history(make([[1e-3] * 3, [1e-5] * 3]), threshold=None, ax=axes())
        draw(ax)
        places = ax.transData.transform([(0, 1e-3), (0, 1e-5)])[:, 1]
        middles = [(box.y0 + box.y1) / 2 for box in boxes(labels(ax))]
        np.testing.assert_allclose(middles, places, atol=2)

    def test_of_many_layers_the_first_the_last_and_the_smallest_are_named(self):
        values = [[10.0 ** (-3 - 0.01 * (k == 13))] * 3 for k in range(40)]
        ax = plot_history(make(values), threshold=None, ax=axes())
        assert [text.get_text() for text in labels(ax)] == ["net.0", "net.13", "net.39"]
        assert len(ax.child_axes) == 1, "a colour bar by depth"

    def test_exact_zero_is_at_the_floor(self):
        values = put([[1e-3] * 5, [1e-4] * 5], {(1, 2): ZERO, (1, 3): ZERO})
        ax = plot_history(make(values), ax=axes())
        (marks,) = by_gid(ax, "exact zero")
        np.testing.assert_allclose(marks.get_offsets(), [(2, 0), (3, 0)])
        assert np.isnan(by_gid(ax, "layer net.1")[0].get_ydata()[2:4]).all()
        assert legend(ax) == ["exact zero"]
        assert ax.get_ylim()[0] < 1e-7

    def test_nan_is_at_the_top(self):
        values = put([[1e-3] * 5], {(0, 1): NAN, (0, 4): (float("inf"), 1)})
        ax = plot_history(make(values), ax=axes())
        (marks,) = by_gid(ax, "non-finite")
        np.testing.assert_allclose(marks.get_offsets(), [(1, 1), (4, 1)])
        assert legend(ax) == ["NaN or inf"]

    def test_unreached_layers_are_counted_and_gaps_left(self):
        values = put([[1e-3] * 4, [MISSING] * 4, [MISSING] * 4], {(0, 1): MISSING})
        ax = plot_history(make(values), ax=axes())
        (line,) = by_gid(ax, "layer ")
        np.testing.assert_array_equal(line.get_ydata(), [1e-3, np.nan, 1e-3, 1e-3])
        assert legend(ax) == ["2 layers unreached: not drawn"]
        assert line.get_markevery() == [0], "a value without neighbours is a dot, else it could not be seen"

    def test_choice_of_layers(self):
        history = ramp(8, names=["conv1", "conv2", "fc1", "fc2", "$x_1$", "[ab]", "", "head"])

        def drawn(layers):
            return [
                line.get_gid()[6:] for line in by_gid(plot_history(history, layers=layers, ax=axes()), "layer ")
            ]

        assert drawn(["conv*", "head"]) == ["conv1", "conv2", "head"]
        assert drawn("fc?") == ["fc1", "fc2"]
        assert drawn(["$x_1$", "[ab]", ""]) == ["$x_1$", "[ab]", ""]
        with pytest.raises(ValueError, match="'konv': expected names or patterns of 'conv1', "):
            plot_history(history, layers=["konv"], ax=axes())

    def test_one_iteration(self):
        ax = plot_history(ramp(3, iterations=1), ax=axes())
        assert all(line.get_markevery() == [0] for line in by_gid(ax, "layer "))
        draw(ax)
        assert [tick for tick in ax.get_xticks() if -0.5 <= tick <= 0.5] == [0]


class TestProfile:
    def test_magnitude_of_each_layer(self):
        history = ramp(8)
        ax = plot_profile(history, how="max", ax=axes())
        dots = np.concatenate([line.get_xydata() for line in by_gid(ax, "magnitudes")])
        np.testing.assert_allclose(dots[:, 1], history.aggregate("output", "max"))
        np.testing.assert_array_equal(dots[:, 0], range(8))
        assert ax.get_ylabel() == "mean |dL/d output|, max"
        assert [text.get_text() for text in ax.get_xticklabels()] == [f"net.{k}" for k in range(8)]

    def test_bars_reach_from_smallest_to_largest(self):
        ax = plot_profile(make([[1e-3, 1e-5, 1e-4], [ZERO, 1e-6, NAN]]), ax=axes())
        bars = np.concatenate(
            [
                np.array(bar.get_segments())[:, :, 1]
                for bar in ax.collections
                if bar.get_gid() is None and hasattr(bar, "get_segments")
            ]
        )
        np.testing.assert_allclose(bars, [(1e-5, 1e-3), ax.get_ylim()])

    def test_flagged_layers_differ_in_colour_and_shape(self):
        comparison = compare()
        ax = plot_profile(comparison.plain, placement=comparison.placement, ax=axes())
        flagged, others = by_gid(ax, "magnitudes")
        assert (len(flagged.get_xdata()), len(others.get_xdata())) == (4, 4)
        assert flagged.get_color() != others.get_color()
        assert flagged.get_marker() != others.get_marker()
        assert ax.get_title("left").endswith("4 of 8 layers flagged")

    def test_branches(self):
        comparison = compare(branches=2)
        ax = plot_profile(comparison.plain, placement=comparison.placement, ax=axes())
        assert [line.get_xdata()[0] for line in by_gid(ax, "branch net")] == [2, 3]
        assert [text.get_text().strip() for text in by_gid(ax, "branch name")] == ["net.2", "net.3"]
        assert "2 branches" in legend(ax)

    @pytest.mark.parametrize("wide", [3.4, 7.4])
    @pytest.mark.parametrize("count", [8, 60, 1000])
    def test_bars_never_overlap(self, count, wide):
        ax = plot_profile(ramp(count, iterations=2), ax=laid_out(figsize=(wide, 4)))
        [width] = {
            float(width) for bars in ax.collections if not bars.get_gid() for width in bars.get_linewidths()
        }
        assert 0 < width < ax.bbox.width * 72 / ax.figure.dpi / count

    def test_what_to_change_first_is_noted(self):
        advised = Placement("auto", (), (), "because", remedy="lsuv")
        assert "advised first: lsuv" in legend(plot_profile(ramp(8), placement=advised, ax=axes()))

    def test_the_label_of_the_threshold_is_tied_to_the_right_end(self):
        ax = plot_profile(ramp(8), ax=axes())
        [label] = [text for text in labels(ax) if "threshold" in text.get_text()]
        assert label.xy == (ax.get_xlim()[1], 1e-7)

    def test_names_of_branches_do_not_overlap(self):
        history = ramp(60, names=[f"encoder.layers.{k}.attention" for k in range(60)])
        placement = Placement("by hand", (), history.points[::2], "because")
        ax = plot_profile(history, placement=placement, ax=laid_out(figsize=(7, 5)))
        draw(ax)
        names = by_gid(ax, "branch name")
        assert len(by_gid(ax, "branch encoder")) == 30
        assert 1 < len(names) < 30
        assert not overlapping(names)

    def test_names_of_layers_are_thinned(self):
        ax = plot_profile(ramp(300, iterations=2), ax=laid_out())
        draw(ax)
        texts = ax.get_xticklabels()
        assert (texts[0].get_text(), texts[-1].get_text()) == ("net.0", "net.299")
        extents = [text.get_window_extent() for text in texts]
        assert all(a.x1 <= b.x0 for a, b in pairwise(extents))
        assert f"({len(texts)} of 300 named)" in ax.get_xlabel()

    def test_zero_and_nan(self):
        ax = plot_profile(make([[ZERO] * 3, [NAN] * 3, [1e-3] * 3, [MISSING] * 3]), ax=axes())
        np.testing.assert_allclose(by_gid(ax, "exact zero")[0].get_offsets(), [(0, 0)])
        np.testing.assert_allclose(by_gid(ax, "non-finite")[0].get_offsets(), [(1, 1)])
        assert {"exact zero", "NaN or inf", "1 layer unreached: not drawn"} <= set(legend(ax))

    def test_zero_and_nan_in_one_iteration_are_marked_though_the_median_is_a_number(self):
        ax = plot_profile(make([[ZERO, 1e-3, 1e-3], [1e-3, 1e-3, NAN], [1e-3] * 3]), ax=axes())
        np.testing.assert_allclose(by_gid(ax, "exact zero")[0].get_offsets(), [(0, 0)])
        np.testing.assert_allclose(by_gid(ax, "non-finite")[0].get_offsets(), [(1, 1)])
        assert [line.get_xdata().tolist() for line in by_gid(ax, "magnitudes")] == [[0, 1, 2]]

    @pytest.mark.parametrize(("flagged", "word"), [((), "layers"), (("net.0",), "other layers")])
    def test_other_layers_are_others_than_the_flagged(self, flagged, word):
        ax = plot_profile(ramp(3), placement=Placement("rule", flagged, (), "because"), ax=axes())
        assert word in legend(ax)


def test_the_files_mark_what_vanishes_whatever_decides(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "gradprobe.show.plots.files.plot_history", lambda *_, flagged, **__: drawn.extend(flagged) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        save_figures(tmp_path, ramp(9), Placement("auto", (), (), "because", remedy="lsuv"))
    assert drawn == ["net.0", "net.1", "net.2", "net.3"], "from 1e-11 tenfold with each"


class TestHeatmap:
    def test_cells(self):
        history = ramp(8)
        ax = plot_heatmap(history, ax=axes())
        (mesh,) = ax.collections
        np.testing.assert_array_equal(mesh.get_array(), Grid.of(history, "output").values)
        assert isinstance(mesh.norm, LogNorm)
        assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first layer is on top"
        assert legend(ax) == []

    def test_cells_without_a_magnitude(self):
        ax = plot_heatmap(make(put([[1e-3] * 4] * 3, {(0, 0): ZERO, (1, 1): NAN, (2, 2): MISSING})), ax=axes())
        mesh, zeros, nonfinite = ax.collections
        np.testing.assert_array_equal(np.argwhere(np.ma.getmaskarray(mesh.get_array())), [(0, 0), (1, 1), (2, 2)])
        np.testing.assert_array_equal(np.argwhere(~zeros.get_array().mask), [(0, 0)])
        np.testing.assert_array_equal(np.argwhere(~nonfinite.get_array().mask), [(1, 1)])
        assert ax.patch.get_hatch()
        assert legend(ax) == ["exact zero", "NaN or inf", "unreached"]

    def test_threshold_on_the_colour_bar(self):
        ax = plot_heatmap(ramp(8), ax=axes())
        (bar,) = ax.child_axes
        assert bar.get_ylabel() == label("output")
        (line,) = by_gid(bar, "threshold")
        assert set(line.get_ydata()) == {1e-7}
        assert "threshold\n1e-7 (CNDS)" in [text.get_text() for text in bar.get_yticklabels()]

    def test_flagged_names_have_a_colour(self):
        colours = [text.get_color() for text in plot_heatmap(ramp(8), ax=axes()).get_yticklabels()]
        assert len(set(colours[:4])) == len(set(colours[4:])) == 1
        assert colours[0] != colours[4]


class TestComparison:
    def test_both_arms_in_the_same_colours(self):
        comparison = compare()
        ax = plot_comparison(comparison, ax=axes())
        lines = by_gid(ax, "layer ")
        plain, supervised = lines[:4], lines[4:]
        assert [line.get_color() for line in plain] == [line.get_color() for line in supervised]
        assert all(line.is_dashed() for line in plain)
        assert not any(line.is_dashed() for line in supervised)
        rows = comparison.supervised.frame.query("layer == 'net.2'")
        np.testing.assert_array_equal(supervised[2].get_ydata(), rows["mean_abs"])
        assert legend(ax) == ["without", "with deep supervision"]

    def test_of_many_flagged_layers_a_selection(self):
        ax = plot_comparison(compare(60, 40), ax=axes())
        drawn = [line.get_gid() for line in by_gid(ax, "layer ")]
        assert len(drawn) == 16
        assert (drawn[0], drawn[7]) == ("layer net.0", "layer net.39")
        assert "8 of 40 flagged layers drawn" in legend(ax)
        draw(ax)
        assert not overlapping(labels(ax))

    def test_nothing_flagged(self):
        ax = plot_comparison(compare(8, 0, supervised=False), ax=axes())
        assert len(by_gid(ax, "layer ")) == 8
        assert {"no layer is flagged", "no branch was placed"} <= set(legend(ax))

    def test_chosen_layers(self):
        ax = plot_comparison(compare(), layers=["net.[67]"], ax=axes())
        assert [line.get_gid() for line in by_gid(ax, "layer ")] == ["layer net.6", "layer net.7"] * 2
        assert "flagged" not in ax.get_title("left")

    def test_layer_that_is_unreached_in_one_arm(self):
        values = [[1e-9] * 3, [1e-8] * 3]
        comparison = dataclasses.replace(
            compare(2, 2),
            plain=make(values),
            supervised=make([[1e-5] * 3, [MISSING] * 3]),
        )
        ax = plot_comparison(comparison, ax=axes())
        assert [text.get_text() for text in labels(ax)] == ["net.0", "net.1", "threshold 1e-7 (CNDS)"]

    def test_page(self):
        figure = comparison_figure(compare(seeds=2))
        assert plt.get_fignums() == [figure.number]
        assert len(figure.axes) == 5
        plain, supervised, *_ = figure.axes
        assert plain.get_ylim() == supervised.get_ylim()
        assert len(by_gid(plain, "layer ")) == len(by_gid(supervised, "layer ")) == 8

    def test_layers_have_the_colour_of_their_depth_in_every_panel(self):
        figure = comparison_figure(compare(20, 10))  # more flagged layers than are drawn
        plain, supervised, flagged, *_ = figure.axes
        colours = [
            {line.get_gid(): line.get_color() for line in by_gid(ax, "layer ")}
            for ax in (plain, supervised, flagged)
        ]
        assert colours[0] == colours[1]
        assert colours[2].items() <= colours[0].items()

    def test_page_of_a_column_is_refused(self):
        with pytest.raises(ValueError, match="at least 7 inches"):
            comparison_figure(compare(), width="column")

    @pytest.mark.parametrize("width", ["page", "screen"])
    @pytest.mark.parametrize("figure", [comparison_figure, paper_figure])
    def test_a_long_reason_leaves_the_other_axes_their_room(self, figure, width):
        comparison = compare(supervised=False)
        placement = dataclasses.replace(comparison.placement, reason="no layer is below the threshold, " * 12)
        drawn = figure(dataclasses.replace(comparison, placement=placement), width=width)
        drawn.draw_without_rendering()  # a warning is an error
        assert drawn.axes[0].bbox.width > drawn.bbox.width / 4

    def test_page_without_a_branch(self):
        figure = comparison_figure(compare(supervised=False, accuracy=False))
        assert len(figure.axes) == 4
        assert any("because" in text.get_text() for text in figure.axes[1].texts)


class TestPaper:
    def test_the_two_figures_with_their_data(self):
        comparison = compare(8, 4)
        figure = paper_figure(comparison)
        plain, supervised = figure.axes
        for ax, history in ((plain, comparison.plain), (supervised, comparison.supervised)):
            drawn = np.array([line.get_ydata() for line in by_gid(ax, "layer ")])
            np.testing.assert_array_equal(drawn, Grid.of(history, "output").values)
        assert plain.get_ylim() == supervised.get_ylim()
        assert [ax.get_title("left") for ax in figure.axes] == [
            "Without deep supervision",
            "With deep supervision",
        ]
        assert plt.get_fignums() == [figure.number]

    def test_few_layers_share_a_legend(self):
        figure = paper_figure(compare(8, 4))
        (shared,) = figure.legends
        names = [f"net.{k}" for k in range(8)]
        assert [text.get_text() for text in shared.get_texts()] == [*names, "flagged", "threshold 1e-7 (CNDS)"]
        drawn = [line.get_color() for line in by_gid(figure.axes[0], "layer ")]
        assert [line.get_color() for line in shared.get_lines()[:8]] == drawn

    def test_awkward_names_are_in_the_legend_as_they_are(self):
        comparison = compare(len(AWKWARD), 2)
        plain = ramp(len(AWKWARD), names=AWKWARD)
        (shared,) = paper_figure(dataclasses.replace(comparison, plain=plain, supervised=plain)).legends
        texts = shared.get_texts()
        assert [text.get_text() for text in texts[: len(AWKWARD)]] == [name or "(root)" for name in AWKWARD]
        assert not any(text.get_parse_math() for text in texts)

    def test_many_layers_share_a_colour_bar(self):
        figure = paper_figure(compare(60, 30))
        assert len(figure.axes) == 3
        assert figure.axes[2].get_xlabel() == "layer, by depth"
        assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == ["0", "59"]

    def test_without_a_branch(self):
        figure = paper_figure(compare(supervised=False))
        assert any("because" in text.get_text() for text in figure.axes[1].texts)

    @pytest.mark.parametrize(("width", "inches"), [("column", 3.4), ("page", 7.0), ("screen", 7.4), (5, 5.0)])
    def test_width(self, width, inches):
        assert paper_figure(compare(), width=width).get_figwidth() == inches

    @pytest.mark.parametrize("width", ["wide", 0, -1.0])
    def test_width_that_is_none(self, width):
        with pytest.raises(ValueError, match="expected a width"):
            paper_figure(compare(), width=width)


def saved_figures(monkeypatch) -> list[Figure]:
    """The figures that are being written from now on, which are then only laid out."""
    figures = []

    def lay_out(figure, path, **_):
        figure.draw_without_rendering()
        Path(path).write_text("drawn")
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", lay_out)
    return figures


def printed(figure) -> list:
    """The texts that can be read in a figure; ticks beyond the limits of an axis have labels, but unseen ones."""
    unread = set()
    for ax in figure.findobj(Axes):
        for axis in (ax.xaxis, ax.yaxis):
            read = {tick.label1 for tick in axis._update_ticks()} if ax.axison else set()
            unread |= set(axis.get_ticklabels(which="both")) - read
    texts = figure.findobj(matplotlib.text.Text)
    return [text for text in texts if text.get_visible() and text.get_text().strip() and text not in unread]


def cut_off(figure) -> list[str]:
    """Texts that reach out of the figure by more than rounding."""
    texts, sheet = printed(figure), figure.bbox.padded(1)
    return [
        text.get_text()
        for text, box in zip(texts, boxes(texts), strict=True)
        if min(box.x0 - sheet.x0, sheet.x1 - box.x1, box.y0 - sheet.y0, sheet.y1 - box.y1) < 0
    ]


def seen_while_saving(monkeypatch, look) -> list:
    """What there is to see in each figure while it is written as PDF and as PNG, in the resolution of the file."""
    seen = []
    save = Figure.savefig

    class Last(Artist):
        def draw(self, renderer):
            seen.append(look(self.figure))

    def saved(figure, path, **options):
        last = figure.add_artist(Last())
        last.set(zorder=1000, in_layout=False)
        for suffix in (".pdf", ".png"):
            save(figure, path.with_suffix(suffix), **options | {"metadata": None})

    monkeypatch.setattr(Figure, "savefig", saved)
    return seen


def heights(figure) -> list[float]:
    """The height of each axes with a header, as a fraction of its part of the figure."""
    return [ax.bbox.height / ax.figure.bbox.height for ax in figure.axes if ax.get_title("left")]


def crowded() -> GradientHistory:
    """A history whose figures have everything above the axes that can be there."""
    values = [[10.0 ** (k - 11)] * 10 for k in range(8)]
    cells = {(2, 2): ZERO, (4, 3): NAN, **{(6, i): MISSING for i in range(10)}}
    names = [
        "features.conv1.block",
        "\u5c42.1",
        "features.conv3",
        "c",
        "d",
        "encoder.layers.11.attention",
        "f",
        "head",
    ]
    return make(put(values, cells), names, conditions=LONG)


class TestPrint:
    """In the sizes of print nothing is cut off, and letters have 7 to 9 points."""

    @pytest.mark.parametrize("width", ["column", "page"])
    @pytest.mark.parametrize("count", [8, 60, 300])
    def test_nothing_is_cut_off(self, tmp_path, monkeypatch, count, width):
        names = [f"encoder.layers.{k}.attention.output.dense" for k in range(count)]
        plain = dataclasses.replace(ramp(count, 3, names=names), conditions=LONG)
        comparison = dataclasses.replace(compare(count, count // 2), plain=plain, supervised=plain)
        placement = Placement("rule", tuple(names[: count // 2]), plain.points[1 : count // 2 : 3], "because")
        comparison = dataclasses.replace(comparison, placement=placement)
        figures = saved_figures(monkeypatch)
        save_figures(tmp_path, plain, placement, comparison, width=width)
        assert len(figures) == 5
        for figure in figures:
            assert not cut_off(figure)
            assert figure.get_figwidth() in (3.4, 7.0)
            sizes = {text.get_fontsize() for text in printed(figure)}
            assert min(sizes) >= 7
            assert max(sizes - {11.0}) <= 9, "only the heading of a whole page is larger"

    @pytest.mark.parametrize("conditions", [LONG, USUAL])
    def test_in_a_column_long_conditions_stay_inside_and_the_axes_have_half_of_the_height(
        self, tmp_path, monkeypatch, conditions
    ):
        assert len(describe_conditions(LONG)) >= 150
        history = dataclasses.replace(crowded(), conditions=conditions)
        placement = Placement("rule", ("c", "d"), history.points[1:3], "because")
        seen = seen_while_saving(monkeypatch, lambda figure: (cut_off(figure), heights(figure)))
        save_figures(tmp_path, history, placement, width="column")
        save_side_by_side(tmp_path, [("a", history), ("b", history)], width="column")
        assert len(seen) >= 2 * 5  # as PDF and as PNG
        assert not any(texts for texts, _ in seen)
        shares = [share for _, shares in seen for share in shares]
        assert len(shares) == 7 * len(seen) / 5
        assert min(shares) > 0.49

    def test_a_pdf_embeds_its_fonts_as_truetype(self, tmp_path):
        before = dict(matplotlib.rcParams)
        data = save_figure(paper_figure(compare()), tmp_path / "paper.pdf").read_bytes()
        assert data.count(b"/FontFile2") >= 1
        assert b"/Type3" not in data
        assert dict(matplotlib.rcParams) == before

    @pytest.mark.parametrize("suffix", ["pdf", "svg"])  # PNG: TestFiles
    def test_equal_data_gives_equal_files_of_every_kind(self, tmp_path, suffix):
        first, second = (
            save_figure(plot_history(ramp(4), ax=laid_out()), tmp_path / f"{k}.{suffix}").read_bytes()
            for k in range(2)
        )
        assert first == second

    def test_a_file_has_exactly_the_size_asked_for(self, tmp_path):
        path = save_figure(paper_figure(compare(), width="column"), tmp_path / "paper.png", dpi=100)
        assert plt.imread(path).shape[1] == 340

    def test_a_narrow_figure_leaves_labels_out_rather_than_on_top_of_each_other(self):
        ax = plot_history(ramp(14), ax=laid_out(figsize=(3.4, 1.8)))
        draw(ax)
        shown = [text for text in labels(ax) if text.get_visible()]
        assert 2 <= len(shown) < 15
        assert not overlapping(shown)
        assert {"net.0", "threshold 1e-7 (CNDS)"} <= {text.get_text() for text in shown}


class TestSideBySide:
    def test_one_run_twice_is_two_panels(self, tmp_path, monkeypatch):
        figures = saved_figures(monkeypatch)
        save_side_by_side(tmp_path, [("run", ramp(4)), ("run", ramp(4))])
        assert [len([ax for ax in figure.axes if by_gid(ax, "threshold")]) for figure in figures] == [2, 2]

    @pytest.mark.parametrize(
        ("width", "inches", "rows"), [("screen", 22.2, 1), ("page", 7.0, 2), ("column", 3.4, 3)]
    )
    def test_panels_that_do_not_fit_go_below(self, tmp_path, monkeypatch, width, inches, rows):
        figures = saved_figures(monkeypatch)
        save_side_by_side(tmp_path, {name: ramp(4) for name in "abc"}, width=width)
        assert figures[0].get_figwidth() == pytest.approx(inches)
        assert len({round(part.bbox.y0) for part in figures[0].subfigs}) == rows
        assert not cut_off(figures[0])


class TestLetters:
    @pytest.mark.parametrize("plot", FIGURES)
    def test_letters_that_no_font_has_are_boxes_and_a_note(self, plot):
        ax = plot(ramp(3, names=["\u5c42.1", "\u5c42.2", "head"]), ax=laid_out())
        draw(ax)
        texts = [*labels(ax), *ax.get_xticklabels(), *ax.get_yticklabels()]
        assert {"\u25a1.1", "\u25a1.2", "head"} <= {text.get_text().strip() for text in texts}
        assert "\u25a1 a letter that the font does not have" in legend(ax)

    def test_letters_that_the_font_has_stay(self):
        ax = plot_history(ramp(2, names=["\u03b1.conv", "h\u00e4 d"]), ax=laid_out())
        assert {"\u03b1.conv", "h\u00e4 d"} <= {text.get_text() for text in labels(ax)}
        assert "\u25a1 a letter that the font does not have" not in legend(ax)

    def test_conditions_with_such_letters(self):
        history = dataclasses.replace(ramp(2), conditions={"target": "\u7db2.py"})
        ax = plot_history(history, ax=laid_out())
        draw(ax)
        assert any(text.get_text().startswith("\u25a1.py") for text in ax.texts)


class TestLearning:
    def test_loss_of_one_seed(self):
        comparison = compare()
        ax = plot_learning(comparison, ax=axes())
        raw, smooth = by_gid(ax, "raw"), by_gid(ax, "mean")
        assert (len(raw), len(smooth)) == (2, 2)
        np.testing.assert_allclose(raw[0].get_ydata(), comparison.frame.query("arm == 'plain'")["loss"])
        np.testing.assert_allclose(smooth[0].get_ydata()[50], raw[0].get_ydata()[50])
        assert ax.get_ylabel() == "training loss, rolling mean of 5"

    def test_several_seeds(self):
        ax = plot_learning(compare(seeds=3), ax=axes())
        assert not by_gid(ax, "raw")
        assert len(ax.collections) == 2
        assert "mean and range of 3 seeds" in legend(ax)

    def test_accuracy_at_checkpoints(self):
        ax = plot_learning(compare(), value="accuracy", ax=axes())
        assert all(list(line.get_xdata()) == [19, 39, 59, 79, 99] for line in by_gid(ax, "mean"))
        assert legend(ax) == ["without", "with deep supervision", "chance"]

    def test_nothing_recorded(self):
        ax = plot_learning(compare(accuracy=False), value="accuracy", ax=axes())
        assert "no held-out accuracy was recorded" in legend(ax)

    def test_nan_loss_is_said(self):
        comparison = compare()
        frame = comparison.frame.copy()
        frame.loc[frame.index[90:95], "loss"] = float("nan")
        ax = plot_learning(dataclasses.replace(comparison, frame=frame), ax=axes())
        assert "NaN or inf in 5 iterations: not drawn" in legend(ax)

    def test_arms_that_coincide_are_both_seen(self):
        without, supervised = by_gid(plot_learning(compare(), ax=axes()), "mean")
        assert without.get_zorder() > supervised.get_zorder()
        assert (without.get_linestyle(), supervised.get_linestyle()) == ("--", "-"), "through its gaps"

    def test_unknown_value(self):
        with pytest.raises(ValueError, match="'loss', 'accuracy'"):
            plot_learning(compare(), value="speed", ax=axes())


class TestFiles:
    def test_equal_data_gives_equal_files(self, tmp_path):
        comparison = compare(4, 2, accuracy=False)
        before = dict(matplotlib.rcParams)
        runs = [
            save_figures(tmp_path / str(i), comparison.plain, comparison.placement, comparison) for i in range(2)
        ]
        names = ["iterations.png", "depth.png", "heatmap.png", "comparison.png", "paper.png"]
        assert [[path.name for path in run] for run in runs] == [names, names]
        for first, second in zip(*runs, strict=True):
            assert first.read_bytes() == second.read_bytes()
            assert first.read_bytes().startswith(b"\x89PNG")
        assert plt.get_fignums() == []
        assert dict(matplotlib.rcParams) == before

    def test_weight_only(self, tmp_path):
        files = save_figures(tmp_path, make([[1e-3, 1e-4]], of="weight"))
        assert [path.name for path in files] == ["iterations.png", "depth.png", "heatmap.png"]


class TestArrangement:
    @pytest.mark.parametrize("seed", range(8))
    def test_spread_keeps_order_and_gap(self, seed):
        rng = np.random.default_rng(seed)
        wanted = rng.uniform(0, 1, rng.integers(1, 15))
        heights = move_apart(wanted, 0.06)
        assert np.all(np.diff(np.sort(heights)) >= 0.06 - 1e-9)
        assert np.array_equal(np.argsort(wanted), np.argsort(heights))
        assert heights.min() >= -1e-9
        assert heights.max() <= 1 + 1e-9

    def test_spread_moves_nothing_without_need(self):
        np.testing.assert_allclose(move_apart(np.array([0.9, 0.1, 0.5]), 0.1), [0.9, 0.1, 0.5])

    def test_spread_without_room(self):
        assert np.all(np.diff(move_apart(np.full(50, 0.5), 0.1)) > 0)

    def test_no_labels(self):
        ax = axes()
        EndLabels(ax, [])
        draw(ax)

    def test_flags_cover_no_pole(self):
        spans = [(10.0 * k, 10.0 * k + 25) for k in range(4)]
        assert label_rows(spans) == {0: 3, 1: 2, 2: 1, 3: 0}
        assert set(label_rows([(10.0 * k, 10.0 * k + 25) for k in range(30)]).values()) <= {0, 1, 2, 3}


def test_no_torch_and_no_backend_on_import():
    code = (
        "import sys, gradprobe.show.plots; print([name in sys.modules for name in ('torch', 'matplotlib.pyplot')])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False]"
