"""Runs a program on several ranks."""

import subprocess
import sys


def torchrun(ranks, *program, **options):
    """Run a program by `torchrun`, a process for each rank; fails if the program does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, *program]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, done.stderr[-3000:]
