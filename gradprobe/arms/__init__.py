"""Several arms beside each other: policies and remedies, what became of each, and which one to use.

``arm`` is one of them, ``result`` the record of their trainings, ``choice`` the honest half. Plain data, no torch.
"""

from gradprobe.arms.arm import ARMS, NONE, POLICIES, REMEDIES, Arm, chosen_arms
from gradprobe.arms.result import ArmsComparison

__all__ = ["ARMS", "NONE", "POLICIES", "REMEDIES", "Arm", "ArmsComparison", "chosen_arms"]
