"""The learning rate that a record asks for, from how far steps move the weights. No torch."""

from __future__ import annotations

import math

from gradprobe.decide.causes.facts import Reading
from gradprobe.record.history import GradientHistory

USUAL = 3e-3  # of a weight: healthy trainings lie between 1e-3 and 1e-2 (You et al. 2017), measured 3e-4 to 3e-2
MOST = 10.0  # times at once: further off, the next window shows better what is right


def learning_rate_factor(history: GradientHistory) -> float:
    """What to multiply the learning rate by, for a step to move weights by 3e-3 of their size in the median.

    Where steps are too large it goes by the first ones, before the weights have grown. Upwards at most tenfold; 1
    where it is not known.

    Args:
        history: The record, with its evidence.

    Example:
        >>> from gradprobe.record.evidence import Evidence
        >>> from gradprobe.record.history import Layer, tidy
        >>> evidence = Evidence.from_rows([(0, "fc", 0.9, 1.0, 0.0, 0.0, 0.0, 0.0, 8, 3e-6, 1.0)], {}, {})
        >>> layers = (Layer("fc", 0, "Linear", 9),)
        >>> learning_rate_factor(GradientHistory(tidy([]), {}, layers, (), None, evidence=evidence))
        10.0
    """
    if history.evidence is None:
        return 1.0
    reading = Reading(history)
    frame = reading.evidence.frame
    first = frame[frame["iteration"] <= frame["iteration"].min() + 1]["update"].dropna()
    update = max(float(first.median()) if len(first) else 0.0, _number(reading.median_update()))
    if not 0 < update < math.inf:
        return 1.0
    factor = max(USUAL / update, 1e-6)
    return float(f"{min(factor, MOST):.1g}")


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0
