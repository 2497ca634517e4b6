"""The figure of signal, share and update by depth, in matplotlib and on the page."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import gradprobe as gp
from gradprobe.record.evidence import Evidence
from gradprobe.record.history import GradientHistory, Layer, tidy


def fading(depth=12, factor=0.1, still=(2,)):
    """A chain in which each layer keeps a tenth of the signal, and the gradient a tenth on its way back."""
    names = [f"fc{i}" for i in range(depth)]
    rows, seen = [], []
    for iteration in range(3):
        for i, name in enumerate(names):
            rms = 0.5 * factor ** (depth - 1 - i)
            rows += [(iteration, name, i, of, rms, rms, rms, 0.0, 0) for of in ("output", "weight")]
            update = 0.0 if i in still else 1e-3
            seen.append((iteration, name, factor**i, 1.0, 0.0, 0.0, 0.0, 0.0, 64, update, 1.0))
    layers = tuple(Layer(name, i, "Linear", 64) for i, name in enumerate(names))
    facts = {name: {"trained": True, "std": 0.3, "fan_in": 8, "units": 8} for name in names}
    evidence = Evidence.from_rows(seen, facts, {"losses": [2.3] * 3, "loss": []})
    return GradientHistory(tidy(rows), {"batch_size": 8}, layers, (), (8, 2), evidence=evidence)


def test_share_and_spread_are_those_of_the_chain():
    table = fading().by_depth
    assert np.allclose(table["spread"], 0.1 ** np.arange(12))
    assert np.allclose(table["share"], 0.1 ** np.arange(11, -1, -1))


def test_each_line_has_its_numbers_and_zeros_are_at_the_bottom():
    history = fading()
    ax = gp.plot_signal(history, ax=Figure().subplots())
    lines = {line.get_gid(): line for line in ax.get_lines() if line.get_gid() in ("spread", "share", "update")}
    assert list(lines) == ["spread", "share", "update"]
    assert np.allclose(lines["share"].get_ydata(), 0.1 ** np.arange(11, -1, -1))
    assert np.isnan(lines["update"].get_ydata()[2])
    [zero] = [artist for artist in ax.collections if artist.get_gid() == "exact zero"]
    assert zero.get_offsets().tolist() == [[2, 0]]  # x: the layer; y: the bottom of the axes


def test_the_layers_of_the_first_finding_have_a_background_and_a_colour():
    history = fading()
    [first, *_] = gp.diagnose(history).findings
    assert first.cause == "signal_collapse"
    ax = gp.plot_signal(history, ax=Figure(figsize=(9, 5)).subplots())
    assert ax.get_title("left") == "Signal by depth: signal lost"
    assert sum(patch.get_gid() == "finding" for patch in ax.patches) == len(first.layers)
    emphasised = [tick.get_text() for tick in ax.get_xticklabels() if tick.get_color() == "#d55e00"]
    assert emphasised == list(first.layers)


def test_a_record_of_gradients_alone_is_refused_with_what_to_do():
    history = GradientHistory(tidy([]), {}, (), (), None)
    with pytest.raises(ValueError, match='record it with stats="all"'):
        gp.plot_signal(history)


def test_the_page_draws_it_and_the_verdict_leads_to_the_layers(show):
    history = fading()
    page = show(history)
    assert page.locator("#signal figure h3").text_content() == "Signal by depth"
    links = page.locator(".verdict a[data-layer]")
    [first, *_] = gp.diagnose(history).findings
    assert links.all_text_contents() == list(first.layers)
    links.nth(1).click()
    name = first.layers[1]
    assert page.locator("#signal text.halo").text_content() == name
    assert page.locator("tr.is-current th").text_content() == name


def test_the_page_of_gradients_alone_has_no_such_figure(show):
    rows = [(0, "fc", 0, "output", 1e-3, 1e-3, 1e-3, 0.0, 0)]
    page = show(GradientHistory(tidy(rows), {}, (Layer("fc", 0, "Linear", 9),), (), None))
    assert page.locator("#signal figure").count() == 0
