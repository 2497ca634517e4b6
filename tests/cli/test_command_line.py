"""Wrong usage, targets that fail, the help, and the command as a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import BATCHES, HEAD, NET, write

import gradprobe as gp
from gradprobe.cli.commands import main

USAGE = {
    "a missing file": ("", ["scan", "absent.py"], "absent.py: no such file; there is model.py"),
    "a missing module": ("", ["scan", "absent.module"], "no such file or module"),
    "no model": ("x = 1\n", ["scan", "model.py"], "has no model: expected `model` or `build_model()`"),
    "several candidates": (
        NET + "class Other(Net):\n    pass\n",
        ["scan", "model.py"],
        "name one of model.py:Net, model.py:Other",
    ),
    "a model that needs arguments": (
        "class Net(nn.Module):\n    def __init__(self, width, depth=3):\n        super().__init__()\n",
        ["scan", "model.py"],
        "Net needs width. Define `build_model()`",
    ),
    "a factory that needs arguments": (
        "def build_model(width):\n    return nn.Linear(width, 2)\n",
        ["scan", "model.py"],
        "`build_model` needs width",
    ),
    "a factory of something else": ("def build_model():\n    return 3\n", ["scan", "model.py"], "got int"),
    "a model that is none": ("model = 3\n", ["scan", "model.py"], "`model` is no model"),
    "an attribute that is missing": (
        NET,
        ["scan", "model.py:Nt"],
        "no attribute is called 'Nt'; did you mean 'Net'",
    ),
    "no data": (NET, ["scan", "model.py"], "define `batches` or `loader`"),
    "no iterations": (NET + BATCHES, ["scan", "model.py", "--iterations", "0"], "0 is not in the range x>=1"),
    "no such policy": (NET + BATCHES, ["scan", "model.py", "--policy", "best"], "is not one of"),
    "a rule of trials again": (NET + BATCHES, ["scan", "model.py", "--policy", "auto", "--repeat"], "has none"),
    "a file for a folder": (NET + BATCHES, ["scan", "model.py", "--out", "model.py"], "is a file"),
    "a folder below a file": (NET + BATCHES, ["scan", "model.py", "--out", "model.py/run"], "is a file"),
    "a folder of something else": (NET + BATCHES, ["scan", "model.py", "--out", "."], "not empty and not a run"),
    "a missing npz": (NET, ["scan", "model.py", "--data", "no.npz"], "no.npz"),
    "nonsense for data": (
        NET,
        ["scan", "model.py", "--data", "mnist"],
        "expected digits, FILE.npz or module:callable",
    ),
    "nonsense for a size": (NET, ["scan", "model.py", "--input-size", "3,a"], "whole numbers such as 3,224,224"),
    "an optimizer that is none": (
        NET + BATCHES + "optimizer = 0.1\n",
        ["scan", "model.py"],
        "expected `optimizer` to be a function model -> torch.optim.Optimizer, or an optimizer of the model",
    ),
    "a loss of branches that is none": (
        NET + BATCHES + "branch_loss = 0.1\n",
        ["scan", "model.py"],
        "expected `branch_loss` to be a function (output, target) -> scalar, got float",
    ),
    "an optimizer of another model": (
        NET + BATCHES + "model = Net()\noptimizer = torch.optim.SGD(Net().parameters(), 0.1)\n",
        ["scan", "model.py"],
        "of which 4 are none of the model's",
    ),
    "an optimizer of one model where each seed builds another": (
        NET + BATCHES + "build_model = Net\noptimizer = torch.optim.SGD(Net().parameters(), 0.1)\n",
        ["compare", "model.py"],
        "the model is built anew for each seed",
    ),
    "a metric without held-out data": (
        NET + BATCHES,
        ["compare", "model.py", "--metric", "dice"],
        "a metric needs held-out data: define `held_out`",
    ),
    "a metric of another name": (
        NET + BATCHES + "held_out, metric = batches, 'dise'\n",
        ["compare", "model.py"],
        "did you mean 'dice'",
    ),
    "batches by another name": (
        NET + BATCHES.replace("batches", "train_dl"),
        ["scan", "model.py"],
        "Is it `train_dl`? Then call that",
    ),
    "an infinite threshold": ("", ["scan", "model.py", "--threshold", "inf"], "expected a finite number, got inf"),
    "figures into a file": ("", ["plot", "absent", "--out", "model.py"], "is a file"),
    "a page over a folder": ("", ["report", "absent", "--out", "."], "is a directory"),
    "a run that is none": ("", ["place", "absent"], "no run at absent"),
    "a plot of a run that is none": ("", ["plot", "absent"], "no run at absent"),
}


FAILED = {
    "it raises at import": ("x = 1\nraise ValueError('of mine')\n", "ValueError: of mine", "line 4"),
    "a syntax error": ("def f(:\n", "SyntaxError", "model.py"),
    "it exits at import": ("import sys\nsys.exit(3)\n", "called sys.exit(3)", "__main__"),
    "it raises when built": (
        "def build_model():\n    raise RuntimeError('no weights')\n",
        "RuntimeError: no weights",
        "line 4",
    ),
    "a batch that does not fit": (
        NET + "batches = [(torch.ones(2, 7), torch.tensor([0, 1]))]\n",
        "cannot be multiplied (2x7 and 3x5)",
        "inputs of shape (2, 7)",
    ),
    "a loss that is no scalar": (NET + BATCHES + "loss = lambda y, t: y\n", "(4, 2)", "take its .mean()"),
    "a loss of one": (NET + BATCHES + "loss = lambda y: y.sum()\n", "cannot be called with two", "<lambda>(y)"),
    "a loss that is a class": (NET + BATCHES + "loss = nn.MSELoss\n", "the class MSELoss", "pass MSELoss()"),
    "a class too many": (
        NET + "batches = [(torch.ones(2, 3), torch.tensor([0, 7]))]\n",
        "Target 7 is out of bounds",
        "(2, 2) has the classes 0 to 1",
    ),
    "batches from nothing": (NET + "def batches():\n    return 3\n", "the function batches=", "got int"),
    "a loss that raises": (
        NET + BATCHES + "def loss(y, t):\n    return y.no_such_thing\n",
        "no attribute 'no_such_thing'",
        "in loss",
    ),
    "no default loss": (
        NET + "batches = [(torch.ones(2, 3), torch.ones(2, 9))]\n",
        "no default loss fits",
        "(2, 9)",
    ),
    "a loss that is NaN at iteration 3": (
        NET
        + BATCHES
        + "count = iter(range(99))\n"
        + "def loss(y, t):\n    return y.sum() * (float('nan') if next(count) == 3 else 1)\n",
        "the loss became nan at iteration 3",
        "the record ends there",
    ),
    "no parameters": ("model = nn.ReLU()\n" + BATCHES, "ReLU has no parameters", ""),
    "all frozen": (NET + "model = Net().requires_grad_(False)\n" + BATCHES, "frozen", "unfreeze at least one"),
    "no batches": (NET + "batches = []\n", "at least one batch", ""),
    "a lazy model": ("model = nn.LazyLinear(2)\n" + BATCHES, "run one batch through it first", ""),
    "a target that is no class": (
        NET + BATCHES.replace("randint(2,", "randint(7, 8,"),
        "out of bounds",
        "inputs of shape (4, 3)",
    ),
    "batches that are none": (NET + "batches = [torch.ones(4, 3)]\n", "(inputs, target) or a dict", "(4, 3)"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_ends_with_a_sentence_and_exit_code_2(case, gradprobe, here):
    text, arguments, message = USAGE[case]
    write(text)
    before = sorted(here.rglob("*"))
    result = gradprobe(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert [path for path in sorted(here.rglob("*")) if "pycache" not in str(path)] == before


@pytest.mark.parametrize("command", ["scan", "compare"])
@pytest.mark.parametrize("case", FAILED)
def test_a_target_that_fails_ends_with_its_own_error_and_exit_code_1(case, command, gradprobe, here):
    text, message, more = FAILED[case]
    write(text)
    result = gradprobe(command, "model.py", "--out", "run", "--iterations", 8)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert more in result.stderr
    assert "gradprobe/" not in result.stderr.replace("gradprobe/test", "")
    left = {path.name for path in here.iterdir()} - {"model.py", "__pycache__"}
    if "NaN" in case:
        history = gp.load("run").history
        assert history.iterations == 4
        assert not history.conditions["complete"]
    else:
        assert not left


@pytest.mark.slow
def test_neighbours_that_are_called_like_libraries(tmp_path):
    for name in ("matplotlib", "rich", "html", "PIL", "random"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "model.py").write_text(HEAD + NET + BATCHES)
    # as the installed script does: the folder is not on the import path
    code = "from gradprobe.cli import main; main()"
    command = [sys.executable, "-c", code, "scan", str(tmp_path / "model.py"), "--iterations", "2", "--out", "run"]
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "elsewhere", check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "run" / "iterations.png").is_file()


def test_an_unwritable_folder_is_usage(gradprobe):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    Path("locked").mkdir(mode=0o500)
    write(NET + BATCHES)
    assert gradprobe("scan", "model.py", "--out", "locked/run").exit_code == 2


def test_help_needs_no_heavy_import(here):
    heavy = ("torch", "pandas", "numpy", "matplotlib", "jinja2", "rich")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy})); from gradprobe.cli import main; main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    for command in main.commands:
        assert command in done.stdout


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_explains_itself(command, gradprobe):
    result = gradprobe(command, "--help")
    assert result.exit_code == 0
    described = [line for line in result.output.splitlines() if line.strip().startswith("--")]
    assert all(
        parameter.help for parameter in main.commands[command].params if parameter.param_type_name == "option"
    )
    assert described
