"""Figures of a history and of a comparison: axes-level functions that draw into one Axes and return it.

Nothing global is touched: no rcParams are changed and ``plt.show`` is never called.
"""

from gradprobe.show.plots.arms import plot_arms
from gradprobe.show.plots.comparison import comparison_figure, plot_comparison
from gradprobe.show.plots.depth import plot_profile
from gradprobe.show.plots.files import save_figure, save_figures, save_side_by_side
from gradprobe.show.plots.heatmap import plot_heatmap
from gradprobe.show.plots.iterations import plot_history
from gradprobe.show.plots.learning import plot_learning
from gradprobe.show.plots.paper import paper_figure
from gradprobe.show.plots.signal import plot_signal
from gradprobe.show.plots.style import own_style

__all__ = [
    "comparison_figure",
    "own_style",
    "paper_figure",
    "plot_arms",
    "plot_comparison",
    "plot_heatmap",
    "plot_history",
    "plot_learning",
    "plot_profile",
    "plot_signal",
    "save_figure",
    "save_figures",
    "save_side_by_side",
]
