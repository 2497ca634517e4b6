"""What a shell completes: commands, options, targets, scripts and runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradprobe.cli import main


def completed(*words):
    """The kinds and values that bash gets for the last of the words."""
    settings = {
        "_GRADPROBE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["gradprobe", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner(env=settings).invoke(main, prog_name="gradprobe")
    assert not result.stderr
    return [tuple(line.split(",", 1)) for line in result.stdout.splitlines()]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder as a user has it: a model, a script, a text, a folder, and two runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("model.py", "train.py", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "source").mkdir()
    for name in ("model", "train"):
        (tmp_path / "gradprobe_runs" / name).mkdir(parents=True)
        (tmp_path / "gradprobe_runs" / name / "run.json").write_text("{}")
    (tmp_path / "gradprobe_runs" / "unfinished").mkdir()
    return tmp_path


def test_completion_does_without_torch():
    code = "import sys; sys.modules['torch'] = None; from gradprobe.cli import main; main(prog_name='gradprobe')"
    settings = {**os.environ, "_GRADPROBE_COMPLETE": "bash_complete", "COMP_WORDS": "gradprobe diff g"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**settings, "COMP_CWORD": "2"},
    )
    assert done.stdout.splitlines() == ["dir,g", "plain,gradprobe_runs/model", "plain,gradprobe_runs/train"]
    assert not done.stderr


def test_commands_and_options_are_completed():
    assert ("plain", "scan") in completed("sc")
    assert ("plain", "--threshold") in completed("scan", "model.py", "--thr")
    assert completed("scan", "model.py", "--policy", "rel") == [("plain", "relative")]


@pytest.mark.parametrize("command", ["scan", "compare", "points"])
def test_a_target_is_completed_to_python_files(command):
    assert completed(command, "mo") == [("file", "mo"), ("plain", "model.py")]


def test_a_script_is_completed_to_python_files():
    assert completed("run", "tr") == [("file", "tr"), ("plain", "train.py")]


def test_where_a_folder_fits_too_the_shell_completes(project):
    (project / "sourced.py").write_text("")
    assert completed("scan", "so") == [("file", "so")]


@pytest.mark.parametrize("command", ["place", "plot", "diff"])
def test_a_run_is_completed_to_the_runs_there_are(command):
    runs = [("plain", "gradprobe_runs/model"), ("plain", "gradprobe_runs/train")]
    assert completed(command, "g") == [("dir", "g"), *runs]
    assert completed(command, "elsewhere") == [("dir", "elsewhere")]


def test_the_second_run_is_completed_as_the_first():
    assert ("plain", "gradprobe_runs/train") in completed("diff", "gradprobe_runs/model", "gradprobe_runs/t")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_of_every_shell_gets_its_script(shell):
    recipes = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    assert f"_GRADPROBE_COMPLETE={shell}_source gradprobe" in recipes
    result = CliRunner(env={"_GRADPROBE_COMPLETE": f"{shell}_source"}).invoke(main, prog_name="gradprobe")
    assert f"{shell}_complete" in result.stdout
