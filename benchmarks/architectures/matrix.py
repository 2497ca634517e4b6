"""The matrix: deep supervision on every architecture of the zoo, one row for each.

    python benchmarks/architectures/matrix.py [NAME ...] [--out benchmarks/results/architectures.md]

A NAME is a part of an architecture's name. Every check is made from outside, by the library's public names only.
The exit code is 1 if one of them fails. Needs transformers, monai and einops; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import transformers

from benchmarks.architectures import checks
from benchmarks.architectures.checks import Subject
from benchmarks.architectures.zoo import ZOO, Architecture
from benchmarks.report import Report

PACKAGES = ("torch", "transformers", "monai", "einops", "gradprobe")
HEADINGS = (
    "architecture", "from", "layers", "points", "find, s", "supervise, s", "3 steps", "gradient changed",
    "cuts", "peeled", "places", "eval equal", "checkpoint", "removed", "row, s", "first points",
)  # fmt: skip


@dataclass
class Row:
    """The row of one architecture: a word for each column, a sentence for each thing that is wrong."""

    architecture: Architecture
    cells: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def check(self, column: str, test: Callable[[], str]) -> None:
        """Put the word that the test returns into the column; if it raises, ``NO``, and note its last line."""
        try:
            self.cells[column] = test()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.cells[column] = "NO"
            self.problems.append(f"{column}: {type(error).__name__}: {lines[-1]}")

    def all_cells(self) -> list[str]:
        """A word for every column, a dash where there is none."""
        return [self.cells.get(heading, "-") for heading in HEADINGS]


def examine(architecture: Architecture) -> Row:
    """All columns of one architecture."""
    row, subject = Row(architecture), Subject(architecture)
    start = time.perf_counter()
    row.cells |= {"architecture": architecture.name, "from": architecture.library}
    row.check("points", lambda: checks.find_points(subject, row.cells))
    if subject.supervised:
        row.check("places", lambda: checks.places(subject))
        row.check("cuts", lambda: checks.cuts(subject, row.cells))
        row.check("supervise, s", lambda: checks.add_branches(subject))
    if row.cells.get("supervise, s", "NO") != "NO":
        row.check("3 steps", lambda: checks.train_three_steps(subject))
        row.check("gradient changed", lambda: checks.gradient_changed(subject))
        row.check("eval equal", lambda: checks.equal_in_eval(subject))
        row.check("checkpoint", lambda: checks.checkpoint(subject))
        row.check("removed", lambda: checks.removed(subject))
    row.cells["row, s"] = f"{time.perf_counter() - start:.1f}"
    return row


LEGEND = """\
Random weights, tiny sizes. A row fails where a check says NO; the errors stand below the table.

- *find*: seconds to find the points beyond a plain forward pass, the fastest of up to three.
- *3 steps*: of SGD on the joint loss; losses and all the branches' gradients are finite.
- *gradient changed*: at each of up to three supervised points against the plain model, on the same batch and with
  the same random numbers, while the trunk's own output is bit-equal.
- *cuts*: points without which no gradient reaches the input (their module's output is detached); *peeled*: the
  others, right only where long bypasses cross the network. All points, or 12 spread ones of more than 24.
- *places*: the points that the architecture must have are there and those that it must not have are not, as
  `benchmarks/architectures/zoo/` says.
- *checkpoint*: a plain one into the network, its trunk's into a plain model, its own into another.
- *removed*: class, keys, hooks, attributes and the bytes of the trunk's pickle are as before; "no pickle" where
  the model cannot be pickled, or is pickled differently after each step of its own.
"""


def summary(rows: Sequence[Row]) -> list[str]:
    """How many rows fail, and why."""
    failing = [row for row in rows if row.problems]
    problems = [f"- **{row.architecture.name}** {problem}" for row in failing for problem in row.problems]
    return ["", f"{len(rows)} architectures, {len(failing)} failing.", *problems]


def select(names: Sequence[str]) -> list[Architecture]:
    """The architectures whose name contains one of the names; all without names."""
    parts = [name.lower() for name in names]
    selected = [each for each in ZOO.values() if not parts or any(part in each.name.lower() for part in parts)]
    if not selected:
        raise SystemExit(f"no architecture's name contains {' or '.join(names)}; there are {', '.join(ZOO)}")
    return selected


def main(arguments: Sequence[str]) -> int:
    """Print the matrix and write it to ``--out``; 1 if a row fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    report, rows = Report("Deep supervision on many architectures", LEGEND, packages=PACKAGES), []
    report.columns(*HEADINGS)
    for architecture in select(options.names):
        rows.append(examine(architecture))
        report.row(*rows[-1].all_cells())
    report.add(*summary(rows))
    report.write(options.out)
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
