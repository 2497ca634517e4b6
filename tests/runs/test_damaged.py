"""Damaged runs: what is read is what was saved, or it is refused. GRADPROBE_MUTATIONS sets how many."""

import os
import random
import shutil
import warnings
from pathlib import Path

import pytest
from support.mutations import MUTATIONS
from support.saved_histories import numbered, placement

import gradprobe as gp
from gradprobe.runs.run import load, save

COUNT = int(os.environ.get("GRADPROBE_MUTATIONS", "132"))
OLD_RUNS = Path(__file__).parents[1] / "support" / "old_runs"
KINDS = ("output", "weight", "evidence", "compare", "arms")


def saved_as(kind, folder):
    """A run of one of five kinds in a folder."""
    if kind in ("compare", "arms"):
        old = load(OLD_RUNS / kind)
        return save(folder, old.history, old.placement, old.comparison, arms=old.arms, figures=False)
    of = {"output": ("output",), "weight": ("weight",), "evidence": ("output", "weight")}[kind]
    history = numbered(3, of, evidence=kind == "evidence", conditions={"target": "net.py \x1b]0;title\x07"})
    return save(folder, history, placement(3), timings={"scan": 1.25}, figures=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Whole runs, by kind."""
    parent = tmp_path_factory.mktemp("whole")
    return {kind: saved_as(kind, parent / kind) for kind in KINDS}


def refused(folder):
    """Whether a run is refused, in one line that names it; and the run if it is not."""
    try:
        return None, load(folder)
    except ValueError as error:
        said = str(error)
    except FileNotFoundError as error:
        said = str(error)
        assert not (folder / "run.json").is_file()
    assert str(folder) in said
    assert said.isprintable()
    return said, None


def test_a_damaged_run_is_refused_or_is_what_was_saved(whole, tmp_path, record_property):
    chance, counts = random.Random(21), {"refused": 0, "the same": 0}
    runs = {kind: load(folder) for kind, folder in whole.items()}
    for number in range(COUNT):
        kind, mutate = KINDS[number % len(KINDS)], MUTATIONS[number % len(MUTATIONS)]
        folder = Path(shutil.copytree(whole[kind], tmp_path / "run"))
        mutate(folder, chance)
        said, run = refused(folder)
        assert said or run == runs[kind], f"{number}: {mutate.__name__} of {kind} is read as another run"
        counts["refused" if said else "the same"] += 1
        shutil.rmtree(folder)
    record_property("outcomes", counts)
    print(counts)
    assert counts["refused"] > COUNT / 2


@pytest.mark.parametrize("kind", ["scan", "compare", "arms"])
def test_a_damaged_old_run_is_refused_or_can_be_used(kind, tmp_path):
    """Runs of schema 1 have no checksum: what is read of them is possible, and can be used."""
    chance = random.Random(kind)
    for number in range(COUNT // 6):
        folder = Path(shutil.copytree(OLD_RUNS / kind, tmp_path / "run"))
        MUTATIONS[number % len(MUTATIONS)](folder, chance)
        said, run = refused(folder)
        if said is None:
            assert len(run.history.frame) == len(load(OLD_RUNS / kind).history.frame)
            assert str(run.history).isprintable() or "\n" in str(run.history)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of numbers at the ends of what a float can hold
                gp.place(run.history)
        shutil.rmtree(folder)


def cut_off(text):
    """The rows of the first iterations of a table."""
    head, *rows = text.splitlines(keepends=True)
    return [head + "".join(rows[:count]) for count in range(len(rows))]


def test_no_row_less_of_an_old_table_is_read(tmp_path):
    folder = Path(shutil.copytree(OLD_RUNS / "scan", tmp_path / "run"))
    for text in cut_off((folder / "history.csv").read_text()):
        (folder / "history.csv").write_text(text)
        said, _ = refused(folder)
        assert "history.csv: " in said


def test_no_byte_less_is_read(tmp_path):
    folder = saved_as("output", tmp_path / "run")
    data = (folder / "history.csv").read_bytes()
    for length in range(0, len(data), 7):
        (folder / "history.csv").write_bytes(data[:length])
        assert "history.csv" in refused(folder)[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("0,layer0,0", "0,layer9,0"),
            "a layer that run.json does not have at this depth: iteration 0, layer 'layer9'",
        ),
        (("0,layer1,1", "0,layer0,0"), "a row is there twice: iteration 0, layer 'layer0', output"),
        (
            ("0,layer0,0,output,3.0,1.0", "0,layer0,0,output,3.0,-1.0"),
            "a number that is not possible: iteration 0",
        ),
        ((",2.0,0.0,0\n", ",2.0,1.5,0\n"), "a number that is not possible"),
        (("5,layer", "6,layer"), "expected a row for each of 6 iterations and 6 layers and quantities"),
        (("output", "input"), "a quantity that gradprobe does not record"),
        (("3.0,1.0,2.0", ",1.0,2.0"), "a number that is not possible"),
        (("0,layer0,0,output,3.0,1.0,2.0,0.0,0", "0,layer0,0,output,3.0,1.0,2.0,0.0,"), "a number that is not"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(change, sentence):
    from gradprobe.record.csv_tables import check_table, read_csv, write_csv

    history = numbered(3)
    frame = read_csv(write_csv(history.frame).replace(*change))
    check_table(history)
    with pytest.raises(ValueError, match=sentence):
        check_table(gp.GradientHistory(frame, history.conditions, history.layers, (), None))


def test_a_changed_run_is_named_by_its_file(tmp_path):
    folder = saved_as("output", tmp_path / "run")
    file = folder / "history.csv"
    file.write_text(file.read_text().replace("3.0,", "3.5,", 1))
    with pytest.raises(ValueError, match=r"run cannot be read: history\.csv was changed or cut off after it was"):
        load(folder)
    folder = saved_as("output", tmp_path / "other")
    file = folder / "run.json"
    file.write_text(file.read_text().replace('"Linear"', '"Conv2d"'))
    with pytest.raises(ValueError, match=r"run\.json was changed after it was saved"):
        load(folder)


def test_run_json_may_be_written_with_other_blanks(tmp_path):
    """The checksum is of the content: line ends of another system, or another tool's indent, change nothing."""
    import json

    folder = saved_as("evidence", tmp_path / "run")
    before = load(folder)
    (folder / "run.json").write_text(json.dumps(json.loads((folder / "run.json").read_text()), sort_keys=True))
    assert load(folder) == before


def test_conditions_that_json_has_no_type_for_cost_no_record(tmp_path):
    import numpy as np

    odd = {"lr": float("nan"), "seed": np.int64(3), "what": object, 7: {"shape": (1, np.float32(0.5))}}
    folder = save(tmp_path / "run", numbered(3, conditions=odd), placement(3), figures=False)
    read = load(folder).history.conditions
    assert (read["lr"], read["seed"], read["7"]) == ("nan", 3, {"shape": [1, 0.5]})


@pytest.mark.parametrize("name", ["a\rb", "a\nb", 'a"b', "a,b", "", "nan", " a", "層"])
def test_names_are_read_back_whatever_they_are(name, tmp_path):
    from dataclasses import replace

    history = numbered(3)
    layers = (replace(history.layers[0], name=name), *history.layers[1:])
    frame = history.frame.replace({"layer": {"layer0": name}})
    named = replace(history, layers=layers, frame=frame)
    assert load(save(tmp_path / "run", named, placement(3), figures=False)).history == named
