"""Means, their errors, and the difference of two arms over the seeds: plain numbers, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36)


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds and its standard error."""

    mean: float
    error: float
    count: int

    @property
    def clear(self) -> bool:
        """Above zero by more than two standard errors."""
        return self.mean > 2 * self.error

    @property
    def harm(self) -> bool:
        """Below zero beyond the noise: Student's t, 95 %."""
        return self.mean < -STUDENT[self.count - 2] * self.error


def difference(better: Sequence[float], worse: Sequence[float], size: int) -> Difference:
    """The mean of the paired differences and its error.

    Few seeds may agree by luck: the error is never below the sampling error of so many held-out targets.

    Example:
        >>> difference([0.5, 0.7], [0.5, 0.5], 1000).mean
        0.09999999999999998
    """
    pairs = [a - b for a, b in zip(better, worse, strict=True)]
    sampling = math.hypot(binomial(mean(better), size), binomial(mean(worse), size)) / math.sqrt(len(pairs))
    return Difference(mean(pairs), max(standard_error(pairs), sampling), len(pairs))


def mean(values: Sequence[float]) -> float:
    """The mean of one or more numbers."""
    return sum(values) / len(values)


def binomial(share: float, size: int) -> float:
    """Standard error of a share of so many.

    Example:
        >>> binomial(0.5, 100)
        0.05
    """
    return math.sqrt(share * (1 - share) / size)


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean."""
    middle = mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / max(1, len(values) - 1) / len(values))
