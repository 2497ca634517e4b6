"""Runs a program on several ranks."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = str(Path(__file__).parents[1])


def torchrun(ranks, *program, **options):
    """Run a program by `torchrun`, a process for each rank; fails if the program does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, *program]
    options.setdefault("env", {**os.environ, "PYTHONPATH": TESTS})  # so that it imports `support` as the tests do
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, done.stderr[-3000:]
