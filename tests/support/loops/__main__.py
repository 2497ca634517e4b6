"""``PYTHONPATH=tests python -m support.loops 3000``: random loops, what came of them, and short ones that fail.

A second number is the seed; ``--without TAG`` leaves loops out that have a tag (of `Program.tags`), so that faults
of other kinds are found; ``--count`` only counts.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter, defaultdict

import torch
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis.errors import NoSuchExample

from support.loops.compare import outcome
from support.loops.strategies import programs


def chosen(options):
    return programs().filter(lambda program: not set(options.without) & set(program.tags()))


def counted(options):
    """Many loops, by what came of their numbers; the loops that went wrong, by the first thing that did."""
    counts, wrong, by_tag = Counter(), defaultdict(list), defaultdict(Counter)

    @seed(options.seed)
    @settings(
        max_examples=options.loops,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(chosen(options))
    def tried(program):
        result = outcome(program, options.script)
        counts["loops"] += 1
        counts.update(result.counts)
        for tag in program.tags():
            by_tag[tag]["loops"] += 1
            by_tag[tag]["wrong"] += bool(result.differences)
        if result.differences:
            wrong[result.differences[0].split(":")[0]].append(program)

    tried()
    return counts, wrong, by_tag


def shortest(kind, options):
    """A short program that goes wrong in this way first."""

    def fails(program):
        return any(one.startswith(f"{kind}:") for one in outcome(program, options.script).differences)

    how = settings(
        max_examples=2000, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    try:
        return find(chosen(options), fails, settings=how)
    except NoSuchExample:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loops", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--script", action="store_true", help="each as a script under gradprobe run")
    parser.add_argument("--count", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts, wrong, by_tag = counted(options)
    print(f"{counts.pop('loops')} loops, wrong in {sum(map(len, wrong.values()))}; numbers: {dict(counts)}")
    for tag, of in sorted(by_tag.items()):
        print(f"  {tag:50} {of['loops']:6} loops, {of['wrong']} wrong")
    for kind in () if options.count else wrong:
        program = shortest(kind, options) or wrong[kind][0]
        print(f"\n--- {kind}: {len(wrong[kind])} loops, for instance\n{program}\n")
        try:
            print("\n".join(f"    {sentence}" for sentence in outcome(program, options.script).differences))
        except Exception:  # the loop itself is at fault
            traceback.print_exc(file=sys.stdout)
        print(f"\n{program!r}")


if __name__ == "__main__":
    main()
