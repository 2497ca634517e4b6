import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support.saved_histories import numbered
from torch import nn

import gradprobe as gp
from gradprobe.cli.commands import main
from gradprobe.decide.causes.finding import FINDINGS
from gradprobe.decide.policies import place
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.runs.compare_runs import compare_runs
from gradprobe.runs.difference import CHANGES
from gradprobe.runs.matching import same_layers
from gradprobe.runs.run import Run
from gradprobe.verdict.comparison import Comparison, learning_frame
from gradprobe.zoo import digits, plain_mlp


def history_of(sizes, of=("output",), iterations=3, **conditions):
    """A history with constant magnitudes by layer; None is unreached, NaN is not finite."""
    sizes = sizes if isinstance(sizes, dict) else {f"conv{i}": size for i, size in enumerate(sizes)}
    rows, layers = [], []
    for depth, (name, size) in enumerate(sizes.items()):
        why = dict.fromkeys(of, "never called as a module") if size is None else {}
        layers.append(Layer(name, depth, "Conv2d", 9, why))
        numbers = (None,) * 5 if size is None else (size, size, size, 0.0, 0 if math.isfinite(size) else 1)
        rows += [(i, name, depth, what, *numbers) for i in range(iterations) for what in of]
    return GradientHistory(tidy(rows), conditions, tuple(layers), (), (8, 2))


def changes(difference):
    return {layer.name: layer.change for layer in difference.layers if layer.change}


def test_equal_runs():
    run = history_of([1e-9, None, math.nan, 0.0, 1.0], batch_size=8)
    difference = compare_runs(run, run)
    assert str(difference) == "no layer changed from first to second: all are 1 times what they were"
    assert difference.changed == ()
    assert difference.new == difference.gone == difference.conditions == difference.renamed == {}
    assert difference.remarks == ()


def test_newly_and_no_longer_flagged():
    difference = compare_runs(history_of([1e-6, 1e-9, 1e-2]), history_of([5e-8, 2e-7, 1e-2]))
    assert difference.new == {"vanishing": ["conv0"]}
    assert difference.gone == {"vanishing": ["conv1"]}
    text = str(difference)
    assert text.splitlines()[0] == "2 of 3 layers changed from first to second"
    assert "newly vanishing: conv0\nno longer vanishing: conv1" in text


def test_findings_of_every_kind():
    difference = compare_runs(history_of([1.0, 1.0, 1.0, 1.0]), history_of([1e-9, 2e3, math.nan, None]))
    assert difference.new == {kind: [f"conv{i}"] for i, kind in enumerate(FINDINGS[:4])}
    back = compare_runs(history_of([1e-9, 2e3, math.nan, None]), history_of([1.0, 1.0, 1.0, 1.0]))
    assert back.gone == difference.new
    assert back.new == {}


def test_the_factor_itself_is_not_beyond_it():
    assert changes(compare_runs(history_of([1.0, 2.0, 0.5]), history_of([1.0, 8.0, 0.125]), factor=4)) == {}
    above, below = math.nextafter(8.0, 9), math.nextafter(0.125, 0)
    difference = compare_runs(history_of([1.0, 2.0, 0.5]), history_of([1.0, above, below]), factor=4)
    assert changes(difference) == {"conv1": "up", "conv2": "down"}


@pytest.mark.parametrize(
    ("first", "second", "change", "ratio"),
    [
        (0.0, 1e-30, "up", None),
        (1e-30, 0.0, "down", None),
        (0.0, 0.0, "", None),
        (1.0, math.nan, "up", None),
        (math.nan, math.nan, "", None),
        (1.0, None, "lost", None),
        (None, 1.0, "found", None),
        (None, None, "", None),
        (2.0, 1.0, "", 0.5),
    ],
)
def test_zeros_infinities_and_what_is_missing(first, second, change, ratio):
    layer = compare_runs(history_of([first, 1.0]), history_of([second, 1.0])).layers[0]
    assert (layer.change, layer.ratio) == (change, ratio)


NAMES = {
    "equal": (["a", "b"], ["a", "b"], {"a": "a", "b": "b"}),
    "another order": (["a", "b"], ["b", "a"], {"a": "a", "b": "b"}),
    "all renamed": (["a", "b"], ["net.a", "net.b"], {"net.a": "a", "net.b": "b"}),
    "one renamed": (["a", "b", "c"], ["a", "x", "c"], {"a": "a", "x": "b", "c": "c"}),
    "one added": (["a", "c"], ["a", "b", "c"], {"a": "a", "c": "c"}),
    "one removed": (["a", "b", "c"], ["a", "c"], {"a": "a", "c": "c"}),
    "one moved away": (["a", "b", "c", "d"], ["a", "c", "d", "e"], {"a": "a", "c": "c", "d": "d"}),
    "a dropout in a Sequential": (
        ["n.0", "n.2", "n.4"],
        ["n.0", "n.3", "n.6"],
        {"n.0": "n.0", "n.3": "n.2", "n.6": "n.4"},
    ),
    "a shift onto a name that was there": (["0", "2", "4"], ["1", "2", "4", "6"], {"1": "0", "2": "2", "4": "4"}),
    "a shift of a whole Sequential": (["0", "2", "4"], ["2", "4", "6"], {"2": "0", "4": "2", "6": "4"}),
    "nothing there": ([], ["a"], {}),
}


@pytest.mark.parametrize("case", NAMES)
def test_which_layer_is_which(case):
    first, second, expected = NAMES[case]
    one, other = ([Layer(name, i, "Linear", 9) for i, name in enumerate(names)] for names in (first, second))
    matched = same_layers(one, other)
    assert matched == expected
    assert list(matched) == [name for name in second if name in matched]


def test_a_layer_of_another_kind_or_size_is_not_the_same_under_another_name():
    first = [Layer("a", 0, "Linear", 9), Layer("b", 1, "Linear", 9), Layer("c", 2, "Linear", 9)]
    for other in (Layer("x", 1, "Conv2d", 9), Layer("x", 1, "Linear", 8)):
        assert "x" not in same_layers(first, [first[0], other, first[2]])
    shrunk = history_of([1.0, 1.0])
    shrunk = replace(shrunk, layers=(shrunk.layers[0], replace(shrunk.layers[1], parameters=4)))
    difference = compare_runs(history_of([1.0, 1.0]), shrunk)
    assert [layer.name for layer in difference.changed] == ["conv1"]
    assert "was Conv2d with 9 parameters" in str(difference)


def test_added_removed_and_renamed_layers_are_listed():
    difference = compare_runs(
        history_of({"a": 1.0, "gone": 1e-9, "b": 1.0, "c": 1.0}),
        history_of({"a": 1.0, "b": 1.0, "d": 1.0, "e": 1e-9}),
    )
    assert changes(difference) == {"gone": "removed", "e": "added"}
    assert difference.renamed == {"c": "d"}
    assert difference.new == {"vanishing": ["e"]}
    assert difference.gone == {}  # a layer that is not there any more has not been cured
    assert "renamed: c to d" in str(difference)
    only = compare_runs(history_of({"a": 1.0}), history_of({"net.a": 1.0}))
    assert str(only).startswith("no layer changed")
    assert "renamed: a to net.a" in str(only)


def test_conditions_that_differ_are_listed_and_what_follows_from_the_record_is_not():
    first = history_of([1.0], batch_size=8, optimizer="SGD lr 0.1", losses=[1.0], seed=0, skipped=[], crop=(1, 2))
    new = {"inputs": "dict", "crop": [1, 2]}
    second = history_of([1.0], iterations=5, batch_size=8, optimizer="Adam", losses=[2.0], skipped=[1], **new)
    difference = compare_runs(first, second)
    assert difference.conditions == {"optimizer": ("SGD lr 0.1", "Adam"), "seed": (0, None), "iterations": (3, 5)}
    assert "different conditions: optimizer SGD lr 0.1, now Adam; seed 0, now none; iterations 3, now 5" in str(
        difference
    )


def test_the_batch_size_explains_a_quarter():
    difference = compare_runs(
        history_of([2e-7, 1e-2, 1e-1], batch_size=64, loss="cross_entropy"),
        history_of([5e-8, 2.5e-3, 2.5e-2], batch_size=256, loss="cross_entropy"),
    )
    assert difference.remarks == (
        "The batch size, 64 and now 256, alone makes every output's gradient of a mean loss 0.25 times what it "
        "was: every layer is about there (0.25 times), which explains it.",
        "At batch size 64 these would not be below 1e-7: conv0.",
    )


def test_the_batch_size_explains_it_for_a_real_network():
    torch.manual_seed(0)
    net = plain_mlp(depth=4)
    data = digits((64,), batch_size=256).batches[0]
    runs = [gp.scan(net, [(data[0][:n], data[1][:n])], nn.functional.cross_entropy, 3) for n in (64, 256)]
    difference = compare_runs(*runs)
    assert difference.conditions == {"batch_size": (64, 256)}
    assert len(difference.remarks) == 1
    assert "which explains it" in difference.remarks[0]
    assert all(layer.ratio == pytest.approx(0.25, rel=0.5) for layer in difference.layers)


def test_the_batch_size_does_not_explain_everything():
    difference = compare_runs(
        history_of([1e-6, 1.0, 1.0], batch_size=64), history_of([1e-9, 0.25, 0.25], batch_size=256)
    )
    assert "2 of the 3 layers are within 2 times of that; not conv0." in difference.remarks[0]
    assert len(difference.remarks) == 1  # also at the first batch size it would have vanished: 4e-9


def test_ranks_count_as_the_batch_does():
    one, four = history_of([1.0, 1.0], batch_size=8), history_of([0.25, 0.25], batch_size=8, world_size=4)
    assert "8 and now 32" in compare_runs(one, four).remarks[0]
    assert (
        compare_runs(history_of([1.0], batch_size=8, world_size=1), history_of([1.0], batch_size=8)).remarks == ()
    )


@pytest.mark.parametrize(("of", "reduction"), [("weight", "mean"), ("output", "sum"), ("output", None)])
def test_where_the_batch_size_explains_nothing_there_is_no_remark(of, reduction):
    sizes = (64, 256) if reduction else (64, None)
    runs = [
        history_of([1.0, 2.0], of=("output", "weight"), batch_size=size, reduction=reduction) for size in sizes
    ]
    assert compare_runs(*runs, of=of).remarks == ()


def test_a_common_factor_is_the_scale_of_the_loss():
    difference = compare_runs(
        history_of([1e-3, 1.0], loss="MSELoss (mean)"), history_of([1e-1, 1.2e2], loss="MSELoss (sum)")
    )
    assert difference.remarks == (
        "Every layer changed by about the same factor (100 to 120 times): that is the scale of the loss, not the "
        "depth. The loss differs: MSELoss (mean), now MSELoss (sum).",
    )
    assert compare_runs(history_of([1.0, 1.0]), history_of([100.0, 1.0])).remarks == ()
    assert compare_runs(history_of([1.0, 1.0]), history_of([1.5, 1.5])).remarks == ()


def test_rules_that_differ_are_named():
    history = history_of([1e-9, 1.0])
    first, second = (Run(Path(), history, place(history, gp.ThresholdPolicy(limit))) for limit in (1e-7, 1e-10))
    difference = compare_runs(first, second)
    assert difference.gone == {"vanishing": ["conv0"]}
    assert "decided by different rules" in difference.remarks[-1]
    assert "below 1e-7" in difference.remarks[-1]
    assert "now mean |dL/d output| below 1e-10" in difference.remarks[-1]


def test_a_comparison_that_came_out_otherwise():
    history = history_of([1e-9, 1.0])
    placement = place(history)

    def compared(end):
        rows = [
            (0, arm, i, 2.0 - (end * i if arm == "supervised" else 0.0), math.nan)
            for arm in ("plain", "supervised")
            for i in range(40)
        ]
        comparison = Comparison(history, history, placement, learning_frame(rows), {"iterations": 40})
        return Run(Path(), history, placement, comparison)

    assert compare_runs(compared(0.05), compared(0.0)).remarks == ("Deep supervision: helped, now cannot tell.",)
    assert compare_runs(compared(0.05), compared(0.05)).remarks == ()


def test_the_quantity_is_that_of_the_decision_or_the_one_asked_for():
    both = history_of([1.0], of=("output", "weight"))
    run = Run(Path(), both, place(both, gp.ThresholdPolicy(of="weight")))
    assert compare_runs(run, run).of == "weight"
    assert compare_runs(both, both).of == "output"
    assert compare_runs(run, run, of="output").of == "output"
    with pytest.raises(ValueError, match=r"expected one of the recorded quantities \['output'\], got of='weight'"):
        compare_runs(history_of([1.0]), history_of([1.0]), of="weight")
    with pytest.raises(ValueError, match="a factor above 1"):
        compare_runs(both, both, factor=1.0)


sizes = st.dictionaries(
    st.sampled_from(["", "0", "1", "2", "nan", "a", "b.0", "b.1"]),
    st.none() | st.just(math.nan) | st.just(0.0) | st.floats(1e-12, 1e5),
    min_size=1,
)


@settings(deadline=None)  # a busy machine takes longer
@given(sizes, sizes)
def test_there_and_back(first, second):
    histories = history_of(first), history_of(second)
    there, back = compare_runs(*histories), compare_runs(*reversed(histories))
    opposite = dict(zip(CHANGES, ("down", "up", "found", "lost", "removed", "added"), strict=True))
    pairs = {
        (layer.before and layer.before.name, layer.after and layer.after.name): layer for layer in there.layers
    }
    turned = {
        (layer.after and layer.after.name, layer.before and layer.before.name): layer for layer in back.layers
    }
    assert pairs.keys() == turned.keys()
    for names, layer in pairs.items():
        other = turned[names]
        assert other.change == opposite.get(layer.change, "")
        if layer.before and layer.after:
            assert (other.new, other.gone) == (layer.gone, layer.new)
        if layer.ratio is not None:
            assert other.ratio == pytest.approx(1 / layer.ratio)
    names = [layer.before.name for layer in there.layers if layer.before]
    assert sorted(names) == sorted(first)
    json.dumps(there.to_dict(), allow_nan=False)


def test_a_long_table_is_cut_and_the_record_is_not():
    difference = compare_runs(history_of([1.0] * 100), history_of([1e-9] * 99 + [1.0]))
    assert "… and 59 more" in str(difference)
    assert "newly vanishing: conv0, conv1, conv2, conv3, conv4 and 94 more" in str(difference)
    assert len(difference.frame) == 100


def test_it_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import gradprobe.runs.compare_runs; "
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three saved runs: one, the same again, and one that lost two layers and healed another."""
    monkeypatch.chdir(tmp_path)
    histories = {
        "good": history_of([1e-3, None, 1e-9, 1.0], batch_size=8, loss="mse"),
        "same": history_of([1e-3, None, 1e-9, 1.0], batch_size=8, loss="mse"),
        "bad": history_of([1e-9, None, 1e-3, 2e3], batch_size=8, loss="mse"),
    }
    for name, history in histories.items():
        gp.save(name, history, gp.place(history), figures=False)
    return histories


def diff(*arguments):
    return CliRunner().invoke(main, ["diff", *map(str, arguments)])


def test_equal_runs_end_well(runs):
    result = diff("good", "same", *(f"--fail-on={kind}" for kind in FINDINGS))
    assert result.exit_code == 0, result.output
    assert result.stdout == "no layer changed from good to same: all are 1 times what they were\n"
    assert diff("good", "good").stdout.startswith("no layer changed from first to second")


@pytest.mark.parametrize("kind", FINDINGS)
def test_only_what_is_new_ends_with_exit_code_3(kind, runs):
    result = diff("good", "bad", "--fail-on", kind)
    new = {"vanishing": "'conv0'", "exploding": "'conv3'"}.get(kind)
    assert result.exit_code == (3 if new else 0), result.output
    assert result.stderr == (f"found newly {kind}: {new}\n" if new else "")
    assert "newly vanishing: conv0" in result.stdout
    assert "no longer vanishing: conv2" in result.stdout


def test_the_three_forms_say_the_same(runs):
    table, as_json, as_csv = (diff("good", "bad", "--format", form).stdout for form in ("table", "json", "csv"))
    record = json.loads(as_json)
    rows = pd.read_csv(io.StringIO(as_csv), keep_default_na=False, dtype=str)
    assert record["sentences"] == table.splitlines()
    assert [row["layer"] for row in record["layers"]] == rows["layer"].tolist() == list(runs_layers(runs))
    assert [row["change"] for row in record["layers"]] == rows["change"].tolist() == ["down", "", "up", "up"]
    assert rows["new"].tolist() == ["vanishing", "", "", "exploding"]
    assert record["new"] == {"vanishing": ["conv0"], "exploding": ["conv3"]}
    assert record["runs"] == ["good", "bad"]


def runs_layers(runs):
    return (layer.name for layer in runs["good"].layers)


def test_the_factor_can_be_chosen(runs):
    assert " down" in diff("good", "bad").stdout
    assert " down" not in diff("good", "bad", "--factor", 1e7).stdout


def test_both_are_drawn_side_by_side(runs):
    result = diff("good", "bad", "--out", "figures")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path("figures").iterdir()) == ["depth.png", "iterations.png"]
    assert "figure written to figures" in result.stderr


USAGE = {
    "no run": (["good", "absent"], "no run at absent"),
    "one run": (["good"], "there is no run in gradprobe_runs yet"),
    "a quantity that is not there": (["good", "bad", "--of", "weight"], "expected one of the recorded quantities"),
    "not a factor": (["good", "bad", "--factor", "1"], "1.0 is not in the range x>1"),
    "figures into a run": (["good", "bad", "--out", "same"], "same is a run"),
    "figures into a file": (["good", "bad", "--out", "good/run.json"], "is a file"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_ends_with_a_sentence_and_exit_code_2(case, runs):
    arguments, message = USAGE[case]
    result = diff(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert sorted(path.name for path in Path().iterdir()) == ["bad", "good", "same"]


def test_histories_with_gradients_of_weights_alone_are_compared():
    first, second = numbered(3, ("weight",)), numbered(3, ("weight",))
    assert compare_runs(first, second).of == "weight"
    assert "no layer changed" in str(compare_runs(first, second))


def diagnosed(rate):
    """A small training at this learning rate, and its record."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x = torch.randn(64, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    with gp.GradientProbe(net, optimizer=optimizer, iterations=20) as probe:
        for _ in range(20):
            optimizer.zero_grad()
            (net(x) - x[:, :1]).square().mean().backward()
            optimizer.step()
    return probe.history


def test_a_verdict_that_changed_is_said_first():
    healthy, sick = diagnosed(0.1), diagnosed(100.0)
    assert [gp.diagnose(one).verdict for one in (healthy, sick)] == ["healthy", "sick"]
    worse = compare_runs(healthy, sick)
    first, second, *_ = str(worse).splitlines()
    assert first.startswith("the verdict changed: first was healthy, second is sick (")
    assert second.startswith(worse.diagnoses[1].sentence)
    assert [one["verdict"] for one in worse.to_dict()["diagnoses"]] == ["healthy", "sick"]
    assert not str(compare_runs(healthy, healthy)).startswith("the verdict")
