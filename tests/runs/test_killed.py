"""A process killed while it saves leaves the old run or the new one, and every file of the user's where it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
EVERY = int(os.environ.get("GRADPROBE_KILL_EVERY", "150"))  # of 1 kills at every line
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("how", ["first", "force", "inside", "link"])
def test_a_save_killed_at_any_line_leaves_the_old_run_or_the_new_one(how, tmp_path, record_property):
    path = os.pathsep.join([str(TESTS), str(Path(sys.modules["gradprobe"].__file__).parents[1])])
    program = [sys.executable, str(TESTS / "support" / "killed_saves.py"), str(tmp_path), how, str(EVERY)]
    environment = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "Agg"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record_property("outcomes", done.stdout)
    print(done.stdout)
