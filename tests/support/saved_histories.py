"""Histories that are numbered, so that a run on disk shows which of them it is. Needs no torch."""

from gradprobe.record.evidence import SAMPLES, Evidence
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement


def numbered(number, of=("output",), *, conditions=(), evidence=False):
    """A history with the number in its table, its conditions and its layers."""
    names = [f"layer{index}" for index in range(3 + number % 5)]
    rows = [
        (i, name, depth, quantity, number + i / 7, 1.0, 2.0, 0.0, 0)
        for i in range(6)
        for depth, name in enumerate(names)
        for quantity in of
    ]
    layers = tuple(Layer(name, depth, "Linear", number) for depth, name in enumerate(names))
    samples = [(i, name, *[0.5] * (len(SAMPLES) - 2)) for i in (0, 5) for name in names]
    measured = Evidence.from_rows(samples, {name: {"alike": 0.25} for name in names}, {"losses": [2.0, None]})
    facts = {"seed": number, "window": 6, "complete": True, "losses": [2.5, None], **dict(conditions)}
    return GradientHistory(tidy(rows), facts, layers, (), (8, 2), evidence=measured if evidence else None)


def placement(number):
    return Placement("by hand", (), (), f"number {number}")
