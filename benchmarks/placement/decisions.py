"""What the policies chose, kept in a CSV file as they do."""

from __future__ import annotations

import json
from pathlib import Path

from placement import kept
from placement.arms import NONE
from placement.measures import Choices
from placement.policies import Decision
from placement.rows import Table

DECISIONS = kept.FOLDER / "decisions.csv"
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
        for line in kept.lines(path):
            found = Decision(line["arm"], float(line["windows"]), json.loads(line["scores"]))
            self.made[line["policy"], line["task"], int(line["seed"])] = found

    @property
    def policies(self) -> list[str]:
        """Those that decided anywhere."""
        return list(dict.fromkeys(policy for policy, _, _ in self.made))

    def add(self, asked: Asked, decision: Decision) -> None:
        """Keep one, in the file too."""
        scores = json.dumps({arm: float(f"{score:.4g}") for arm, score in decision.scores.items()})
        kept.append(self.path, COLUMNS, [*asked, decision.arm, f"{decision.windows:g}", scores])
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
