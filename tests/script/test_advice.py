"""What is read from a script, and the lines to add to it, which do what they say."""

import ast
from pathlib import Path

import pytest
from support.pasting import pasted
from support.script_command import SCRIPTS, inside, write_script

import gradprobe as gp
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.script.advice.branches import advise
from gradprobe.script.advice.losses import loss_at
from gradprobe.script.advice.site import Site
from gradprobe.script.advice.source import SourceLine, built_at, first_statement, statements

CHANGED = """
import torch
import torch.nn.functional as F
from plain import batches, build
model = build(12)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for x, y in batches(4):
    optimizer.zero_grad()
    out = model(x)
    loss = F.nll_loss(F.log_softmax(out, -1), y)
    loss.backward()
    optimizer.step()
"""


NESTED = CHANGED.replace("out = model(x)", "pass").replace("(out, -1), y)", "(model(x), -1), y.long())")


@pytest.mark.parametrize("source", [CHANGED, NESTED])
def test_a_change_of_the_output_in_the_loss_call_moves_into_the_loss_function(source):
    write_script(source)
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    result = inside("--iterations", 3, "--out", "run", "train.py")
    assert pasted(result.stdout[result.stdout.index("What to add") :]) == 3
    again = inside("--iterations", 3, "--out", "after", "train.py")
    assert again.exit_code == 0, (again.output, again.exception)
    before, after = gp.load("run").history.aggregate(), gp.load("after").history.aggregate()
    assert after["trunk.body.5.0"] > 100 * before["body.5.0"]


def test_what_cannot_be_told_is_explained_in_words():
    write_script(CHANGED.replace("    loss =", "    out -= out.mean()\n    loss ="))
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    advice = inside("--iterations", 2, "train.py").stdout
    advice = advice[advice.index("What to add") :]
    assert 'gp.DeepSupervisionLoss(loss_fn, weight=0.3, schedule="constant")(model(x), y)' in advice
    assert "belongs in loss_fn" in advice
    assert "in place of" not in advice


def test_a_model_and_an_optimizer_on_one_line_are_to_be_split():
    write_script(CHANGED.replace("(12)\noptimizer", "(12); optimizer"))
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    advice = inside("--iterations", 2, "train.py").stdout
    assert "Split line 5 of train.py, `model = build(12)`, which builds the optimizer as well" in advice


PLACED = Placement("by hand", ("a",), (Point("net.a", (8, 4), 0, ("net.a",)),), "", output_shape=(8, 2))


def test_advice_for_a_part_that_is_called_and_a_loss_that_is_not_clear():
    advice = advise(PLACED, Site("lit", SourceLine("t.py", 3, "lit = Lit()"), part="net"), "runs/x")
    assert 'lit.net = gp.supervise(lit.net, gp.load("runs/x").placement.within("net"))' in advice
    assert 'gp.DeepSupervisionLoss(loss_fn, weight=0.3, schedule="constant")(lit.net(x), y)' in advice
    assert PLACED.within("net").points == (Point("a", (8, 4), 0, ("a",)),)


END = "loss.backward()\nstep()"
PLAIN = 'gp.DeepSupervisionLoss({}, weight=0.3, schedule="constant")'


@pytest.mark.parametrize(
    ("source", "function", "target", "lines"),
    [
        ("a = m(x)\nloss = f(a, b)\n" + END, "f", "b", 1),
        ("loss = f(m(x), b)\nloss = loss / 4\nscaler.scale(loss).backward()\nstep()", "f", "b", 1),
        ("loss = f(m(x), b) / 4\n" + END, "f", "b", 1),
        ("loss = f(m(x), b) + 0.1 * penalty\n" + END, "f", "b", 1),
        ("a = m(x)\nloss = f(g(a), y)\n" + END, "lambda a, y: f(g(a), y)", "y", 1),
        ("loss = f(g(m(x), out), y['y'])\n" + END, "lambda out_, y_: f(g(out_, out), y_)", "y['y']", 1),
        ("a = m(x)\nloss = f(a - a.max(), y)\n" + END, "lambda a, y: f(a - a.max(), y)", "y", 1),
        ("a = g(m(x))\nloss = f(a, b)\n" + END, "lambda out, b: f(g(out), b)", "b", 2),
        ("a = m(x)\na = g(a)\nloss = f(a, b)\n" + END, "lambda out, b: f(g(out), b)", "b", 2),
        ("a, state = m(x)\nloss = f(a, b)\n" + END, "lambda out, b: f(out[0], b)", "b", 2),
        ("a = m(x)\nloss = f(a, b)\nprint(a.argmax())\n" + END, "f", "b", 2),
        ("loss = f(m(x), b, weight=w)\n" + END, "lambda out, b: f(out, b, weight=w)", "b", 1),
        ("m(x).square().mean().backward()\nstep()", "lambda out, y: out.square().mean()", "None", 1),
        ("((m(x) - y) ** 2).mean().backward()\nstep()", "lambda out, y: ((out - y) ** 2).mean()", "y", 1),
        ("out = m(**batch)\nloss = out.loss\naccelerator.backward(loss)\nstep()", None, "batch['labels']", 1),
        ("logits, loss = m(x, y)\n" + END, None, "y", 2),
        ("fake = m(z)\nd = f(k(fake.detach()), y)\nd.backward()\nloss = f(k(fake), t)\n" + END,
         "lambda fake, t: f(k(fake), t)", "t", 2),
        ("loss = f(m(x), p) + f(m(z), q)\n" + END, "f", "p", 1),
    ],
)  # fmt: skip
def test_where_the_loss_is_computed(source, function, target, lines):
    step = len(source.splitlines())
    loss = loss_at(list(statements(source, step)), "t.py", ["m"], step)
    assert (loss.function, loss.target) == (function, target)
    assert len(loss.edits) == lines
    assert PLAIN.format(function) in loss.edits[-1].code[-1]
    for edit in loss.edits:
        for line in edit.code:
            ast.parse(line)


@pytest.mark.parametrize(
    "source",
    [
        "loss = f(m(x) - m(x), y)\n" + END,
        "a = m(x)\na += 1\nloss = f(a, b)\n" + END,
        "a = m(x)\nfor a in a:\n    loss = f(a, b)\n    loss.backward()\nstep()",
        "a = m(x)\nif late:\n    a = g(a)\nloss = f(a, b)\n" + END,
        "loss = f(a, b)\n" + END,
        "def other():\n    loss = f(m(a), b)\n    loss.backward()\nstep()",
        "step()",
        "not python at all (",
    ],
)
def test_where_it_cannot_be_told(source):
    step = len(source.splitlines())
    assert loss_at(list(statements(source, step)), "t.py", ["m"], step) is None


IN_IF = "if a:\n    model = Net()\nelse:\n    model = Other()\nmodel.to(d)\nsgd"


@pytest.mark.parametrize(
    ("source", "made", "end"),
    [
        ("model = Net()\nsgd", None, 1),
        ("model = Net(\n  1,\n)\nsgd", None, 3),
        ("model = Net()\nmodel = torch.compile(model)\nsgd", None, 1),
        ("model = Net()\nmodel = model.to(d)\nwrapped = DDP(model)\nmodel = wrapped\nsgd", None, 2),
        ("model = Net()\nif big:\n    model.fc = nn.Linear(1, 1)\n    print()\nsgd", 1, 4),
        ("def f():\n    model = 1\nmodel: Net = Net()\nsgd", None, 3),
        ("g, model = build()\nsgd", None, 1),
        (IN_IF, 2, 2),
        (IN_IF, 4, 4),
        (IN_IF, None, None),
        ("sgd\nmodel = Net()", None, None),
    ],
)
def test_where_the_model_is_complete(source, made, end):
    before = source.splitlines().index("sgd") + 1
    found = built_at(source, "t.py", "model", before, made)
    assert (found and found[0].end) == end


def test_imports_go_to_the_top():
    assert first_statement('"""What."""\nfrom __future__ import a\n@d\ndef f(): pass', "t.py").line == 3
    assert first_statement("(", "t.py") is None


@pytest.mark.parametrize("run", ['a"b', "a\\b", "a\nb", "a'b", "\x9b31m", "层"])
def test_the_path_of_a_run_is_quoted_in_code_to_paste(run):
    placement = Placement("by hand", ("a",), (Point('a"\n', (8, 4), 0, ("a",)),), "", output_shape=(8, 2))
    line = next(line for line in advise(placement, Site("model"), run).splitlines() if "gp.load(" in line)
    call = ast.parse(line.strip()).body[0].value.args[1].value
    assert ast.literal_eval(call.args[0]) == run
    assert line.isprintable()
