"""kill -9 at random moments: a run on disk reads back as one of the runs that were saved, or there is none.

One process imports everything once and forks a worker for every kill. GRADPROBE_KILLS sets how many.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement
from gradprobe.runs.run import load, save

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
KILLS = int(os.environ.get("GRADPROBE_KILLS", "0"))
KILLED = str(int(signal.SIGKILL))
MODEL = """
import torch
from torch import nn

torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
batches = [(torch.ones(4, 3), torch.zeros(4, 2))]
loss = nn.functional.mse_loss
"""
TRAIN = """
import sys, torch
from torch import nn

torch.manual_seed(int(sys.argv[1]))
net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    nn.functional.mse_loss(net(torch.ones(4, 3)), torch.zeros(4, 2)).backward()
    optimizer.step()
"""
FORKING = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from gradprobe.cli.commands import main
import gradprobe.measure.scan, gradprobe.show.plots
sys.path.insert(0, {tests!r})
from test_reliability import numbered, placement
from gradprobe.runs.run import save

def saving(number):
    while True:
        number += 1
        save("run", numbered(number), placement(number), timings={{"all": number}}, figures=False, force=True)

COMMANDS = {{
    "scan": "scan model.py --iterations 2 --out FOLDER --seed SEED --force --quiet",
    "compare": "compare model.py --iterations 3 --window 2 --out FOLDER --seed SEED --force --quiet",
    "run": "run --iterations 2 --out FOLDER --force --quiet train.py SEED",
}}

def command(kind, folder, seed):
    arguments = COMMANDS[kind].replace("FOLDER", folder).replace("SEED", str(seed)).split()
    main(arguments, standalone_mode=False)

def repeating(kind):
    def repeat(number):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        while True:
            number += 1
            command(kind, "run", 0)
    return repeat

scan, compare, run = map(repeating, COMMANDS)
quiet = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for kind in COMMANDS:  # drawn once here, the workers are quick
    command(kind, f"complete-{{kind}}", 0)
os.dup2(quiet, 1)

for line in sys.stdin:
    kind, number = line.split()
    worker = os.fork()
    if worker == 0:
        globals()[kind](int(number))
    print(worker, flush=True)
    status = os.waitpid(worker, 0)[1]
    print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else "ended", flush=True)
"""


def numbered(number):
    """A history with the number in its table, its conditions and its layers."""
    count = 3 + number % 5
    names = [f"layer{index}" for index in range(count)]
    rows = [
        (i, name, d, "output", number + i / 7, 1.0, 2.0, 0.0, 0) for i in range(20) for d, name in enumerate(names)
    ]
    layers = tuple(Layer(name, depth, "Linear", number) for depth, name in enumerate(names))
    return GradientHistory(tidy(rows), {"seed": number}, layers, (), None)


def placement(number):
    return Placement("by hand", (), (), f"number {number}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the workers work."""
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def worker(folder):
    """Starts a worker of a kind, kills it after so many seconds, waits for its end, returns the signal of that."""
    (folder / "model.py").write_text(MODEL)
    (folder / "train.py").write_text(TRAIN)
    script = FORKING.format(tests=str(Path(__file__).parent))
    # the package that is tested here, wherever it is imported from
    path = os.pathsep.join([str(Path(sys.modules["gradprobe"].__file__).parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "Agg"}
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )

    def run(kind, number=0, seconds=None):
        parent.stdin.write(f"{kind} {number}\n")
        parent.stdin.flush()
        process = int(parent.stdout.readline())
        if seconds is not None:
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
        return parent.stdout.readline().strip()

    yield run
    parent.stdin.close()
    parent.wait(timeout=60)
    parent.stdout.close()


@pytest.fixture
def saved(folder):
    """Loads the run, or returns None if `load` says that there is none; at first there is none."""
    shutil.rmtree(folder / "run", ignore_errors=True)

    def read():
        with contextlib.suppress(FileNotFoundError):
            return load(folder / "run")
        return None

    return read


def test_a_run_being_saved_when_killed_is_whole_or_absent(worker, folder, saved, record_property):
    chance = random.Random(1)
    outcomes = {"whole": 0, "absent": 0}
    for number in range(0, (KILLS or 15) * 1000, 1000):
        assert worker("saving", number, chance.uniform(0.0, 0.8)) == KILLED
        run = saved()
        outcomes["absent" if run is None else "whole"] += 1
        if run is not None:
            number_saved = run.history.conditions["seed"]
            assert run.history == numbered(number_saved)
            assert run.placement == placement(number_saved)
            assert run.timings == {"all": number_saved}
    record_property("outcomes", outcomes)
    print(outcomes)
    # what the killed ones left behind does not stand in the way of the next one
    save(folder / "run", numbered(5), placement(5), figures=False, force=True)
    assert load(folder / "run").history == numbered(5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scan", "compare", "run"])
def test_a_command_killed_at_any_moment_leaves_the_old_run_or_a_new_one(
    worker, folder, saved, kind, record_property
):
    chance = random.Random(kind)
    outcomes = {"old": 0, "new": 0}
    save(folder / "run", numbered(7), placement(7), figures=False)
    (folder / "run" / "notes.txt").write_text("mine")
    (folder / "run" / "paper.pdf").write_text("mine")
    wanted = load(folder / f"complete-{kind}")
    for number in range(KILLS or 2):
        assert worker(kind, number, chance.uniform(0.0, 2.0)) == KILLED
        found = saved()
        outcomes["old" if found.history == numbered(7) else "new"] += 1
        if found.history != numbered(7):
            assert (found.history, found.placement) == (wanted.history, wanted.placement)
            assert found.comparison == wanted.comparison
        # a record is kept before its figures are drawn: they are there, or still to be drawn
        own = {path.name for path in (folder / "run").iterdir()} - {"notes.txt", "paper.pdf"}
        assert own <= {path.name for path in wanted.folder.iterdir()}
        assert (folder / "run" / "notes.txt").read_text() == (folder / "run" / "paper.pdf").read_text() == "mine"
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    record_property("outcomes", outcomes)
    print(kind, outcomes)
