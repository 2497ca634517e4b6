import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from support.oracle import assert_agrees, record
from torch import nn

import gradprobe as gp
from gradprobe.cli.commands import main

HEAD = "import torch\nfrom torch import nn\n"
BATCHES = """
generator = torch.Generator().manual_seed(0)
batches = [(torch.randn(4, 3, generator=generator), torch.randint(2, (4,), generator=generator)) for _ in range(3)]
"""
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)
    def forward(self, x):
        return self.second(self.first(x).relu())
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory; what a target puts on the import path is taken off again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def gradprobe(here):
    """Runs a command in this process: gives back the result, its standard output and error apart."""

    def run(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


def write(text, name="model.py"):
    Path(name).write_text(HEAD + text)
    return name


STYLES = {
    "a class": NET,
    "an instance": NET + "model = Net()\n",
    "an instance by another name": NET + "the_net = Net()\n",
    "a class called model": NET + "model = Net\n",
    "a factory": NET + "def build_model():\n    return Net()\n",
    "a factory with defaults": NET + "def build_model(width=5, *parts, **more):\n    return Net()\n",
    "a class beside one that needs arguments": NET
    + "class Block(nn.Module):\n    def __init__(self, size):\n        super().__init__()\n",
    "a loss instance beside it": NET + "criterion = nn.CrossEntropyLoss()\nnet = Net()\n",
    "a loss function": NET + "def loss(output, target):\n    return nn.functional.cross_entropy(output, target)\n",
}


def recorded(seed, iterations):
    """What a loop that has nothing of gradprobe in it comes to."""
    torch.manual_seed(seed)
    space = {"__name__": "somewhere"}
    exec(HEAD + NET + BATCHES, space)
    return record(space["Net"](), space["batches"], nn.functional.cross_entropy, iterations)


@pytest.mark.parametrize("style", STYLES)
def test_targets_of_every_style_agree_with_an_independent_loop(style, gradprobe):
    write("torch.manual_seed(0)\n" + STYLES[style] + BATCHES)
    result = gradprobe("scan", "model.py", "--iterations", 5, "--out", "run")
    assert result.exit_code == 0, result.output
    assert_agrees(gp.load("run").history, recorded(seed=0, iterations=5))


def test_a_script_with_the_same_seed_has_the_same_numbers(gradprobe):
    write(NET + BATCHES)
    assert gradprobe("scan", "model.py", "--seed", 7, "--iterations", 3, "--out", "run").exit_code == 0
    assert_agrees(gp.load("run").history, recorded(seed=7, iterations=3))


def test_attributes_and_modules(gradprobe):
    write(NET + "class Other(Net):\n    pass\n" + BATCHES)
    assert gradprobe("scan", "model.py:Other", "--iterations", 1, "--out", "one").exit_code == 0
    Path("package").mkdir()
    write(NET + BATCHES, "package/target.py")
    assert gradprobe("scan", "package.target:Net", "--iterations", 1, "--out", "two").exit_code == 0
    assert gp.load("two").history.conditions["target"] == "package.target:Net"


@pytest.mark.parametrize(
    "data",
    [
        "def batches():\n    for _ in range(2):\n        yield torch.ones(4, 3), torch.zeros(4).long()\n",
        "loader = torch.utils.data.DataLoader([(torch.ones(3), 1)] * 8, batch_size=4)\n",
        "batches = [({'x': torch.ones(4, 3)}, torch.zeros(4, dtype=torch.long))]\n",
        "batches = [((torch.ones(4, 3),), torch.ones(4, 2))]\n",  # same shape as the output: mean squared error
    ],
)
def test_data_of_every_style(data, gradprobe):
    write(NET + data)
    result = gradprobe("scan", "model.py", "--iterations", 5, "--out", "run")
    assert result.exit_code == 0, result.output
    assert gp.load("run").history.iterations == 5


def test_a_model_that_computes_its_own_loss_from_a_dict(gradprobe):
    write(
        """
class Output(dict):
    loss = property(lambda self: self["loss"])
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
    def forward(self, x, labels=None):
        logits = self.fc(x)
        return Output(loss=nn.functional.cross_entropy(logits, labels), logits=logits)
batches = [dict(x=torch.ones(4, 3), labels=torch.tensor([0, 1, 1, 1]))]
"""
    )
    assert gradprobe("scan", "model.py", "--iterations", 2, "--out", "run").exit_code == 0


def test_data_from_the_command_line(gradprobe):
    write(NET)
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.normal(size=(20, 3)).astype("float32"), y=rng.integers(2, size=20))
    result = gradprobe(
        "scan", "model.py", "--data", "data.npz", "--batch-size", 8, "--iterations", 3, "--out", "npz"
    )
    assert result.exit_code == 0, result.output
    assert gp.load("npz").history.conditions["batch_size"] == 8
    write("def twos():\n    return [(torch.ones(2, 3), torch.tensor([0, 1]))]\n", "mine.py")
    assert gradprobe("scan", "model.py", "--data", "mine:twos", "--out", "mine", "--iterations", 2).exit_code == 0
    result = gradprobe(
        "scan", "model.py", "--input-size", "3", "--classes", 2, "--iterations", 2, "--out", "synthetic"
    )
    assert "synthetic data" in result.output
    assert "synthetic data" in str(gp.load("synthetic").history)


def test_digits_take_the_shape_that_the_first_layer_wants(gradprobe):
    write(
        "model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))\n"
        "model(torch.ones(1, 3, 8, 8))\n"
    )
    result = gradprobe("scan", "model.py", "--data", "digits", "--iterations", 2, "--out", "run")
    assert result.exit_code == 0, result.output
    assert "digits" in gp.load("run").history.conditions["data"]


def test_the_three_formats_say_the_same(gradprobe):
    write(NET + BATCHES)
    outputs = {
        form: gradprobe("scan", "model.py", "--iterations", 3, "--format", form, "--out", form)
        for form in ("table", "json", "csv")
    }
    as_json = json.loads(outputs["json"].stdout)
    as_csv = pd.read_csv(io.StringIO(outputs["csv"].stdout))
    assert [row["layer"] for row in as_json["layers"]] == as_csv["layer"].tolist() == ["first", "second"]
    assert [row["output"] for row in as_json["layers"]] == as_csv["output"].tolist()
    assert "first" in outputs["table"].stdout
    assert "mean |dL/d output|" in outputs["table"].stdout
    assert as_json["placement"]["points"] == []


def test_what_the_users_code_prints_does_not_spoil_the_result(gradprobe):
    write("print('building')\n" + NET + BATCHES)
    result = gradprobe("scan", "model.py", "--iterations", 1, "--format", "json", "--out", "run")
    json.loads(result.stdout)
    assert "building" in result.stderr


def test_names_are_text_not_markup(gradprobe):
    write("model = nn.Sequential()\nmodel.add_module('[red]x[/red]', nn.Linear(3, 2))\n" + BATCHES)
    result = gradprobe("scan", "model.py", "--iterations", 1, "--out", "run")
    assert "[red]x[/red]" in result.stdout


DEEP = (
    "model = nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(9)], nn.Linear(3, 2))\n"
    + ("for p in model[:-1].parameters():\n    nn.init.normal_(p, std=0.01)\n")
)


def test_place_and_plot_need_only_the_folder(gradprobe):
    write(DEEP + BATCHES)
    assert gradprobe("scan", "model.py", "--iterations", 3, "--out", "run").exit_code == 0
    Path("model.py").unlink()
    result = gradprobe("place", "run", "--threshold", "1e-5", "--format", "json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["placement"]["points"]) == 1
    assert gradprobe("place", "run", "--policy", "relative").exit_code == 0
    saved = gp.load("run").placement
    assert gradprobe("place", "run", "--threshold", "1e-30", "--save").exit_code == 0
    assert gp.load("run").placement != saved
    before = Path("run/iterations.png").read_bytes()
    Path("run/iterations.png").unlink()
    assert gradprobe("plot", "run").exit_code == 0
    assert Path("run/iterations.png").read_bytes() == before
    result = gradprobe("plot", "run", "run", "--out", "figures", "--suffix", "svg")
    assert result.exit_code == 0, result.output
    two_panels = f'width="{2 * 7.4 * 72:g}pt"'
    assert two_panels in Path("figures/iterations.svg").read_text(), "one run given twice is drawn twice"


def test_compare_writes_the_two_figures_and_the_verdict(gradprobe):
    write(DEEP + BATCHES + "held_out = batches\n")
    result = gradprobe("compare", "model.py", "--iterations", 12, "--window", 5, "--seeds", 2, "--out", "run")
    assert result.exit_code == 0, result.output
    comparison = gp.load("run").comparison
    assert str(comparison).split(":")[0] in result.stdout.replace("\n", " ")
    assert Path("run/comparison.png").is_file()
    assert Path("run/paper.png").is_file()
    drawn = gradprobe("plot", "run", "--size", "column", "--suffix", "pdf", "--out", "print")
    assert drawn.exit_code == 0, drawn.output
    assert b"/MediaBox [ 0 0 244.8 " in Path("print/paper.pdf").read_bytes(), "3.4 inches"
    assert b"/MediaBox [ 0 0 504 " in Path("print/comparison.pdf").read_bytes(), "five panels need 7"
    assert comparison.plain.iterations == comparison.supervised.iterations == 5
    assert "accuracy" in result.stdout


def test_the_figures_mark_the_threshold_that_decided(gradprobe, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "gradprobe.show.plots.files.plot_profile", lambda *_, **options: drawn.update(options) or 1 / 0
    )
    write(DEEP + BATCHES)
    gradprobe("scan", "model.py", "--iterations", 2, "--threshold", "3e-4", "--of", "weight", "--out", "run")
    assert drawn["threshold"] == 3e-4
    assert drawn["of"] == "weight"


def test_scan_can_repeat_the_rule(gradprobe):
    write(DEEP + BATCHES)
    result = gradprobe("scan", "model.py", "--iterations", 2, "--repeat", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "repeated" in gp.load("run").placement.policy


@pytest.mark.parametrize("command", ["scan", "compare"])
def test_auto_decides_by_trials(gradprobe, command):
    write(DEEP + BATCHES)
    options = ["--window", 2] if command == "compare" else []
    result = gradprobe(command, "model.py", "--iterations", 2, *options, "--policy", "auto", "--out", "run")
    assert result.exit_code == 0, result.output
    placement = gp.load("run").placement
    assert placement.policy == "auto, by short trials"
    assert placement.reason.split(":")[0] in result.stdout.replace("\n", " ")


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
    "trials of a script": ("", ["run", "--policy", "auto", "model.py"], "'auto' is not one of"),
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
    "an optimizer instance": (
        NET + BATCHES + "model = Net()\noptimizer = torch.optim.SGD(model.parameters(), 0.1)\n",
        ["scan", "model.py"],
        "expected `optimizer` to be a function",
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
    "a loss that is a class": (NET + BATCHES + "loss = nn.MSELoss\n", "the class MSELoss", "give MSELoss()"),
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


def test_an_existing_run_is_not_overwritten_without_force(gradprobe):
    write(NET + BATCHES)
    scan = ["scan", "model.py", "--iterations", "1", "--out", "run"]
    assert gradprobe(*scan).exit_code == 0
    before = Path("run/run.json").read_bytes()
    result = gradprobe(*scan)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert Path("run/run.json").read_bytes() == before
    assert gradprobe(*scan, "--force", "--iterations", "2").exit_code == 0
    assert gp.load("run").history.iterations == 2


def test_without_out_every_run_has_a_folder_of_its_own(gradprobe):
    write(NET + BATCHES)
    for _ in range(2):
        assert gradprobe("scan", "model.py", "--iterations", 1).exit_code == 0
    assert sorted(path.name for path in Path("gradprobe_runs").iterdir()) == ["model", "model-2"]


@pytest.mark.parametrize(
    ("text", "kind", "layer"),
    [
        (DEEP + BATCHES, "vanishing", "0.0"),
        (NET + BATCHES + "loss = lambda y, t: 1e9 * y.square().sum()\n", "exploding", "first"),
        (NET + BATCHES + "loss = lambda y, t: y.sum() * float('inf')\n", "nonfinite", "first"),
        (
            NET + BATCHES + "model = Net()\nmodel.spare = nn.Linear(2, 2)\n",
            "unreached",
            "spare",
        ),
    ],
)
def test_fail_on_ends_with_exit_code_3(text, kind, layer, gradprobe):
    write(text)
    result = gradprobe("scan", "model.py", "--iterations", 2, "--fail-on", kind, "--out", "run")
    assert result.exit_code == 3, result.output
    assert f"found {kind}" in result.stderr
    assert layer in result.stderr
    assert Path("run/run.json").is_file()
    if kind != "nonfinite":
        assert gradprobe("scan", "model.py", "--iterations", 2, "--out", "other").exit_code == 0


def test_a_frozen_layer_is_not_unreached_by_accident(gradprobe):
    write(NET + BATCHES + "model = Net()\nmodel.first.requires_grad_(False)\n")
    assert gradprobe("scan", "model.py", "--iterations", 2, "--fail-on", "unreached", "--out", "r").exit_code == 0


def spawn(*arguments, **options):
    command = [sys.executable, "-m", "gradprobe", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_ctrl_c_writes_what_was_recorded(here):
    slow = "    open('going', 'a').write('x')\n    time.sleep(0.05)\n    return y.sum()\n"
    write(NET + BATCHES + "import time\ndef loss(y, t):\n" + slow)
    process = spawn("scan", "model.py", "--out", "run", "--iterations", "2000")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (Path("going").exists() and len(Path("going").read_text()) > 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    history = gp.load("run").history
    assert 0 < history.iterations < 2000
    assert not history.conditions["complete"]
    assert "interrupted after" in history.conditions["stopped"]


def test_ctrl_c_in_the_first_iteration_writes_nothing(gradprobe):
    write(NET + BATCHES + "def loss(y, t):\n    raise KeyboardInterrupt\n")
    result = gradprobe("scan", "model.py", "--out", "run")
    assert result.exit_code == 130
    assert not Path("run").exists()


@pytest.mark.parametrize("arguments", [["compare"], ["scan", "--repeat", "--threshold", "1e-2"]])
def test_ctrl_c_later_keeps_the_first_record(arguments, gradprobe):
    stop = "count = iter(range(99))\ndef loss(y, t):\n    if next(count) == 17:\n        raise KeyboardInterrupt\n"
    write(DEEP + BATCHES + stop + "    return nn.functional.cross_entropy(y, t)\n")
    result = gradprobe(arguments[0], "model.py", *arguments[1:], "--iterations", 12, "--out", "run")
    assert result.exit_code == 130, result.output
    assert "what was recorded is kept" in result.stderr
    assert gp.load("run").history.iterations == 12


@pytest.mark.slow
def test_neighbours_that_are_called_like_libraries(tmp_path):
    for name in ("matplotlib", "rich", "html", "PIL", "random"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "model.py").write_text(HEAD + NET + BATCHES)
    code = "from gradprobe.cli.commands import main; main()"  # as the installed script does: the folder is not on the path
    command = [sys.executable, "-c", code, "scan", str(tmp_path / "model.py"), "--iterations", "2", "--out", "run"]
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "elsewhere", check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "run" / "iterations.png").is_file()


def test_an_unwritable_folder_is_usage(here):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    Path("locked").mkdir(mode=0o500)
    write(NET + BATCHES)
    process = spawn("scan", "model.py", "--out", "locked/run")
    assert process.wait() == 2


def test_help_does_not_wait_for_torch(here):
    code = "import sys; sys.modules['torch'] = None; from gradprobe.cli.commands import main; main(['--help'])"
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


@pytest.mark.slow
def test_the_demo_shows_what_the_paper_says(gradprobe):
    result = gradprobe("demo", "--seeds", 1, "--out", "run")
    assert result.exit_code == 0, result.output
    run = gp.load("run")
    flagged = run.placement.flagged
    assert flagged == tuple(f"conv{i + 1}" for i in range(len(flagged)))
    assert len(flagged) >= 2
    assert [point.name for point in run.placement.points] == [f"relu{len(flagged)}"]
    assert (run.comparison.gradient["ratio"] >= 10).all()
    assert Path("run/comparison.png").is_file()


BLOCKS = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
    def forward(self, x):
        return x + self.down(self.up(x).relu())
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.act, self.gone = nn.Linear(3, 4), nn.ReLU(), nn.Linear(1, 1)
        self.blocks, self.fc = nn.Sequential(Block(), Block()), nn.Linear(4, 2)
    def forward(self, x):
        return self.fc(self.blocks(self.act(self.stem(x))))
model = Net()
"""


def test_points_are_shown_as_a_tree(gradprobe):
    result = gradprobe("points", write(BLOCKS + BATCHES))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "3 points serve 5 layers; 2 layers have none",
        "├── stem Linear → act",
        "├── act ReLU ● (4, 4)",
        "├── gone Linear no point: never called as a module",
        "├── blocks Sequential",
        "│   ├── 0 Block ● (4, 4)",
        "│   │   ├── up Linear",
        "│   │   └── down Linear",
        "│   └── 1 Block ● (4, 4)",
        "│       ├── up Linear",
        "│       └── down Linear",
        "└── fc Linear no point: it makes the network's output",
    ]


DEEP_BLOCKS = """
class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(300))
        self.gone, self.fc = nn.Linear(1, 1), nn.Linear(3, 2)
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.fc(x)
model = Deep()
"""


def test_the_points_of_a_deep_network_are_an_excerpt_until_all_are_asked_for(gradprobe):
    target = write(DEEP_BLOCKS + BATCHES)
    lines = gradprobe("points", target).stdout.splitlines()
    # 603 modules: blocks, 300 with one layer each, gone and fc; 18 blocks are 36 lines, 19 would be 38 of 42
    assert len(lines) == 1 + 1 + 36 + 1 + 2 + 1
    assert lines[0] == "300 points serve 300 layers; 2 layers have none"
    shown = [int(found[1]) for line in lines if (found := re.search(r"(\d+) Sequential", line))]
    assert shown == [*range(9), *range(291, 300)]
    assert sum("… 282 more" in line for line in lines) == 1
    assert "fc Linear no point: it makes the network's output" in lines[-2]
    assert lines[-1] == "564 of 603 modules are not shown: --all shows them, and --format csv every layer"
    every = gradprobe("points", target, "--all").stdout.splitlines()
    assert len(every) == 1 + 603
    assert "more" not in every[-1]


def test_an_excerpt_says_how_many_without_a_point_are_left_out(gradprobe):
    unused = "model.add_module('gone', nn.ModuleList(nn.Linear(1, 1) for _ in range(90)))\n"
    lines = gradprobe("points", write(DEEP_BLOCKS + unused + BATCHES)).stdout.splitlines()
    [said] = [line for line in lines if "without a point" in line]
    shown = sum("never called" in line for line in lines)
    assert f"… {90 - shown} more, {90 - shown} layers in them without a point" in said


def test_points_for_a_program(gradprobe):
    target = write(BLOCKS + BATCHES)
    record = json.loads(gradprobe("points", target, "--format", "json").stdout)
    assert record["points"][1] == {
        "name": "blocks.0",
        "shape": [4, 4],
        "depth": 3,
        "layers": ["blocks.0.up", "blocks.0.down"],
        "channels": None,
    }
    assert list(record["unserved"]) == ["gone", "fc"]
    rows = pd.read_csv(io.StringIO(gradprobe("points", target, "--format", "csv").stdout), keep_default_na=False)
    assert rows["layer"].tolist() == [
        "stem",
        "blocks.0.up",
        "blocks.0.down",
        "blocks.1.up",
        "blocks.1.down",
        "gone",
        "fc",
    ]
    assert rows["point"].tolist() == ["act", *["blocks.0"] * 2, *["blocks.1"] * 2, "", ""]


def test_points_say_what_the_target_raised(gradprobe):
    result = gradprobe("points", write(NET + "batches = [(torch.ones(2, 7), torch.tensor([0, 1]))]"))
    assert result.exit_code == 1
    assert "cannot be multiplied (2x7 and 3x5)" in result.stderr


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


VANISHING = "model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(32)], nn.Linear(64, 10))\n"


@pytest.mark.parametrize("policy", ["every", "auto"])
def test_what_vanishes_is_found_whatever_decides(gradprobe, policy):
    write(VANISHING)
    scan = ["scan", "model.py", "--data", "digits", "--iterations", "2", "--policy", policy]
    assert gradprobe(*scan, "--fail-on", "vanishing", "--out", "run").exit_code == 3


def test_force_replaces_the_run_that_has_the_name_of_the_target(gradprobe):
    write(NET + BATCHES)
    for _ in range(2):
        assert gradprobe("scan", "model.py", "--iterations", "1", "--force").exit_code == 0
    assert [path.name for path in Path("gradprobe_runs").iterdir()] == ["model"]


def test_several_runs_are_not_drawn_over_the_first(gradprobe):
    write(NET + BATCHES)
    for name in ("a", "b"):
        gradprobe("scan", "model.py", "--iterations", "1", "--out", name)
    before = Path("a/iterations.png").read_bytes()
    drawn = gradprobe("plot", "a", "b")
    assert drawn.exit_code == 0
    assert drawn.stdout.splitlines()[0] == str(Path("gradprobe_runs/side-by-side/iterations.png"))
    assert Path("a/iterations.png").read_bytes() == before


# several arms ---------------------------------------------------------------------------------------------------

ARMS = ("compare", "model.py", "--arms", "none,cnds,kaiming", "--iterations", 6, "--seeds", 2)


def test_arms_are_compared_kept_and_drawn_again(gradprobe):
    write(NET + BATCHES)
    result = gradprobe(*ARMS, "--out", "run")
    assert result.exit_code == 0, result.output
    saved = gp.load("run")
    assert [arm.name for arm in saved.arms.arms] == ["none", "cnds", "kaiming"]
    assert saved.arms.arms[1].like == "none"  # nothing has vanished in two layers
    assert {line.split()[0] for line in result.stdout.splitlines()[1:] if line.strip()} >= {
        "none",
        "cnds",
        "kaiming",
    }
    said = " ".join(result.stdout.split())
    assert all(sentence in said for sentence in saved.arms.choice.sentences)
    for name in ("arms.png", "report.html"):
        before = Path("run", name).read_bytes()
        Path("run", name).unlink()
        assert gradprobe("plot" if name.endswith("png") else "report", "run").exit_code == 0
        assert Path("run", name).read_bytes() == before
    kept = gradprobe("place", "run", "--save")
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


def test_an_arm_that_fails_is_told_and_the_run_is_kept(gradprobe):
    rate = "1 / int(net.first.bias.any())"  # the remedy sets the biases to zero
    write(NET + BATCHES + f"def optimizer(net):\n    return torch.optim.SGD(net.parameters(), lr={rate})\n")
    result = gradprobe(*ARMS, "--out", "run")
    assert result.exit_code == 1
    assert "Error: kaiming failed (seed 0): ZeroDivisionError: division by zero (model.py, line" in result.stderr
    assert set(gp.load("run").arms.arms[2].failed) == {"seed 0", "seed 1"}
    assert len(gp.load("run").arms.frame) == 2 * 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--arms", "cdns"], "did you mean 'cnds'"),
        (["--engine", "ray"], "--engine is for several arms"),
        (["--jobs", "2"], "--jobs is for several arms"),
        (["--arms", "cnds", "--policy", "relative"], "--policy is for a single policy"),
        (["--arms", "cnds", "--repeat"], "--repeat is for a single policy"),
        (["--arms", "cnds", "--engine", "serial", "--jobs", "2"], "one after the other"),
    ],
)
def test_options_of_arms_that_do_not_go_together(gradprobe, options, said):
    write(NET + BATCHES)
    result = gradprobe("compare", "model.py", *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_the_help_names_every_arm(gradprobe):
    from gradprobe.prove.engines import ENGINES
    from gradprobe.verdict.arm import ARMS as NAMES

    text = gradprobe("compare", "--help").stdout
    assert all(name in text for name in (*NAMES, *ENGINES))
