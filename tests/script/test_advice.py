"""What is read from a script, and the lines to add to it, which do what they say."""

import ast
from pathlib import Path

import pytest
from support.script_command import SCRIPTS, inside, write_script

import gradprobe as gp
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.script.advice import advise
from gradprobe.script.source import Loss, Site, SourceLine, built_at, loss_at


def edited(source, advice):
    """Do to a script what the advice says."""
    lines, steps = source.splitlines(), advice[advice.index("What to add") :].splitlines()
    built = int(next(line for line in steps if "after line" in line).split()[2])
    replaced = int(next(line for line in steps if "in place of line" in line).split()[4])
    code = [line.strip() for line in steps if line.startswith("    ")]

    def indented(line, text):
        return " " * (len(lines[line - 1]) - len(lines[line - 1].lstrip())) + text

    lines[replaced - 1] = indented(replaced, code[2])
    lines.insert(built, indented(built, code[1]))
    return "\n".join([code[0], *lines])


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
    write_script(edited(source, result.stdout), "supervised.py")
    again = inside("--iterations", 3, "--out", "after", "supervised.py")
    assert again.exit_code == 0, (again.output, again.exception)
    before, after = gp.load("run").history.aggregate(), gp.load("after").history.aggregate()
    assert after["trunk.body.5.0"] > 100 * before["body.5.0"]


def test_a_change_that_cannot_be_moved_is_explained_in_words():
    write_script(
        CHANGED.replace("    loss =", "    out = F.log_softmax(out, -1)\n    loss =").replace(
            "F.log_softmax(out, -1), y", "out, y"
        )
    )
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    advice = inside("--iterations", 2, "train.py").stdout
    assert 'loss = gp.DeepSupervisionLoss(loss_fn, weight=0.3, schedule="constant")(model(x), y)' in advice
    assert "belongs in loss_fn" in advice


def test_a_model_and_an_optimizer_on_one_line_are_to_be_split():
    write_script(CHANGED.replace("(12)\noptimizer", "(12); optimizer"))
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    advice = inside("--iterations", 2, "train.py").stdout
    assert "split line 5 of train.py, `model = build(12)`, which builds the optimizer as well" in advice


@pytest.mark.parametrize("script", ["plain.py", "trainer.py"])
def test_the_lines_to_add_do_what_they_say(script):
    first = inside("--iterations", 3, "--out", "run", SCRIPTS / script)
    assert first.exit_code == 0, (first.output, first.exception)
    source = edited((SCRIPTS / script).read_text(), first.stdout)
    write_script(source, "supervised.py")
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    result = inside("--iterations", 3, "--out", "after", "supervised.py")
    assert result.exit_code == 0, (result.output, result.exception)
    before, after = gp.load("run").history.aggregate(), gp.load("after").history.aggregate()
    assert after["trunk.body.5.0"] > 100 * before["body.5.0"]


PLACED = Placement("by hand", ("a",), (Point("net.a", (8, 4), 0, ("net.a",)),), "", output_shape=(8, 2))


def test_advice_for_a_part_that_is_called_and_a_loss_that_is_not_clear():
    advice = advise(PLACED, Site("lit", part="net"), "runs/x")
    assert 'lit.net = gp.supervise(lit.net, ["a"], inputs=x)' in advice
    assert 'gp.DeepSupervisionLoss(loss_fn, weight=0.3, schedule="constant")(lit.net(x), y)' in advice


def test_advice_for_a_model_with_its_own_loss():
    loss = Loss(SourceLine("t.py", 3, "loss = outputs.loss"), None, ("outputs",))
    advice = advise(PLACED, Site("model", loss=loss), "runs/x")
    assert 'loss = gp.DeepSupervisionLoss(None, weight=0.3, schedule="constant")(outputs, labels)' in advice


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = m(x)\nloss = f(a, b)\nloss.backward()\nstep()", ("f", ("a", "b"), None)),
        ("loss = f(m(x), b)\nloss = loss / 4\nscaler.scale(loss).backward()\nstep()", ("f", ("m(x)", "b"), None)),
        ("a = m(x)\nloss = f(g(a), y)\nloss.backward()\nstep()", ("f", ("a", "y"), "lambda a, y: f(g(a), y)")),
        (
            "loss = f(g(m(x), out), y['y'])\nloss.backward()\nstep()",
            ("f", ("m(x)", "y['y']"), "lambda out_, y_: f(g(out_, out), y_)"),
        ),
        (
            "a = m(x)\nloss = f(a - a.max(), y)\nloss.backward()\nstep()",
            ("f", ("a", "y"), "lambda a, y: f(a - a.max(), y)"),
        ),
        ("loss = f(m(x) - m(x), y)\nloss.backward()\nstep()", ("f", (), None)),
        ("a = g(m(x))\nloss = f(a, b)\nloss.backward()\nstep()", ("f", (), None)),
        ("a = m(x)\na += 1\nloss = f(a, b)\nloss.backward()\nstep()", ("f", (), None)),
        ("a, state = m(x)\nloss = f(a, b)\nloss.backward()\nstep()", ("f", (), None)),
        ("a = m(x)\nfor a in a:\n    loss = f(a, b)\n    loss.backward()\nstep()", ("f", (), None)),
        ("a = m(x)\nloss = f(g(a), h(a))\nloss.backward()\nstep()", ("f", (), None)),
        ("loss = f(a, b)\nloss.backward()\nstep()", ("f", (), None)),
        ("loss = out.loss\naccelerator.backward(loss)\nstep()", (None, ("out",), None)),
        ("loss = f(a, b, weight=w)\nloss.backward()\nstep()", None),
        ("def other():\n    loss = f(a, b)\n    loss.backward()\nstep()", None),
        ("step()", None),
        ("not python at all (", None),
    ],
)
def test_where_the_loss_is_computed(source, expected):
    found = loss_at(source, "t.py", len(source.splitlines()), ["m"])
    assert (found and (found.function, found.arguments, found.joint)) == expected


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("model = Net()\nsgd", 1),
        ("model = Net(\n  1,\n)\nsgd", 3),
        ("model = Net()\nmodel = torch.compile(model)\nsgd", 1),
        ("def f():\n    model = 1\nmodel: Net = Net()\nsgd", 3),
        ("sgd\nmodel = Net()", None),
    ],
)
def test_where_the_model_is_built(source, line):
    before = source.splitlines().index("sgd") + 1
    found = built_at(source, "t.py", "model", before)
    assert (found and found.line) == line


@pytest.mark.parametrize("run", ['a"b', "a\\b", "a\nb", "a'b", "\x9b31m", "层"])
def test_the_path_of_a_run_is_quoted_in_code_to_paste(run):
    placement = Placement("by hand", ("a",), (Point('a"\n', (8, 4), 0, ("a",)),), "", output_shape=(8, 2))
    line = next(line for line in advise(placement, Site("model"), run).splitlines() if "gp.load" in line)
    call = ast.parse(line.strip()).body[0].value.args[1].value
    assert ast.literal_eval(call.args[0]) == run
    assert line.isprintable()
