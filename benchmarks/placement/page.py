"""The page of results, from the rows and decisions that are kept."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from report import Report

from gradprobe.remedies import REMEDIES
from placement.decisions import Decisions
from placement.measures import NONE, Choices, Trained, correlation, mean, summarise
from placement.oracle import SEEDS, arms, trained
from placement.policies import POLICIES
from placement.rows import EARLY, Table, indices_of
from placement.tasks import DEVELOPMENT, TASKS, points

EXPLANATION = """
`python benchmarks/placement.py` trains what is missing (`benchmarks/placement/results/rows.csv`) and lets the
policies choose (`decisions.csv`, beside it); `--row TASK:ARM:SEED` trains one row again; `--page` writes this
page.

{trainings} trainings of {tasks} small networks (of {all_tasks} that are defined) on 1078 handwritten digits, 3
seeds each: held-out accuracy of the main output on 719 others (of every pixel for the U-Nets), branches removed.
A training has 300 or 400 iterations of 32. Branches have weight 0.3 and the schedule of CNDS, as in `gradprobe
compare`, and are the lightest there are (one linear layer). At equal operations a supervised network trains for
fewer steps, by what its branches cost.

The oracle of a task has on each seed what the placement came to that was best on the two others: none, single
points (all, or 6 of them evenly), two points at the thirds, every second and every point. Sets were not grown
greedily. **Lost**: accuracy against the oracle, mean over the tasks where it gains more than two standard
errors. **Regret**: the same over what a random single point loses: 0 is the oracle, 1 is chance; it has no value
where a random point loses nothing, and says little where that is little. **Gain**: over no branch, mean over all
tasks with its standard error. **Rescued**: of the tasks that are at chance without and that the oracle rescues,
those above half of its accuracy. **Off chance**: of all tasks at chance without, those that are not with.
**Harmed**: worse than without, Student's t over the seeds, 95 %. **Abstained**: how often no branch was chosen,
where the oracle gains nothing clear (right) and where it does (wrong); a remedy is no abstention. **Windows** of
50 iterations: what choosing cost. These trainings have 6 or 8 windows, so trials cost as much as a training
here; of a longer one they are a small part.

Kaiming, lsuv and normalised change the network and not the placement, and `auto` may advise one of the last two:
a regret below 0 says that this is better than any branch. `auto (placing only)` has to keep the network. The
policies were chosen on the development families and then run once on the others; of those the rows (not the
decisions) of the family narrow had been looked at before. Single points that a rule names are moved to the
nearest that was trained. Not run: the rules repeated with their branches in place.
"""
HEAD = (
    "policy",
    "lost",
    "regret",
    "gain",
    "rescued",
    "off chance",
    "harmed",
    "abstained right",
    "wrong",
    "windows",
)
EXPECTED = ("oracle", "random point")  # they do not choose


def write_page(path: Path | None) -> None:
    """Print the page and write it."""
    table, decisions = Table(), Decisions()
    names = [name for name in TASKS if _is_complete(name, table, decisions)]
    left = ", ".join(name for name in TASKS if name not in names) or "none"
    text = EXPLANATION.strip().format(trainings=len(table.rows), tasks=len(names), all_tasks=len(TASKS), left=left)
    report = Report("Is the placement right?", text, packages=("torch", "scikit-learn"))
    for operations in (False, True):
        tasks = {name: trained(name, table, operations=operations) for name in names}
        equal = "operations" if operations else "steps"
        for title, developed in (("held-out families", False), ("development families", True)):
            chosen = {name: t for name, t in tasks.items() if (TASKS[name].family in DEVELOPMENT) is developed}
            if chosen:
                _policies(report, f"{title}, at equal {equal}", chosen, decisions, table, operations)
    _early(report, {name: trained(name, table) for name in names}, table)
    _each_task(report, {name: trained(name, table) for name in names}, table)
    left = ", ".join(name for name in TASKS if name not in names)
    if left:
        report.add("", *textwrap.wrap(f"Defined, but not trained in full yet: {left}.", 113))
    report.write(path)


def _is_complete(name: str, table: Table, decisions: Decisions) -> bool:
    """Whether all is there: the oracle's rows, and every deciding policy's decisions, trained."""
    asked = [(who, name, seed) for who in decisions.policies for seed in SEEDS]
    if any(each not in decisions.made for each in asked):
        return False
    chosen = [(name, decisions.made[each].arm, each[2]) for each in asked]
    return not table.missing([*((name, arm, seed) for arm in arms(name) for seed in SEEDS), *chosen])


def _policies(
    report: Report,
    title: str,
    tasks: Mapping[str, Trained],
    decisions: Decisions,
    table: Table,
    operations: bool,
) -> None:
    kinds = [task.kind for task in tasks.values()]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("rescue", "help", "nothing"))
    report.add("", f"## {title[0].upper()}{title[1:]}", "", f"{len(tasks)} tasks; to the oracle: {counted}.", "")
    report.columns(*HEAD)
    for who in (*EXPECTED, *POLICIES):
        choices = _choices(who, tasks, decisions, table, operations)
        if len(choices) < len(tasks):
            continue
        found = summarise(tasks, choices)
        report.row(
            who,
            *("" if value != value else f"{value:.2f}" for value in (found.lost, found.regret)),
            f"{found.gain:+.3f} ± {found.gain_error:.3f}",
            f"{found.rescued} of {found.rescuable}",
            f"{found.off_chance} of {found.at_chance}",
            f"{found.harmed} of {found.tasks}",
            *(_share(value) for value in (found.abstentions, found.missed)),
            "" if who in EXPECTED else f"{found.windows:.1f}",
        )


def _choices(
    who: str, tasks: Mapping[str, Trained], decisions: Decisions, table: Table, operations: bool
) -> dict[str, Choices]:
    if who == "oracle":
        return {name: _of(task, task.oracle) for name, task in tasks.items()}
    if who == "random point":
        return {name: _of(task, task.random) for name, task in tasks.items()}
    made = {name: decisions.choices(who, name, table, operations=operations) for name in tasks}
    return {name: chosen for name, chosen in made.items() if len(chosen.values) == len(SEEDS)}


def _of(task: Trained, values: Mapping[int, float]) -> Choices:
    abstained = {
        seed: values is task.oracle and task.ranked(chosen_on)[0] == NONE for chosen_on, seed in task.folds
    }
    return Choices(values, abstained, dict.fromkeys(values, 0.0), {})


def _share(value: float) -> str:
    return "" if value != value else f"{value:.0%}"


def _early(report: Report, tasks: Mapping[str, Trained], table: Table) -> None:
    said = (
        "Spearman's rank correlation, over the placements of a task, of the main output's loss during the "
        "training with the accuracy in the end; mean over the tasks where it is defined."
    )
    report.add("", "## When the loss begins to tell", "", *textwrap.wrap(said, 113), "")
    report.columns("after", "all tasks", "tasks that the oracle helps or rescues")
    clear = {name: task for name, task in tasks.items() if task.kind != "nothing"}
    for index, done in enumerate(EARLY):
        means = [_mean_rank(chosen, table, index) for chosen in (tasks, clear)]
        report.row(f"{done} iterations", *(f"{value:.2f}" for value in means))


def _mean_rank(tasks: Mapping[str, Trained], table: Table, index: int) -> float:
    ranks = []
    for name, task in tasks.items():
        scores = {
            seed: {arm: -_finite(table.rows[name, arm, seed].early[index]) for arm in task.placements}
            for seed in task.seeds
        }
        ranks.append(correlation(task, Choices({}, {}, {}, scores)))
    defined = [rank for rank in ranks if rank is not None]
    return mean(defined) if defined else math.nan


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else 1e9


def _each_task(report: Report, tasks: Mapping[str, Trained], table: Table) -> None:
    report.add(
        "", "## Each task", "", "Mean held-out accuracy over the seeds, at equal steps; the oracle's place", ""
    )
    columns = ("task", "points", "kind", "none", "random", "oracle", "at", "every", "second", *REMEDIES)
    report.columns(*columns)
    for name, task in tasks.items():
        count = len(points(name))
        every = "+".join(map(str, range(count)))
        second = "+".join(map(str, range((count - 1) % 2, count, 2)))
        report.row(
            name,
            count,
            task.kind,
            *(_number(list(values.values())) for values in (task.none, task.random, task.oracle)),
            " / ".join(_place(task.ranked(chosen_on)[0], count) for chosen_on, _ in task.folds),
            *(_number(table.accuracies(name, arm, SEEDS)) for arm in (every, second)),
            *(_number(table.accuracies(name, arm, SEEDS)) if arm in arms(name) else "" for arm in REMEDIES),
        )


def _place(arm: str, count: int) -> str:
    branches = len(indices_of(arm))
    return arm if branches < 4 else "every" if branches == count else f"{branches} of {count}"


def _number(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}"
