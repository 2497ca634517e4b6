"""The measures of benchmarks/placement by values worked out by hand, and its rows."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("benchmarks.placement", reason="a source distribution has no benchmarks/")

from benchmarks.placement import new_families, rows, tasks
from benchmarks.placement.arms import indices_of
from benchmarks.placement.correlation import correlation
from benchmarks.placement.decisions import Decisions
from benchmarks.placement.differences import difference
from benchmarks.placement.invariance import BASE, CASES, changed, same_choices
from benchmarks.placement.leads import Lead, Leads, lead
from benchmarks.placement.new_tasks import NEW_TASKS
from benchmarks.placement.oracle import SEEDS, arms, grow, growth, singles, trained
from benchmarks.placement.policies import BLIND, POLICIES, Case, Decision, as_tested
from benchmarks.placement.summary import Choices, bootstrap, summarise
from benchmarks.placement.trained import Trained

ROOT = Path(__file__).parent.parent


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
    assert task.ranked(3) == ["0", "0+1", "none"]


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
    summary = summarise(both, {"rescued": chose([0.9] * 4), "noise": chose([0.4] * 4)})
    assert summary.regret == pytest.approx(0)
    assert summary.tasks == 2


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
    summary = summarise(
        named, {"stuck": chose([0.9] * 4), "rescued": chose([0.1] * 4), "harmed": chose([0.9] * 4)}
    )
    assert (summary.off_chance, summary.at_chance, summary.rescuable) == (1, 2, 1)


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
    summary = summarise(named, {"rescued": chose([0.9] * 4, windows=3), "harmed": chose([0.8] * 4, windows=1)})
    assert summary.gain == pytest.approx((0.8 - 0.1) / 2)
    assert summary.gain_error == pytest.approx(math.sqrt((0.45**2 + 0.45**2) / 1 / 2))
    assert summary.windows == 2


def test_the_rank_correlation_of_scores_with_accuracies():
    task = made(none=[0.1] * 4, s0=[0.5] * 4, s1=[0.9] * 4)
    assert correlation(task, {0: {"none": 0, "0": 1, "1": 2}}) == pytest.approx(1)
    assert correlation(task, {0: {"none": 2, "0": 1, "1": 0}, 1: {"none": 2, "0": 1, "1": 0}}) == pytest.approx(-1)
    assert correlation(task, {}) is None
    assert correlation(task, {0: {"none": 1, "0": 1, "1": 1}}) is None


def test_a_set_that_was_grown_is_tested_only_where_the_seed_that_is_scored_had_no_part_in_it():
    task = made(none=[0.1] * 3, s0=[0.5] * 3, s1=[0.4] * 3)
    grown = replace(task, grown={0: {"0+1": {0: 0.7, 1: 0.9, 2: 0.9}}})
    assert grown.oracle == {0: 0.7, 1: 0.5, 2: 0.5}


def test_growth_adds_the_point_that_adds_most_and_stops_where_none_does():
    scores = {"1": 0.3, "2": 0.5, "3": 0.1, "1+2": 0.55, "2+3": 0.6, "1+2+3": 0.6}
    assert grow(["1", "2", "3"], scores) == (["2+3"], [])
    assert grow(["1", "2", "3"], {**scores, "1+2+3": 0.7}) == (["2+3", "1+2+3"], [])
    assert grow(["1", "2", "3"], {**scores, "1+2+3": 0.7}, most=2) == (["2+3"], [])


def test_growth_says_what_has_to_be_trained_next():
    scores = {"1": 0.3, "2": 0.5, "3": 0.1, "1+2": 0.4, "2+3": 0.6}
    assert grow(["1", "2", "3"], {"1": 0.3, "2": 0.5, "3": 0.1}) == ([], ["1+2", "2+3"])
    assert grow(["1", "2", "3"], scores) == (["2+3"], ["1+2+3"])


THREE = "lstm3-default-adam"  # of three points; "0+2" is every second


def table_of(path, **placements):
    """Rows of the task of three points; placements that are not named come to .2."""
    table = rows.Table(path)
    named = {arm.removeprefix("s"): values for arm, values in placements.items()}
    for arm, values in {**{arm: [0.2] * 3 for arm in arms(THREE)}, **named}.items():
        for seed, value in enumerate(values):
            table.add(rows.Row(THREE, arm, seed, value, value, 300, 0.1, 1.0, (1.0,) * 4))
    return table


def test_the_rows_that_growth_asks_for_leave_out_the_seed_that_is_scored(tmp_path):
    table = table_of(tmp_path / "rows.csv", s0=[0.5, 0.9, 0.9], s1=[0.9, 0.6, 0.6])
    sets, keys = growth(THREE, table)
    assert sets == {0: [], 1: [], 2: []}
    # without seed 0 point 0 is best (.9 against .6); without seed 1 or 2 point 1 is (.75 against .7)
    wanted = {(THREE, "0+1", seed) for seed in SEEDS} | {(THREE, "1+2", seed) for seed in SEEDS}
    assert set(keys) == wanted
    assert sum(arm == "0+1" for _, arm, _ in keys) == 6
    assert sum(arm == "1+2" for _, arm, _ in keys) == 4


def test_a_set_counts_for_the_oracle_when_all_of_its_rows_are_there(tmp_path):
    singles_best = {"s0": [0.5, 0.9, 0.9], "s1": [0.9, 0.6, 0.6]}
    more = {"s0+1": [0.95] * 3, "s1+2": [0.2] * 3}
    table = table_of(tmp_path / "rows.csv", **singles_best, **more)
    sets, keys = growth(THREE, table)
    assert sets == {seed: ["0+1"] for seed in SEEDS}
    assert not table.missing(keys)
    assert trained(THREE, table).oracle == dict.fromkeys(SEEDS, 0.95)
    assert "0+1" not in trained(THREE, table, grown=False).tested(0)


def test_nothing_is_grown_where_no_placement_makes_a_difference(tmp_path):
    assert growth(THREE, table_of(tmp_path / "rows.csv")) == ({}, [])


def test_the_interval_of_the_regret_is_as_wide_as_the_tasks_differ():
    assert bootstrap([0.1] * 4, [0.2] * 4) == (0.5, 0.5)
    # the first task is drawn four times in 1 of 256 and three times in 12: 2.5 % lie between
    assert bootstrap([0.0, 0.2, 0.2, 0.2], [0.2] * 4) == (pytest.approx(0.25), 1.0)


def test_there_is_no_interval_of_two_tasks_or_where_a_random_point_often_loses_nothing():
    assert all(map(math.isnan, bootstrap([0.1, 0.2], [0.2, 0.2])))
    assert all(map(math.isnan, bootstrap([0.1] * 3, [0.0, 0.0, 0.2])))


def test_the_error_of_a_difference_is_never_below_that_of_counting():
    # four seeds that agree by luck: sqrt(.25 / 100 + .25 / 100) / 2
    assert difference([0.5] * 4, [0.5] * 4, 100).error == pytest.approx(math.sqrt(0.005) / 2)


def test_the_families_are_divided_and_there_are_enough_tasks():
    families = {task.family for task in tasks.TASKS.values()}
    assert families == {*tasks.DEVELOPMENT, *tasks.HELD_OUT}
    assert not set(tasks.DEVELOPMENT) & set(tasks.HELD_OUT)
    assert len(tasks.TASKS) >= 40


def test_a_row_trained_again_comes_to_the_same(monkeypatch):
    name = "narrow8-default-tanh-adam"
    shorter = replace(tasks.TASKS[name], iterations=rows.EARLY[-1])
    monkeypatch.setitem(tasks.TASKS, name, shorter)
    first, second = (rows.measure(name, "3", 0) for _ in range(2))
    assert replace(first, seconds=0) == replace(second, seconds=0)
    assert first.steps < shorter.iterations  # the branch's operations count
    assert rows.measure(name, "none", 0).steps == shorter.iterations


def test_rows_are_read_back_as_they_were_written(tmp_path):
    table = rows.Table(tmp_path / "rows.csv")
    row = rows.Row("t", "2+5", 1, 0.25, 0.125, 300, float("inf"), 1.5, (2.25, 0.5))
    table.add(row)
    assert rows.Table(tmp_path / "rows.csv").rows == {row.key: row}
    assert table.missing([row.key, ("t", "none", 1), ("t", "none", 1)]) == [("t", "none", 1)]


def test_decisions_are_read_back_as_they_were_written(tmp_path):
    decisions = Decisions(tmp_path / "decisions.csv")
    decisions.add(("auto", "t", 1), Decision("2+5", 3.5, {"none": 2.25, "2+5": 0.5}))
    assert Decisions(tmp_path / "decisions.csv").by_question == decisions.by_question


@pytest.mark.parametrize("name", ["mlp16-default-relu-adam", "unet2-default-adam", "vit4-default-adam"])
def test_every_blind_policy_names_an_arm_that_can_be_built(name):
    for policy in BLIND.values():
        arm = policy(Case(name, 0)).arm
        net = rows.build(name, arm, 0)
        assert len(net.points) == len(indices_of(arm))


def test_a_single_point_that_was_not_trained_becomes_the_nearest_that_was():
    name = "mlp16-default-relu-adam"
    assert singles(name) == ("0", "3", "6", "8", "11", "14")
    chosen = {arm: as_tested(Decision(arm, 1), name).arm for arm in ("none", "1", "5", "13", "2+5", "lsuv")}
    assert chosen == {"none": "none", "1": "0", "5": "6", "13": "14", "2+5": "2+5", "lsuv": "lsuv"}


@pytest.mark.parametrize("change", ["loss x 1000", "sum for mean"])
def test_a_scaled_loss_is_the_same_training(change):
    name = "mlp16-xavier-tanh-sgd"
    before, after = (Case(name, 0).history, changed(name, change).history)
    times = {"loss x 1000": 1000, "sum for mean": 32}[change]
    scaled = [times * loss for loss in before.conditions["losses"]]
    assert after.conditions["losses"] == pytest.approx(scaled, rel=1e-2)
    assert scaled[-1] < 0.9 * scaled[0]  # it learns


def test_where_nothing_is_chosen_before_and_after_nothing_stayed():
    before, after = ("3", "none", "none", "2+5"), ("3", "none", "4", "lsuv")
    known = {("CNDS", task, BASE): arm for task, arm in zip(CASES, before, strict=False)}
    known |= {("CNDS", task, "bf16"): arm for task, arm in zip(CASES, after, strict=False)}
    assert same_choices(known, "CNDS", "bf16") == (1, 3)
    assert same_choices(known, "CNDS", "batch 128") == (0, 0)


def test_a_lead_without_branches_is_what_a_scan_says():
    name = "narrow8-default-tanh-adam"
    measured = lead(name, "none", 0)
    magnitudes = {of: Case(name, 0).history.aggregate(of, "median") for of in ("output", "weight")}
    shares = {of: series.min() / series.max() for of, series in magnitudes.items()}
    assert (measured.output, measured.weight) == pytest.approx((shares["output"], shares["weight"]))
    assert 0 < measured.agreement < 1


def test_leads_are_read_back_as_they_were_written(tmp_path):
    leads = Leads(tmp_path / "leads.csv")
    leads.add(Lead("t", "2+5", 1, 0.25, 0.125, 0.5))
    assert Leads(tmp_path / "leads.csv").by_key == leads.by_key


def test_auto_before_tries_two_remedies_and_two_placements_within_ten_windows():
    case = Case("narrow8-default-tanh-adam", 0)
    decision = POLICIES["auto before"](case)
    assert decision.arm in ("lsuv", "normalised")
    assert 4 < decision.windows <= 10


def test_the_new_tasks_can_be_trained_and_scored():
    for name, task in NEW_TASKS.items():
        torch.manual_seed(0)
        net, (x, y) = task.build(), task.batches(0)[0]
        assert len(x) == 32
        task.loss(net(x), y).backward()
        assert 0 <= task.score(net) <= 1, name


def test_an_oracle_is_scored_on_a_seed_that_had_no_part_in_its_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(new_families, "placements", lambda task: ["none", "1"])
    results = new_families.Results(tmp_path / "new.csv")
    for seed, (none, one) in enumerate([(0.1, 0.5), (0.2, 0.6), (0.9, 0.3)]):
        results.add("t", seed, "score", "none", none)
        results.add("t", seed, "score", "1", one)
    # without seed 2 point 1 is best; without 0 none is (.55 against .45), without 1 none is (.5 against .4)
    assert new_families.Results(tmp_path / "new.csv").oracle("t", [0, 1, 2]) == {0: 0.1, 1: 0.2, 2: 0.3}
