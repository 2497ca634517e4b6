"""A run is kept before a byte of the result is printed, and nothing that a stranger wrote reaches the terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import BATCHES, HEAD, NET, write
from support.saved_histories import numbered, placement

import gradprobe as gp
from gradprobe.runs.folder import reserve

HOSTILE = "net.py \x1b]0;title\x07\x1b[2J\x9b31m\u202e\r"


def process(*arguments, **options):
    """A command in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", **options.pop("env", {})}
    command = [sys.executable, "-m", "gradprobe", *map(str, arguments)]
    return subprocess.run(command, env=environment, check=False, timeout=300, **options)


@pytest.fixture
def hostile(here):
    """A run whose conditions, names and sentences would all be obeyed by a terminal."""
    history = numbered(3, ("output", "weight"), conditions={"target": HOSTILE, "data": HOSTILE, "loss": HOSTILE})
    decision = gp.Placement(HOSTILE, ("layer0",), (), HOSTILE, {"layer0": HOSTILE}, HOSTILE)
    for name in ("run", "other"):
        gp.save(name, history, decision, figures=False)
    return history


@pytest.mark.parametrize("arguments", [["place", "run"], ["place", "run", "--all"], ["diff", "run", "other"]])
def test_no_control_character_is_printed(gradprobe, hostile, arguments):
    result = gradprobe(*arguments)
    assert result.exit_code == 0, result.output
    assert all(char.isprintable() or char == "\n" for char in result.output), result.output
    if arguments[0] == "place":
        assert "\\x1b[2J" in result.output.replace("\n", "")


def test_what_is_printed_of_a_record_is_printable(hostile):
    for text in map(str, (hostile, gp.load("run"), gp.diagnose(hostile))):
        assert all(char.isprintable() or char == "\n" for char in text)


def test_errors_are_printable_too(gradprobe, hostile):
    Path("run/run.json").write_text('{"schema": 1, "\x1b[2J": ')
    result = gradprobe("place", "run")
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    assert "run.json is incomplete" in result.output
    assert "\x1b" not in gradprobe("place", "no\x1b[2J").output


def refused(result, sentence):
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_what_cannot_be_written_is_a_sentence(gradprobe, here):
    gp.save("run", numbered(3), placement(3), figures=False)
    Path("file").write_text("mine")
    Path("run/iterations.png").mkdir()
    refused(gradprobe("plot", "run"), "iterations.png is a folder: move it")
    refused(gradprobe("plot", "run", "--out", "file/figures"), "file/figures cannot be written: Not a directory")
    refused(gradprobe("diff", "run", "run", "--out", "file/figures"), "cannot be written: Not a directory")
    refused(gradprobe("report", "run", "--out", "run/history.csv"), "run/history.csv belongs to a run")
    refused(gradprobe("place", "run", "--save"), "iterations.png is a folder: move it")
    Path("run/iterations.png").rmdir()
    with reserve("run", force=True):
        refused(gradprobe("place", "run", "--save"), "another process writes to")
    gp.save("again", numbered(3), placement(3), figures=False)
    refused(gradprobe("plot", "run", "--out", "again"), "again is a run")


def test_figures_that_are_drawn_into_a_run_belong_to_it(gradprobe, here):
    gp.save("run", numbered(3), placement(3), figures=False)
    Path("run/mine.pdf").write_text("mine")
    assert gradprobe("plot", "run", "--suffix", "svg").stdout.splitlines()[0] == str(Path("run/iterations.svg"))
    assert gradprobe("report", "run").exit_code == 0
    assert {path.name for path in Path("run").iterdir()} == {
        *("history.csv", "run.json", "mine.pdf", "iterations.svg", "depth.svg", "heatmap.svg", "report.html")
    }
    gp.save("run", numbered(4), placement(4), figures=False, force=True)
    assert {path.name for path in Path("run").iterdir()} == {"history.csv", "run.json", "mine.pdf"}


def test_place_saves_from_inside_the_run(gradprobe, here, monkeypatch):
    gp.save("run", numbered(3), placement(3), figures=False)
    monkeypatch.chdir("run")
    assert gradprobe("place", ".", "--threshold", "5", "--save").exit_code == 0
    assert len(gp.load(".").placement.flagged) > 0


@pytest.mark.slow
def test_a_result_that_nobody_reads_or_that_has_no_room_is_kept(here):
    write(HEAD + NET + BATCHES + "model = Net()\n")
    scan = ("scan", "model.py", "--iterations", 2, "--out")
    read, written = os.pipe()
    os.close(read)
    closed = process(*scan, "closed", "--format", "csv", stdout=written, stderr=subprocess.PIPE, text=True)
    os.close(written)
    assert closed.returncode == 0, closed.stderr
    assert closed.stderr.splitlines()[-1] == "run written to closed: look at closed/report.html"
    with Path("/dev/full").open("w") as full:
        done = process(*scan, "full", stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "Error: the result cannot be printed: No space left on device; the"
    )
    assert done.stderr.endswith("run is kept in full\n")
    latin = process(*scan, "latin", env={"PYTHONIOENCODING": "latin-1"}, capture_output=True)
    assert latin.returncode == 0, latin.stderr
    for name in ("closed", "full", "latin"):
        assert gp.load(name).history.iterations == 2
        assert Path(name, "report.html").is_file()


def test_a_record_without_room_is_kept_in_a_temporary_folder(gradprobe, here, monkeypatch):
    write(HEAD + NET + BATCHES + "model = Net()\n")
    (here / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(here / "temporary"))
    from gradprobe.runs.draft import Draft

    replace = Draft.replace

    def full(draft, *arguments):
        if draft.folder.name == "run":
            raise OSError(28, "No space left on device")
        replace(draft, *arguments)

    monkeypatch.setattr(Draft, "replace", full)
    result = gradprobe("scan", "model.py", "--iterations", 2, "--out", "run", "--format", "json")
    assert result.exit_code == 1
    assert '"verdict"' in result.stdout
    where = here / "temporary" / "gradprobe-run"
    sentence = f"Error: the run cannot be written to run: No space left on device; it is kept in {where}"
    assert sentence in result.stderr.replace("\n", " ")
    assert gp.load(where).history.iterations == 2
    assert not Path("run").exists()


@pytest.mark.parametrize("command", ["scan", "compare"])
def test_a_folder_that_cannot_be_is_found_before_the_target_is_imported(gradprobe, here, command):
    write("raise AssertionError\n")
    Path("link").symlink_to("nowhere")
    for out, sentence in (("x" * 300, "File name too long"), ("link", "is a link to"), ("model.py", "is a file")):
        refused(gradprobe(command, "model.py", "--out", out), sentence)
    with reserve("busy"):
        refused(gradprobe(command, "model.py", "--out", "busy"), "another process writes to")
    failed = gradprobe(command, "model.py")
    assert failed.exit_code == 1
    assert not Path("gradprobe_runs").exists(), "a target that fails leaves no folder"
