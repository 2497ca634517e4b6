"""The tables and the profile that a terminal shows: whatever the layers are called and however many there are."""

import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from gradprobe.decide.policies import EveryLayerPolicy, RelativePolicy, ThresholdPolicy, place
from gradprobe.record.evidence import Evidence
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.record.text_bars import sparkline
from gradprobe.show.formats import result_frame
from gradprobe.show.tables import MAX_ROWS, Profile, as_table, excerpt, fit

CJK = "\u5c42" * 30


LONG = "encoder." + "very_long_name_" * 13  # above 200 characters


HOSTILE = "[red]not markup[/red]"


def recorded(magnitudes, points=()):
    """A history with these layers and magnitudes, and a point after each of the named layers."""
    layers = tuple(Layer(name, depth, "Linear", 9) for depth, name in enumerate(magnitudes))
    rows = [
        (0, layer.name, layer.depth, of, magnitudes[layer.name], 0, 0, 0, 0)
        for layer in layers
        for of in ("output", "weight")
    ]
    made = tuple(Point(f"{name}.act", (8, 4), list(magnitudes).index(name), (name,)) for name in points)
    return GradientHistory(tidy(rows), {"batch_size": 8}, layers, made, (8, 2))


def printed(renderable, width=80, **options):
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, **options).print(renderable)
    return file.getvalue()


def table_of(history, width=80, policy=None, **options):
    every = options.pop("every_layer", False)
    return printed(as_table(history, place(history, policy), every_layer=every), width, **options)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("name", [LONG, CJK, HOSTILE, "\u00e9" * 90, "a\x1b[31mb\nc"])
def test_the_table_fits_the_terminal_whatever_the_layers_are_called(name, width):
    text = table_of(recorded({name: 1e-9, "fc": 1e-2}, points=[name]), width)
    assert max(map(cell_len, text.splitlines())) <= width
    row = next(line for line in text.splitlines() if "flagged +branch" in line)
    assert "1.00e-09" in row
    assert "\x1b" not in text


def test_a_gradient_with_nan_is_not_called_infinite_and_one_iteration_is_one():
    layers = tuple(Layer(name, depth, "Linear", 9) for depth, name in enumerate("ab"))
    numbers = {"a": (float("nan"),) * 3 + (0, 3), "b": (1.0, 1.0, 1.0, 0, 0)}
    rows = [(0, layer.name, layer.depth, "output", *numbers[layer.name]) for layer in layers]
    text = table_of(GradientHistory(tidy(rows), {}, layers, (), None))
    assert re.search(r"0 +a +Linear +not finite", text)
    assert not re.search(r"\binf\b", text)
    assert re.search(r"^1 iteration\.", text, re.MULTILINE)


def test_a_loss_that_ended_in_nan_is_not_given_the_last_finite_value():
    history = recorded({"a": 1.0})
    text = table_of(replace(history, conditions={"losses": [2.5, 2.25, None]}))
    assert "loss 2.5 at the first iteration, not finite at the last" in text


def test_a_long_name_is_cut_in_the_middle_and_its_end_stays():
    text = table_of(recorded({"model.encoder.layers.11.first_" + "x" * 200 + "_last": 1.0, "fc": 1e-2}))
    assert re.search(r"m\.e\.l\.11\.first_x*…x*_last ", text)


def test_markup_in_a_name_is_text():
    assert HOSTILE in table_of(recorded({HOSTILE: 1e-9, "fc": 1e-2}), force_terminal=True)


@pytest.mark.parametrize("width", range(12))
def test_a_name_is_never_wider_than_its_room(width):
    assert all(cell_len(fit(name, width)) <= width for name in (LONG, CJK, HOSTILE, "", "abc"))


def test_colours_need_a_terminal_and_no_color_takes_them_away(monkeypatch):
    history = recorded({"a": 1e-9, "fc": 1e-2})
    assert "\x1b" not in table_of(history)
    assert "\x1b[31m" in table_of(history, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in table_of(history, force_terminal=True, color_system="standard")


DEEP = {f"layer{i}": 10.0 ** (-12 + 10 * i / 999) for i in range(1000)}  # the 500th is at 1e-7


def test_a_thousand_layers_are_no_thousand_rows():
    text = table_of(recorded(DEEP, points=["layer499"]))
    assert len(text.splitlines()) < 40
    shown = re.findall(r"^ *\d+  (layer\d+)", text, re.MULTILINE)
    # the ends, the border of the flagged with its neighbours, and the layer in front of the branch
    assert shown == ["layer0", *(f"layer{i}" for i in (498, 499, 500, 501)), "layer999"]
    assert "… 497 more, all flagged" in text
    assert "994 of 1000 layers are not shown: --all shows them, and so does --format csv" in text


def test_all_shows_every_layer():
    text = table_of(recorded(DEEP), every_layer=True)
    assert all(name in text for name in DEEP)
    assert "not shown" not in text


def test_the_smallest_and_the_unreached_are_shown_wherever_they_are():
    magnitudes = {f"layer{i}": 1e-3 for i in range(100)} | {"layer37": 1e-6, "layer60": None}
    history = recorded(magnitudes)
    shown = excerpt(result_frame(history, place(history)), place(history))
    assert shown == [0, 37, 60, 99]


def test_where_too_many_matter_the_table_stays_short():
    history = recorded({f"layer{i}": 1e-9 if i % 2 else 1e-3 for i in range(500)})
    assert len(excerpt(result_frame(history, place(history)), place(history))) <= MAX_ROWS


def test_what_it_comes_to_is_last():
    lines = table_of(recorded(DEEP, points=["layer499"])).splitlines()
    verdict = next(i for i, line in enumerate(lines) if line.startswith("placement"))
    assert verdict > max(i for i, line in enumerate(lines) if "layer999" in line)
    assert verdict >= len(lines) - 8


def test_many_skipped_layers_do_not_push_the_verdict_off_the_screen():
    layers = tuple(Layer(f"{i}", i, "Linear", 9, {"output": "frozen"}) for i in range(300))
    rows = [(0, layer.name, layer.depth, "output", None, None, None, None, None) for layer in layers[:-1]]
    rows.append((0, "299", 299, "output", 1e-3, 0, 0, 0, 0))
    text = str(place(GradientHistory(tidy(rows), {}, layers, (), (8, 2))))
    assert len(text.splitlines()) < 20
    assert "skipped 0, 1, 2, 3 and 295 more: unreached, output: frozen" in text


@pytest.mark.parametrize("policy", [EveryLayerPolicy(), lambda _: Placement("auto", (), (), "so", remedy="lsuv")])
def test_what_vanishes_is_marked_whatever_decides(policy):
    magnitudes = {f"layer{i}": 10.0 ** (i - 12) for i in range(10)}  # five of them below 1e-7
    text = table_of(recorded(magnitudes), policy=policy)
    assert len(re.findall(r"flagged *$", text, re.MULTILINE)) == 5
    assert "flagged: mean |dL/d output| below 1e-7, median over the iterations" in text
    assert "\n^^^^^ below 1e-7" in text.split("by depth")[1], "the five have a mark each"


def test_the_rule_is_not_said_twice():
    assert "flagged: mean" not in table_of(recorded({"a": 1e-9, "fc": 1e-2}))


@pytest.mark.parametrize("policy", [ThresholdPolicy(), ThresholdPolicy(1e-3), RelativePolicy(0.1)])
def test_a_mark_stands_exactly_where_a_layer_is_flagged(policy):
    magnitudes = {f"layer{i}": 10.0 ** (-9 + i / 4) for i in range(30)}
    history = recorded(magnitudes)
    placement = place(history, policy)
    _, marks = sparkline(list(magnitudes.values()), placement.threshold, 80)
    assert [char == "^" for char in marks.ljust(30)] == [name in placement.flagged for name in magnitudes]


@pytest.mark.parametrize("width", [1, 7, 40, 200])
def test_a_column_of_several_layers_shows_the_smallest(width):
    values = [1.0] * 1000
    values[500] = 1e-9
    bars, marks = sparkline(values, 1e-7, width)
    assert len(bars) == width
    assert marks.count("^") == 1


def test_the_side_of_the_threshold_shows_without_colour():
    title, bars, marks = printed(Profile([1e-9, 1e-8, 1e-6, 1e-5], 1e-7, "size")).splitlines()
    assert title == "size, by depth; 1e-9 to 1e-5 on a log scale"
    assert bars == "▁▃▇█"  # powers 0, 1, 3 and 4 of 4, in eighths
    assert marks == "^^ below 1e-7"


def test_where_nothing_is_below_the_threshold_the_title_says_so():
    title, bars = printed(Profile([1e-3, 1e-3], 1e-7, "size")).splitlines()
    assert title.endswith("; none below 1e-7")
    assert bars == "▅▅"  # level, in the middle


def test_the_signal_is_drawn_by_depth_as_well():
    layers = tuple(Layer(str(i), i, "Linear", 9) for i in range(9))
    rows = [(0, str(i), i, "output", 1e-3, 1e-3, 1e-3, 0, 0) for i in range(9)]
    seen = [(0, str(i), 10.0**-i, 1, 0, 0, 0, 0, 16, 1e-3, 1) for i in range(9)]
    history = GradientHistory(tidy(rows), {}, layers, (), (8, 2), evidence=Evidence.from_rows(seen, {}, {}))
    signal = printed(as_table(history, place(history))).split("spread of the outputs, by depth")[1].splitlines()
    assert signal[1:3] == ["██▇▆▅▄▃▂▁", "   ^^^^^^ below 0.01"]


def test_a_terminal_that_has_only_ascii_gets_no_blocks():
    assert printed(Profile([1e-9, 1e-3], 1e-7, "output"), legacy_windows=False, _environ={}) != ""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, width=80).print(Profile([1e-9, 1e-3], 1e-7, "output"))
    file.flush()
    assert file.buffer.getvalue().strip() == b""


FROZEN = {"output": "frozen", "weight": "frozen"}


def with_frozen(count, *, trained=3):
    """So many frozen layers with each trained one behind them."""
    layers, rows = [], []
    for block in range(trained):
        layers += [Layer(f"b{block}.{i}", 0, "Linear", 9, FROZEN, None, FROZEN) for i in range(count)]
        layers.append(Layer(f"adapter{block}", 0, "Linear", 9))
    layers = [replace(layer, depth=depth) for depth, layer in enumerate(layers)]
    for layer in layers:
        numbers = (None,) * 5 if layer.is_frozen else (1e-3, 1e-3, 1e-3, 0, 0)
        rows += [(0, layer.name, layer.depth, of, *numbers) for of in ("output", "weight")]
    return GradientHistory(tidy(rows), {"batch_size": None}, tuple(layers), (), (8, 2))


def test_many_frozen_layers_are_one_line_and_do_not_count():
    text = table_of(with_frozen(20))
    assert text.splitlines()[0] == "Healthy. The gradient reaches each of 3 trained layers (60 are frozen)."
    assert len(re.findall(r"… 20 frozen", text)) == 3
    assert "b1.7" not in text
    assert text.count("60 layers are frozen") == 1
    assert "by depth" not in text, "three bars show nothing that three numbers do not"
    assert "b1.7" in table_of(with_frozen(20), every_layer=True)


def test_a_batch_size_that_is_not_known_is_said_to_be_so():
    assert "batch size unknown" in table_of(with_frozen(0))
    assert "batch size" not in table_of(replace(recorded({"a": 1.0}), conditions={}))


@pytest.mark.parametrize(
    ("magnitudes", "first", "second"),
    [
        ({"a": 1e-2, "b": 1e-2}, "Healthy. The gradient reaches every layer.", "Nothing to do."),
        (
            {"a": 1e-9, "b": 1e-2},
            "Vanishing. The gradient does not reach 1 of 2 layers: a.",
            "Look at the initial weights",
        ),
        (
            {"a": 1e-2, "b": 1e5},
            "Exploding. The gradient explodes in 1 of 2 layers: b.",
            "Lower the learning rate, or clip",
        ),
    ],
)
def test_the_first_line_is_the_verdict_and_the_second_what_to_do(magnitudes, first, second):
    lines = table_of(recorded(magnitudes)).splitlines()
    assert lines[0] == first
    assert lines[1].startswith(second)


@pytest.mark.parametrize(
    ("code", "word"), [("not_held", "not held"), ("bypassed", "not measured"), ("no_path", "unreached")]
)
def test_a_missing_number_is_named_as_what_it_is(code, word):
    layers = (Layer("a", 0, "Linear", 9, {"weight": "so"}, None, {"weight": code}), Layer("b", 1, "Linear", 9))
    fine, missing = (1e-3, 1e-3, 1e-3, 0, 0), (None,) * 5
    rows = [
        (0, layer.name, layer.depth, of, *(missing if (layer.name, of) == ("a", "weight") else fine))
        for layer in layers
        for of in ("output", "weight")
    ]
    history = GradientHistory(tidy(rows), {}, layers, (), None)
    assert re.search(rf"^0 +a +Linear +1.00e-03 +{word} *$", table_of(history), re.MULTILINE)
    assert f"  {word}" in str(history)
