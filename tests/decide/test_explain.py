"""What is wrong, in which order, and where NaN began: from histories whose numbers are written by hand."""

from dataclasses import replace

import pytest

import gradprobe as gp
from gradprobe.decide.causes.finding import EXPLAINED
from gradprobe.decide.explain import explain, trained
from gradprobe.decide.findings import findings, unreached
from gradprobe.decide.onset import WHERE, Onset, onset
from gradprobe.record.history import UNREACHED, GradientHistory, Layer, tidy

BAD, FINE = (None, None, None, 0.0, 2), (1e-2, 1e-2, 1e-2, 0.0, 0)
ZERO, MISSING = (0.0, 0.0, 0.0, 1.0, 0), (None,) * 5


def recorded(numbers, codes=None, iterations=4, **conditions):
    """A history of layers by depth: ``numbers`` is called with iteration, layer and quantity."""
    codes = codes or {}
    layers = tuple(
        Layer(name, depth, "Linear", 9, codes.get(name, {}), None, codes.get(name, {}))
        for depth, name in enumerate("abcd")
    )
    rows = [
        (iteration, layer.name, layer.depth, of, *numbers(iteration, layer.name, of))
        for iteration in range(iterations)
        for layer in layers
        for of in ("output", "weight")
    ]
    return GradientHistory(tidy(rows), conditions, layers, (), None)


def bad_from(iteration, *keys):
    """NaN from an iteration on; before it only at these layers and quantities, in that iteration all the same."""
    return recorded(lambda i, name, of: BAD if i > iteration or (i == iteration and (name, of) in keys) else FINE)


def both(*names):
    return [(name, of) for name in names for of in ("output", "weight")]


ONSETS = {
    "all at once": (bad_from(3, *both(*"abcd")), Onset(3, "d", "forward or loss")),
    "in the middle": (bad_from(2, *both("a"), ("b", "output")), Onset(2, "b", "backward", "c")),
    "in a weight": (bad_from(1, ("c", "weight")), Onset(1, "c", "weight")),
    "the loss is infinite": (
        replace(bad_from(1, *both(*"abcd")), conditions={"losses": [2.0, None]}),
        Onset(1, "d", "forward"),
    ),
    "only its derivative is": (
        replace(bad_from(1, *both(*"abcd")), conditions={"losses": [2.0, 1.5]}),
        Onset(1, "d", "loss"),
    ),
}


@pytest.mark.parametrize("case", ONSETS)
def test_where_nan_began(case):
    history, expected = ONSETS[case]
    assert onset(history) == expected
    assert expected.where in WHERE
    [finding, *_] = explain(history, gp.place(history))
    assert finding.cause == "nonfinite"
    assert f"from iteration {expected.iteration} on" in finding.sentence
    assert str(expected) in finding.sentence


def test_where_all_is_finite_nothing_began():
    assert onset(recorded(lambda *_: FINE)) is None


def test_with_the_weights_alone_the_last_of_them_is_said():
    history = bad_from(3, *both(*"abcd"))
    frame = history.frame[history.frame["of"] == "weight"].reset_index(drop=True)
    assert onset(replace(history, frame=frame)) == Onset(3, "d", "forward or loss")


def test_a_weight_whose_gradient_is_zero_throughout_is_found_and_one_that_begins_so_is_not():
    throughout = recorded(lambda i, name, of: ZERO if (name, of) == ("c", "weight") else FINE)
    at_first = recorded(lambda i, name, of: ZERO if (i, name, of) == (0, "c", "weight") else FINE)
    only_one = recorded(lambda i, name, of: ZERO if (name, of) == ("c", "weight") else FINE, iterations=1)
    found = [findings(history, gp.place(history)) for history in (throughout, at_first, only_one)]
    assert found == [{"zero_weight": ["c"]}, {}, {}]
    [finding] = explain(throughout, gp.place(throughout))
    assert (finding.cause, finding.layers) == ("zero_weight", ("c",))


def test_a_layer_that_nothing_reaches_is_not_found_twice():
    history = recorded(lambda i, name, of: ZERO if name == "a" else FINE)
    assert findings(history, gp.place(history)) == {"vanishing": ["a"]}


def missing_weight(name, of):
    return MISSING if (name, of) == ("b", "weight") else FINE


@pytest.mark.parametrize("code", ["not_held", "not_held_new"])
def test_what_no_optimizer_holds_is_a_finding_of_its_own(code):
    history = recorded(lambda i, name, of: missing_weight(name, of), {"b": {"weight": code}})
    assert findings(history, gp.place(history)) == {"not_held": ["b"]}
    [finding] = explain(history, gp.place(history))
    assert ("after the optimizer was built" in finding.sentence) == (code == "not_held_new")


@pytest.mark.parametrize("code", ["bypassed", "opaque", "other_tensor", "frozen", "not_held"])
def test_a_missing_number_is_no_missing_gradient(code):
    assert code in UNREACHED
    codes = {"b": {"weight" if code in ("frozen", "not_held") else "output": code}}
    history = recorded(lambda *_: FINE, codes)
    assert unreached(history) == []
    frame = history.frame[history.frame["of"] == "output"].reset_index(drop=True)
    assert unreached(replace(history, frame=frame)) == []


FROZEN = {"output": "frozen", "weight": "frozen"}
CUT_OFF = {"output": "checkpointed", "weight": "checkpointed"}


def test_what_checkpointing_cuts_off_comes_first_and_frozen_layers_do_not_count():
    codes = {"a": FROZEN, "b": CUT_OFF, "c": FROZEN}
    history = recorded(lambda i, name, of: FINE if name == "d" else MISSING, codes)
    assert trained(history) == ["b", "d"]
    placement = gp.place(history)
    assert findings(history, placement) == {"unreached": ["b"]}
    [finding] = explain(history, placement)
    assert (finding.cause, finding.layers) == ("checkpointed", ("b",))
    assert "1 of 2 trained layers" in finding.sentence
    assert list(placement.skipped) == ["b"]


def test_parameters_of_no_module_are_found():
    history = recorded(lambda *_: FINE, loose_parameters=[[3, 7], [7]])
    assert findings(history, gp.place(history)) == {"unregistered": ["(3, 7)", "(7,)"]}
    assert "2 parameters" in explain(history, gp.place(history))[0].sentence


def test_bypassed_hooks_are_said_and_the_weights_are_shown():
    codes = {name: {"output": "bypassed"} for name in "abcd"}
    history = recorded(lambda i, name, of: MISSING if of == "output" else FINE, codes)
    placement = gp.place(history)
    assert findings(history, placement) == {}
    assert [finding.cause for finding in explain(history, placement)] == ["bypassed"]
    assert history.main_quantity == "weight"
    assert placement.reason == "Nothing can be decided by it: only the gradient of the weight was recorded."


def test_each_cause_has_its_place():
    codes = {"a": {"weight": "not_held"}, "b": CUT_OFF}
    rows = {"a": FINE, "b": MISSING, "c": (2e3, 2e3, 2e3, 0.0, 0), "d": BAD}
    history = recorded(lambda i, name, of: rows[name], codes, loose_parameters=[[2]])
    causes = [finding.cause for finding in explain(history, gp.place(history))]
    assert causes == ["nonfinite", "checkpointed", "not_held", "unregistered", "exploding"]
    assert sorted(causes, key=EXPLAINED.index) == causes
