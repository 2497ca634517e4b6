"""``gradprobe scan``: targets and data of every style, formats, folders, exit codes."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.command_line import BATCHES, DEEP, HEAD, NET, write
from support.oracle import assert_agrees, record
from torch import nn

import gradprobe as gp

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
    made_up = gp.load("synthetic").history
    assert "synthetic data" in str(made_up)
    assert made_up.conditions["synthetic"] is True
    assert "synthetic" not in gp.load("npz").history.conditions


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
    first_line = " ".join(outputs["table"].stdout.partition("mean |dL/d output|")[0].split())
    assert as_json["verdict"] == "healthy"
    assert first_line.startswith(f"Healthy. {as_json['sentence']} {as_json['step']}")
    assert as_json["findings"] == []


def test_what_the_users_code_prints_does_not_spoil_the_result(gradprobe):
    write("print('building')\n" + NET + BATCHES)
    result = gradprobe("scan", "model.py", "--iterations", 1, "--format", "json", "--out", "run")
    json.loads(result.stdout)
    assert "building" in result.stderr


def test_names_are_text_not_markup(gradprobe):
    write("model = nn.Sequential()\nmodel.add_module('[red]x[/red]', nn.Linear(3, 2))\n" + BATCHES)
    result = gradprobe("scan", "model.py", "--iterations", 1, "--out", "run")
    assert "[red]x[/red]" in result.stdout


def test_the_figures_mark_the_threshold_that_decided(gradprobe_drawing, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "gradprobe.show.plots.files.plot_profile", lambda *_, **options: drawn.update(options) or 1 / 0
    )
    write(DEEP + BATCHES)
    gradprobe_drawing(
        "scan", "model.py", "--iterations", 2, "--threshold", "3e-4", "--of", "weight", "--out", "run"
    )
    assert drawn["threshold"] == 3e-4
    assert drawn["of"] == "weight"


def test_scan_can_repeat_the_rule(gradprobe):
    write(DEEP + BATCHES)
    result = gradprobe("scan", "model.py", "--iterations", 2, "--repeat", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "repeated" in gp.load("run").placement.policy


@pytest.mark.parametrize("command", ["scan", "compare"])
def test_auto_decides_after_the_diagnosis(gradprobe, command):
    write(DEEP + BATCHES)
    options = ["--window", 2] if command == "compare" else []
    result = gradprobe(command, "model.py", "--iterations", 2, *options, "--policy", "auto", "--out", "run")
    assert result.exit_code == 0, result.output
    placement = gp.load("run").placement
    assert placement.policy in ("auto, after the diagnosis", "auto, by short trials")
    assert placement.reason.split(":")[0] in result.stdout.replace("\n", " ")


SICK = """
model = nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()) for _ in range(9)], nn.Linear(3, 2))
def optimizer(net):
    return torch.optim.Adam(net.parameters())
"""
LOOP = (
    SICK
    + BATCHES
    + """
steps = optimizer(model)
for _ in range(10):
    for x, y in batches:
        steps.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        steps.step()
"""
)


def test_auto_of_a_saved_run_and_of_a_script_is_the_remedy_of_the_diagnosis(gradprobe):
    write(SICK + BATCHES)
    scanned = gradprobe("scan", "model.py", "--iterations", 20, "--out", "run", "--quiet")
    assert scanned.exit_code == 0, scanned.output
    assert gp.load("run").placement.remedy is None
    placed = gradprobe("place", "run", "--policy", "auto", "--save")
    assert placed.exit_code == 0, placed.output
    write(LOOP, "train.py")
    ran = gradprobe("run", "--policy", "auto", "--iterations", 20, "--out", "ran", "train.py")
    assert ran.exit_code == 0, ran.output
    for name, result in (("run", placed), ("ran", ran)):
        placement = gp.load(name).placement
        assert (placement.remedy, placement.rule) == ("normalised", "auto")
        assert "batch normalisation after each layer (normalised)" in " ".join(result.stdout.split())


VANISHING = "model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(32)], nn.Linear(64, 10))\n"


@pytest.mark.parametrize("policy", ["every", "auto"])
def test_what_vanishes_is_found_whatever_decides(gradprobe, policy):
    write(VANISHING)
    scan = ["scan", "model.py", "--data", "digits", "--iterations", "2", "--policy", policy]
    assert gradprobe(*scan, "--fail-on", "vanishing", "--out", "run").exit_code == 3


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


def test_force_replaces_the_run_that_has_the_name_of_the_target(gradprobe):
    write(NET + BATCHES)
    for _ in range(2):
        assert gradprobe("scan", "model.py", "--iterations", "1", "--force").exit_code == 0
    assert [path.name for path in Path("gradprobe_runs").iterdir()] == ["model"]


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


def test_ctrl_c_writes_what_was_recorded(here):
    slow = "    open('going', 'a').write('x')\n    time.sleep(0.05)\n    return y.sum()\n"
    write(NET + BATCHES + "import time\ndef loss(y, t):\n" + slow)
    command = [sys.executable, "-m", "gradprobe", "scan", "model.py", "--out", "run", "--iterations", "2000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
