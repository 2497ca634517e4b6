"""What the policies chose, in a CSV file that each decision is added to."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.placement import records
from benchmarks.placement.arms import NONE
from benchmarks.placement.policies import Decision
from benchmarks.placement.rows import Table
from benchmarks.placement.summary import Choices

DECISIONS = records.FOLDER / "decisions.csv"
COLUMNS = ("policy", "task", "seed", "arm", "windows", "scores")
Question = tuple[str, str, int]  # policy, task and seed


class Decisions:
    """The decisions of all policies.

    Args:
        path: Read if it exists, else created with the first decision.
    """

    def __init__(self, path: Path = DECISIONS) -> None:
        self.path = path
        self.by_question: dict[Question, Decision] = {}
        for line in records.read(path):
            decision = Decision(line["arm"], float(line["windows"]), json.loads(line["scores"]))
            self.by_question[line["policy"], line["task"], int(line["seed"])] = decision

    @property
    def policies(self) -> list[str]:
        """The policies that decided anywhere."""
        return list(dict.fromkeys(policy for policy, _, _ in self.by_question))

    def add(self, question: Question, decision: Decision) -> None:
        """Add a decision, in the file too."""
        scores = json.dumps({arm: float(f"{score:.4g}") for arm, score in decision.scores.items()})
        records.append(self.path, COLUMNS, [*question, decision.arm, f"{decision.windows:g}", scores])
        self.by_question[question] = decision

    def choices(self, policy: str, task: str, table: Table, *, operations: bool = False) -> Choices:
        """The accuracies and costs of a policy's decisions on a task."""
        by_seed = {
            seed: decision
            for (who, name, seed), decision in self.by_question.items()
            if (who, name) == (policy, task)
        }
        rows = {seed: table.rows[task, decision.arm, seed] for seed, decision in by_seed.items()}
        return Choices(
            {seed: row.at_operations if operations else row.accuracy for seed, row in rows.items()},
            {seed: decision.arm == NONE for seed, decision in by_seed.items()},
            {seed: decision.windows for seed, decision in by_seed.items()},
            {seed: decision.scores for seed, decision in by_seed.items() if decision.scores},
        )
