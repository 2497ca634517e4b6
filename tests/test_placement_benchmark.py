"""The measures of benchmarks/placement by values worked out by hand, and its rows."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from placement import rows, tasks
from placement.decisions import Decisions
from placement.measures import Choices, Trained, correlation, difference, summarise
from placement.policies import BLIND, Case, Decision


def made(size=10_000, chance=0.1, **placements):
    """A task from the accuracies of its arms, a number for each seed; ``s0`` and so on are single points."""
    by_seed = {arm.removeprefix("s"): dict(enumerate(values)) for arm, values in placements.items()}
    singles = tuple(arm.removeprefix("s") for arm in placements if arm.startswith("s"))
    return Trained(by_seed, singles, chance, size)


def chose(values, *, abstained=False, windows=1.0, scores=None):
    seeds = range(len(values))
    return Choices(
        dict(enumerate(values)),
        dict.fromkeys(seeds, abstained),
        dict.fromkeys(seeds, windows),
        dict.fromkeys(seeds, scores) if scores else {},
    )


RESCUED = {"none": [0.1] * 4, "s0": [0.5] * 4, "s1": [0.9] * 4}
HARMED = {"none": [0.9] * 4, "s0": [0.7] * 4, "s1": [0.8] * 4}


def test_the_oracle_chooses_on_the_other_seeds():
    # without seed 0 point 1 is best (.8, .8), without seed 1 or 2 point 0 is (.75 against .6)
    task = made(none=[0.1] * 3, s0=[0.9, 0.6, 0.6], s1=[0.4, 0.8, 0.8])
    assert task.oracle == {0: 0.4, 1: 0.6, 2: 0.6}


def test_of_equally_good_placements_the_oracle_takes_the_one_with_fewer_branches():
    task = made(**{"none": [0.1] * 4, "s0": [0.9] * 4, "0+1": [0.9] * 4})
    assert task.ranked((0, 1)) == ["0", "0+1", "none"]


def test_regret_is_0_for_the_oracles_choice_and_1_for_a_random_point():
    task = made(**RESCUED)  # oracle .9, random (.5 + .9) / 2 = .7
    named = {"t": task}
    assert summarise(named, {"t": chose([0.9] * 4)}).regret == pytest.approx(0)
    assert summarise(named, {"t": chose([0.7] * 4)}).regret == pytest.approx(1)
    never = summarise(named, {"t": chose([0.1] * 4)})
    assert never.lost == pytest.approx(0.8)
    assert never.regret == pytest.approx(4)  # (.9 - .1) / (.9 - .7)


def test_there_is_no_regret_where_a_random_point_loses_nothing():
    named = {"t": made(none=[0.1] * 4, s0=[0.9] * 4)}
    assert math.isnan(summarise(named, {"t": chose([0.1] * 4)}).regret)


def test_tasks_where_the_oracle_gains_nothing_clear_do_not_count_in_the_regret():
    noise = made(size=100, none=[0.5] * 4, s0=[0.52, 0.5, 0.51, 0.5], s1=[0.4] * 4)
    both = {"rescued": made(**RESCUED), "noise": noise}
    assert noise.kind == "nothing"
    found = summarise(both, {"rescued": chose([0.9] * 4), "noise": chose([0.4] * 4)})
    assert found.regret == pytest.approx(0)
    assert found.tasks == 2


@pytest.mark.parametrize(
    ("placements", "kind"),
    [
        (RESCUED, "rescue"),
        (HARMED, "nothing"),
        ({"none": [0.5] * 4, "s0": [0.6] * 4}, "help"),
        # off chance, but a net that was at chance is rescued only above half of what can be had
        ({"none": [0.1] * 4, "s0": [0.1] * 4}, "nothing"),
    ],
)
def test_the_kinds_of_tasks(placements, kind):
    assert made(**placements).kind == kind


def test_rescue_takes_more_than_half_of_the_oracles_accuracy():
    task = made(**RESCUED)
    named = {"t": task}
    assert summarise(named, {"t": chose([0.46] * 4)}).rescued == 1
    assert summarise(named, {"t": chose([0.44] * 4)}).rescued == 0
    assert summarise(named, {"t": chose([0.44] * 4)}).rescuable == 1


def test_off_chance_counts_what_no_placement_rescues_too():
    stuck = made(none=[0.1] * 4, s0=[0.1] * 4)
    named = {"stuck": stuck, "rescued": made(**RESCUED), "harmed": made(**HARMED)}
    found = summarise(named, {"stuck": chose([0.9] * 4), "rescued": chose([0.1] * 4), "harmed": chose([0.9] * 4)})
    assert (found.off_chance, found.at_chance, found.rescuable) == (1, 2, 1)


def test_harm_counts_only_beyond_the_noise():
    named = {"t": made(**HARMED)}
    assert summarise(named, {"t": chose([0.8] * 4)}).harmed == 1
    # one seed of four a little worse: within Student's t with three degrees of freedom
    assert summarise(named, {"t": chose([0.9, 0.9, 0.9, 0.8])}).harmed == 0
    assert summarise(named, {"t": chose([0.9] * 4, abstained=True)}).harmed == 0


def test_abstentions_are_right_where_the_oracle_gains_nothing_and_missed_where_it_does():
    named = {"rescued": made(**RESCUED), "harmed": made(**HARMED)}
    never = summarise(named, {"rescued": chose([0.9] * 4), "harmed": chose([0.8] * 4)})
    always = summarise(
        named, {"rescued": chose([0.1] * 4, abstained=True), "harmed": chose([0.9] * 4, abstained=True)}
    )
    assert (never.abstentions, never.missed) == (0, 0)
    assert (always.abstentions, always.missed) == (1, 1)


def test_gain_and_cost_are_means_over_tasks():
    named = {"rescued": made(**RESCUED), "harmed": made(**HARMED)}
    found = summarise(named, {"rescued": chose([0.9] * 4, windows=3), "harmed": chose([0.8] * 4, windows=1)})
    assert found.gain == pytest.approx((0.8 - 0.1) / 2)
    assert found.gain_error == pytest.approx(math.sqrt((0.45**2 + 0.45**2) / 1 / 2))
    assert found.windows == 2


def test_the_rank_correlation_of_scores_with_accuracies():
    task = made(none=[0.1] * 4, s0=[0.5] * 4, s1=[0.9] * 4)
    assert correlation(task, chose([0.9] * 4, scores={"none": 0, "0": 1, "1": 2})) == pytest.approx(1)
    assert correlation(task, chose([0.9] * 4, scores={"none": 2, "0": 1, "1": 0})) == pytest.approx(-1)
    assert correlation(task, chose([0.9] * 4)) is None


def test_the_error_of_a_difference_is_never_below_that_of_counting():
    # four seeds that agree by luck: sqrt(.25 / 100 + .25 / 100) / 2
    assert difference([0.5] * 4, [0.5] * 4, 100).error == pytest.approx(math.sqrt(0.005) / 2)


def test_the_families_are_divided_and_there_are_enough_tasks():
    families = {task.family for task in tasks.TASKS.values()}
    assert families == {*tasks.DEVELOPMENT, *tasks.HELD_OUT}
    assert not set(tasks.DEVELOPMENT) & set(tasks.HELD_OUT)
    assert len(tasks.TASKS) >= 40


def test_a_row_trained_again_comes_to_the_same():
    name = "narrow8-default-tanh-adam"
    first, second = (rows.measure(name, "3", 0) for _ in range(2))
    assert (first.accuracy, first.at_operations, first.early) == (
        second.accuracy,
        second.at_operations,
        second.early,
    )
    assert first.steps < tasks.TASKS[name].iterations  # the branch's operations count
    assert rows.measure(name, "none", 0).steps == tasks.TASKS[name].iterations


def test_rows_are_read_back_as_they_were_written(tmp_path):
    table = rows.Table(tmp_path / "rows.csv")
    row = rows.Row("t", "2+5", 1, 0.25, 0.125, 300, float("inf"), 1.5, (2.25, 0.5))
    table.add(row)
    assert rows.Table(tmp_path / "rows.csv").rows == {row.key: row}
    assert table.missing([row.key, ("t", "none", 1), ("t", "none", 1)]) == [("t", "none", 1)]


def test_decisions_are_read_back_as_they_were_written(tmp_path):
    decisions = Decisions(tmp_path / "decisions.csv")
    decisions.add(("auto", "t", 1), Decision("2+5", 3.5, {"none": 2.25, "2+5": 0.5}))
    assert Decisions(tmp_path / "decisions.csv").made == decisions.made


@pytest.mark.parametrize("name", ["mlp16-default-relu-adam", "unet2-default-adam", "vit4-default-adam"])
def test_every_blind_policy_names_an_arm_that_can_be_built(name):
    for policy in BLIND.values():
        arm = policy(Case(name, 0)).arm
        net = rows.build(name, arm, 0)
        assert len(net.points) == len(rows.indices_of(arm))
