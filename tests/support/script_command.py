"""Runs ``gradprobe run``: in the process of the tests, or in one of its own, beside plain Python."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from gradprobe.cli import main

SCRIPTS = Path(__file__).parent / "scripts"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}
# five steps of a small model
LOOP = """
import sys, torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(5):
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    print(step, flush=True)
"""


def inside(*arguments):
    """Run a command in this process."""
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def outside(*arguments, launch=("-m",)):
    """Run a command in a process of its own."""
    return python(*launch, "gradprobe", "run", *arguments)


def python(*arguments):
    """Run Python in a process of its own."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)


def write_script(text, name="train.py"):
    """Write a script into the working directory."""
    Path(name).write_text(text)
    return name
