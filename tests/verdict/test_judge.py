"""Whether a branch helped: the verdict is what the curves say."""

import math

import pytest

import gradprobe as gp
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.points import Point
from gradprobe.verdict.comparison import Comparison, learning_frame


def made(plain, supervised, *, size=0, chance=0.0, ratio=100.0):
    """A comparison from curves: a list of losses for each seed, or of accuracies where ``size`` is given."""
    layer = (Layer("conv1", 0, "Conv2d", 9),)
    point = Point("relu1", (8, 4, 5, 5), 0, ("conv1",))

    def history(value):
        return GradientHistory(
            tidy([(0, "conv1", 0, "output", value, value, value, 0.0, 0)]), {}, layer, (point,), (8, 10)
        )

    rows = []
    for arm, curves in (("plain", plain), ("supervised", supervised)):
        for seed, curve in enumerate(curves):
            for iteration, value in enumerate(curve):
                rows.append((seed, arm, iteration, 1.0 if size else value, value if size else math.nan))
    placement = gp.Placement("by hand", ("conv1",), (point,), "conv1 flagged", output_shape=(8, 10))
    conditions = {"iterations": len(plain[0]), "held_out": size, "chance": chance}
    return Comparison(history(1e-9), history(1e-9 * ratio), placement, learning_frame(rows), conditions)


def falling(end, count=100):
    return [2.3 + (end - 2.3) * i / (count - 1) for i in range(count)]


def flat(level, count=100):
    return [level + 0.02 * (-1) ** i for i in range(count)]


@pytest.mark.parametrize(
    ("comparison", "verdict", "sentence"),
    [
        (made([falling(2.0)], [falling(0.5)]), "helped", "It helped"),
        (made([falling(0.5)], [falling(2.0)]), "harmed", "It harmed"),
        (made([falling(0.5)], [falling(0.5)]), "no difference", "It did not help"),
        (made([flat(2.3)], [flat(2.3)]), "cannot tell", "Neither network learnt"),
        (made([[0.1, 0.1]], [[0.1, 0.9]], size=360, chance=0.1), "helped", "held-out accuracy"),
        (made([[0.1, 0.11]], [[0.1, 0.12]], size=360, chance=0.1), "cannot tell", "Neither network learnt"),
        # one seed of three learnt, which the mean hides: 0.71 is not three standard errors above 0.59
        (
            made([[0.5, 0.55]] * 3, [[0.5, 0.6], [0.5, 0.57], [0.5, 0.96]], size=128, chance=0.59),
            "no difference",
            "beyond the noise",
        ),
        # seeds that disagree: the mean is better, but not by more than their spread allows
        (made([[0.1, 0.5]] * 3, [[0.1, 0.4], [0.1, 0.5], [0.1, 0.9]], size=360), "no difference", "3 seeds"),
        (made([[0.1, 0.5]] * 3, [[0.1, 0.8], [0.1, 0.82], [0.1, 0.84]], size=360), "helped", "3 seeds"),
        # two seeds that happen to agree prove little (Student's t with one degree of freedom is 12.7) ...
        (made([[0.1, 0.6]] * 2, [[0.1, 0.7], [0.1, 0.72]], size=360), "no difference", "beyond the noise"),
        # ... and one proves nothing, unless one network learns and the other does not
        (made([[0.1, 0.6]], [[0.1, 0.75]], size=360, chance=0.1), "cannot tell", "One seed cannot tell"),
        (made([[0.1, 0.75]], [[0.1, 0.11]], size=360, chance=0.1), "harmed", "It harmed"),
    ],
)
def test_the_verdict_is_what_the_curves_say(comparison, verdict, sentence):
    assert comparison.verdict == verdict
    assert sentence in str(comparison)


def test_a_loss_that_ends_in_nan_is_not_better():
    assert made([falling(0.5)], [[*falling(0.5)[:-1], math.nan]]).verdict == "harmed"
    assert made([[math.nan] * 20], [[math.nan] * 20]).verdict == "cannot tell"
    assert made([[2.3, math.nan] * 20], [falling(0.5, 40)]).verdict == "helped"


@pytest.mark.parametrize(
    ("ratio", "sentence"),
    [
        (100, "The gradient came back: mean |dL/d output| of the 1 flagged layer (conv1) is 100 times"),
        (3, "The gradient rose"),
        (1, "The gradient did not come back"),
    ],
)
def test_the_sentence_on_the_gradient(ratio, sentence):
    assert sentence in str(made([falling(1)], [falling(1)], ratio=ratio))
