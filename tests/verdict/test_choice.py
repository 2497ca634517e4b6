"""Which of several arms is to be used, and how the choice is kept and shown."""

import math

import pytest

import gradprobe as gp
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.points import Point
from gradprobe.verdict.arm import ARMS, NONE, REMEDIES, Arm, chosen_arms
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import learning_frame
from gradprobe.verdict.judge import critical_t

POINT = Point("act1", (8, 4), 0, ("fc1",))


BRANCH = gp.Placement("by hand", ("fc1",), (POINT,), "to see", output_shape=(8, 10))


def made(ends, *, size=10**6, chance=0.0, failed=()):
    """A comparison from the last accuracies of each arm, a number for each seed."""
    rows = [
        (seed, name, iteration, 1.0, end if iteration else chance)
        for name, values in ends.items()
        for seed, end in enumerate(values)
        for iteration in (0, 1)
    ]
    layer = (Layer("fc1", 0, "Linear", 9), Layer("fc2", 1, "Linear", 9))
    table = tidy([(0, "fc1", 0, "output", 1e-9, 0, 0, 0.0, 0), (0, "fc2", 1, "output", 1e-3, 0, 0, 0.0, 0)])
    arms = tuple(
        Arm(
            name,
            placement=BRANCH if name in ("cnds", "every", "repeated") else None,
            remedy=name if name in REMEDIES else None,
            failed={"seed 9": "it died"} if name in failed else {},
        )
        for name in ends
    )
    conditions = {"iterations": 2, "held_out": size, "chance": chance, "seeds": list(range(len(ends[NONE])))}
    return ArmsComparison(
        GradientHistory(table, {}, layer, (POINT,), (8, 10)), arms, learning_frame(rows), conditions
    )


@pytest.mark.parametrize(("name", "message"), [("cdns", "did you mean 'cnds'"), ("x", "Arms are none, cnds")])
def test_an_unknown_arm_names_the_known_ones(name, message):
    with pytest.raises(ValueError, match=message):
        chosen_arms([name])


LOW, HIGH = [0.10, 0.11, 0.12], [0.90, 0.91, 0.92]


@pytest.mark.parametrize(
    ("ends", "best", "sentence"),
    [
        ({"none": LOW, "lsuv": HIGH, "cnds": [0.3, 0.31, 0.32]}, "lsuv", "It does better than branches"),
        # as good as: the remedy, because there is nothing to take off again
        ({"none": LOW, "cnds": [0.93, 0.90, 0.92], "lsuv": HIGH}, "lsuv", "It does as well as branches"),
        ({"none": LOW, "cnds": [0.93, 0.90, 0.92], "lsuv": HIGH}, "lsuv", "cnds is ahead of it by 0.0067"),
        (
            {"none": LOW, "cnds": HIGH, "lsuv": [0.2, 0.21, 0.22]},
            "cnds",
            "Use cnds: held-out accuracy 0.91 with it, 0.11 as it is",
        ),
        # of two remedies the one that is ahead, though within the noise
        ({"none": LOW, "lsuv": HIGH, "kaiming": [0.93, 0.90, 0.92]}, "kaiming", "Use kaiming"),
        # the best of the arms is not beyond the noise
        ({"none": HIGH, "lsuv": [0.93, 0.90, 0.92]}, "none", "lsuv is ahead by 0.0067"),
        ({"none": HIGH, "lsuv": LOW}, "none", "no arm did better"),
        # one seed settles little
        ({"none": [0.5], "lsuv": [0.7]}, "none", "One seed cannot tell more"),
        ({"none": [0.1], "lsuv": [0.7]}, "lsuv", "but on one seed only"),
    ],
)
def test_the_arm_to_use_is_the_simplest_that_is_not_clearly_beaten(ends, best, sentence):
    result = made(ends)
    assert result.best == best
    assert sentence in str(result)


def test_a_remedy_that_is_chosen_is_the_decision_of_the_run():
    result = made({"none": LOW, "lsuv": HIGH})
    assert (result.placement.remedy, result.placement.points) == ("lsuv", ())
    assert result.placement.flagged == ("fc1",)  # by the rule of CNDS: 1e-9
    assert made({"none": LOW, "cnds": HIGH}).placement.points == (POINT,)


def test_where_no_arm_learns_none_is_chosen():
    result = made({"none": LOW, "lsuv": LOW}, chance=0.5, size=100)
    assert (result.best, result.choice.verdict) == ("none", "cannot tell")
    assert "No arm learnt" in str(result)


def test_an_arm_of_which_a_part_failed_is_not_chosen():
    result = made({"none": LOW, "lsuv": HIGH, "kaiming": [0.8, 0.81, 0.82]}, failed=["lsuv"])
    assert result.best == "kaiming"
    assert result.summary.set_index("arm")["verdict"]["lsuv"] == "failed"
    assert "lsuv failed (seed 9): it died" in str(result)


def test_the_significance_level_is_divided_among_all_pairs_of_arms():
    # differences .10, .12, .14: mean .12, standard error .0115, so t = 10.4 with 2 degrees of freedom; alone it
    # has to exceed 4.30, and as one of the ten pairs of five arms 14.09
    gained = [0.60, 0.62, 0.64]
    alone = made({"none": [0.5] * 3, "lsuv": gained})
    assert alone.summary["verdict"].tolist() == ["", "helped"]
    assert "How sure: 0.12 better (standard error of the difference 0.012, 3 seeds); the seeds agree" in str(alone)
    others = {name: [0.5] * 3 for name in ("cnds", "every", "kaiming")}
    of_five = made({"none": [0.5] * 3, "lsuv": gained, **others})
    assert of_five.best == "lsuv"
    assert of_five.summary["verdict"].tolist() == ["", "likely helped", *["no difference"] * 3]
    assert "; likely, not settled" in str(of_five)
    assert (alone.choice.verdict, of_five.choice.verdict) == ("helped", "likely helped")


@pytest.mark.parametrize(
    ("freedom", "tails", "table"),
    # Abramowitz and Stegun, table 26.10
    [
        (1, 0.05, 12.706),
        (2, 0.05, 4.303),
        (5, 0.01, 4.032),
        (10, 0.05, 2.228),
        (30, 0.05, 2.042),
        (120, 0.05, 1.980),
    ],
)
def test_students_t_is_that_of_the_tables(freedom, tails, table):
    assert critical_t(freedom, tails) == pytest.approx(table, abs=6e-4)


def test_a_loss_that_is_not_finite_is_never_the_best():
    rows = [(0, "none", i, 2.0 - 0.01 * i, math.nan) for i in range(40)]
    rows += [(0, "lsuv", i, 1.0 if i < 20 else math.inf, math.nan) for i in range(40)]
    result = made({"none": LOW, "lsuv": LOW})
    worse = ArmsComparison(result.plain, result.arms, learning_frame(rows), {"iterations": 40})
    assert worse.best == "none"
    assert not worse.held_out


def test_a_run_of_arms_reads_back_equal(tmp_path):
    result = made({"none": LOW, "cnds": HIGH, "lsuv": [1 / 3, 0.2, 0.1]}, failed=["lsuv"])
    folder = gp.save(tmp_path / "run", result.plain, result.placement, arms=result)
    again = gp.load(folder)
    assert again.arms == result
    assert again.placement == result.placement
    assert str(result) in str(again)
    assert (folder / "arms.png").is_file()
    page = (folder / "report.html").read_text()
    assert result.choice.sentences[0] in page
    assert '<section id="arms"' in page
    other = gp.save(tmp_path / "other", again.history, again.placement, arms=again.arms)
    for name in ("arms.csv", "arms.png", "report.html"):
        one, two = ((each / name).read_bytes() for each in (folder, other))
        assert one.replace(b"/run", b"") == two.replace(b"/other", b""), name


def test_a_notebook_shows_the_table():
    shown = made({"none": LOW, "lsuv": HIGH})._repr_html_()
    assert "use lsuv" in shown
    assert "initial weights of unit variance" in shown


def test_each_arm_has_a_line_and_its_name_at_the_end():
    result = made({"none": LOW, "cnds": HIGH, "lsuv": HIGH})
    arms = (*result.arms, Arm("auto", gp.Placement("auto", (), (), "", remedy="lsuv"), "lsuv", like="lsuv"))
    result = ArmsComparison(result.plain, arms, result.frame, result.conditions)
    ax = gp.plot_arms(result)
    ends = [line.get_ydata()[-1] for line in ax.lines if line.get_gid() == "mean"]
    assert ends == pytest.approx([0.11, 0.91, 0.91])
    assert {text.get_text() for text in ax.texts} >= {"none", "cnds", "lsuv = auto"}
    assert gp.plot_arms(result, value="loss").get_title(loc="left") == "Training loss, main output"
    with pytest.raises(ValueError, match="expected one of"):
        gp.plot_arms(result, value="x")


def test_every_arm_has_a_look_of_its_own():
    from gradprobe.show.curves import ARM_LOOKS

    assert len(set(ARM_LOOKS.values())) == len(ARM_LOOKS) == len(ARMS)
