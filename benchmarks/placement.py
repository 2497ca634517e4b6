"""Is the placement right? Trains every placement on every task, lets the policies choose, and says who was right.

python benchmarks/placement.py                            # whatever is missing
python benchmarks/placement.py --only narrow --jobs 2     # a family or a task
python benchmarks/placement.py --steps grow leads         # some of the steps
python benchmarks/placement.py --row TASK:ARM:SEED        # one row again, beside what the table says
python benchmarks/placement.py --page benchmarks/results/placement.md
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import torch
from placement import invariance, kept
from placement.decisions import Asked, Decisions
from placement.leads import Lead, Leads, lead
from placement.oracle import SEEDS, arms, growth, trained
from placement.page import write_page
from placement.policies import POLICIES, Case, Decision, as_tested
from placement.policies import decide as ask
from placement.rows import Key, Row, Table, measure
from placement.tasks import DEVELOPMENT, TASKS

Job = TypeVar("Job")
Done = TypeVar("Done")


def main() -> None:
    """Do what is asked, or all that is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="families or tasks")
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--jobs", type=int, default=1, help="processes, one core each")
    parser.add_argument("--row", metavar="TASK:ARM:SEED", help="train one row again")
    parser.add_argument("--page", type=Path, help="write the page from what there is, train nothing")
    options = parser.parse_args()
    if options.row:
        again(options.row)
    elif options.page:
        write_page(options.page)
    else:
        tasks = chosen(options.only)
        for step in options.steps:
            STEPS[step](tasks, options)


def chosen(only: Sequence[str]) -> list[str]:
    """The tasks of these families or names, those to develop on first; all without any."""
    named = [name for name, task in TASKS.items() if not only or name in only or task.family in only]
    if not named:
        raise SystemExit(f"no family or task in {list(only)}; tasks: {', '.join(TASKS)}")
    return sorted(named, key=lambda name: TASKS[name].family not in DEVELOPMENT)


def again(row: str) -> None:
    """Train one row and print it beside the one in the table."""
    task, arm, seed = row.split(":")
    torch.set_num_threads(1)
    print(measure(task, arm, int(seed)))
    print("in the table:", Table().rows.get((task, arm, int(seed))))


def train(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Train what the oracle needs and the table does not have."""
    _train([(task, arm, seed) for task in tasks for arm in arms(task) for seed in SEEDS], Table(), options.jobs)


def _train(keys: Iterable[Key], table: Table, jobs: int) -> None:
    for row in spread(_measure, table.missing(keys), jobs):
        table.add(row)
        print(row.task, row.arm, row.seed, f"{row.accuracy:.3f} in {row.seconds:.1f} s", flush=True)


def decide(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Let the policies choose, and train what they chose."""
    decisions = Decisions()
    asked = [(policy, task, seed) for task in tasks for seed in SEEDS for policy in options.policies]
    for each, decision in spread(_decide, [key for key in asked if key not in decisions.made], options.jobs):
        decisions.add(each, decision)
        print(*each, decision.arm, f"{decision.windows:g} windows", flush=True)
    made = [(task, decisions.made[policy, task, seed].arm, seed) for policy, task, seed in asked]
    _train(made, Table(), options.jobs)


def grow(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Train the sets of points that the oracle grows, until all have stopped."""
    table = Table()
    while keys := table.missing(key for task in tasks for key in growth(task, table)[1]):
        _train(keys, table, options.jobs)


def follow(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Look at a window of every placement, where the oracle helps or rescues."""
    table, leads = Table(), Leads()
    looked = {task: trained(task, table) for task in tasks}
    keys = [
        (n, arm, seed) for n, t in looked.items() if t.kind != "nothing" for arm in t.placements for seed in SEEDS
    ]
    for found in spread(_lead, [key for key in keys if key not in leads.found], options.jobs):
        leads.add(found)
        print(found, flush=True)


def vary(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Ask the policies again under other conditions."""
    known = invariance.answers()
    asked = [key for key in invariance.asked() if key[1] in tasks and key not in known]
    for key, arm in spread(_answer, asked, options.jobs):
        kept.append(invariance.FILE, invariance.COLUMNS, [*key, arm])
        print(*key, arm, flush=True)


STEPS = {"train": train, "decide": decide, "grow": grow, "leads": follow, "invariance": vary}


def spread(work: Callable[[Job], Done], jobs: Sequence[Job], processes: int) -> Iterator[Done]:
    """What the jobs come to, in the order in which they end; each process has one core."""
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


def _decide(asked: Asked) -> tuple[Asked, Decision]:
    policy, task, seed = asked
    return asked, as_tested(ask(policy, Case(task, seed)), task)


def _lead(key: Key) -> Lead:
    return lead(*key)


def _answer(asked: invariance.Asked) -> tuple[invariance.Asked, str]:
    return asked, invariance.answer(*asked)


if __name__ == "__main__":
    main()
