"""What the page of a run costs: bytes, seconds to write, seconds until it can be used, for 8, 60 and 1,000 layers.

    python benchmarks/page.py [--rounds 7] [--out FILE]

Needs playwright and Debian's chromium (apt-get install chromium).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import Browser, sync_playwright
from report import Report
from timing import timed

from gradprobe.decide.policies import place
from gradprobe.record.history import GradientHistory, Layer
from gradprobe.record.points import Point
from gradprobe.show.page import write_page
from gradprobe.verdict.comparison import Comparison, learning_frame

TEXT = """\
Histories made up of {iterations} iterations with both quantities, alone and as a comparison of two seeds. *Write*:
one call of `write_page`. *Open*: from the start of the navigation to the second frame behind the last script, when
what is in view is painted and the page answers, in headless chromium from disk, a new window of 1440 x 900 each
time. *Hover* and *threshold*: from pointing at another layer, or from another threshold, to the second frame
behind it, with the figures in view. Medians and ranges of {rounds} rounds, in ms."""
FLAGS = "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
ITERATIONS = 50
OPEN = """
addEventListener("DOMContentLoaded", () => {
  requestAnimationFrame(() => requestAnimationFrame(() => (window.opened = performance.now())));
});
"""
CHANGE = """
(values) => new Promise((done) => {
  const start = performance.now();
  change(values);
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})
"""


def history(layers: int) -> GradientHistory:
    """Magnitudes that rise with depth, on as many layers, each of them served by a point."""
    names = [f"model.blocks.{row // 8}.attention.projection{row % 8}" for row in range(layers)]
    noise = np.random.default_rng(0).normal(size=(ITERATIONS, layers))
    values = 10.0 ** (noise / 4 - np.linspace(10, 2, layers))
    index = pd.MultiIndex.from_product([range(ITERATIONS), range(layers), ("output", "weight")])
    frame = pd.DataFrame({"iteration": index.get_level_values(0)})
    frame["layer"] = [names[row] for row in index.get_level_values(1)]
    frame["depth"], frame["of"] = index.get_level_values(1), index.get_level_values(2)
    frame["mean_abs"] = np.repeat(values.ravel(), 2)
    frame["rms"], frame["max_abs"], frame["zero_fraction"] = 2 * frame["mean_abs"], 9 * frame["mean_abs"], 0.5
    frame["nonfinite"] = pd.array([0] * len(frame), dtype="Int64")
    made = tuple(Layer(name, row, "Linear", 4096) for row, name in enumerate(names))
    points = tuple(Point(name, (8, 64), row, (name,)) for row, name in enumerate(names[:-1]))
    return GradientHistory(frame, {"target": "made up", "data": "synthetic data"}, made, points, (8, 10))


def compared(plain: GradientHistory) -> Comparison:
    """The same with branches that raise every magnitude a thousandfold."""
    frame = plain.frame.copy()
    frame["mean_abs"] *= 1e3
    rows = [
        (seed, arm, iteration, 2.3 - 0.001 * iteration, float("nan"))
        for seed in range(2)
        for arm in ("plain", "supervised")
        for iteration in range(500)
    ]
    facts = {"iterations": 500, "seeds": [0, 1], "weight": 0.3, "schedule": "cnds", "branch": "auto"}
    return Comparison(plain, replace(plain, frame=frame), place(plain), learning_frame(rows), facts)


def opened(browser: Browser, file: Path, layers: int) -> tuple[float, float, float]:
    """Milliseconds to open, to mark a layer, and to move the threshold, with the figures in view."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.add_init_script(OPEN)
    page.goto(file.as_uri())
    page.locator("#controls").scroll_into_view_if_needed()
    page.wait_for_timeout(1000)  # what is out of view is drawn when there is time
    ready = float(page.evaluate("opened"))
    hover = float(page.evaluate(CHANGE, {"layer": layers // 2, "iteration": 7}))
    threshold = float(page.evaluate(CHANGE, {"threshold": 1e-6}))
    page.close()
    return ready, hover, threshold


def row(report: Report, browser: Browser, layers: int, write: Callable[[], Path], kind: str, rounds: int) -> None:
    """Measure one page and add it to the table."""
    seconds = [1000 * timed(write) for _ in range(rounds)]
    file = write()
    times = zip(*(opened(browser, file, layers) for _ in range(rounds)), strict=True)
    cells = [f"{np.median(found):.0f} ({min(found):.0f}-{max(found):.0f})" for found in (seconds, *times)]
    report.row(f"{layers:,}", kind, f"{file.stat().st_size / 1e6:.2f}", *cells)


def main() -> None:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("no chromium: apt-get install -y --no-install-recommends chromium")
    text = TEXT.format(iterations=ITERATIONS, rounds=options.rounds)
    report = Report("What the page of a run costs", text, packages=["pandas", "jinja2", "playwright"])
    flags = [f"--{flag}" for flag in [*FLAGS.split(), "disable-quic"]]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        report.add(f"Chromium {browser.version}.", "")
        report.columns("layers", "run", "MB", "write", "open", "hover", "threshold")
        for layers in (8, 60, 1000):
            both = compared(history(layers))
            alone = partial(write_page, Path(folder, "page.html"), both.plain, both.placement)
            row(report, browser, layers, alone, "a scan", options.rounds)
            row(report, browser, layers, partial(alone, both), "a comparison", options.rounds)
        browser.close()
    report.write(options.out)


if __name__ == "__main__":
    main()
