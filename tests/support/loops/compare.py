"""A program under `gradprobe.GradientProbe` beside its account: each number is equal, or missing with a reason."""

from __future__ import annotations

import contextlib
import math
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from gradprobe import GradientProbe
from gradprobe.script.execute import Script
from gradprobe.script.run import record_script
from support.cases.recorder import bits
from support.loops.machine import Machine
from support.loops.oracle import Oracle, same

PROGRAMS = []  # what a script runs


@dataclass
class Outcome:
    """What became of one program.

    Attributes:
        counts: Numbers that are ``"equal"``, ``"absent"`` in both, ``"missing"`` with a reason, ``"unexplained"``
            without one, ``"another reading"``, or ``"different"``.
        differences: What is wrong, a sentence for each.
    """

    counts: Counter = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def wrong(self, kind, sentence):
        self.counts[kind] += 1
        self.differences.append(f"{kind}: {sentence}")


def outcome(program, as_script=False):
    """Run a program plainly, under probes or as a script under ``gradprobe run``, and by the oracle."""
    plain, oracle, result = Machine(program), Oracle(program), Outcome()
    with warnings.catch_warnings():
        # what torch says about a loop is the same with and without us
        warnings.simplefilter("ignore")
        plain.run()
        oracle.run()
        try:
            probed, histories = run_as_script(program) if as_script else run_under_probes(program)
        except Exception as error:  # whatever it is, the loop runs without us
            result.wrong("exception", f"{type(error).__name__}: {error}")
            return result
    if not is_bit_equal(plain, probed):
        result.wrong("training", "the training is another one")
    for number, history in enumerate(histories):
        compare(history, oracle.iterations[number][: program.window], program, f"model {number}", result)
    return result


def run_as_script(program):
    """The machine and the records; none where not every model is recorded, since an optimizer never steps."""
    PROGRAMS.append(program)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.py"
        file.write_text(
            "from support.loops.compare import PROGRAMS, Machine\n"
            "machine = Machine(PROGRAMS[-1])\n"
            "PROGRAMS[-1] = machine\n"
            "machine.run()\n"
        )
        recorded = record_script(Script(str(file)), program.window, keep_going=True, every=True)
    machine = PROGRAMS.pop()
    if recorded.ending.code:
        raise RuntimeError(f"the script {recorded.ending.words}")
    is_whole = len(recorded.models) == len(machine.models)
    return machine, [model.history for model in recorded.models] if is_whole else []


def run_under_probes(program):
    """One probe for each model, with the optimizers that hold its parameters."""
    machine = Machine(program)
    with contextlib.ExitStack() as stack:
        probes = [
            stack.enter_context(
                GradientProbe(
                    model,
                    optimizer=[machine.optimizers[i] for i in machine.optimizers_of(number)],
                    iterations=program.window,
                    stats=program.stats,
                )
            )
            for number, model in enumerate(machine.models)
        ]
        machine.run()
    return machine, [probe.history for probe in probes]


def is_bit_equal(one, other):
    pairs = zip(one.models, other.models, strict=True)
    weights = [(p, q) for a, b in pairs for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    gradients = [(p.grad, q.grad) for p, q in weights]
    losses = list(zip(one.losses, other.losses, strict=True))
    pairs = [(p, q) for p, q in weights + gradients + losses if p is not q]
    return all(p is not None and q is not None and bits(p) == bits(q) for p, q in pairs)


def compare(history, expected, program, where, result):
    """Count the rows of a history by what they are."""
    if history.iterations != len(expected) and expected:
        result.wrong("iterations", f"{where}: {len(expected)} were made, {history.iterations} recorded")
        return
    found = {(row.iteration, row.layer, row.of): row for row in history.frame.itertuples()}
    sizes = [row.value[2] for rows in expected for row in rows.values() if row.value]
    floor = 1e-13 * max((size for size in sizes if math.isfinite(size)), default=1.0)
    for iteration, rows in enumerate(expected):
        for (layer, of), row in rows.items():
            key = f"{where}, iteration {iteration}, {layer} ({of})"
            measured = numbers(found.get((iteration, layer, of)))
            judge(measured, row, program, reason(history, layer, of), floor, key, result)


def numbers(row):
    if row is None or pd.isna(row.nonfinite):
        return None
    return row.mean_abs, row.rms, row.max_abs, row.zero_fraction, row.nonfinite


def reason(history, layer, of):
    """Why a number is missing, in whatever place it is said."""
    ambiguous = history.conditions["ambiguous"] or {}
    return {one.name: one.unreached for one in history.layers}.get(layer, {}).get(of) or ambiguous.get(layer)


def judge(measured, row, program, why, floor, key, result):
    def matches(value):
        if measured is None or value is None:
            return same(measured, value)
        if program.stats == "mean":
            return same((measured[0],) * 3, (value[0],) * 3, floor)
        # of what rounding leaves of a sum to zero, some elements are exact zeros and some are not
        zeros = abs(measured[3] - value[3]) < 1e-9 or value[0] < 1e3 * floor or value[4]
        return same(measured, value, floor) and zeros

    if matches(row.value):
        result.counts["equal" if row.value else "absent"] += 1
    elif measured is None:
        if why:
            result.counts["missing"] += 1
        else:
            result.wrong("unexplained", f"{key}: no number and no reason, expected {row.value[0]:.6g}")
    elif way := next((way for way, value in row.others.items() if value and matches(value)), None):
        result.counts[f"another reading: {way.split(' [')[0]}"] += 1
    else:
        expected = "no number" if row.value is None else f"{row.value[0]:.6g}"
        result.wrong("different", f"{key}: {measured[0]:.6g}, expected {expected}")
