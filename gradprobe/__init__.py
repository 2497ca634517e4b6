"""gradprobe: measure the gradient of every layer, decide where deep supervision belongs, insert it, prove it.

The names below are imported when they are first used: ``import gradprobe`` alone costs next to nothing.

Example:
    >>> import gradprobe as gp
    >>> dir(gp)[-3:]
    ['squared_hinge', 'supervise', 'write_page']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# For type checkers and editors; a test holds it equal to _PUBLIC.
if TYPE_CHECKING:
    from gradprobe.decide.causes.finding import Finding as Finding
    from gradprobe.decide.diagnosis import Diagnosis as Diagnosis
    from gradprobe.decide.diagnosis import diagnose as diagnose
    from gradprobe.decide.policies import AutoPolicy as AutoPolicy
    from gradprobe.decide.policies import BranchesPolicy as BranchesPolicy
    from gradprobe.decide.policies import EveryLayerPolicy as EveryLayerPolicy
    from gradprobe.decide.policies import RelativePolicy as RelativePolicy
    from gradprobe.decide.policies import ThresholdPolicy as ThresholdPolicy
    from gradprobe.decide.policies import place as place
    from gradprobe.insert.branches import BRANCHES as BRANCHES
    from gradprobe.insert.branches import Branch as Branch
    from gradprobe.insert.branches import C1DeepSup as C1DeepSup
    from gradprobe.insert.branches import CNDSBranch as CNDSBranch
    from gradprobe.insert.branches import build_branch as build_branch
    from gradprobe.insert.branches import conv3x3_bn_relu as conv3x3_bn_relu
    from gradprobe.insert.companion import CompanionObjective as CompanionObjective
    from gradprobe.insert.companion import squared_hinge as squared_hinge
    from gradprobe.insert.loss import DeepSupervisionLoss as DeepSupervisionLoss
    from gradprobe.insert.loss import SupervisedOutput as SupervisedOutput
    from gradprobe.insert.loss import branch_weights as branch_weights
    from gradprobe.insert.supervise import SupervisedModel as SupervisedModel
    from gradprobe.insert.supervise import supervise as supervise
    from gradprobe.integrations.loggers import log_to as log_to
    from gradprobe.measure.probe import GradientProbe as GradientProbe
    from gradprobe.measure.scan import scan as scan
    from gradprobe.network.survey import points as points
    from gradprobe.prove import remedies as remedies
    from gradprobe.prove.compare import compare as compare
    from gradprobe.prove.compare_arms import compare_arms as compare_arms
    from gradprobe.prove.first_batch import apply_remedy as apply_remedy
    from gradprobe.prove.repeat import place_repeatedly as place_repeatedly
    from gradprobe.prove.trials import place_by_trials as place_by_trials
    from gradprobe.record.evidence import Evidence as Evidence
    from gradprobe.record.history import GradientHistory as GradientHistory
    from gradprobe.record.placement import Placement as Placement
    from gradprobe.record.points import Point as Point
    from gradprobe.record.points import Points as Points
    from gradprobe.runs.run import Run as Run
    from gradprobe.runs.run import load as load
    from gradprobe.runs.run import save as save
    from gradprobe.show.page import write_page as write_page
    from gradprobe.show.plots import comparison_figure as comparison_figure
    from gradprobe.show.plots import paper_figure as paper_figure
    from gradprobe.show.plots import plot_arms as plot_arms
    from gradprobe.show.plots import plot_comparison as plot_comparison
    from gradprobe.show.plots import plot_heatmap as plot_heatmap
    from gradprobe.show.plots import plot_history as plot_history
    from gradprobe.show.plots import plot_learning as plot_learning
    from gradprobe.show.plots import plot_profile as plot_profile
    from gradprobe.show.plots import plot_signal as plot_signal
    from gradprobe.show.plots import save_figure as save_figure
    from gradprobe.verdict.arm import Arm as Arm
    from gradprobe.verdict.arms_comparison import ArmsComparison as ArmsComparison
    from gradprobe.verdict.comparison import Comparison as Comparison
    from gradprobe.version import __version__ as __version__

_PUBLIC = {
    "decide.causes.finding": ["Finding"],
    "decide.diagnosis": ["Diagnosis", "diagnose"],
    "decide.policies": [
        "AutoPolicy",
        "BranchesPolicy",
        "EveryLayerPolicy",
        "RelativePolicy",
        "ThresholdPolicy",
        "place",
    ],
    "insert.branches": ["BRANCHES", "Branch", "C1DeepSup", "CNDSBranch", "build_branch", "conv3x3_bn_relu"],
    "insert.companion": ["CompanionObjective", "squared_hinge"],
    "insert.loss": ["DeepSupervisionLoss", "SupervisedOutput", "branch_weights"],
    "insert.supervise": ["SupervisedModel", "supervise"],
    "integrations.loggers": ["log_to"],
    "measure.probe": ["GradientProbe"],
    "measure.scan": ["scan"],
    "network.survey": ["points"],
    "prove.compare": ["compare"],
    "prove.compare_arms": ["compare_arms"],
    "prove.first_batch": ["apply_remedy"],
    "prove.repeat": ["place_repeatedly"],
    "prove.trials": ["place_by_trials"],
    "record.evidence": ["Evidence"],
    "record.history": ["GradientHistory"],
    "record.placement": ["Placement"],
    "record.points": ["Point", "Points"],
    "runs.run": ["Run", "load", "save"],
    "show.page": ["write_page"],
    "show.plots": [
        "comparison_figure",
        "paper_figure",
        "plot_arms",
        "plot_comparison",
        "plot_heatmap",
        "plot_history",
        "plot_learning",
        "plot_profile",
        "plot_signal",
        "save_figure",
    ],
    "verdict.arm": ["Arm"],
    "verdict.arms_comparison": ["ArmsComparison"],
    "verdict.comparison": ["Comparison"],
    "version": ["__version__"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    # a module of functions, for the code that gradprobe prints: `from gradprobe import remedies`
    if name == "remedies":
        value = importlib.import_module("gradprobe.prove.remedies")
    elif name == "load_ipython_extension":  # what `%load_ext gradprobe` looks for
        value = importlib.import_module("gradprobe.script.notebook.magic").load_ipython_extension
    elif name in _HOME:
        value = getattr(importlib.import_module(f"gradprobe.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'gradprobe' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What there is for a user to find: the public names, and `remedies`; nothing that this file itself needs."""
    return sorted([*__all__, "remedies"])
