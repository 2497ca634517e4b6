"""What users of version 0.1.0 rely on still works: the public names, the command line, runs on disk.

The lists below were written by version 0.1.0, and so were the runs in ``tests/support/old_runs``.
"""

import ast
import importlib
import json
from pathlib import Path

import click
import pytest

import gradprobe as gp
from gradprobe.cli import main

OLD_RUNS = Path(__file__).parent / "support" / "old_runs"

NAMES = """
Arm ArmsComparison BRANCHES Branch C1DeepSup CNDSBranch CompanionObjective Comparison DeepSupervisionLoss
EveryLayerPolicy GradientHistory GradientProbe Placement Point Points RelativePolicy Run SupervisedModel
SupervisedOutput ThresholdPolicy __version__ branch_weights build_branch compare compare_arms comparison_figure
conv3x3_bn_relu load paper_figure place place_by_trials place_repeatedly plot_arms plot_comparison plot_heatmap
plot_history plot_learning plot_profile points save save_figure scan squared_hinge supervise write_page
"""

TRAINING = "--batch-size --classes --data --device --input-size --lr --seed target"
RULE = "--aggregate --of --policy --threshold"
OUTPUT = "--all --force --format --out --quiet -q"
BRANCHES = "--branch --repeat --weight"
OPTIONS = {
    "scan": f"{TRAINING} {RULE} {OUTPUT} {BRANCHES} --fail-on --iterations",
    "compare": f"{TRAINING} {RULE} {OUTPUT} {BRANCHES} --fail-on --iterations --arms --engine --jobs --schedule"
    " --seeds --window",
    "demo": f"{OUTPUT} --iterations --seeds",
    "run": f"{RULE} {OUTPUT} --fail-on --iterations --keep-going -m script args",
    "points": f"{TRAINING} --all --format",
    "place": f"{RULE} --all --fail-on --format --save run",
    "plot": "--of --out --size --suffix --threshold runs",
    "report": "--open --out run",
    "diff": "--factor --fail-on --format --of --out runs",  # two of them
}


@pytest.mark.parametrize("name", NAMES.split())
def test_public_name_is_there(name):
    assert name in gp.__all__
    assert getattr(gp, name) is not None
    assert name in dir(gp)


def test_remedies_can_be_imported_as_the_printed_code_does():
    from gradprobe import remedies

    assert remedies is gp.remedies
    assert callable(remedies.lsuv)


def test_names_for_type_checkers_are_the_public_ones():
    tree = ast.parse(Path(gp.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {(node.module, alias.name) for node in block.body for alias in node.names}
    homes = {(f"gradprobe.{module}", name) for name, module in gp._HOME.items()}
    assert declared == homes | {("gradprobe.prove", "remedies")}


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'scann'"):
        gp.scann  # noqa: B018


def test_every_public_name_comes_from_the_module_that_defines_it():
    for name in set(gp.__all__) - {"__version__", "BRANCHES"}:
        module = importlib.import_module(getattr(gp, name).__module__)
        assert getattr(module, name) is getattr(gp, name)


def test_commands_are_there_in_their_order():
    assert list(main.commands)[: len(OPTIONS)] == list(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_command_has_the_options_that_it_had(name):
    parameters = main.commands[name].params
    options = {option for parameter in parameters for option in [*parameter.opts, *parameter.secondary_opts]}
    assert set(OPTIONS[name].split()) <= options
    group = click.Context(main, **main.context_settings)  # click keeps the help option of the first context
    text = main.commands[name].get_help(click.Context(main.commands[name], parent=group))
    assert all(option in text for option in OPTIONS[name].split() if option.startswith("--"))


@pytest.fixture(params=["scan", "compare", "arms"])
def old_run(request):
    return gp.load(OLD_RUNS / request.param)


def test_an_old_run_is_read(old_run):
    record = json.loads((old_run.folder / "run.json").read_text())
    history = old_run.history
    assert record["schema"] == 1
    assert history.iterations == 4
    assert [layer.name for layer in history.layers] == [str(2 * index) for index in range(10)]
    for key, value in record["conditions"].items():
        assert history.conditions[key] == value
    assert list(old_run.placement.flagged) == record["placement"]["flagged"]
    assert [point.name for point in old_run.placement.points] == [p["name"] for p in record["placement"]["points"]]
    assert str(old_run)


def test_an_old_table_is_read_to_the_last_digit(old_run):
    with (old_run.folder / "history.csv").open() as file:
        names = file.readline().strip().split(",")
        rows = [dict(zip(names, line.strip().split(","), strict=True)) for line in file]
    frame = old_run.history.frame
    assert len(frame) == len(rows)
    assert frame["mean_abs"].tolist() == [float(row["mean_abs"]) for row in rows]
    assert frame["layer"].tolist() == [row["layer"] for row in rows]


def test_an_old_run_is_decided_again_as_before():
    run = gp.load(OLD_RUNS / "scan")
    again = gp.place(run.history)
    assert again.flagged == run.placement.flagged
    assert len(again.flagged) == 4
    assert again.points == run.placement.points


def test_an_old_comparison_keeps_its_verdict():
    assert gp.load(OLD_RUNS / "compare").comparison.verdict == "cannot tell"
    assert gp.load(OLD_RUNS / "arms").arms.best == "none"


def test_an_old_run_is_saved_as_it_was(old_run, tmp_path):
    folder = gp.save(
        tmp_path / "again",
        old_run.history,
        old_run.placement,
        old_run.comparison,
        arms=old_run.arms,
        timings=old_run.timings,
        figures=False,
    )
    assert gp.load(folder) == old_run


def test_an_old_run_gets_a_page(old_run, tmp_path):
    page = tmp_path / "report.html"
    gp.write_page(page, old_run.history, old_run.placement, old_run.comparison, arms=old_run.arms)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
