"""``gradprobe place`` and ``plot`` need only a run. ``report`` and ``diff`` have their tests elsewhere."""

import json
from pathlib import Path

import gradprobe as gp


def test_place_needs_only_the_folder(gradprobe, run_here):
    run_here()
    result = gradprobe("place", "run", "--threshold", "1e-5", "--format", "json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["placement"]["points"]) == 1
    assert gradprobe("place", "run", "--policy", "relative").exit_code == 0
    saved = gp.load("run").placement
    assert gradprobe("place", "run", "--threshold", "1e-30", "--save").exit_code == 0
    assert gp.load("run").placement != saved


def test_the_rule_of_1e_7_has_two_names(gradprobe, run_here):
    run_here()
    by_name = [gradprobe("place", "run", "--policy", name, "--format", "json") for name in ("threshold", "cnds")]
    assert by_name[0].exit_code == 0, by_name[0].output
    assert by_name[0].stdout == by_name[1].stdout


def test_plot_needs_only_the_folder(gradprobe, run_here):
    run = run_here()
    before = (run / "iterations.png").read_bytes()
    (run / "iterations.png").unlink()
    assert gradprobe("plot", "run").exit_code == 0
    assert (run / "iterations.png").read_bytes() == before
    result = gradprobe("plot", "run", "run", "--out", "figures", "--suffix", "svg")
    assert result.exit_code == 0, result.output
    two_panels = f'width="{2 * 7.4 * 72:g}pt"'
    assert two_panels in Path("figures/iterations.svg").read_text(), "one run given twice is drawn twice"


def test_several_runs_are_not_drawn_over_the_first(gradprobe, run_here):
    first, _ = run_here("a"), run_here("b")
    before = (first / "iterations.png").read_bytes()
    drawn = gradprobe("plot", "a", "b")
    assert drawn.exit_code == 0
    assert drawn.stdout.splitlines()[0] == str(Path("gradprobe_runs/side-by-side/iterations.png"))
    assert (first / "iterations.png").read_bytes() == before
