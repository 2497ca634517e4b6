"""What changed between two runs: which layers, by how much, and what else is different. Plain data, no torch."""

from gradprobe.difference.finding import difference
from gradprobe.difference.matching import same_layers
from gradprobe.difference.record import CHANGES, Difference, LayerChange

__all__ = ["CHANGES", "Difference", "LayerChange", "difference", "same_layers"]
