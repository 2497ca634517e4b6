"""A process that is killed while it saves, and disks that are full: the old run or the new one is there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
EVERY = int(os.environ.get("GRADPROBE_KILL_EVERY", "300"))  # of 1 kills at every line
TESTS = Path(__file__).parents[1]


def program(name, *arguments, before=()):
    """Run a program of the tests in a process of its own; gives back what it prints."""
    path = os.pathsep.join([str(TESTS), str(Path(sys.modules["gradprobe"].__file__).parents[1])])
    command = [*before, sys.executable, str(TESTS / "support" / name), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "Agg"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("how", ["first", "force", "inside", "link"])
def test_a_save_killed_at_any_line_leaves_the_old_run_or_the_new_one(how, tmp_path, record_property):
    outcomes = program("killed_saves.py", tmp_path, how, EVERY)
    record_property("outcomes", outcomes)
    print(outcomes)


def test_a_full_disk_and_one_that_cannot_be_written(tmp_path):
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a namespace to mount small disks in")
    print(program("small_disks.py", tmp_path, before=(unshare, "-rm")))
