"""Figures for print and as files: comparisons on one page, sizes, and what the files hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from support.figures import (
    AWKWARD,
    LONG,
    MISSING,
    NAN,
    USUAL,
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

from gradprobe.record.conditions import describe_conditions
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.show.grid import Grid
from gradprobe.show.plots import (
    comparison_figure,
    paper_figure,
    plot_comparison,
    plot_history,
    save_figure,
    save_figures,
    save_side_by_side,
)

pytestmark = pytest.mark.usefixtures("no_figure_stays_open")


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
    def test_what_is_not_a_width(self, width):
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


def test_the_files_mark_what_vanishes_whatever_decides(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "gradprobe.show.plots.files.plot_history", lambda *_, flagged, **__: drawn.extend(flagged) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        save_figures(tmp_path, ramp(9), Placement("auto", (), (), "because", remedy="lsuv"))
    assert drawn == ["net.0", "net.1", "net.2", "net.3"], "from 1e-11 tenfold with each"
