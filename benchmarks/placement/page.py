"""The page of results, from the recorded rows and decisions."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

from benchmarks.placement.arms import MOST_BRANCHES, arm_of, described
from benchmarks.placement.decisions import Decisions
from benchmarks.placement.differences import mean
from benchmarks.placement.evaluation import EXPECTED, Evaluation, Tasks
from benchmarks.placement.oracle import SEEDS, arms
from benchmarks.placement.page_evidence import add_invariance, add_leads
from benchmarks.placement.policies import POLICIES
from benchmarks.placement.rows import Table
from benchmarks.placement.summary import Summary
from benchmarks.placement.tasks import TASKS, points
from benchmarks.report import Report

EXPLANATION = """
`python benchmarks/placement/run.py` trains what is missing (`benchmarks/placement/results/rows.csv`) and lets the
policies choose (`decisions.csv`, beside it); `--row TASK:ARM:SEED` trains one row again; `--page` writes this
page.

{trainings} trainings of {tasks} small networks on 1078 handwritten digits, 3
seeds each: held-out accuracy of the main output on 719 others (of every pixel for the U-Nets), branches removed.
A training has 300 or 400 iterations of 32. Branches have weight 0.3 and the schedule of CNDS, as in `gradprobe
compare`, and are the lightest there are (one linear layer). At equal operations a supervised network trains for
fewer steps, by what its branches cost.

On each seed the oracle of a task has the accuracy of the placement that was best on the two others: none, single
points (all, or 6 of them evenly), two points at the thirds, every second and every point, and sets grown by
greedy addition. These are grown on the two other seeds too, so nothing of the seed that is scored is known when
its placement is chosen: from the best single point, the tested single point that adds most, while it adds
anything, up to {most} branches. To limit the cost they are grown only where some placement is better than none by
two standard errors, and by the accuracy at equal steps: on {grown}, of {sensitive} such tasks.

**Lost**: accuracy against the oracle, mean over the tasks where it gains more than two standard
errors. **Regret**: the same over what a random single point loses: 0 is the oracle, 1 is chance; it has no value
where a random point loses nothing, and says little where that is little. In brackets the 95 % intervals, by
drawing these tasks again (bootstrap); none where there are two tasks or less, nor of the regret where a random
point loses nothing in one draw of forty. **Gain**: over no branch, mean over all
tasks with its standard error. **Rescued**: of the tasks that are at chance without and that the oracle rescues,
those above half of its accuracy. **Off chance**: of all tasks at chance without, those that are not with.
**Harmed**: worse than without, Student's t over the seeds, 95 %. **Abstained**: how often no branch was chosen,
where the oracle gains nothing clear (right) and where it does (wrong); a remedy is no abstention. **Windows** of
50 iterations: what choosing cost. These trainings have 6 or 8 windows, so trials cost as much as a training
here; of a longer one they are a small part.

Kaiming, lsuv and normalised change the network and not the placement, and so do `diagnosis` and `auto`: a regret
below 0 says that this is better than any branch. `diagnosis` does what the diagnosis of the window asks for,
without a trial; `auto` tries, a window each, the remedies that it leaves open; `auto before` tried two remedies
and two placements of every network, within ten windows. `usual branches` is where branches are usual for the kind
of network. The policies were chosen on the development families and then run once on the others; of those the rows
(not the decisions) of the family narrow had been looked at before. Single points that a rule names are moved to
the nearest that was trained. `repeated` asks a rule again with its branches in place. How `auto` does on families
that nothing was chosen on: [new families](new_families.md). The page before `auto` went by the diagnosis:
[before](../../docs/tables/placement-before.md).
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
SHORT = (
    "policy",
    "held out: regret",
    "gain",
    "off chance",
    "harmed",
    "development: regret",
    "gain",
    "off chance",
    "harmed",
    "windows",
)
FAMILIES = {"held-out families": False, "development families": True}
REMEDIES = ("kaiming", "lsuv", "normalised")  # that every network was trained with


def write_page(path: Path) -> None:
    """Print the page and write it."""
    at_steps, at_operations = (Evaluation(Table(), Decisions(), operations=flag) for flag in (False, True))
    report = Report("Is the placement right?", _explained(at_steps), packages=("torch", "scikit-learn"))
    _in_short(report, at_steps)
    for evaluation in (at_steps, at_operations):
        for families, developed in FAMILIES.items():
            _policies(report, families, evaluation, evaluation.of_families(developed=developed))
    add_leads(report, at_steps)
    add_invariance(report)
    _each_task(report, at_steps)
    report.write(path)


def _explained(evaluation: Evaluation) -> str:
    left = [name for name in TASKS if name not in evaluation.tasks]
    text = EXPLANATION.strip().format(
        trainings=len(evaluation.table.rows),
        tasks=len(evaluation.tasks),
        most=MOST_BRANCHES,
        grown=", ".join(evaluation.grown) or "none yet",
        sensitive=sum(task.sensitive for task in evaluation.tasks.values()),
    )
    unfinished = (
        f"\n\nNot trained in full with the points that gradprobe finds today, and left out: {', '.join(left)}."
        if left
        else ""
    )
    return "\n\n".join(textwrap.fill(" ".join(part.split()), 113) for part in (text + unfinished).split("\n\n"))


def _in_short(report: Report, evaluation: Evaluation) -> None:
    halves = [evaluation.of_families(developed=developed) for developed in FAMILIES.values()]
    counted = " and ".join(
        f"{len(tasks)} tasks of the {name}" for name, tasks in zip(FAMILIES, halves, strict=True)
    )
    report.add("", "## In short", "", f"At equal steps, {counted}.", "")
    report.columns(*SHORT)
    for who in (*EXPECTED, *POLICIES):
        summaries = [evaluation.summary(who, tasks) for tasks in halves]
        if None not in summaries:
            cells = [cell for summary in summaries if summary for cell in _short(summary)]
            report.row(who, *cells, "" if who in EXPECTED else f"{evaluation.windows(who):.1f}")


def _short(summary: Summary) -> tuple[str, ...]:
    off_chance, harmed = f"{summary.off_chance} of {summary.at_chance}", f"{summary.harmed} of {summary.tasks}"
    return _with_interval(summary.regret, summary.interval), f"{summary.gain:+.2f}", off_chance, harmed


def _policies(report: Report, families: str, evaluation: Evaluation, tasks: Tasks) -> None:
    kinds = [task.kind for task in tasks.values()]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("rescue", "help", "nothing"))
    title = f"{families.capitalize()}, at equal {'operations' if evaluation.operations else 'steps'}"
    report.add("", f"## {title}", "", f"{len(tasks)} tasks; to the oracle: {counted}.", "")
    report.columns(*HEAD)
    for who in (*EXPECTED, *POLICIES):
        if summary := evaluation.summary(who, tasks):
            report.row(who, *_cells(summary), "" if who in EXPECTED else f"{summary.windows:.1f}")


def _cells(summary: Summary) -> tuple[str, ...]:
    return (
        _with_interval(summary.lost, summary.lost_interval),
        _with_interval(summary.regret, summary.interval),
        f"{summary.gain:+.3f} ± {summary.gain_error:.3f}",
        f"{summary.rescued} of {summary.rescuable}",
        f"{summary.off_chance} of {summary.at_chance}",
        f"{summary.harmed} of {summary.tasks}",
        _if_number(summary.abstentions, ".0%"),
        _if_number(summary.missed, ".0%"),
    )


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    between = "" if math.isnan(low) or low == high else f" ({low:.2f} to {high:.2f})"
    return f"{_if_number(value, '.2f')}{between}"


def _if_number(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def _each_task(report: Report, evaluation: Evaluation) -> None:
    report.add(
        "", "## Each task", "", "Mean held-out accuracy over the seeds, at equal steps; the oracle's place", ""
    )
    report.columns("task", "points", "kind", "none", "random", "oracle", "at", "every", "second", *REMEDIES)
    for name, task in evaluation.tasks.items():
        count = len(points(name))
        every, second = arm_of(range(count)), arm_of(range(count - 1, -1, -2))
        others = [arm if arm in arms(name) else None for arm in (every, second, *REMEDIES)]
        report.row(
            name,
            count,
            task.kind,
            *(f"{mean(list(values.values())):.2f}" for values in (task.none, task.random, task.oracle)),
            " / ".join(described(task.ranked(seed)[0], count) for seed in SEEDS),
            *(f"{mean(evaluation.table.accuracies(name, arm, SEEDS)):.2f}" if arm else "" for arm in others),
        )
