"""More than two runs beside each other, and a run in a line; the runs are made by hand, so are the numbers."""

import math
import os
from pathlib import Path

import pytest

import gradprobe as gp
from gradprobe.decide.policies import place
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.runs.folder import runs_in
from gradprobe.runs.run import Run
from gradprobe.runs.several import compare_several
from gradprobe.runs.summary import as_frame, summarise


def history_of(sizes, **conditions):
    layers = tuple(Layer(name, depth, "Conv2d", 9) for depth, name in enumerate(sizes))
    rows = [(0, name, depth, "output", size, size, size, 0, 0) for depth, (name, size) in enumerate(sizes.items())]
    return GradientHistory(tidy(rows), conditions, layers, (), (8, 2))


def run_of(name, sizes, **conditions):
    history = history_of(sizes, **conditions)
    return Run(Path(name), history, place(history))


THREE = (
    run_of("a", {"stem": 1e-3, "body": 1e-3, "head": 1.0}, lr=0.1, seed=0),
    run_of("b", {"stem": 1e-9, "body": 1e-3, "head": 1.0}, lr=0.1, seed=1),
    run_of("c", {"stem": 1e-3, "body": 1e-1, "head": 1.0}, lr=0.2, seed=0),
)


def test_every_run_is_compared_with_the_first():
    several = compare_several(THREE)
    assert [[layer.name for layer in one.changed] for one in several.differences] == [["stem"], ["body"]]
    assert several.new == {"vanishing": ["stem"]}
    assert several.conditions == {"lr": [0.1, 0.1, 0.2], "seed": [0, 1, 0]}
    frame = several.frame
    assert frame["layer"].tolist() == ["stem", "body", "head"]
    assert frame["changed"].tolist() == [True, True, False]
    assert frame[["1 a", "2 b", "3 c"]].to_numpy().tolist() == [[1e-3, 1e-9, 1e-3], [1e-3, 1e-3, 0.1], [1, 1, 1]]


def test_the_report_marks_what_is_not_as_in_the_first_run():
    lines = str(compare_several(THREE)).splitlines()
    assert [line.split() for line in lines if line.startswith(("stem", "body", "head"))] == [
        ["stem", "0.001", "1e-9*", "0.001"],
        ["body", "0.001", "0.001", "0.1*"],
    ]
    assert "seed: 0 in 1, 3; 1 in 2" in lines
    assert all(line == line.rstrip() for line in lines)


def test_a_layer_that_a_run_has_not_and_one_more_than_the_first_has():
    first, second = run_of("a", {"stem": 1.0, "head": 1.0}), run_of("b", {"stem": 1.0})
    third = run_of("c", {"stem": 1.0, "head": 1.0, "more": 1.0})
    several = compare_several([first, second, third])
    assert several.frame["layer"].tolist() == ["stem", "head", "more"]
    numbers = several.frame[["1 a", "2 b", "3 c"]].to_numpy().tolist()
    assert [[None if math.isnan(cell) else cell for cell in row] for row in numbers] == [
        [1.0, 1.0, 1.0],
        [1.0, None, 1.0],
        [None, None, 1.0],
    ]
    rows = [line.split() for line in str(several).splitlines() if line.startswith(("head", "more"))]
    assert rows[0] == ["head", "1", "-", "1"]


def test_the_same_run_thrice_and_many_runs():
    assert compare_several(THREE[:1] * 3).conditions == {}
    assert "no layer changed" in str(compare_several(THREE[:1] * 3))
    many = compare_several([run_of(f"r{i}", {"stem": 10.0 ** (-2 * i)}) for i in range(9)])
    printed = [line.split() for line in str(many).splitlines() if line.startswith(("layer ", "stem"))]
    heads = [cell for row in printed[::2] for cell in row]
    cells = [cell for row in printed[1::2] for cell in row]
    assert [head for head in heads if head != "layer"] == list("123456789")
    assert len([cell for cell in cells if cell != "stem"]) == 9
    assert max(map(len, str(many).splitlines())) <= 80


def test_runs_are_in_the_order_in_which_they_were_recorded_whatever_is_drawn_later(tmp_path):
    for age, name in ((30, "b"), (20, "c"), (10, "a")):
        gp.save(tmp_path / name, THREE[0].history, THREE[0].placement, figures=False)
        when = (tmp_path / name / "history.csv").stat().st_mtime - age
        os.utime(tmp_path / name / "history.csv", (when, when))
    (tmp_path / "none").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "b" / "run.json").touch()  # as drawing figures does
    assert [folder.name for folder in runs_in(tmp_path)] == ["b", "c", "a"]
    assert runs_in(tmp_path / "nowhere") == runs_in(tmp_path / "file") == []


def test_a_run_in_a_line(tmp_path):
    history = history_of({"stem": 1e-9, "head": 1.0}, losses=[2.5, None, 1.25], target="train.py --lr 1")
    gp.save(tmp_path / "run", history, place(history), figures=False)
    line = summarise(tmp_path / "run")
    assert (line.flagged, line.layers, line.iterations, line.losses) == (1, 2, 1, (2.5, 1.25))
    assert line.verdict == "Vanishing"
    assert line.cells["of"] == "train.py --lr 1"
    assert as_frame([line]).loc[0, ["flagged", "first_loss", "last_loss"]].tolist() == [1, 2.5, 1.25]
    (tmp_path / "run" / "history.csv").write_text("gone")
    damaged = summarise(tmp_path / "run")
    assert "cannot be read: history.csv" in damaged.verdict
    assert damaged.cells["flagged"] == ""
    assert as_frame([damaged])["flagged"].isna().all()


@pytest.mark.parametrize("empty", [[], [Path("nowhere")]])
def test_a_frame_of_no_run(empty):
    assert len(as_frame([summarise(one) for one in empty])) == len(empty)
