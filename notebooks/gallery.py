"""Draws every figure of docs/gallery.md from seeded runs, and writes that page; the README shows the first.

    python notebooks/gallery.py            # all of them; make gallery does this
    python notebooks/gallery.py paper      # one

Each function below is one figure; docs/gallery.md shows its text and its picture. The numbers that the lines of a
picture were drawn from are kept in figures.json, so that a test can compare them.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import matplotlib

if __name__ == "__main__":
    matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy

import gradprobe as gp
from gradprobe.cli.demo import ARMS, demo_target
from gradprobe.zoo import cnds8, digits, plain_mlp

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks" / "figures"
PAGE, NUMBERS = ROOT / "docs" / "gallery.md", FOLDER / "figures.json"


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


@lru_cache
def cnds() -> gp.GradientHistory:
    """CNDS-8 at a quarter of its width, with its authors' initialisation."""
    torch.manual_seed(0)
    data = digits((1, 69, 69), pixel_range=255)
    net = cnds8(width=0.25, image_size=69, classes=10, channels=1)
    return gp.scan(net, data.batches, cross_entropy, iterations=20, of="output", seed=0)


@lru_cache
def plain24() -> gp.Comparison:
    """A plain network of 24 layers, with and without the branch that CNDS' rule asks for."""
    data = digits((64,))
    held_out = {"held_out": data.held_out, "iterations": 300}
    return gp.compare(lambda: plain_mlp(depth=24), data.batches, cross_entropy, optimizer=adam, **held_out)


def demo() -> Figure:
    """`gradprobe demo`: where CNDS-8 loses the gradient, what the branch of the 1e-7 rule does, and what helps."""
    target = demo_target()
    options = {"optimizer": target.optimizer, "held_out": target.held_out, "window": 50}
    options |= {"conditions": {"target": target.name, "data": target.data}}
    task = target.build, target.batches, target.loss_fn
    window = gp.compare(*task, iterations=50, seeds=[0], **options)
    arms = gp.compare_arms(*task, ARMS, iterations=200, seeds=range(2), **options)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    gp.plot_comparison(window, ax=left)
    gp.plot_arms(arms, ax=right)
    return figure


def iterations() -> Axes:
    """Every layer over the first iterations: the lines are flat, and the first convolutions are far below 1e-7."""
    return gp.plot_history(cnds())


def profile() -> Axes:
    """By depth, in a plain network of 24 layers: where the gradient is lost, and where the branch goes."""
    history = plain24().plain
    return gp.plot_profile(history, placement=gp.place(history))


def paper() -> Figure:
    """The two figures of the paper in one call, as they go into a paper: same scale, shared legend."""
    return gp.paper_figure(plain24())


def column() -> Figure:
    """The same in one column (3.4 inches). `gp.save_figure(figure, "paper.pdf")` embeds the fonts."""
    return gp.paper_figure(plain24(), width="column")


def flagged() -> Axes:
    """Only the layers that were flagged, without (dashed) and with the branch."""
    return gp.plot_comparison(plain24())


def transformer() -> Axes:
    """A vision transformer from transformers: the gradient goes by kind of layer, queries and keys get least."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    shape = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4}
    net = ViTForImageClassification(ViTConfig(**shape, **size))
    batches = digits((1, 8, 8)).batches

    def cross_entropy_of_logits(output, target):
        return cross_entropy(output.logits, target)

    history = gp.scan(net, batches, cross_entropy_of_logits, iterations=20, optimizer=adam, of="output", seed=0)
    return gp.plot_history(history)


def heatmap() -> Axes:
    """1,000 layers and 30 iterations at once: with He's initialisation it takes hundreds of layers to lose it."""
    torch.manual_seed(0)
    net, batches = plain_mlp(depth=1000), digits((64,)).batches
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    slow = {"optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=1e-3)}
    history = gp.scan(net, batches, cross_entropy, iterations=30, of="output", stats="mean", seed=0, **slow)
    return gp.plot_heatmap(history)


def causes() -> Figure:
    """What the diagnosis looks at: a plain network as it is, mended by LSUV, with steps too large, too small."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    trainings = ((None, torch.optim.Adam, 1e-3), ("lsuv", torch.optim.Adam, 1e-3))
    trainings += (("lsuv", torch.optim.Adam, 0.1), ("lsuv", torch.optim.SGD, 1e-6))
    for ax, (remedy, kind, rate) in zip(axes.flat, trainings, strict=True):
        torch.manual_seed(0)
        net, batches = plain_mlp(depth=24), digits((64,)).batches
        if remedy:
            gp.remedies.lsuv(net, batches[0][0])
        steps = {"optimizer": lambda model, kind=kind, rate=rate: kind(model.parameters(), lr=rate)}
        gp.plot_signal(gp.scan(net, batches, cross_entropy, iterations=50, seed=0, **steps), ax=ax)
    return figure


FIGURES: dict[str, Callable[[], Axes | Figure]] = {
    drawn.__name__: drawn
    for drawn in (demo, iterations, profile, paper, column, flagged, transformer, heatmap, causes)
}
BY_DEPTH = ("magnitudes", "spread", "share", "update")  # lines that have a value for each layer
AT_THE_TOP = ("iterations", "profile", "paper", "flagged", "transformer", "heatmap")


def numbers(drawn: Axes | Figure) -> dict[str, list[float]]:
    """The median of every layer in each panel, as the lines of a figure show it."""
    medians_of = {}
    for panel, ax in enumerate(drawn.figure.figure.axes):
        lines = [line.get_ydata() for line in ax.lines if (line.get_gid() or "").startswith("layer ")]
        medians = [float(np.nanmedian(np.asarray(line, dtype=float))) for line in lines]
        by_depth = [line.get_ydata() for line in ax.lines if line.get_gid() in BY_DEPTH]
        medians += [float(y) for line in by_depth for y in line if np.isfinite(y)]
        if medians:
            medians_of[str(panel)] = [float(f"{value:.4g}") for value in medians]
    return medians_of


def page() -> str:
    """The text of docs/gallery.md: every figure with the code that made it."""
    parts = [HEAD, table(), PRINT]
    for name, drawn in FIGURES.items():
        source = inspect.getsource(drawn)
        parts += [
            f"## {name}\n",
            f"{inspect.getdoc(drawn)}\n",
            f"![{name}](../{(FOLDER / name).relative_to(ROOT)}.png)\n",
            f"```python\n{source}```\n",
        ]
    shared = "\n\n".join(inspect.getsource(run) for run in (adam, cnds.__wrapped__, plain24.__wrapped__))
    return "\n".join([*parts, "## The runs that several of them are drawn from\n", f"```python\n{shared}```\n"])


def table() -> str:
    """The figures at a glance, two a row, each with its caption and a link to its code."""
    cells = [
        f"[![{name}](../notebooks/figures/{name}.png)](#{name})<br>{inspect.getdoc(FIGURES[name])}"
        for name in AT_THE_TOP
    ]
    rows = [f"| {left} | {right} |" for left, right in zip(cells[::2], cells[1::2], strict=True)]
    return "\n".join(["| | |", "| --- | --- |", *rows, ""])


HEAD = """# Gallery

Every figure here and in the README is made by `make gallery` (notebooks/gallery.py) from a seeded run on real
data; below each one is the code that made it, which begins with `import gradprobe as gp`.
"""

PRINT = """## For print

All of them can be made for print. `plot_history`, `plot_profile`, `plot_heatmap`, `plot_comparison` and
`plot_learning` draw into any axes (`ax=`) and return them, in letters of 7 to 9 points, so the size is that of
your figure: `plt.subplots(figsize=(3.4, 3.2), layout="constrained")` for a column. `paper_figure` takes
`width="column"`, `"page"` or inches, `comparison_figure`, which has five panels, `"page"` or at least 7 inches.
`gp.save_figure(ax, "figure.pdf")` writes exactly that size, with the fonts embedded (TrueType) and the same
bytes for the same data, and leaves matplotlib's settings alone. From saved runs, without the model:

```console
gradprobe plot gradprobe_runs/demo --size column --suffix pdf --out figures
```

In LaTeX, `includegraphics` without a width then keeps the letters at the size that they were made in.

Layer names in letters that DejaVu Sans does not have (Chinese, Japanese, Korean) are drawn as boxes, and a note
says so. With a font that has them, `plt.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans CJK JP"]` draws them.
"""


def main(names: list[str]) -> None:
    """Make the figures of these names, or all of them."""
    if unknown := set(names) - set(FIGURES):
        raise SystemExit(f"expected names out of {', '.join(FIGURES)}, got {', '.join(sorted(unknown))}")
    kept = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    for name in names or FIGURES:
        drawn = FIGURES[name]()
        print(gp.save_figure(drawn, FOLDER / f"{name}.png").relative_to(ROOT))
        kept[name] = numbers(drawn)
        plt.close("all")
    ordered = {name: kept[name] for name in FIGURES if name in kept}
    NUMBERS.write_text(json.dumps(ordered, indent=0) + "\n")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
