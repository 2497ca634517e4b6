"""What to type after several arms were compared: a command, or the lines for the script. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from gradprobe.decide.remedies import REMEDIES, remedy_code
from gradprobe.record.placement import Placement
from gradprobe.record.text import quoted
from gradprobe.verdict.arm import NONE
from gradprobe.verdict.choice import Choice

SEEDS = 5  # at least, where more are needed: with 3, Student's t asks for a difference of 4.3 standard errors


class Step(NamedTuple):
    """What to type next.

    Attributes:
        why: What the lines are, in a few words.
        lines: A command, or code, to copy as they are.
    """

    why: str
    lines: str

    def __str__(self) -> str:
        return f"{self.why}:\n{self.lines}"


def next_step(choice: Choice, placement: Placement, conditions: Mapping[str, Any]) -> Step | None:
    """Compare again where that tells more, else do what was chosen; None where nothing is to be done.

    Args:
        choice: Which arm to use, and how sure that is.
        placement: The same as a decision.
        conditions: Of the comparison; ``command`` is how it was called, without arms, seeds and iterations.

    Example:
        >>> conditions = {"iterations": 300, "seeds": [0], "command": "gradprobe compare model.py"}
        >>> decision = Placement("by hand", (), (), "", remedy="lsuv")
        >>> print(next_step(Choice("lsuv", "helped", (), "lsuv", "seeds"), decision, conditions))
        To be sure, compare again:
        gradprobe compare model.py --arms none,lsuv --seeds 5 --iterations 300
        >>> print(next_step(Choice("lsuv", "helped", (), "lsuv"), decision, {}).lines)
        from gradprobe import remedies
        remedies.lsuv(model, x)
    """
    seeds, iterations = len(conditions.get("seeds") or [0]), int(conditions.get("iterations") or 300)
    if choice.lacks == "longer":
        return Step("Train longer", _compare(conditions, choice.best, seeds, 3 * iterations))
    if choice.lacks == "seeds":
        more = max(SEEDS, math.ceil(1.5 * seeds))
        return Step("To be sure, compare again", _compare(conditions, choice.best, more, iterations))
    if placement.remedy in REMEDIES:
        what = "after the optimizer; history: what gp.scan gives"
        if not REMEDIES[placement.remedy].on_optimizer:
            what = "before the optimizer; x: a batch as the model gets it"
        return Step(f"In your script, {what}", f"from gradprobe import remedies\n{remedy_code(placement.remedy)}")
    if placement.points:
        names = ", ".join(quoted(point.name) for point in placement.points)
        lines = f"import gradprobe as gp\nnet = gp.supervise(model, [{names}], inputs=x)"
        return Step("In your script, before the optimizer; x: a batch as the model gets it", lines)
    return None


def _compare(conditions: Mapping[str, Any], best: str, seeds: int, iterations: int) -> str:
    """The call that compares an arm with the network as it is; if none was ahead, those of a call without arms."""
    command, arms = conditions.get("command"), [] if best == NONE else [NONE, best]
    if command:
        chosen = f" --arms {','.join(arms)}" if arms else ""
        return f"{command}{chosen} --seeds {seeds} --iterations {iterations}"
    chosen = f"{json.dumps(arms)}, " if arms else ""
    return f"gp.compare_arms(model, batches, loss_fn, {chosen}iterations={iterations}, seeds=range({seeds}))"
