"""Whether a branch helped: the verdict is what the curves say."""

import json
import math

import pytest

import gradprobe as gp
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.points import Point
from gradprobe.show.formats import as_json
from gradprobe.show.page import render
from gradprobe.verdict.comparison import Comparison, learning_frame
from gradprobe.verdict.metric import Metric


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


def by_metric(plain, supervised, *, higher, start):
    """A comparison from the values of a metric, ten for each seed, with what it was before."""
    rows = [
        (seed, arm, iteration, 1.0, value)
        for arm, curves in (("plain", plain), ("supervised", supervised))
        for seed, curve in enumerate(curves)
        for iteration, value in enumerate(curve)
    ]
    metric = Metric("score", higher)
    before = {str(seed): start for seed in range(len(plain))}
    shown = made([falling(1.0)], [falling(1.0)])
    conditions = {"iterations": 100, "held_out": 40, "metric": {**metric.to_dict(), "start": before}}
    return Comparison(
        shown.plain, shown.supervised, shown.placement, learning_frame(rows, metric), {**conditions, "chance": 0.0}
    )


def rising(end, start=0.0, jitter=0.0):
    """Ten values that approach the end, with a jitter of alternating sign."""
    return [end + (start - end) * math.exp(-i) + jitter * (-1) ** i for i in range(10)]


METRIC_CASES = [
    # what each of three seeds comes to, without and with; above the start is better
    ([0.50, 0.51, 0.49], [0.70, 0.71, 0.70], 0.0, "helped"),
    ([0.70, 0.71, 0.70], [0.50, 0.51, 0.49], 0.0, "harmed"),
    ([0.70, 0.71, 0.70], [0.70, 0.70, 0.71], 0.0, "no difference"),
    # seeds that disagree
    ([0.50, 0.60, 0.70], [0.70, 0.50, 0.75], 0.0, "no difference"),
    # the same difference, within what the last values scatter by
    ([0.50, 0.51, 0.49], [0.55, 0.56, 0.54], 0.05, "no difference"),
    # one seed: only where one of them gains at least twice as much
    ([0.5], [0.6], 0.0, "cannot tell"),
    ([0.1], [0.6], 0.0, "helped"),
    ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.0, "cannot tell"),
]


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("plain", "supervised", "jitter", "verdict"), METRIC_CASES)
def test_a_metric_is_judged_in_its_direction_and_on_its_scale(plain, supervised, jitter, verdict, higher, scale):
    sign, offset = (1, 0) if higher else (-1, 2)  # 0 to 1, or 2 to 1

    def curves(ends):
        return [[scale * (offset + sign * v) for v in rising(end, jitter=jitter)] for end in ends]

    comparison = by_metric(curves(plain), curves(supervised), higher=higher, start=scale * offset)
    assert comparison.verdict == verdict
    difference = scale * (sum(supervised) - sum(plain)) / len(plain)
    assert comparison.outcome.difference == pytest.approx(difference, abs=1e-3 * scale)
    assert ("held-out score (lower is better)" in str(comparison)) != higher


def test_a_metric_that_is_no_number_in_the_end_is_worst():
    nan = [*rising(0.5)[:-1], -math.inf]
    assert by_metric([rising(0.5)], [nan], higher=True, start=0.0).verdict == "harmed"
    assert by_metric([nan], [rising(0.5)], higher=True, start=0.0).verdict == "helped"
    never = by_metric([[-math.inf] * 10], [[-math.inf] * 10], higher=True, start=0.0)
    assert never.verdict == "cannot tell"
    assert "The held-out score was NaN or infinite in the end in both trainings" in str(never)


def test_a_loss_of_any_scale_is_learnt():
    def scaled(curve):
        return [1e-6 * value for value in curve]

    assert made([scaled(falling(2.0))], [scaled(falling(0.5))]).verdict == "helped"


def test_the_gradient_is_that_of_the_whole_window():
    # thirteen times at first, a third from iteration 5 on: not one word about a rise
    layer = (Layer("conv1", 0, "Conv2d", 9),)
    point = Point("relu1", (8, 4, 5, 5), 0, ("conv1",))

    def history(values):
        rows = [(i, "conv1", 0, "output", v, v, v, 0.0, 0) for i, v in enumerate(values)]
        return GradientHistory(tidy(rows), {}, layer, (point,), (8, 10))

    shown = made([falling(1.0)], [falling(1.0)])
    plain, supervised = history([1e-9] * 12), history([13e-9] * 5 + [3e-10] * 7)
    comparison = Comparison(plain, supervised, shown.placement, shown.frame, {"iterations": 100})
    first = str(comparison).splitlines()[0]
    assert first == (
        "The gradient did not come back: mean |dL/d output| of the 1 flagged layer (conv1) is 0.3 times what it "
        "was (median over 12 iterations; 0.3 to 13 times from iteration to iteration)."
    )
    comparison = Comparison(
        plain, history([13e-9] * 7 + [3e-10] * 5), shown.placement, shown.frame, {"iterations": 100}
    )
    assert "It is higher in 7 of them and lower in the others." in str(comparison)


def test_the_figure_the_page_and_the_json_name_the_metric(tmp_path):
    comparison = by_metric([rising(0.5)] * 2, [rising(0.7)] * 2, higher=False, start=1.0)
    ax = gp.plot_learning(comparison, value="metric")
    assert ax.get_title(loc="left") == "Held-out score (lower is better), main output"
    assert ax.get_ylabel() == "held-out score (lower is better)"
    with pytest.raises(ValueError, match=r"expected one of \['loss', 'metric'\], got 'accuracy'"):
        gp.plot_learning(comparison, value="accuracy")
    page = render(comparison.plain, comparison.placement, comparison)
    assert "held-out score (lower is better)" in page
    record = json.loads(as_json(comparison.plain, comparison.placement, comparison))
    assert record["comparison"]["metric"] == {"name": "score", "higher_is_better": False}
    folder = gp.save(tmp_path / "run", comparison.plain, comparison.placement, comparison, figures=False)
    assert gp.load(folder).comparison == comparison
