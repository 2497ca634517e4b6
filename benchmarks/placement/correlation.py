"""How well a score ranks the placements of a task: plain numbers, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from benchmarks.placement.differences import mean, standard_error
from benchmarks.placement.summary import Scores
from benchmarks.placement.trained import Trained


def correlation(task: Trained, scores: Scores) -> float | None:
    """Spearman's rank correlation of scores with accuracies, the mean over the seeds; None if not defined."""
    by_seed = []
    for seed, by_arm in scores.items():
        arms = [arm for arm in by_arm if seed in task.placements.get(arm, {})]
        if len(arms) > 2:
            by_score = pd.Series([by_arm[arm] for arm in arms]).rank()
            by_value = pd.Series([task.placements[arm][seed] for arm in arms]).rank()
            if by_score.nunique() > 1 and by_value.nunique() > 1:
                by_seed.append(float(by_score.corr(by_value)))
    return mean(by_seed) if by_seed else None


def correlations(tasks: Mapping[str, Trained], scores: Mapping[str, Scores]) -> list[float]:
    """The `correlation` of every task where it is defined."""
    values = [correlation(tasks[name], of_task) for name, of_task in scores.items() if name in tasks]
    return [value for value in values if value is not None]


def mean_and_error(values: Sequence[float]) -> str:
    """The mean, its standard error, and the number of values.

    Example:
        >>> mean_and_error([0.5, 0.7])
        '0.60 ± 0.10 (2)'
    """
    return f"{mean(values):.2f} ± {standard_error(values):.2f} ({len(values)})" if values else ""
