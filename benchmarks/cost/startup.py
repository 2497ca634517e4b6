"""What gradprobe costs besides training: a whole `gradprobe scan` against the same steps, `--help`, the import.

    python benchmarks/cost/startup.py [--net resnet50] [--iterations 50] [--rounds 3] [--out FILE]

Each is a process of its own, as a user starts it. A round of ResNet-50 takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.cost.nets import NETS
from benchmarks.cost.timing import interval, milliseconds, timed
from benchmarks.report import ROOT, Report

SCAN = """\
`gradprobe scan model.py --iterations {iterations}`, with everything that it records, finds, draws and writes,
against a script that imports torch and the same model.py ({net}) and makes the same {iterations} training steps:
{rounds} rounds of both, as processes from start to end. The time of the script is the user's own."""
START = """\
Medians in ms with quartiles of {repeats} processes of each, in turns. The imports are timed within theirs, after
`import torch`."""
MODEL = """\
import torch
from benchmarks.cost.nets import NETS, criterion as loss

torch.manual_seed(0)
model, inputs, target = NETS[{net!r}]()
batches = [(inputs, target)]
"""
SCRIPT = """\
import torch
from model import batches, loss, model

optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range({iterations}):
    inputs, target = batches[0]
    optimizer.zero_grad()
    loss(model(inputs), target).backward()
    optimizer.step()
"""
IMPORT = "import time, torch; started = time.perf_counter(); {}; print(time.perf_counter() - started)"
WHOLE = {
    "`python -c pass`": ("-c", "pass"),
    "`gradprobe --help`": ("-m", "gradprobe", "--help"),
    "`python -c 'import torch'`": ("-c", "import torch"),
}
WITHIN = ["import gradprobe", "from gradprobe import GradientProbe"]


def run(*arguments: str, folder: str | None = None) -> str:
    """What Python prints with these arguments."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def scan(report: Report, net: str, iterations: int, rounds: int) -> None:
    """The user's own share of the time of a scan."""
    report.add("## The share of a scan", "", SCAN.format(net=net, iterations=iterations, rounds=rounds), "")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.py").write_text(MODEL.format(net=net))
        Path(folder, "script.py").write_text(SCRIPT.format(iterations=iterations))
        steps = f"--iterations={iterations}"
        ours = partial(run, "-m", "gradprobe", "scan", "model.py", steps, "--force", folder=folder)
        own = partial(run, "script.py", folder=folder)
        seconds: dict[str, list[float]] = {"scan": [], "script": []}
        for round_ in range(rounds):
            turns = [("scan", ours), ("script", own)]
            for name, call in turns if round_ % 2 else reversed(turns):
                seconds[name].append(timed(call))
    times = {name: np.array(of_arm) for name, of_arm in seconds.items()}
    share, low, high = interval(times["scan"], times["script"])
    report.columns("scan, s", "script, s", "the user's own")
    medians = [f"{np.median(each):.1f} ({each.min():.1f}-{each.max():.1f})" for each in times.values()]
    report.row(*medians, f"{100 * share:.1f} % ({100 * low:.1f}-{100 * high:.1f})")
    report.add("")


def start(report: Report, repeats: int) -> None:
    """How long it takes to start."""
    report.add("## Starting", "", START.format(repeats=repeats), "")
    seconds: dict[str, list[float]] = {name: [] for name in (*WHOLE, *WITHIN)}
    for _ in range(repeats):
        for name, arguments in WHOLE.items():
            seconds[name].append(timed(partial(run, *arguments)))
        for statement in WITHIN:
            seconds[statement].append(float(run("-c", IMPORT.format(statement))))
    report.columns("", "ms")
    for name, times in seconds.items():
        report.row(name if name in WHOLE else f"`{name}`", milliseconds(np.array(times)))
    report.add("")


def main() -> None:
    """Measure all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=list(NETS), default="resnet50")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="of a scan and its script; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=15, help="of the starts")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = "A whole scan against the training in it, the command line's help, and the import."
    report = Report("What gradprobe costs besides training", text, packages=["torch", "transformers"])
    start(report, options.repeats)
    if options.rounds:
        scan(report, options.net, options.iterations, options.rounds)
    report.write(options.out)


if __name__ == "__main__":
    main()
