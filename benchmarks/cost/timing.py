"""The seconds of a call, and how seconds are summarised: medians, ratios, intervals."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

DRAWS = 2000  # of the bootstrap


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes, the accelerator's work included."""
    synchronize()
    started = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - started


def fastest(call: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of several calls."""
    return min(timed(call) for _ in range(times))


def synchronize() -> None:
    """Wait for the accelerator, if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the medians of b and a, and its 95 % bootstrap interval: rounds are drawn, the same for both.

    Args:
        a: Seconds, of shape (rounds,) or (rounds, steps).
        b: Of the same rounds.
    """
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    drawn = np.random.default_rng(0).integers(len(a), size=(DRAWS, len(a)))
    ratios = np.median(b[drawn], axis=(1, 2)) / np.median(a[drawn], axis=(1, 2))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.median(b) / np.median(a)), float(low), float(high)


def ratio(a: np.ndarray, b: np.ndarray) -> str:
    """`interval` as a table shows it.

    Example:
        >>> ratio(np.ones(3), np.full(3, 1.5))
        '1.500 (1.500-1.500)'
    """
    return "{:.3f} ({:.3f}-{:.3f})".format(*interval(a, b))


def milliseconds(seconds: np.ndarray) -> str:
    """Median and quartiles.

    Example:
        >>> milliseconds(np.array([0.1, 0.2, 0.3]))
        '200.00 (150.00-250.00)'
    """
    low, middle, high = 1e3 * np.quantile(seconds, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
