"""Is the placement right? Trains every placement on every task, lets the policies choose, and compares them.

python benchmarks/placement/run.py                            # whatever is missing
python benchmarks/placement/run.py --only narrow --jobs 2     # a family or a task
python benchmarks/placement/run.py --steps grow leads         # some of the steps
python benchmarks/placement/run.py --row TASK:ARM:SEED        # one row again, beside the one in the table
python benchmarks/placement/run.py --page benchmarks/results/placement.md
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.placement import invariance
from benchmarks.placement.decisions import Decisions, Question
from benchmarks.placement.leads import Lead, Leads, lead
from benchmarks.placement.oracle import SEEDS, arms, growth, trained
from benchmarks.placement.page import write_page
from benchmarks.placement.policies import POLICIES, Case, Decision, as_tested
from benchmarks.placement.policies import decide as decide_case
from benchmarks.placement.rows import Key, Row, Table, measure
from benchmarks.placement.tasks import DEVELOPMENT, TASKS

Job = TypeVar("Job")
Result = TypeVar("Result")


def main() -> None:
    """Do what the options name, or all that is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="families or tasks")
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--jobs", type=int, default=1, help="processes, one core each")
    parser.add_argument("--row", metavar="TASK:ARM:SEED", help="train one row again")
    parser.add_argument("--page", type=Path, help="write the page from what there is, train nothing")
    options = parser.parse_args()
    if options.row:
        train_again(options.row)
    elif options.page:
        write_page(options.page)
    else:
        tasks = select_tasks(options.only)
        for step in options.steps:
            STEPS[step](tasks, options)


def select_tasks(only: Sequence[str]) -> list[str]:
    """The tasks of these families or names, the development families first; all tasks if none is named."""
    names = [name for name, task in TASKS.items() if not only or name in only or task.family in only]
    if not names:
        raise SystemExit(f"no family or task in {list(only)}; tasks: {', '.join(TASKS)}")
    return sorted(names, key=lambda name: TASKS[name].family not in DEVELOPMENT)


def train_again(row: str) -> None:
    """Train one row and print it beside the one in the table."""
    task, arm, seed = row.split(":")
    torch.set_num_threads(1)
    print(measure(task, arm, int(seed)))
    print("in the table:", Table().rows.get((task, arm, int(seed))))


def train(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Train the rows that the oracle needs and the table does not have."""
    _train([(task, arm, seed) for task in tasks for arm in arms(task) for seed in SEEDS], Table(), options.jobs)


def _train(keys: Iterable[Key], table: Table, jobs: int) -> None:
    for row in in_processes(_measure, table.missing(keys), jobs):
        table.add(row)
        print(row.task, row.arm, row.seed, f"{row.accuracy:.3f} in {row.seconds:.1f} s", flush=True)


def decide(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Let the policies choose, and train what they chose."""
    decisions = Decisions()
    questions = [(policy, task, seed) for task in tasks for seed in SEEDS for policy in options.policies]
    missing = [question for question in questions if question not in decisions.by_question]
    for question, decision in in_processes(_decide, missing, options.jobs):
        decisions.add(question, decision)
        print(*question, decision.arm, f"{decision.windows:g} windows", flush=True)
    rows = [(question[1], decisions.by_question[question].arm, question[2]) for question in questions]
    _train(rows, Table(), options.jobs)


def grow(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Train the sets of points that the oracle grows, until it needs no more."""
    table = Table()
    while keys := table.missing(key for task in tasks for key in growth(task, table)[1]):
        _train(keys, table, options.jobs)


def measure_leads(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Measure a window of every placement of the tasks that the oracle helps or rescues."""
    table, leads = Table(), Leads()
    clear = {task: result for task in tasks if (result := trained(task, table)).kind != "nothing"}
    keys = [(task, arm, seed) for task, result in clear.items() for arm in result.placements for seed in SEEDS]
    for measured in in_processes(_lead, [key for key in keys if key not in leads.by_key], options.jobs):
        leads.add(measured)
        print(measured, flush=True)


def decide_under_changes(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Let the policies choose again under other conditions."""
    answers = invariance.read_answers()
    questions = [key for key in invariance.questions() if key[1] in tasks and key not in answers]
    for question, arm in in_processes(_answer, questions, options.jobs):
        invariance.add_answer(question, arm)
        print(*question, arm, flush=True)


STEPS: dict[str, Callable[[Sequence[str], argparse.Namespace], None]] = {
    "train": train,
    "decide": decide,
    "grow": grow,
    "leads": measure_leads,
    "invariance": decide_under_changes,
}


def in_processes(work: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """The results of the jobs, in the order in which they end; each process has one core."""
    if processes == 1:
        torch.set_num_threads(1)
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        for done in as_completed([pool.submit(work, job) for job in jobs]):
            yield done.result()


def _measure(key: Key) -> Row:
    return measure(*key)


def _decide(question: Question) -> tuple[Question, Decision]:
    policy, task, seed = question
    return question, as_tested(decide_case(policy, Case(task, seed)), task)


def _lead(key: Key) -> Lead:
    return lead(*key)


def _answer(question: invariance.Question) -> tuple[invariance.Question, str]:
    return question, invariance.answer(*question)


if __name__ == "__main__":
    main()
