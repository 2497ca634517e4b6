"""What to type next after several arms were compared."""

import pytest
from test_choice import BRANCH, HIGH, LOW, made

import gradprobe as gp
from gradprobe.verdict.arm import Arm
from gradprobe.verdict.arms_comparison import ArmsComparison

COMMAND = {"command": "gradprobe compare model.py --lr 0.1", "iterations": 300}


def told(ends, conditions=COMMAND, **options):
    result = made(ends, **options)
    return ArmsComparison(result.plain, result.arms, result.frame, {**result.conditions, **conditions})


@pytest.mark.parametrize(
    ("ends", "lines"),
    [
        ({"none": LOW, "lsuv": HIGH}, "from gradprobe import remedies\nremedies.lsuv(model, x)"),
        (
            {"none": LOW, "learning_rate": HIGH},
            "from gradprobe import remedies\nremedies.learning_rate(optimizer, history)",
        ),
        ({"none": LOW, "cnds": HIGH}, 'import gradprobe as gp\nnet = gp.supervise(model, ["act1"], inputs=x)'),
        # one seed settles little
        (
            {"none": [0.1], "lsuv": [0.7]},
            "gradprobe compare model.py --lr 0.1 --arms none,lsuv --seeds 5 --iterations 300",
        ),
        (
            {"none": [0.5], "lsuv": [0.7]},
            "gradprobe compare model.py --lr 0.1 --arms none,lsuv --seeds 5 --iterations 300",
        ),
        ({"none": HIGH, "lsuv": LOW}, None),
    ],
)
def test_the_next_step_is_a_command_or_lines(ends, lines):
    step = told(ends).next_step
    assert (step and step.lines) == lines
    assert lines is None or lines in str(told(ends))


def test_where_nothing_learned_it_is_trained_longer():
    step = told({"none": LOW, "lsuv": LOW}, chance=0.5, size=100).next_step
    assert step.lines == "gradprobe compare model.py --lr 0.1 --seeds 3 --iterations 900"


def test_without_a_command_line_it_is_a_call():
    step = told({"none": [0.1], "lsuv": [0.7]}, {"iterations": 300}).next_step
    assert (
        step.lines == 'gp.compare_arms(model, batches, loss_fn, ["none", "lsuv"], iterations=300, seeds=range(5))'
    )


def test_of_remedies_that_tie_the_one_that_leaves_nothing_behind():
    ends = {"none": LOW, "normalised": [0.93, 0.90, 0.92], "clipping": [0.92, 0.91, 0.91], "lsuv": HIGH}
    result = made(ends)
    assert result.best == "lsuv"
    assert "normalised is ahead of it by" in str(result)
    assert made({name: ends[name] for name in ("none", "normalised", "clipping")}).best == "clipping"


def test_weights_of_branches_are_in_the_decision():
    result = made({"none": LOW, "branches": HIGH})
    placement = gp.Placement("by hand", (), BRANCH.points, "", weights="halving")
    arms = (result.arms[0], Arm("branches", placement))
    assert ArmsComparison(result.plain, arms, result.frame, result.conditions).placement.weights == "halving"
    assert gp.Placement.from_dict(placement.to_dict()) == placement
