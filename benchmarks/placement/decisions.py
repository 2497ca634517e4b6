"""What the policies chose, kept in a CSV file as they do."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from placement.measures import NONE, Choices
from placement.policies import Decision
from placement.rows import RESULTS, Table

DECISIONS = RESULTS.with_name("decisions.csv")
COLUMNS = ("policy", "task", "seed", "arm", "windows", "scores")
Asked = tuple[str, str, int]


class Decisions:
    """The decisions of all policies.

    Args:
        path: Read if it is there; made at the first decision if not.
    """

    def __init__(self, path: Path = DECISIONS) -> None:
        self.path = path
        self.made: dict[Asked, Decision] = {}
        if path.exists():
            with path.open(newline="") as file:
                for line in csv.DictReader(file):
                    found = Decision(line["arm"], float(line["windows"]), json.loads(line["scores"]))
                    self.made[line["policy"], line["task"], int(line["seed"])] = found

    @property
    def policies(self) -> list[str]:
        """Those that decided anywhere."""
        return list(dict.fromkeys(policy for policy, _, _ in self.made))

    def add(self, asked: Asked, decision: Decision) -> None:
        """Keep one, in the file too."""
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scores = json.dumps({arm: float(f"{score:.4g}") for arm, score in decision.scores.items()})
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow([*asked, decision.arm, f"{decision.windows:g}", scores])
        self.made[asked] = decision

    def choices(self, policy: str, task: str, table: Table, *, operations: bool = False) -> Choices:
        """What a policy's decisions on a task came to."""
        found = {seed: made for (who, name, seed), made in self.made.items() if (who, name) == (policy, task)}
        rows = {seed: table.rows[task, made.arm, seed] for seed, made in found.items()}
        return Choices(
            {seed: row.at_operations if operations else row.accuracy for seed, row in rows.items()},
            {seed: made.arm == NONE for seed, made in found.items()},
            {seed: made.windows for seed, made in found.items()},
            {seed: made.scores for seed, made in found.items() if made.scores},
        )
