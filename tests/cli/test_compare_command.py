"""``gradprobe compare``, with one policy and with several arms, and ``gradprobe demo``."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from support.command_line import BATCHES, BLOCKS, DEEP, NET, write

import gradprobe as gp


def test_compare_writes_the_two_figures_and_the_verdict(gradprobe_drawing):
    write(DEEP + BATCHES + "held_out = batches\n")
    result = gradprobe_drawing(
        "compare", "model.py", "--iterations", 12, "--window", 5, "--seeds", 2, "--out", "run"
    )
    assert result.exit_code == 0, result.output
    comparison = gp.load("run").comparison
    assert str(comparison).split(":")[0] in result.stdout.replace("\n", " ")
    assert Path("run/comparison.png").is_file()
    assert Path("run/paper.png").is_file()
    drawn = gradprobe_drawing("plot", "run", "--size", "column", "--suffix", "pdf", "--out", "print")
    assert drawn.exit_code == 0, drawn.output
    assert b"/MediaBox [ 0 0 244.8 " in Path("print/paper.pdf").read_bytes(), "3.4 inches"
    assert b"/MediaBox [ 0 0 504 " in Path("print/comparison.pdf").read_bytes(), "five panels need 7"
    assert comparison.plain.iterations == comparison.supervised.iterations == 5
    assert "accuracy" in result.stdout


def test_a_branch_at_every_point(gradprobe):
    command = ("compare", write(BLOCKS + BATCHES), "--policy", "every", "--schedule", "dsn", "--branch", "svm")
    result = gradprobe(*command, "--iterations", 6, "--out", "run")
    assert result.exit_code == 0, result.output
    saved = gp.load("run")
    assert [point.name for point in saved.placement.points] == ["act", "blocks.0", "blocks.1"]
    assert saved.placement.flagged == ()
    assert list(saved.comparison.gradient.index) == [
        "stem",
        *(f"blocks.{k}.{x}" for k in "01" for x in ("up", "down")),
    ]
    assert "of the 5 supervised layers" in " ".join(result.stdout.split())


@pytest.mark.slow
def test_the_demo_shows_what_the_paper_says(gradprobe_drawing):
    result = gradprobe_drawing("demo", "--seeds", 1, "--iterations", 60, "--out", "run")
    assert result.exit_code == 0, result.output
    run = gp.load("run")
    flagged = run.placement.flagged
    assert flagged == tuple(f"conv{i + 1}" for i in range(len(flagged)))
    assert len(flagged) >= 2
    assert [point.name for point in run.placement.points] == [f"relu{len(flagged)}"]
    assert (run.comparison.gradient["ratio"] >= 10).all()
    assert Path("run/comparison.png").is_file()


ARMS = ("compare", "model.py", "--arms", "none,cnds,kaiming", "--iterations", 6, "--seeds", 2)


def test_arms_are_compared_kept_and_drawn_again(gradprobe_drawing):
    write(NET + BATCHES)
    result = gradprobe_drawing(*ARMS, "--out", "run")
    assert result.exit_code == 0, result.output
    saved = gp.load("run")
    assert [arm.name for arm in saved.arms.arms] == ["none", "cnds", "kaiming"]
    assert saved.arms.arms[1].like == "none"  # nothing has vanished in two layers
    assert {line.split()[0] for line in result.stdout.splitlines()[1:] if line.strip()} >= {
        "none",
        "cnds",
        "kaiming",
    }
    text = " ".join(result.stdout.split())
    assert all(sentence in text for sentence in saved.arms.choice.sentences)
    for name in ("arms.png", "report.html"):
        before = Path("run", name).read_bytes()
        Path("run", name).unlink()
        assert gradprobe_drawing("plot" if name.endswith("png") else "report", "run").exit_code == 0
        assert Path("run", name).read_bytes() == before
    kept = gradprobe_drawing("place", "run", "--save")
    assert kept.exit_code == 2
    assert "not rewritten" in kept.stderr


def test_arms_for_a_program(gradprobe):
    write(NET + BATCHES)
    record = json.loads(gradprobe(*ARMS, "--format", "json", "--out", "a").stdout)
    rows = pd.read_csv(io.StringIO(gradprobe(*ARMS, "--format", "csv", "--out", "b").stdout))
    assert [row["arm"] for row in record["arms"]] == rows["arm"].tolist() == ["none", "cnds", "kaiming"]
    assert [row["mean"] for row in record["arms"]] == rows["mean"].tolist()
    assert record["best"] == gp.load("a").arms.best
    assert record["conditions"]["seeds"] == [0, 1]


def test_arms_in_processes_come_to_the_same(gradprobe):
    # what only the target's file defines has to travel: a class with super(), a loss, an optimizer, a neighbour
    Path("beside.py").write_text("RATE = 0.05\n")
    own = (
        "import beside\n"
        + NET
        + BATCHES
        + (
            "def loss(output, target):\n    return nn.functional.cross_entropy(output, target)\n"
            "def optimizer(net):\n    return torch.optim.SGD(net.parameters(), lr=beside.RATE)\n"
        )
    )
    write(own)
    for name, more in (("serial", ()), ("processes", ("--jobs", 2))):
        result = gradprobe(*ARMS, *more, "--out", name)
        assert result.exit_code == 0, result.output
    assert gp.load("serial").arms == gp.load("processes").arms


def test_an_arm_that_fails_is_named_and_the_run_is_kept(gradprobe):
    rate = "1 / int(net.first.bias.any())"  # the remedy sets the biases to zero
    write(NET + BATCHES + f"def optimizer(net):\n    return torch.optim.SGD(net.parameters(), lr={rate})\n")
    result = gradprobe(*ARMS, "--out", "run")
    assert result.exit_code == 1
    assert "Error: kaiming failed (seed 0): ZeroDivisionError: division by zero (model.py, line" in result.stderr
    assert set(gp.load("run").arms.arms[2].failed) == {"seed 0", "seed 1"}
    assert len(gp.load("run").arms.frame) == 2 * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arms", "cdns"], "did you mean 'cnds'"),
        (["--engine", "ray"], "--engine is for several arms"),
        (["--jobs", "2"], "--jobs is for several arms"),
        (["--arms", "cnds", "--policy", "relative"], "--policy is for a single policy"),
        (["--arms", "cnds", "--repeat"], "--repeat is for a single policy"),
        (["--arms", "cnds", "--engine", "serial", "--jobs", "2"], "one after the other"),
    ],
)
def test_options_of_arms_that_do_not_go_together(gradprobe, options, message):
    write(NET + BATCHES)
    result = gradprobe("compare", "model.py", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_the_help_names_every_arm(gradprobe):
    from gradprobe.prove.engines import ENGINES
    from gradprobe.verdict.arm import ARMS as NAMES

    text = gradprobe("compare", "--help").stdout
    assert all(name in text for name in (*NAMES, *ENGINES))
