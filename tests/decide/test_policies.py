import math
from dataclasses import replace
from functools import partial

import pytest

from gradprobe import EveryLayerPolicy, RelativePolicy, ThresholdPolicy, place
from gradprobe.decide.causes.finding import FINDINGS
from gradprobe.decide.findings import findings
from gradprobe.decide.policies import POLICIES, AutoPolicy, BranchesPolicy, named_policy
from gradprobe.insert.branches import BRANCHES
from gradprobe.record.branches import BRANCH_NAMES
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point


def history(*magnitudes, served=None, of="output", iterations=3):
    """A chain of layers with constant magnitudes; every layer but the last has a point, or those in ``served``."""
    count = len(magnitudes)
    layers = tuple(
        Layer(
            f"conv{i + 1}",
            i,
            "Conv2d",
            9,
            {"output": "never called"} if magnitude is None else {},
            None if i < count - 1 else "it makes the network's output",
        )
        for i, magnitude in enumerate(magnitudes)
    )
    rows = []
    for iteration in range(iterations):
        for i, value in enumerate(magnitudes):
            numbers = (
                (None,) * 5 if value is None else (value, value, value, 0.0, 0 if math.isfinite(value) else 1)
            )
            rows.append((iteration, f"conv{i + 1}", i, of, *numbers))
    points = served or [
        Point(f"relu{i + 1}", (8, 4, 5, 5), i, (f"conv{i + 1}",))
        for i in range(count - 1)
        if magnitudes[i] is not None
    ]
    return GradientHistory(tidy(rows), {"batch_size": 8}, layers, tuple(points), (8, 10))


def test_the_papers_case_one_branch_after_conv4():
    placement = place(history(1e-9, 1e-8, 5e-8, 9e-8, 1e-6, 1e-5, 1e-4, 1e-3))
    assert placement.flagged == ("conv1", "conv2", "conv3", "conv4")
    assert [point.name for point in placement.points] == ["relu4"]
    assert "conv1 to conv4" in placement.reason
    assert placement.output_shape == (8, 10)


def test_the_threshold_itself_is_not_below_it():
    assert place(history(1e-7, 1e-3)).flagged == ()
    assert place(history(math.nextafter(1e-7, 0), 1e-3)).flagged == ("conv1",)


def test_two_runs_of_flagged_layers_get_two_branches():
    placement = place(history(1e-9, 1e-9, 1e-3, 1e-9, 1e-3))
    assert [point.name for point in placement.points] == ["relu2", "relu4"]


def test_a_layer_that_was_never_called_does_not_cut_a_run_in_two():
    placement = place(history(1e-9, None, 1e-9, 1e-3))
    assert [point.name for point in placement.points] == ["relu3"]
    assert placement.skipped == {"conv2": "unreached, output: never called"}


def test_none_needed_is_a_placement_with_a_reason():
    placement = place(history(1e-5, 1e-4, 1e-3))
    assert placement.points == placement.flagged == ()
    assert placement.reason == "None needed: the smallest gradient is 1e-05, of conv1."


def test_where_the_last_layer_is_flagged_too_a_branch_would_not_help():
    placement = place(history(1e-12, 1e-10, 1e-8))
    assert placement.points == ()
    assert len(placement.flagged) == 3
    assert "would not help" in placement.reason


def test_exact_zeros_are_flagged_and_nonfinite_gradients_are_not():
    assert place(history(0.0, math.inf, 1e-3)).flagged == ("conv1",)


def test_a_gradient_that_ends_at_a_dead_activation_is_told_from_one_that_fades():
    dead = place(history(0.0, 0.0, 1e-3, 1e-3)).reason
    assert "conv2 is exactly zero, and that of conv3 after it 0.001" in dead
    assert "a branch does not change that" in dead
    for fading in (history(0.0, 1e-30, 1e-3), history(0.0, 0.0), history(0.0, 1e-3, of="weight")):
        policy = ThresholdPolicy(of=fading.of[0])
        assert "exactly zero" not in place(fading, policy).reason


def test_a_point_that_serves_the_whole_block_takes_its_flagged_layers():
    block = [Point("block", (8, 4, 5, 5), 2, ("conv1", "conv2", "conv3"))]
    placement = place(history(1e-9, 1e-9, 1e-2, 1e-3, served=block))
    assert [point.name for point in placement.points] == ["block"]


def test_a_run_whose_last_layer_has_no_point_falls_back_within_the_run():
    first = [Point("relu1", (8, 4, 5, 5), 0, ("conv1",))]
    placement = place(history(1e-9, 1e-9, 1e-3, served=first))
    assert [point.name for point in placement.points] == ["relu1"]


def test_a_run_without_any_point_is_skipped_with_the_reason():
    elsewhere = [Point("relu3", (8, 4, 5, 5), 2, ("conv3",))]
    placement = place(history(1e-9, 1e-9, 1e-2, 1e-3, served=elsewhere))
    assert placement.points == ()
    assert "conv2" in placement.skipped


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3])
def test_the_relative_rule_does_not_change_with_the_scale_of_the_loss(scale):
    magnitudes = [1e-9, 1e-8, 1e-6, 1e-4, 1e-3]
    placement = place(history(*(scale * value for value in magnitudes)), RelativePolicy())
    assert placement.flagged == ("conv1", "conv2")
    assert [point.name for point in placement.points] == ["relu2"]


def test_where_the_rules_disagree_the_placement_says_so_in_one_sentence():
    agreed = place(history(1e-9, 1e-4, 1e-3))
    assert agreed.disagreement is None
    scaled = place(history(1e-8, 1e-6, 1e-6))
    assert scaled.disagreement.count(". ") == 0
    assert "does not flag conv1" in scaled.disagreement
    assert scaled.disagreement in str(scaled)
    assert "flags conv1 as well" in place(history(2e-7, 1e-2, 1e-1)).disagreement


def test_the_quantity_and_the_aggregation_are_named():
    text = str(ThresholdPolicy(3e-6, of="weight", aggregate="max"))
    assert text == "mean |dL/d weight| below 3e-6, max over the iterations"
    with pytest.raises(ValueError, match="one of the recorded"):
        place(history(1e-9, 1e-3), ThresholdPolicy(of="weight"))


@pytest.mark.parametrize("policy", [ThresholdPolicy, RelativePolicy])
def test_policies_refuse_nonsense(policy):
    with pytest.raises(ValueError, match="above 0"):
        policy(0)
    with pytest.raises(ValueError, match="aggregation out of"):
        policy(aggregate="sometimes")


def test_any_function_is_a_policy_but_it_has_to_return_a_placement():
    mine = Placement("mine", (), (), "because")
    assert place(history(1.0, 1.0), lambda _: mine) is mine
    with pytest.raises(TypeError, match="return a Placement, got list"):
        place(history(1.0, 1.0), lambda _: [])


def test_an_empty_history_decides_nothing():
    placement = place(history(None, None))
    assert placement.points == ()
    assert "nothing can be decided" in placement.reason


def test_placements_read_back_equal():
    placement = place(history(1e-9, None, 1e-6, 1e-3))
    assert Placement.from_dict(placement.to_dict()) == placement


@pytest.mark.parametrize("name", ["threshold", "relative", "every"])
def test_a_placement_of_a_run_without_codes_gets_its_rule(name):
    placement = place(history(1e-9, None, 1e-6, 1e-3), named_policy(name))
    old = placement.to_dict()
    assert old.pop("rule") == name
    assert Placement.from_dict(old) == placement


def test_findings_by_kind():
    assert ("auto", *BRANCHES) == BRANCH_NAMES
    one = history(1e-9, math.nan, 2e3, None, 1e-3)
    found = findings(one, place(one))
    assert found == {
        "vanishing": ["conv1"],
        "exploding": ["conv3"],
        "nonfinite": ["conv2"],
        "unreached": ["conv4"],
    }
    assert tuple(found) == FINDINGS[:4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((history(1e-9, 1e-3), 1e-7), r"or the name of one \(threshold, .*\), got 1e-07: give \"relative\""),
        ((history(1e-9, 1e-3), RelativePolicy), r"got RelativePolicy: give RelativePolicy\(\)"),
        (("net",), "expected a gp.GradientHistory, got str: give what gp.scan returns"),
    ],
)
def test_what_is_no_history_or_no_policy_is_refused_with_what_to_give(arguments, message):
    with pytest.raises(TypeError, match=message):
        place(*arguments)


@pytest.mark.parametrize("policy", [ThresholdPolicy, RelativePolicy])
@pytest.mark.parametrize("value", ["1e-7", None, True])
def test_a_threshold_that_is_no_number_is_refused(policy, value):
    with pytest.raises(TypeError, match=f"above 0 as a number, got {value!r}"):
        policy(value)


NAMED = {
    "threshold": ThresholdPolicy(1e-7),
    "cnds": ThresholdPolicy(1e-7),
    "relative": RelativePolicy(1e-4),
    "every": EveryLayerPolicy(),
    "branches": BranchesPolicy(),
    "auto": AutoPolicy(),
}


def test_every_policy_has_a_name_and_its_rule_is_in_the_placement():
    assert {name: named_policy(name) for name in POLICIES} == NAMED
    rules = {name: place(history(1e-9, 1e-3), policy).rule for name, policy in NAMED.items()}
    assert rules == {"threshold": "threshold", "cnds": "threshold", "relative": "relative"} | {
        name: name for name in ("every", "branches", "auto")
    }
    assert set(rules.values()) <= set(POLICIES)
    assert named_policy("cnds", threshold=1e-9, of="weight", aggregate="max") == ThresholdPolicy(
        1e-9, "weight", "max"
    )
    assert named_policy("relative", threshold=0.1) == RelativePolicy(0.1)
    for name, policy in NAMED.items():
        assert place(history(1e-9, 1e-3), name) == place(history(1e-9, 1e-3), policy)
    for decide in named_policy, partial(place, history(1e-9, 1e-3)):
        with pytest.raises(ValueError, match="no policy is called 'best'; policies are threshold, cnds, relative"):
            decide("best")


def test_a_frozen_layer_is_not_a_finding_and_one_without_a_gradient_is():
    """The code decides, not the sentence."""
    codes = ("frozen", "no_path", "detached")
    one = history(1e-3, None, None, None, 1e-3)
    layers = [one.layers[0], *map(unreached, one.layers[1:4], codes), one.layers[4]]
    one = GradientHistory(one.frame, one.conditions, tuple(layers), one.points, one.output_shape)
    assert findings(one, place(one)) == {"unreached": ["conv3", "conv4"]}


def unreached(layer, code):
    return replace(layer, unreached={"output": f"sentence on {code}"}, unreached_code={"output": code})
