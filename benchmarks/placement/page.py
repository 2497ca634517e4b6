"""The page of results, from the rows and decisions that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from report import Report

from gradprobe.remedies import REMEDIES
from placement.decisions import Decisions
from placement.measures import NONE, Choices, Trained, mean, summarise
from placement.oracle import SEEDS, arms, trained
from placement.policies import POLICIES
from placement.rows import Table, indices_of
from placement.tasks import DEVELOPMENT, TASKS, points

EXPLANATION = """
`python benchmarks/placement.py` trains what is missing (`benchmarks/placement/results/rows.csv`) and lets the
policies choose (`decisions.csv`, beside it); `--row TASK:ARM:SEED` trains one row again; `--page` writes this
page.

{trainings} trainings of {tasks} small networks on 1078 handwritten digits, {hours:.1f} hours of one core;
held-out accuracy of the main output on 719 others (of every pixel for the U-Nets), branches removed. Branches
have weight 0.3 and the schedule of CNDS, as in `gradprobe compare`, and are the lightest there are (one linear
layer).

The oracle of a task is the best placement (none, single points, every and every second point, thirds, and sets
of up to 3 grown greedily; of nets with more than 8 points 8 are tried one by one) on half of the 4 seeds,
scored on the other half, both ways. **Regret**: what a policy loses against it, over what a random single point
loses: 0 is the oracle, 1 is chance; it is taken over the tasks where the oracle gains more than two standard
errors. **Rescued**: at chance without, above half of the oracle's accuracy with. **Harmed**: worse than
without, Student's t over the seeds, 95 %. **Abstained**: how often no branch was chosen where the oracle gains
nothing clear (right) and where it does (wrong). **Rank**: Spearman's correlation of the policy's score with the
accuracy. **Windows** of 50 iterations: what choosing cost. A training has 300 or 400 iterations. Remedies
(kaiming, lsuv, normalised) change the network and not the placement: their regret may be below 0.
"""
HEAD = ("policy", "regret", "gain", "rescued", "harmed", "abstained right", "wrong", "rank", "windows")


def write_page(path: Path | None) -> None:
    """Print the page and write it."""
    table, decisions = Table(), Decisions()
    names = [name for name in TASKS if _is_complete(name, table)]
    hours = sum(row.seconds for row in table.rows.values()) / 3600
    text = EXPLANATION.strip().format(trainings=len(table.rows), tasks=len(names), hours=hours)
    report = Report("Is the placement right?", text, packages=("torch", "scikit-learn"))
    for operations in (False, True):
        tasks = {name: trained(name, table, operations=operations) for name in names}
        equal = "operations" if operations else "steps"
        for title, developed in (("held-out families", False), ("development families", True)):
            chosen = {name: t for name, t in tasks.items() if (TASKS[name].family in DEVELOPMENT) is developed}
            if chosen:
                _policies(report, f"{title}, at equal {equal}", chosen, decisions, table, operations)
    _each_task(report, {name: trained(name, table) for name in names}, table)
    report.write(path)


def _is_complete(name: str, table: Table) -> bool:
    return not table.missing((name, arm, seed) for arm in arms(name) for seed in SEEDS)


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
    for who in ("oracle", "random point", *POLICIES):
        choices = _choices(who, tasks, decisions, table, operations)
        if len(choices) < len(tasks):
            continue
        found = summarise(tasks, choices)
        report.row(
            who,
            f"{found.regret:.2f}",
            f"{found.gain:+.3f} ± {found.gain_error:.3f}",
            f"{found.rescued} of {found.rescuable}",
            f"{found.harmed} of {found.tasks}",
            *(_share(value) for value in (found.abstentions, found.missed)),
            "" if found.correlation != found.correlation else f"{found.correlation:.2f}",
            "" if who == "oracle" else f"{found.windows:.1f}",
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
