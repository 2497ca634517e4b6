"""What a script's models are called, and what is said of batches, learning rates and loops of other kinds."""

import io
import sys
import types
from pathlib import Path

import pytest
from support.script_command import inside, write_script

from gradprobe.script.advice.words import no_optimizer

LOOP = """
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(net.parameters(), lr=1 / 3)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
for step in range(4):
    action = net(torch.randn(1, 4)).argmax(1)
    for part in range(3):
        (nn.functional.mse_loss(net(torch.randn(128, 4)), torch.zeros(128, 2)) / 3).backward()
    optimizer.step()
    optimizer.zero_grad()
    scheduler.step()
"""


def test_batch_size_learning_rates_and_accumulation_are_told():
    write_script(LOOP)
    result = inside("--iterations", 3, "--out", "run", "train.py")
    assert result.exit_code == 0, (result.output, result.exception)
    said = " ".join(result.stdout.split())
    assert "batch size 128" in said  # it acts on one state, and trains on 128
    assert "learning rate 0.3333 at the first iteration, 0.08333 at the last" in said
    assert "3 micro-batches in an iteration" in said


OWN = """
import torch
from torch import nn
class Layer(nn.Linear):
    def __init__(self, a, b):
        super().__init__(a, b)
        self.opt = torch.optim.Adam(self.parameters())
    def learn(self, x):
        self.opt.zero_grad()
        self(x).square().mean().backward()
        self.opt.step()
layers = [Layer(8, 8)]
for step in range(3):
    layers[0].learn(torch.randn(4, 8))
"""


def test_self_is_no_name():
    write_script(OWN)
    result = inside("--iterations", 2, "--policy", "every", "--out", "run", "train.py")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "self." not in result.output
    assert not list(Path().glob("*self*"))


KERAS = """
import torch
class Variable: pass
class Adam:
    def __init__(self, variables): self.variables = variables
    def apply(self): pass
class Model(torch.nn.Module):
    def __init__(self): super().__init__(); self.dense = torch.nn.Linear(8, 1)
    def fit(self, x):
        self.dense(x).sum().backward()
        Adam(list(self.parameters())).apply()
"""


def test_keras_on_torch_is_named_and_what_can_be_done(monkeypatch):
    keras = types.ModuleType("keras")
    exec(KERAS, vars(keras))
    monkeypatch.setitem(sys.modules, "keras", keras)
    write_script("import keras, torch\nmodel = keras.Model()\nmodel.fit(torch.ones(2, 8))\n")
    result = inside("train.py")
    assert "before it built an optimizer of torch.optim" in result.stderr
    assert "(Keras, which it imported, trains by optimizers of its own" in result.stderr
    assert "train_step of your own" in result.stderr


def test_a_loop_that_moves_the_weights_itself_is_named():
    text = "import torch\nnet = torch.nn.Linear(1, 1)\nnet(torch.ones(1, 1)).sum().backward()\n"
    text += "with torch.no_grad():\n"
    write_script(text + "    net.weight -= net.weight.grad\n")
    assert "a loop that moves the weights by itself is recorded by hand" in inside("train.py").stderr
    assert "by hand" not in no_optimizer("ended", ["os"], "")


@pytest.mark.parametrize("count", [2, 5])
def test_of_many_branches_there_is_a_table(count):
    from rich.console import Console

    from gradprobe.record.history import GradientHistory, Layer, tidy
    from gradprobe.record.placement import Placement
    from gradprobe.record.points import Point
    from gradprobe.show.tables import as_table

    names = [f"layer{i}" for i in range(count)]
    rows = [(0, name, depth, "output", 1e-3, 1e-3, 1e-3, 0.0, 0) for depth, name in enumerate(names)]
    layers = tuple(Layer(name, depth, "Linear", 9) for depth, name in enumerate(names))
    points = tuple(Point(name, (2, 4), depth, (name,)) for depth, name in enumerate(names))
    placement = Placement("by hand", (), points, "A paragraph of runs.", output_shape=(2, 4), rule="threshold")
    terminal = Console(width=100, record=True, file=io.StringIO())
    terminal.print(as_table(GradientHistory(tidy(rows), {}, layers, points, None), placement))
    text = terminal.export_text()
    assert ("branch after" in text) == (count == 5)
    assert text.endswith("A paragraph of runs.\n") == (count == 2)
