"""``auto`` on families that it was not chosen on: each policy, and the best of some placements. Run once.

    python -m benchmarks.placement.new_families [TASK ...] [--seeds 0 1 2] [--out PAGE]

Each result is added to ``results/new_families.csv``; what is there is not trained again. The oracle has on each
seed what the placement came to that was best on the others: none, the middle point, the last, every second, every.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

import gradprobe as gp
from benchmarks.placement import records, ten_windows
from benchmarks.placement.arms import NONE, arm_of, indices_of
from benchmarks.placement.differences import Difference, mean, standard_error
from benchmarks.placement.new_tasks import ITERATIONS, NEW_TASKS
from benchmarks.report import Report
from gradprobe.decide.diagnosis import diagnose
from gradprobe.measure.batches import Batches
from gradprobe.measure.scan import scan
from gradprobe.network.preserve import seed_everything
from gradprobe.prove.plan import Plan, Supervision, Trainings
from gradprobe.prove.training import Change, prepared
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement

ROWS = records.FOLDER / "new_families.csv"
COLUMNS = ("task", "seed", "what", "arm", "value")  # value: of an arm its score, of a policy its windows
WINDOW, WEIGHT, SEEDS = 50, 0.3, (0, 1, 2)
POLICIES = ("CNDS", "usual branches", "diagnosis", "auto", "auto before")
TEXT = f"""\
Trainings of {ITERATIONS} iterations of 32, branches of weight {WEIGHT} with the schedule of CNDS; held-out
accuracy, of numbers the explained share of the variance. The tasks were written down, and committed, before any of
them was run; then everything was run once. *Harmed*: worse than without by more than two standard errors.
*Regret* of placement: over what the middle point loses against the oracle, where that gains more than two
standard errors; the oracle chooses among few placements here. With one seed there are no errors, and the oracle is
the best in hindsight."""


@cache
def history(task: str, seed: int) -> GradientHistory:
    """The record of the first window."""
    one = NEW_TASKS[task]
    seed_everything(seed)
    return scan(one.build(), one.batches(seed), one.loss, WINDOW, optimizer=one.optimizer, seed=seed)


def placement_of(task: str, seed: int, arm: str) -> Placement:
    """The placement that an arm stands for."""
    record = history(task, seed)
    points = tuple(record.points[index] for index in indices_of(arm))
    return Placement(arm, (), points, "", **record.output)


def train(task: str, seed: int, arm: str) -> float:
    """The score that a training comes to with an arm."""
    one = NEW_TASKS[task]
    supervision = Supervision(one.branch, WEIGHT, "cnds")
    plan = Plan(
        Batches(one.batches(seed)), one.loss, Trainings(ITERATIONS, WINDOW, (seed,)), supervision, one.optimizer
    )
    seed_everything(seed)
    model = one.build()
    placed = bool(indices_of(arm))
    change = Change.by_name(
        None if placed or arm == NONE else arm,
        placement_of(task, seed, arm) if placed else None,
        history(task, seed),
    )
    with prepared(plan, model, seed, change) as training:
        for _ in training.steps():
            pass
        return one.score(training.model)


def decide(policy: str, task: str, seed: int) -> tuple[str, float]:
    """What a policy does, and the windows that it cost."""
    one, record = NEW_TASKS[task], history(task, seed)
    rules = {"CNDS": "cnds", "usual branches": "branches", "diagnosis": "auto"}
    windows = 1.0
    if policy in rules:
        placement = gp.place(record, rules[policy])
    else:
        seed_everything(seed)
        model, batches = one.build(), one.batches(seed)
        options = {"branch": one.branch, "weight": WEIGHT, "optimizer": one.optimizer, "seed": seed}
        if policy == "auto":
            spent: dict[str, int] = {}
            placement = gp.place_by_trials(
                model, batches, one.loss, WINDOW, **options, history=record,
                on_iteration=lambda name, done, total: spent.update({name: done}),
            )  # fmt: skip
            windows += sum(spent.values()) / WINDOW
        else:
            placement, windows = ten_windows.decide(model, batches, one.loss, WINDOW, **options, history=record)
    names = [point.name for point in record.points]
    return placement.remedy or arm_of(names.index(point.name) for point in placement.points), windows


def placements(task: str) -> list[str]:
    """The arms that the oracle may choose from."""
    count = len(history(task, 0).points)
    if not count:
        return [NONE]
    every, second = range(count), range(count - 1, -1, -2)
    return list(dict.fromkeys([NONE, arm_of([count // 2]), arm_of([count - 1]), arm_of(second), arm_of(every)]))


class Results:
    """What was run, in a CSV file that each result is added to."""

    def __init__(self, path: Path = ROWS) -> None:
        self.path = path
        self.scores: dict[tuple[str, int, str], float] = {}
        self.decisions: dict[tuple[str, int, str], tuple[str, float]] = {}
        for line in records.read(path):
            self._keep(line["task"], int(line["seed"]), line["what"], line["arm"], float(line["value"]))

    def _keep(self, task: str, seed: int, what: str, arm: str, value: float) -> None:
        if what == "score":
            self.scores[task, seed, arm] = value
        else:
            self.decisions[task, seed, what] = arm, value

    def add(self, *cells: object) -> None:
        """Add a line, in the file too."""
        records.append(self.path, COLUMNS, list(cells))
        task, seed, what, arm, value = cells
        self._keep(str(task), int(str(seed)), str(what), str(arm), float(str(value)))

    def complete(self, task: str, seed: int) -> None:
        """Run what is missing of a task and seed."""
        if (task, seed, "verdict") not in self.decisions:
            diagnosis = diagnose(history(task, seed))
            cause = diagnosis.findings[0].cause if diagnosis.findings else "-"
            self.add(task, seed, "verdict", f"{diagnosis.verdict}: {cause}", 0)
        for policy in POLICIES:
            if (task, seed, policy) not in self.decisions:
                arm, windows = decide(policy, task, seed)
                self.add(task, seed, policy, arm, f"{windows:g}")
        for arm in [*placements(task), *(self.decisions[task, seed, policy][0] for policy in POLICIES)]:
            if (task, seed, arm) not in self.scores:
                self.add(task, seed, "score", arm, f"{train(task, seed, arm):.4f}")
                print(task, seed, arm, self.scores[task, seed, arm], flush=True)

    def difference(self, task: str, seeds: Sequence[int], values: Mapping[int, float]) -> Difference:
        """Some values against no change, over the seeds."""
        gains = [values[seed] - self.scores[task, seed, NONE] for seed in seeds]
        return Difference(mean(gains), standard_error(gains), len(gains))

    def of_policy(self, policy: str, task: str, seeds: Sequence[int]) -> dict[int, float]:
        """What a policy's decisions came to."""
        return {seed: self.scores[task, seed, self.decisions[task, seed, policy][0]] for seed in seeds}

    def oracle(self, task: str, seeds: Sequence[int]) -> dict[int, float]:
        """On each seed the placement that was best on the others."""
        arms = placements(task)

        def best(seed: int) -> str:
            others = [s for s in seeds if s != seed] or list(seeds)
            return max(arms, key=lambda arm: mean([self.scores[task, s, arm] for s in others]))

        return {seed: self.scores[task, seed, best(seed)] for seed in seeds}


def page(results: Results, tasks: Sequence[str], seeds: Sequence[int]) -> Report:
    """The gain, harm and cost of each policy, and each task."""
    report = Report("Families that auto was not chosen on", f"{TEXT} Seeds {', '.join(map(str, seeds))}.")
    report.columns("policy", "gain", "harmed", "windows", "regret of placement")
    oracles = {task: results.oracle(task, seeds) for task in tasks}
    clear = [t for t in tasks if (d := results.difference(t, seeds, oracles[t])).mean > 2 * d.error and d.mean > 0]
    for policy in POLICIES:
        values = {task: results.of_policy(policy, task, seeds) for task in tasks}
        gains = {task: results.difference(task, seeds, values[task]) for task in tasks}
        harmed = [task for task, gain in gains.items() if gain.mean < -2 * gain.error and gain.mean < 0]
        windows = mean([results.decisions[task, seed, policy][1] for task in tasks for seed in seeds])
        total = [gain.mean for gain in gains.values()]
        report.row(
            policy, f"{mean(total):+.3f} ± {standard_error(total):.3f}", ", ".join(harmed) or "none",
            f"{windows:.2f}", _regret(results, clear, seeds, values, oracles),
        )  # fmt: skip
    report.add("", f"The oracle gains more than two standard errors on: {', '.join(clear) or 'none'}.", "")
    report.columns("task", "verdict (seed 0)", "none", "oracle", *POLICIES)
    for task in tasks:
        cells = [
            f"{mean(list(results.of_policy(policy, task, seeds).values())):.2f} "
            f"({', '.join(dict.fromkeys(_short(results.decisions[task, seed, policy][0]) for seed in seeds))})"
            for policy in POLICIES
        ]
        none = mean([results.scores[task, seed, NONE] for seed in seeds])
        verdict = results.decisions[task, seeds[0], "verdict"][0]
        report.row(task, verdict, f"{none:.2f}", f"{mean(list(oracles[task].values())):.2f}", *cells)
    return report


def _short(arm: str) -> str:
    count = len(indices_of(arm))
    return arm if count < 4 else f"{count} points"


def _regret(
    results: Results,
    clear: Sequence[str],
    seeds: Sequence[int],
    values: Mapping[str, Mapping[int, float]],
    oracles: Mapping[str, Mapping[int, float]],
) -> str:
    middle = {task: placements(task)[1] for task in clear}
    lost = sum(oracles[t][s] - values[t][s] for t in clear for s in seeds)
    at_middle = sum(oracles[t][s] - results.scores[t, s, middle[t]] for t in clear for s in seeds)
    return f"{lost / at_middle:.2f}" if at_middle > 0 else "-"


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=list(NEW_TASKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results()
    for seed in options.seeds:
        for task in options.tasks:
            results.complete(task, seed)
    page(results, options.tasks, options.seeds).write(options.out)


if __name__ == "__main__":
    main()
