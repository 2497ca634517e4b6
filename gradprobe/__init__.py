"""gradprobe: measure the gradient of every layer, decide where deep supervision belongs, insert it, prove it.

The names below are imported when they are first used: ``import gradprobe`` alone costs next to nothing.

Example:
    >>> import gradprobe as gp
    >>> "scan" in dir(gp)
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradprobe.arms import Arm as Arm
    from gradprobe.arms import ArmsComparison as ArmsComparison
    from gradprobe.branches import BRANCHES as BRANCHES
    from gradprobe.branches import Branch as Branch
    from gradprobe.branches import C1DeepSup as C1DeepSup
    from gradprobe.branches import CNDSBranch as CNDSBranch
    from gradprobe.branches import build_branch as build_branch
    from gradprobe.branches import conv3x3_bn_relu as conv3x3_bn_relu
    from gradprobe.companion import CompanionObjective as CompanionObjective
    from gradprobe.companion import squared_hinge as squared_hinge
    from gradprobe.comparing import compare as compare
    from gradprobe.comparing_arms import compare_arms as compare_arms
    from gradprobe.comparison import Comparison as Comparison
    from gradprobe.history import GradientHistory as GradientHistory
    from gradprobe.history import Point as Point
    from gradprobe.history import Points as Points
    from gradprobe.loss import DeepSupervisionLoss as DeepSupervisionLoss
    from gradprobe.loss import SupervisedOutput as SupervisedOutput
    from gradprobe.loss import branch_weights as branch_weights
    from gradprobe.page import write_page as write_page
    from gradprobe.plots import comparison_figure as comparison_figure
    from gradprobe.plots import paper_figure as paper_figure
    from gradprobe.plots import plot_arms as plot_arms
    from gradprobe.plots import plot_comparison as plot_comparison
    from gradprobe.plots import plot_heatmap as plot_heatmap
    from gradprobe.plots import plot_history as plot_history
    from gradprobe.plots import plot_learning as plot_learning
    from gradprobe.plots import plot_profile as plot_profile
    from gradprobe.plots import save_figure as save_figure
    from gradprobe.policies import EveryLayerPolicy as EveryLayerPolicy
    from gradprobe.policies import Placement as Placement
    from gradprobe.policies import RelativePolicy as RelativePolicy
    from gradprobe.policies import ThresholdPolicy as ThresholdPolicy
    from gradprobe.policies import place as place
    from gradprobe.probe import GradientProbe as GradientProbe
    from gradprobe.run import Run as Run
    from gradprobe.run import load as load
    from gradprobe.run import save as save
    from gradprobe.scanning import place_repeatedly as place_repeatedly
    from gradprobe.scanning import scan as scan
    from gradprobe.supervision import SupervisedModel as SupervisedModel
    from gradprobe.supervision import supervise as supervise
    from gradprobe.topology import points as points
    from gradprobe.trials import place_by_trials as place_by_trials
    from gradprobe.version import __version__ as __version__

# No module is called like a public function (scan, compare, points): importing it would hide the function.
_HOME = {
    "arms": ["Arm", "ArmsComparison"],
    "branches": ["BRANCHES", "Branch", "C1DeepSup", "CNDSBranch", "build_branch", "conv3x3_bn_relu"],
    "companion": ["CompanionObjective", "squared_hinge"],
    "comparing": ["compare"],
    "comparing_arms": ["compare_arms"],
    "comparison": ["Comparison"],
    "history": ["GradientHistory", "Point", "Points"],
    "loss": ["DeepSupervisionLoss", "SupervisedOutput", "branch_weights"],
    "page": ["write_page"],
    "plots": [
        "comparison_figure",
        "paper_figure",
        "plot_arms",
        "plot_comparison",
        "plot_heatmap",
        "plot_history",
        "plot_learning",
        "plot_profile",
        "save_figure",
    ],
    "policies": ["EveryLayerPolicy", "Placement", "RelativePolicy", "ThresholdPolicy", "place"],
    "probe": ["GradientProbe"],
    "run": ["Run", "load", "save"],
    "scanning": ["place_repeatedly", "scan"],
    "supervision": ["SupervisedModel", "supervise"],
    "topology": ["points"],
    "trials": ["place_by_trials"],
    "version": ["__version__"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gradprobe' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gradprobe.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
