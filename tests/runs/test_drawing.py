"""The process that draws beside a training: what it draws, and what happens where it cannot."""

import os
from pathlib import Path

import pytest
from support.saved_histories import numbered, placement

from gradprobe import load, save
from gradprobe.runs.drawing import DrawingProcess, draw, in_two

# numpy has threads of its own, and from Python 3.12 on a copy of a process with threads is warned of
FORKED = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
PICTURES = {"iterations.png", "depth.png", "heatmap.png", "report.html"}


@pytest.fixture
def run(tmp_path):
    """A run without its figures."""
    return save(tmp_path / "run", numbered(3), placement(3), figures=False)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_it_draws_what_this_process_would_draw(run, tmp_path):
    here = save(tmp_path / "here", numbered(3), placement(3), figures=False)
    assert draw(here, Path("run")) == []
    with DrawingProcess() as drawing:
        drawing.begin(run, Path("run"))
        assert drawing.finish() == []
    assert names(run) >= PICTURES
    assert {name: (run / name).read_bytes() for name in PICTURES} == {
        name: (here / name).read_bytes() for name in PICTURES
    }
    assert load(run).history == numbered(3)


def test_where_the_process_has_died_this_one_draws(run):
    with DrawingProcess() as drawing:
        drawing._process.kill()
        drawing._process.wait()
        drawing.begin(run, run)
        assert drawing.finish() == []
    assert names(run) >= PICTURES


def test_where_no_process_can_be_started_this_one_draws(run, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with DrawingProcess() as drawing:
        drawing.begin(run, run)
        assert drawing.finish() == []
    assert names(run) >= PICTURES


def test_what_cannot_be_drawn_is_said_and_the_record_stays(run):
    (run / "depth.png").mkdir()  # not the run's: it is not replaced
    with DrawingProcess() as drawing:
        drawing.begin(run, run)
        [sentence] = drawing.finish()
    assert "without its figures" in sentence
    assert load(run).history == numbered(3)
    assert "report.html" in names(run)


def test_a_run_that_has_gone_is_no_error(run):
    with DrawingProcess() as drawing:
        drawing.begin(run.with_name("gone"), run)
        assert drawing.finish() == []


@FORKED
def test_two_share_the_work(tmp_path):
    in_two(lambda name: (tmp_path / name).write_text(str(os.getpid())), ["a", "b", "c"])
    owners = [(tmp_path / name).read_text() for name in "abc"]
    assert owners[0] == owners[2] == str(os.getpid()) != owners[1]


@FORKED
def test_an_error_of_the_other_half_comes_up_here():
    with pytest.raises(ZeroDivisionError):
        in_two(lambda number: 1 / number, [1, 0])
