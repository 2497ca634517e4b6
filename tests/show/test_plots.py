"""Figures with one panel: what they show of a history or a comparison."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from support.figures import (
    AWKWARD,
    CONDITIONS,
    MISSING,
    NAN,
    ZERO,
    axes,
    boxes,
    by_gid,
    compare,
    draw,
    labels,
    laid_out,
    legend,
    make,
    overlapping,
    put,
    ramp,
)

from gradprobe.record.placement import Placement
from gradprobe.record.quantities import label
from gradprobe.show.grid import Grid
from gradprobe.show.plots import (
    plot_heatmap,
    plot_history,
    plot_learning,
    plot_profile,
)
from gradprobe.show.plots.depth import label_rows
from gradprobe.show.plots.labels import EndLabels, move_apart

pytestmark = pytest.mark.usefixtures("no_figure_stays_open")
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

    def test_names_of_branches_cover_no_line(self):
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
