"""``runs`` and ``diff``, and the commands that take the latest run where none is named."""

import json
import os
import shutil
from pathlib import Path

import pytest
from support.command_line import BATCHES, NET, write

import gradprobe as gp

AGES = {"first": 300, "second": 200, "third": 100}


@pytest.fixture
def recorded(run_here, here):
    """Three runs in the folder for runs, recorded one after the other."""
    for name, age in AGES.items():
        folder = run_here(f"copy-{name}")
        Path("gradprobe_runs").mkdir(exist_ok=True)
        shutil.move(folder, f"gradprobe_runs/{name}")
        when = 1.7e9 - age
        os.utime(f"gradprobe_runs/{name}/history.csv", (when, when))
    return [f"gradprobe_runs/{name}" for name in AGES]


def test_runs_are_listed_with_their_verdicts_the_latest_last(gradprobe, recorded):
    listed = gradprobe("runs")
    assert listed.exit_code == 0, listed.output
    rows = listed.stdout.splitlines()[1:]
    run = gp.load(recorded[0])
    flagged, verdict = len(run.placement.flagged), gp.diagnose(run.history).verdict.capitalize()
    assert [row.split()[0] for row in rows] == list(AGES)
    assert all(f"{flagged} of 10" in row and verdict in row for row in rows)
    as_json = json.loads(gradprobe("runs", "--format", "json").stdout)
    assert [one["run"] for one in as_json] == recorded
    assert [one["layers"] for one in as_json] == [10, 10, 10]
    head, *lines = gradprobe("runs", "--format", "csv").stdout.splitlines()
    assert head.split(",")[:3] == ["run", "recorded", "verdict"]
    assert len(lines) == 3


def test_a_damaged_run_is_listed_and_a_place_without_runs_says_how_to_get_one(gradprobe, recorded):
    Path(recorded[0], "run.json").write_text("{")
    listed = gradprobe("runs")
    assert listed.exit_code == 0
    assert "cannot be read" in " ".join(listed.stdout.split())
    shutil.rmtree("gradprobe_runs")
    for command in ("runs", "report", "place", "plot", "diff"):
        result = gradprobe(command)
        assert "record one by `gradprobe run train.py`" in " ".join(result.stderr.split()), command
        assert result.exit_code == (0 if command == "runs" else 2)
    assert gradprobe("runs", "nowhere").exit_code == 2


@pytest.mark.parametrize("command", [["place"], ["report"], ["plot", "--suffix", "svg"]])
def test_without_a_run_a_command_takes_the_latest_and_says_so(command, gradprobe, recorded):
    result = gradprobe(*command)
    assert result.exit_code == 0, result.output
    assert "the latest: gradprobe_runs/third\n" in result.stderr
    named = gradprobe(*command, "second")
    assert named.exit_code == 0
    assert "latest" not in named.stderr
    if command[0] != "place":
        assert "gradprobe_runs/third/" in result.stdout
        assert "gradprobe_runs/second/" in named.stdout


def test_the_latest_stays_the_latest_when_another_is_drawn(gradprobe, recorded):
    assert gradprobe("report", "first").exit_code == 0
    assert "the latest: gradprobe_runs/third" in gradprobe("report").stderr


def test_a_folder_of_this_name_comes_before_the_run_of_this_name(gradprobe, recorded, run_here):
    run_here("second")
    assert gradprobe("report", "second").stdout == "second/report.html\n"


def test_place_says_whether_it_saved(gradprobe, recorded):
    other = ("place", "first", "--threshold", "1e-30")
    assert "not saved: gradprobe_runs/first keeps its placement; --save" in gradprobe(*other).stderr
    assert gradprobe("place", "first").stderr == "", "it decided as before, so there is nothing to save"
    assert "placement written to gradprobe_runs/first" in gradprobe(*other, "--save").stderr
    assert not gp.load(recorded[0]).placement.points


def test_diff_of_the_two_latest_of_one_and_of_three(gradprobe, recorded):
    assert "from gradprobe_runs/second to gradprobe_runs/third" in gradprobe("diff").stdout
    assert "from gradprobe_runs/first to gradprobe_runs/third" in gradprobe("diff", "first").stdout
    itself = gradprobe("diff", "third")
    assert itself.exit_code == 2
    assert "is the latest run itself" in " ".join(itself.stderr.split())
    three = gradprobe("diff", "first", "second", "third", "--fail-on", "vanishing", "--out", "figures")
    assert three.exit_code == 0, three.output
    assert three.stdout.startswith("3 runs, each compared with the first\n")
    assert Path("figures/depth.png").is_file()
    record = json.loads(gradprobe("diff", "first", "second", "third", "--format", "json").stdout)
    assert record["runs"] == recorded
    assert len(record["differences"]) == 2
    assert gradprobe("diff", *recorded, "--format", "csv").stdout.startswith(
        "layer,changed,1 gradprobe_runs/first"
    )


def test_an_unknown_run_is_answered_with_those_there_are(gradprobe, recorded):
    result = gradprobe("report", "thrid")
    assert result.exit_code == 2
    assert "gradprobe_runs has third, second, first" in " ".join(result.stderr.split())


def test_layers_can_be_chosen(gradprobe):
    write(NET + BATCHES + "model = Net()\n")
    scanned = gradprobe("scan", "model.py", "--layers", "f*", "--iterations", 2)
    assert scanned.exit_code == 0, scanned.output
    assert [layer.name for layer in gp.load("gradprobe_runs/model").history.layers] == ["first"]
    mistyped = gradprobe("scan", "model.py", "--layers", "frist")
    assert mistyped.exit_code == 2
    assert "did you mean 'first'" in " ".join(mistyped.stderr.split())
    together = gradprobe("scan", "model.py", "--layers", "first", "--repeat")
    assert "leave --layers out" in " ".join(together.stderr.split())
