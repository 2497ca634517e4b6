"""Histories, comparisons and arms with chosen magnitudes, without a training."""

from dataclasses import replace

import numpy as np

import gradprobe as gp
from gradprobe.prove.remedies import REMEDIES
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.points import Point
from gradprobe.verdict.comparison import Comparison, learning_frame

# names that a page must show as text
HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    '"',
    "<b>bold</b>",
    "{{ 7 * 7 }}",
    "a&amp;b",
    "constructor",
    "",
    "ä/b",
]


def made(values, *, of=("output",), names=None, points=(), **conditions):
    """A history from magnitudes, layers by iterations: NaN is no gradient, inf one that holds NaN."""
    values = np.asarray(values, dtype=float)
    names = names or [f"block.{row}" for row in range(len(values))]
    missing = dict.fromkeys(of, "no path from its output to the loss")
    unreached = [np.isnan(row).all() for row in values]
    layers = tuple(
        Layer(name, row, "Linear", 10 + row, missing if unreached[row] else {}) for row, name in enumerate(names)
    )

    def stats(value):
        if np.isnan(value):
            return (None,) * 5
        return (None, None, None, 0.0, 3) if np.isinf(value) else (value, 2 * value, 9 * value, 0.25, 0)

    rows = [
        (column, name, row, quantity, *stats(values[row, column] * (100 if quantity == "weight" else 1)))
        for column in range(values.shape[1] if values.ndim > 1 else 0)
        for row, name in enumerate(names)
        for quantity in of
    ]
    return GradientHistory(tidy(rows), {"target": "net.py", **conditions}, layers, tuple(points), (8, 2))


def vanishing(layers=8, iterations=6, **options):
    """From 1e-10 in the first layer tenfold with each, rising a little."""
    depth, time = np.arange(layers)[:, None], np.arange(iterations)[None]
    names = [f"block.{row}" for row in range(layers)]
    points = [Point(f"block.{row}", (8, 4), row, (name,)) for row, name in enumerate(names[:-1])]
    return made(10.0 ** (depth - 10) * (1 + 0.01 * time), names=names, points=points, **options)


def compared(history, helped=True):
    placement = gp.place(history)
    frame = history.frame.copy()
    frame["mean_abs"] *= 1e4
    curve = [
        (seed, arm, iteration, 2.3 - (0.01 * iteration if arm == "supervised" and helped else 0), float("nan"))
        for seed in range(2)
        for arm in ("plain", "supervised")
        for iteration in range(100)
    ]
    supervised = replace(history, frame=frame) if placement.points else None
    conditions = {"iterations": 100, "seeds": [0, 1], "weight": 0.3, "schedule": "cnds", "branch": "auto"}
    return Comparison(history, supervised, placement, learning_frame(curve), conditions)


def several(history, ends):
    """Arms from the loss that each falls to, the same for two seeds."""
    rows = [
        (seed, arm, iteration, 2.3 - (2.3 - end) * iteration / 99, float("nan"))
        for arm, end in ends.items()
        for seed in range(2)
        for iteration in range(100)
    ]
    placed = {"cnds": gp.place(history)}
    arms = tuple(gp.Arm(name, placed.get(name), name if name in REMEDIES else None) for name in ends)
    return gp.ArmsComparison(history, arms, learning_frame(rows), {"iterations": 100, "seeds": [0, 1]})


def odd_history(seed):
    generator = np.random.default_rng(seed)
    values = 10.0 ** generator.uniform(-9, -5, (12, 7))
    values[generator.random(values.shape) < 0.1] = 0
    values[generator.random(values.shape) < 0.15] = np.inf
    values[generator.random(values.shape) < 0.15] = np.nan
    values[3], values[5] = np.nan, np.inf
    return made(values, of=("output", "weight"))
