"""Histories to draw, and what can be read from the artists of a figure."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.verdict.comparison import Comparison, learning_frame

CONDITIONS = {"target": "net.py", "data": "digits", "batch_size": 64, "seed": 0}
LONG = {  # 150 characters, as a model of the user's own with data and optimizer has them
    "target": "awkward_model.py",
    "data": "awkward_model.py:batches",
    "batch_size": 16,
    "loss": "cross_entropy",
    "optimizer": "AdamW lr 0.0003, betas (0.9, 0.95), weight_decay 0.1",
    "dtype": "float32",
    "device": "cpu",
    "seed": 0,
}
USUAL = {**LONG, "target": "awk.py", "data": "awk.py:batches", "optimizer": "SGD lr 0.01"}
AWKWARD = ("0", "nan", "", "$x_1$", "_hidden", "a$b$c", "[0-9]", "None")
ZERO, NAN, MISSING = (0.0, 0), (float("nan"), 2), (None, None)


def make(values, names=None, *, of="output", conditions=None) -> GradientHistory:
    """A history from (layers, iterations) of magnitudes; a cell may be ZERO, NAN or MISSING."""
    names = names or [f"net.{k}" for k in range(len(values))]
    rows = []
    for depth, (name, line) in enumerate(zip(names, values, strict=True)):
        for iteration, cell in enumerate(line):
            size, nonfinite = cell if isinstance(cell, tuple) else (cell, 0)
            rows.append((iteration, name, depth, of, size, size, size, None if size is None else 0.0, nonfinite))
    reached = [any(cell != MISSING for cell in line) for line in values]
    layers = tuple(
        Layer(name, k, "Conv2d", 9, {} if there else {of: "no gradient arrived"})
        for k, (name, there) in enumerate(zip(names, reached, strict=True))
    )
    points = tuple(Point(name, (8, 4), k, (name,)) for k, name in enumerate(names))
    return GradientHistory(tidy(rows), CONDITIONS if conditions is None else conditions, layers, points, (8, 10))


def ramp(count, iterations=10, low=-11.0, high=-3.0, names=None) -> GradientHistory:
    rng = np.random.default_rng(0)
    levels = np.linspace(low, high, count)[:, None] + 0.1 * rng.normal(size=(count, iterations))
    return make((10**levels).tolist(), names)


def put(values, cells) -> list:
    values = [list(line) for line in values]
    for (row, column), cell in cells.items():
        values[row][column] = cell
    return values


def compare(count=8, flagged=4, *, supervised=True, seeds=1, accuracy=True, branches=1) -> Comparison:
    plain = ramp(count)
    points = plain.points[flagged - branches : flagged] if supervised else ()
    names = tuple(layer.name for layer in plain.layers[:flagged])
    rows = [
        (seed, arm, i, 2.3 - rate * i, i / 100 if accuracy and i % 20 == 19 else float("nan"))
        for seed in range(seeds)
        for arm, rate in (("plain", 0.001), ("supervised", 0.01 + 0.001 * seed))[: 1 + supervised]
        for i in range(100)
    ]
    placement = Placement("rule", names, points, "because")
    other = ramp(count, low=-6) if supervised else None
    return Comparison(plain, other, placement, learning_frame(rows), {"chance": 0.1})


def by_gid(ax: Axes, gid: str) -> list:
    return [artist for artist in ax.get_children() if (artist.get_gid() or "").startswith(gid)]


def legend(ax: Axes) -> list[str]:
    return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]


def labels(ax: Axes) -> list:
    return [text for text in ax.texts if getattr(text, "arrow_patch", None) is not None]


def axes(**options) -> Axes:
    return Figure(**options).subplots()


def laid_out(**options) -> Axes:
    return axes(layout="constrained", **options)


def draw(ax: Axes) -> None:
    ax.figure.figure.draw_without_rendering()


def boxes(texts) -> list:
    # the text alone, without the line that ties it to its place
    return [super(type(text), text).get_window_extent() for text in texts]


def overlapping(texts) -> list[tuple[str, str]]:
    found = list(zip(texts, boxes(texts), strict=True))
    return [
        (a.get_text(), b.get_text())
        for i, (a, box) in enumerate(found)
        for b, other in found[i + 1 :]
        if box.padded(-0.5).overlaps(other.padded(-0.5))
    ]
