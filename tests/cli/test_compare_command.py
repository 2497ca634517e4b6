"""``gradprobe compare``, with one policy and with several arms, and ``gradprobe demo``."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from support.command_line import BATCHES, BLOCKS, DEEP, NET, write

import gradprobe as gp
from gradprobe.show.page.steps import steps


def test_compare_writes_the_two_figures_and_the_verdict(gradprobe_drawing):
    write(DEEP + BATCHES + "held_out = batches\n")
    result = gradprobe_drawing(
        *(
            "compare",
            "model.py",
            "--policy",
            "cnds",
            "--iterations",
            12,
            "--window",
            5,
            "--seeds",
            2,
            "--out",
            "run",
        )
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
    assert " ".join(result.stdout.split()).count("of the 5 supervised layers") == 1
    assert "flagged" not in result.stdout


@pytest.mark.slow
def test_the_demo_shows_what_the_paper_says(gradprobe_drawing):
    result = gradprobe_drawing("demo", "--seeds", 1, "--iterations", 60, "--out", "run")
    assert result.exit_code == 0, result.output
    run = gp.load("run")
    flagged, points = run.comparison.placement.flagged, run.comparison.placement.points
    assert flagged == tuple(f"conv{i + 1}" for i in range(len(flagged)))
    assert len(flagged) >= 2
    assert [point.name for point in points] == [f"relu{len(flagged)}"]
    # figure 3 of the paper: the gradient is larger at first, and no longer once the network has begun to learn
    means = [
        history.frame.query("of == 'output' and iteration < 10").groupby("layer")["mean_abs"].median()
        for history in (run.comparison.supervised, run.comparison.plain)
    ]
    assert all(means[0][name] >= 10 * means[1][name] for name in flagged)
    # and the whole story: the cause, the rule's branch beside the remedy that the diagnosis names
    assert [finding.cause for finding in gp.diagnose(run.history).findings] == ["signal_collapse"]
    assert [arm.name for arm in run.arms.arms] == ["none", "cnds", "lsuv"]
    assert "Sick: signal lost" in result.stdout
    assert all(Path("run", name).is_file() for name in ("paper.png", "arms.png", "report.html"))


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
        (["--policy", "cnds", "--engine", "ray"], "--engine is for several arms"),
        (["--repeat", "--jobs", "2"], "--jobs is for several arms"),
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


QUICK = ("compare", "model.py", "--iterations", 6, "--window", 3, "--out", "run")
EVERY = ("--policy", "every")
OTHER_NAMES = (
    "x = torch.randn(16, 3)\n"
    "y = x.sum(1, keepdim=True).repeat(1, 2)\n"
    "train_loader = [(x[:8], y[:8])]\n"
    "val_loader = [(x[8:], y[8:])]\n"
    "model = Net()\n"
    "loss_fn = nn.L1Loss()\n"
    "optimizer = torch.optim.Adam([{'params': model.parameters(), 'lr': 0.02}], lr=0.5)\n"
)


def test_the_usual_names_of_a_script_are_accepted(gradprobe):
    write(NET + OTHER_NAMES)
    result = gradprobe(*QUICK, *EVERY)
    assert result.exit_code == 0, result.output
    assert "not used" not in result.stderr
    run = gp.load("run")
    assert run.history.conditions["loss"] == "L1Loss (mean)"
    assert run.history.conditions["optimizer"].startswith("Adam lr 0.02")
    assert run.comparison.metric.title == "held-out loss"
    assert "held-out loss" in " ".join(result.stdout.split())


def test_a_metric_of_the_target_decides_or_the_one_that_is_named(gradprobe):
    write(
        NET
        + OTHER_NAMES
        + "def metric(output, target):\n    return (output - target).abs().max()\n"
        + "metric.higher_is_better = False\n"
    )
    result = gradprobe(*QUICK, *EVERY, "--format", "json")
    record = json.loads(result.stdout)["comparison"]
    assert record["metric"] == {"name": "metric", "higher_is_better": False}
    named = gradprobe(*QUICK, "--force", "--metric", "loss", "--arms", "every", "--format", "json")
    assert json.loads(named.stdout)["metric"] == {"name": "loss", "higher_is_better": False}


def test_the_branches_have_the_loss_that_the_target_gives_them(gradprobe):
    write(NET + OTHER_NAMES + "def branch_loss(output, target):\n    return (output - target).square().mean()\n")
    result = gradprobe(*QUICK, *EVERY)
    assert result.exit_code == 0, result.output
    assert "not used" not in result.stderr
    assert "branch_loss" in gp.load("run").comparison.supervised.conditions["loss"]


CHOSEN = """
def make_branch(point_shape, output_shape):
    print("a branch of my own")
    return nn.Sequential(nn.Linear(point_shape[1], output_shape[1]), nn.Tanh())
def branch_loss(output, target):
    return (output - nn.functional.one_hot(target, 2)).square().mean()
"""


def test_the_branches_are_those_that_the_file_builds_and_the_lines_to_paste_name_them_and_their_loss(gradprobe):
    target = write(BLOCKS + BATCHES + CHOSEN)
    command = (target, *EVERY, "--iterations", 3, "--branch", f"{target}:make_branch")
    assert gradprobe("scan", *command, "--out", "scanned").exit_code == 0
    result = gradprobe("compare", *command, "--out", "compared")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("a branch of my own") == 3, "the points: act, blocks.0, blocks.1"
    for run in "scanned", "compared":
        saved = gp.load(run)
        code = "".join(step.code for step in steps("", saved.history, saved.placement, saved.comparison, run))
        assert "inputs=x, branch=make_branch)" in code
        assert ", branch_loss=branch_loss)\n" in code
        assert ", branch=make_branch, branch_loss=branch_loss))" in code, "the comparison to run"


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("dence", "expected one of auto, cnds, pooled, dense, native, token, shared, svm, or module:callable"),
        ("model.py:bild", "no attribute is called 'bild'; did you mean 'build'?"),
        ("model.py:batches", "expected a function (point_shape, output_shape) -> torch.nn.Module, got list"),
    ],
)
def test_of_a_branch_that_cannot_be_built_it_is_said_what_was_expected(gradprobe, kind, what):
    write(BLOCKS + BATCHES + "def build(point_shape, output_shape):\n    return None\n")
    result = gradprobe("compare", "model.py", *EVERY, "--iterations", 3, "--out", "run", "--branch", kind)
    assert result.exit_code == 2
    assert what in " ".join(result.stderr.split())


def test_a_metric_that_raises_is_told_before_anything_is_trained(gradprobe):
    write(NET + OTHER_NAMES + "def metric(output, target):\n    return output.no_such\n")
    result = gradprobe(*QUICK)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert errors[0].endswith(
        "the metric `metric` failed on a held-out batch: AttributeError: 'Tensor' object has no attribute "
        f"'no_such' (model.py, line {len((NET + OTHER_NAMES).splitlines()) + 4})"
    )
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("lossfn = nn.MSELoss()\n", "`lossfn` is not used; did you mean `loss_fn`?"),
        ("bce = nn.BCELoss()\n", "`bce` is not used; did you mean `loss`?"),
        ("def dice_loss(a, b):\n    return (a - b).mean()\n", "`dice_loss` is not used; did you mean `loss`?"),
        ("heldout = batches\n", "`heldout` is not used; did you mean `held_out`?"),
        ("test_dl = [(batches[0])]\n", "`test_dl` is not used; did you mean `test_loader`?"),
        ("def optim(net):\n    return torch.optim.SGD(net.parameters(), 1)\n", "did you mean `optimizer`?"),
        ("metrics = lambda y, t: 0\n", "`metrics` is not used; did you mean `metric`?"),
        ("loss = nn.CrossEntropyLoss()\ncriterion = nn.MSELoss()\n", "`criterion` is not used, because `loss` is"),
        # nothing of these is meant for anything
        ("n_batches, batch_size, loss_weight, val_losses, test_x = 3, 4, 0.5, [], torch.ones(3)\n", None),
        (
            "def train():\n    pass\ndef test_it():\n    pass\n"
            "def my_loss(a, b):\n    pass\nloss = lambda a, b: a.sum()\n",
            None,
        ),
        ("from torch.nn.functional import l1_loss\nfrom torch import optim\n", None),
    ],
)
def test_a_name_that_is_near_is_told(gradprobe, more, told):
    write(NET + BATCHES + more)
    result = gradprobe("scan", "model.py", "--iterations", 1, "--out", "run")
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if "not used" in line]
    assert len(said) == (told is not None)
    assert told is None or told in said[0]


def test_where_nothing_is_placed_the_arms_are_offered_and_the_command_works(gradprobe):
    write(NET + BATCHES + "held_out = batches\n")
    result = gradprobe(*QUICK, "--lr", 0.1, "--batch-size", 4, "--policy", "cnds")
    assert result.exit_code == 0, result.output
    assert gp.load("run").comparison.frame["iteration"].nunique() == 3
    offered = result.stdout.splitlines()[-1]
    assert offered == ("gradprobe compare model.py --iterations 6 --window 3 --batch-size 4 --lr 0.1 --seeds 3")
    again = gradprobe(*offered.split()[1:], "--out", "arms")
    assert again.exit_code == 0, again.output
    assert gp.load("arms").arms.arms[0].name == "none"
    assert gp.load("arms").arms.arms[-1].name == "branches"
    # and what comes next is a command that works as well
    step = gp.load("arms").arms.next_step
    if step is not None and step.lines.startswith("gradprobe "):
        assert step.lines in again.stdout
        assert "--lr 0.1" in step.lines
        assert gradprobe(*step.lines.split()[1:], "--out", "next").exit_code == 0
