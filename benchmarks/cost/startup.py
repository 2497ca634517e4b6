"""What gradprobe costs besides training: a whole `gradprobe scan` against the same steps, `--help`, the import.

    python benchmarks/cost/startup.py [--net resnet50] [--iterations 50] [--rounds 3] [--out FILE]
    python benchmarks/cost/startup.py --rounds 0 --before REVISION

Each is a process of its own, as a user starts it. A round of ResNet-50 takes about two minutes on two cores. With
``--before`` the commands on a small network are those of another revision as well, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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


COMMANDS = """\
The 25-layer network of docs/first-steps.md on scikit-learn's digits, 50 steps. Wall time and CPU time in s, the
smallest and the median of {repeats} processes of each, in turns. `script`: the same steps in plain PyTorch.
Load of the machine when it began: {load:.1f} processes."""
SMALL = """\
import torch
from torch import nn

model = nn.Sequential(
    *[nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(24)],
    nn.Linear(64, 10),
)


def optimizer(model):
    return torch.optim.Adam(model.parameters())
"""
SMALL_SCRIPT = """\
import torch
from sklearn.datasets import load_digits
from model import model, optimizer

images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
optimizer = optimizer(model)
for _ in range(50):
    batch = torch.randperm(len(images))[:32]
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
    optimizer.step()
"""
RUN = "gradprobe_runs/model"
SAVED = {
    "scan": ("-m", "gradprobe", "scan", "model.py", "--data", "digits", "--force"),
    "place": ("-m", "gradprobe", "place", RUN),
    "report": ("-m", "gradprobe", "report", RUN),
    "diff": ("-m", "gradprobe", "diff", RUN, RUN),
}


def run(*arguments: str, folder: str | None = None, tree: Path = ROOT) -> str:
    """What Python prints with these arguments, and with the package of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
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


@contextlib.contextmanager
def checkout(revision: str | None) -> Iterator[Path]:
    """Another revision in a folder of its own, with the library that is compiled for this one."""
    if revision is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", tree, revision], check=True)
        try:
            for library in ROOT.glob("gradprobe/measure/reduction/_sums*"):
                shutil.copy(library, tree / library.relative_to(ROOT))
            yield tree
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)


def wall_and_cpu(*arguments: str, folder: str, tree: Path) -> tuple[float, float]:
    """Seconds until a process has ended, and those that it and its children have computed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = timed(partial(run, *arguments, folder=folder, tree=tree))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_line(folder: str, tree: Path) -> tuple[float, float]:
    """Seconds until a scan prints its first line; there is no figure for what it has computed by then."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    started = time.perf_counter()
    command = [sys.executable, *SAVED["scan"]]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as scan:
        assert scan.stderr is not None
        scan.stderr.readline()
        wall = time.perf_counter() - started
        scan.communicate()
    return wall, float("nan")


def commands(report: Report, before: str | None, repeats: int) -> None:
    """The commands on a small network, of this revision and of another."""
    load = os.getloadavg()[0]
    report.add("## The commands", "", COMMANDS.format(repeats=repeats, load=load), "")
    with tempfile.TemporaryDirectory() as folder, checkout(before) as old:
        Path(folder, "model.py").write_text(SMALL)
        Path(folder, "script.py").write_text(SMALL_SCRIPT)
        trees = {"this": ROOT} if before is None else {f"before ({before})": old, "this": ROOT}
        calls = {"script": partial(wall_and_cpu, "script.py", folder=folder, tree=ROOT)}
        for name, arguments in SAVED.items():
            for which, tree in trees.items():
                calls[f"{name}, {which}"] = partial(wall_and_cpu, *arguments, folder=folder, tree=tree)
        for which, tree in trees.items():
            calls[f"first line of scan, {which}"] = partial(first_line, folder, tree)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                taken[name].append(call())
    report.columns("", "wall, smallest", "wall, median", "CPU, smallest", "CPU, median")
    for name, times in taken.items():
        wall, cpu = np.array(times).T
        cells = (wall.min(), np.median(wall), cpu.min(), np.median(cpu))
        report.row(name, *("" if np.isnan(cell) else f"{cell:.2f}" for cell in cells))
    report.add("")


def main() -> None:
    """Measure all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=list(NETS), default="resnet50")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="of a scan and its script; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=15, help="of the starts")
    parser.add_argument("--commands", type=int, default=5, help="processes of each command; 0 leaves them out")
    parser.add_argument("--before", metavar="REVISION", help="whose commands to time as well")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = "A whole scan against the training in it, the command line's help, and the import."
    report = Report("What gradprobe costs besides training", text, packages=["torch", "transformers"])
    start(report, options.repeats)
    if options.commands:
        commands(report, options.before, options.commands)
    if options.rounds:
        scan(report, options.net, options.iterations, options.rounds)
    report.write(options.out)


if __name__ == "__main__":
    main()
