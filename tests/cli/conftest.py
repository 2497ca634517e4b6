"""Commands in the process of the tests, and runs that several tests read."""

import functools
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.command_line import BATCHES, DEEP, HEAD

from gradprobe import save  # by this name, so that it is the real one when a test asks for it
from gradprobe.cli import main


def invoke(*arguments):
    """Run a command; gives back the result, its standard output and error apart."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory; what a target puts on the import path is taken off again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def gradprobe_drawing(here):
    """Runs a command in this process."""
    return invoke


@pytest.fixture
def gradprobe(here, monkeypatch):
    """Runs a command in this process; runs are written without figures, which take longer than all the rest."""
    monkeypatch.setattr("gradprobe.runs.run.save", functools.partial(save, figures=False))
    return invoke


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """The folder of a run of `DEEP` with its figures, whose target is gone."""
    folder = tmp_path_factory.mktemp("scanned")
    (folder / "model.py").write_text(HEAD + DEEP + BATCHES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        result = invoke("scan", "model.py", "--iterations", 3, "--out", "run")
    assert result.exit_code == 0, result.output
    (folder / "model.py").unlink()
    return folder / "run"


@pytest.fixture
def run_here(scanned, here):
    """Copies that run into the working directory, under a name."""
    return lambda name="run": Path(shutil.copytree(scanned, name))
