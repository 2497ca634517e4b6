"""The page of results, from what is kept; and the part of it that the README quotes."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from report import Report

from gradprobe.prove.remedies import REMEDIES
from placement import invariance
from placement.arms import arm_of, cost
from placement.decisions import Decisions
from placement.leads import QUANTITIES, Lead, Leads
from placement.measures import MOST_BRANCHES, Summary, correlations, described, mean
from placement.oracle import SEEDS, arms
from placement.policies import POLICIES
from placement.replay import RULES
from placement.results import EXPECTED, Results, Tasks
from placement.rows import EARLY, Key, Table
from placement.tasks import TASKS, points

ROOT = Path(__file__).parent.parent.parent
PAGE, README = ROOT / "benchmarks" / "results" / "placement.md", ROOT / "README.md"
EXPLANATION = """
`python benchmarks/placement.py` trains what is missing (`benchmarks/placement/results/rows.csv`) and lets the
policies choose (`decisions.csv`, beside it); `--row TASK:ARM:SEED` trains one row again; `--page` writes this
page.

{trainings} trainings of {tasks} small networks on 1078 handwritten digits, 3
seeds each: held-out accuracy of the main output on 719 others (of every pixel for the U-Nets), branches removed.
A training has 300 or 400 iterations of 32. Branches have weight 0.3 and the schedule of CNDS, as in `gradprobe
compare`, and are the lightest there are (one linear layer). At equal operations a supervised network trains for
fewer steps, by what its branches cost.

The oracle of a task has on each seed what the placement came to that was best on the two others: none, single
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

Kaiming, lsuv and normalised change the network and not the placement, and `auto` may advise one of the last two:
a regret below 0 says that this is better than any branch. `auto (placing only)` has to keep the network. The
policies were chosen on the development families and then run once on the others; of those the rows (not the
decisions) of the family narrow had been looked at before. Single points that a rule names are moved to the
nearest that was trained. `repeated` asks a rule again with its branches in place.
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
MARKS = "<!-- placement -->", "<!-- /placement -->"
Score = Callable[[str, str, int], float]  # of a task, an arm and a seed


def write_page(path: Path) -> None:
    """Print the page and write it; where it is the one that is kept, the README's quotation too."""
    at_steps, at_operations = (Results(Table(), Decisions(), operations=flag) for flag in (False, True))
    report = Report("Is the placement right?", _explained(at_steps), packages=("torch", "scikit-learn"))
    _in_short(report, at_steps)
    for results in (at_steps, at_operations):
        for families, developed in FAMILIES.items():
            _policies(report, families, results, results.of_families(developed=developed))
    _leads(report, at_steps)
    _replayed(report, at_steps)
    _invariance(report)
    _each_task(report, at_steps)
    report.write(path)
    if path.resolve() == PAGE:
        README.write_text(quote(path.read_text(), README.read_text()))


def _explained(results: Results) -> str:
    left = [name for name in TASKS if name not in results.tasks]
    text = EXPLANATION.strip().format(
        trainings=len(results.table.rows),
        tasks=len(results.tasks),
        most=MOST_BRANCHES,
        grown=", ".join(results.grown) or "none yet",
        sensitive=sum(task.sensitive for task in results.tasks.values()),
    )
    said = f"\n\nDefined, but not trained in full yet: {', '.join(left)}." if left else ""
    return "\n\n".join(textwrap.fill(" ".join(part.split()), 113) for part in (text + said).split("\n\n"))


def _in_short(report: Report, results: Results) -> None:
    halves = [results.of_families(developed=developed) for developed in FAMILIES.values()]
    counted = " and ".join(
        f"{len(tasks)} tasks of the {name}" for name, tasks in zip(FAMILIES, halves, strict=True)
    )
    report.add("", "## In short", "", f"At equal steps, {counted}.", "", MARKS[0])
    report.columns(*SHORT)
    for who in (*EXPECTED, *POLICIES):
        found = [results.summary(who, tasks) for tasks in halves]
        if None not in found:
            cells = [cell for half in found if half for cell in _short(half)]
            report.row(who, *cells, "" if who in EXPECTED else f"{results.windows(who):.1f}")
    report.add(MARKS[1])


def _short(found: Summary) -> tuple[str, ...]:
    off_chance, harmed = f"{found.off_chance} of {found.at_chance}", f"{found.harmed} of {found.tasks}"
    return _with_interval(found.regret, found.interval), f"{found.gain:+.2f}", off_chance, harmed


def _policies(report: Report, families: str, results: Results, tasks: Tasks) -> None:
    kinds = [task.kind for task in tasks.values()]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("rescue", "help", "nothing"))
    title = f"{families.capitalize()}, at equal {'operations' if results.operations else 'steps'}"
    report.add("", f"## {title}", "", f"{len(tasks)} tasks; to the oracle: {counted}.", "")
    report.columns(*HEAD)
    for who in (*EXPECTED, *POLICIES):
        if found := results.summary(who, tasks):
            report.row(who, *_cells(found), "" if who in EXPECTED else f"{found.windows:.1f}")


def _cells(found: Summary) -> tuple[str, ...]:
    return (
        _with_interval(found.lost, found.lost_interval),
        _with_interval(found.regret, found.interval),
        f"{found.gain:+.3f} ± {found.gain_error:.3f}",
        f"{found.rescued} of {found.rescuable}",
        f"{found.off_chance} of {found.at_chance}",
        f"{found.harmed} of {found.tasks}",
        _if_number(found.abstentions, ".0%"),
        _if_number(found.missed, ".0%"),
    )


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    between = "" if math.isnan(low) or low == high else f" ({low:.2f} to {high:.2f})"
    return f"{_if_number(value, '.2f')}{between}"


def _if_number(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


LEADS = """
Spearman's rank correlation, over the placements of a task (none, the single points and the blind sets), of a
score with the accuracy in the end; mean over the tasks where it is defined with its standard error, and how many
these are. The loss is the main output's with the branches in place, mean over 20 iterations, in the training
itself; `auto` decides by the same loss after 50 to 166 iterations. The others come from one window of 50
iterations with the branches in place (`leads.csv`), on the tasks that the oracle helps or rescues: the magnitude
of the trunk's least-fed layer as a share of its best-fed one's, and how far the signs of a weight's gradients
agree between batches, in the layer where they do least.
"""


def _leads(report: Report, results: Results) -> None:
    report.add("", "## What tells early where branches help", "", *textwrap.wrap(LEADS.strip(), 113), "")
    report.columns("score", "all tasks", "tasks that the oracle helps or rescues")
    found, clear = Leads().found, results.clear()
    looked = {
        name: task
        for name, task in clear.items()
        if all((name, arm, seed) in found for arm in task.placements for seed in SEEDS)
    }
    for index, done in enumerate(EARLY):
        score = _loss(results.table, index)
        report.row(f"loss after {done} iterations", _ranks(results.tasks, score), _ranks(clear, score))
    for name, said in QUANTITIES.items():
        report.row(f"{said}, in one window", "", _ranks(looked, _told(found, name)))
    report.row("number of branches", _ranks(results.tasks, _branches), _ranks(clear, _branches))


def _loss(table: Table, index: int) -> Score:
    def score(*key: Any) -> float:
        loss = table.rows[key].early[index]
        return -loss if math.isfinite(loss) else -1e9

    return score


def _told(leads: Mapping[Key, Lead], quantity: str) -> Score:
    return lambda *key: float(getattr(leads[key], quantity))


def _branches(task: str, arm: str, seed: int) -> float:
    return cost(arm)


def _ranks(tasks: Tasks, score: Score) -> str:
    scores = {
        name: {seed: {arm: score(name, arm, seed) for arm in task.placements} for seed in SEEDS}
        for name, task in tasks.items()
    }
    return described(correlations(tasks, scores))


REPLAYED = """
What other ways to decide by trials would have chosen, as far as the rows tell: the loss of the main output after
150 iterations, of none and of two or more placements; clearly better is 2 %. Replayed from the trainings and not
run: there the weight of the branches falls, and the noise between iterations is not looked at. Whoever picks a
row of this table should do so by its development half.
"""


def _replayed(report: Report, results: Results) -> None:
    report.add("", "## Other ways to decide by trials", "", *textwrap.wrap(REPLAYED.strip(), 113), "")
    report.columns("rule", *SHORT[1:])
    for name, rule in RULES.items():
        choose = partial(rule.arm, table=results.table)
        halves = [results.of_families(developed=developed) for developed in FAMILIES.values()]
        cells = [cell for tasks in halves if tasks for cell in _short(results.summary_of(choose, tasks))]
        report.row(name, *cells, f"{rule.windows:g}")


INVARIANCE = """
The policies asked again where the network and its first weights are the same and something else is not
(`invariance.csv`; seed 0 of {count} tasks): on how many the choice is the same, of those where anything is chosen
before or after. A loss a thousand times as large, or a sum for a mean, makes the steps of SGD as much larger: its
learning rate is divided by as much, so that it is the same training; in the last column it is not, and that is
another training. Adam divides the scale out, but for its epsilon of 1e-8, which matters where gradients are that
small. A larger batch is another training too, with other batches and less noise; bf16 is autocast. Below, each
choice that changed: the indices of the points or the remedy as it is, and after the change.
"""


def _invariance(report: Report) -> None:
    known = invariance.answers()
    text = INVARIANCE.strip().format(count=len(invariance.CASES))
    report.add("", "## Does the choice stay?", "", *textwrap.wrap(text, 113), "")
    changes = [change for change in invariance.CHANGES if change != invariance.BASE]
    report.columns("policy", *changes)
    for policy in invariance.ASKED:
        counted = (invariance.stayed(known, policy, change) for change in changes)
        report.row(policy, *(f"{same} of {asked}" if asked else "" for same, asked in counted))
    report.add("")
    report.columns("policy", "task", "as it is", "after the change")
    for policy in invariance.ASKED:
        for task in invariance.CASES:
            base = known.get((policy, task, invariance.BASE), "")
            moved = {change: known.get((policy, task, change), base) for change in changes}
            if said := [f"{change}: {_place(arm, task)}" for change, arm in moved.items() if arm != base]:
                report.row(policy, task, _place(base, task), "; ".join(said))


def _each_task(report: Report, results: Results) -> None:
    report.add(
        "", "## Each task", "", "Mean held-out accuracy over the seeds, at equal steps; the oracle's place", ""
    )
    report.columns("task", "points", "kind", "none", "random", "oracle", "at", "every", "second", *REMEDIES)
    for name, task in results.tasks.items():
        count = len(points(name))
        every, second = arm_of(range(count)), arm_of(range(count - 1, -1, -2))
        asked = (arm if arm in arms(name) else None for arm in (every, second, *REMEDIES))
        report.row(
            name,
            count,
            task.kind,
            *(f"{mean(list(values.values())):.2f}" for values in (task.none, task.random, task.oracle)),
            " / ".join(_place(task.ranked(seed)[0], name) for seed in SEEDS),
            *(f"{mean(results.table.accuracies(name, arm, SEEDS)):.2f}" if arm else "" for arm in asked),
        )


def _place(arm: str, task: str) -> str:
    branches, count = cost(arm), len(points(task))
    return arm if branches <= MOST_BRANCHES else "every" if branches == count else f"{branches} of {count}"


def quote(page: str, readme: str) -> str:
    """The README with the part of the page between the marks."""
    block = re.compile(f"{MARKS[0]}.*?{MARKS[1]}", re.DOTALL)
    found = block.search(page)
    return block.sub(lambda _: found[0], readme) if found else readme
