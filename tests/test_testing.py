import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.oracle import assert_agrees, record
from torch import nn
from torch.nn.functional import cross_entropy

import gradprobe as gp
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.testing import MOST_ROWS, GradientReachError, assert_gradients_reach, text_profile


def ones(size=4):
    return [(torch.ones(size, 1, dtype=torch.float64), torch.zeros(size, 1, dtype=torch.float64))]


def mean(output, target):
    return (output - target).mean()


class Net(nn.Module):
    """A stem and a head, with a layer that is called in the way the test says."""

    def __init__(self, way=lambda layer, x: layer(x), layer=None):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.mid, self.fc = nn.Linear(3, 4), layer or nn.Linear(4, 4), nn.Linear(4, 2)
        self.way = way

    def forward(self, x):
        x = self.stem(x)
        return self.fc(x + self.way(self.mid, x))


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 3, generator=generator), torch.tensor([0, 1] * 3)) for _ in range(2)]


def failure(*args, **kwargs):
    with pytest.raises(GradientReachError) as caught:
        assert_gradients_reach(*args, **kwargs)
    return caught.value


def below_the_cause(error):
    """The lines of a message from the one that says what the gradient is."""
    lines = str(error).splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("the gradient is ")) :]


def test_a_network_that_is_reached_gives_its_history(batches):
    history = assert_gradients_reach(Net(), batches, cross_entropy, iterations=5)
    assert_agrees(history, record(Net(), batches, cross_entropy, 5))


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_the_model_and_the_generators_are_as_they_were_whatever_comes_out(scale, batches):
    net = Net(layer=nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    try:
        assert_gradients_reach(net, batches, lambda y, t: scale * cross_entropy(y, t))
        assert scale == 1.0
    except GradientReachError:
        assert scale > 1.0
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_same_test_gives_the_same_numbers(batches):
    net = Net(layer=nn.Sequential(nn.Linear(4, 4), nn.Dropout()))
    first, second = (assert_gradients_reach(net, batches, cross_entropy) for _ in range(2))
    torch.manual_seed(5)
    third, fourth = (assert_gradients_reach(net, batches, cross_entropy, seed=None) for _ in range(2))
    assert first == second == assert_gradients_reach(net, batches, cross_entropy, seed=0)
    assert third == fourth  # the generators are put back
    assert third != first


def test_a_layer_that_vanishes_is_named_with_its_magnitude(chain):
    # dL/d output is 1/4 at the last layer, and 1/4 times the weights after it at each other
    error = failure(chain(1.0, 1e-4, 1e-8, 1.0), ones(), mean, iterations=1)
    lines = below_the_cause(error)
    assert lines[0] == "the gradient is vanishing at 2 layers (0, 1)"
    rows = {line.split()[1]: line for line in lines[2:6]}
    assert [rows[name].split()[2] for name in "0123"] == ["2.5e-13", "2.5e-9", "0.25", "0.25"]
    assert [rows[name].endswith("vanishing") for name in "0123"] == [True, True, False, False]
    assert "| is 1e-7" in lines[1]
    assert "one branch after" in str(error)
    assert "gradprobe.supervise" in str(error)
    assert error.placement.flagged == ("0", "1")
    assert error.history.iterations == 1


def test_the_bars_are_in_proportion_and_do_not_cross_the_mark(chain):
    error = failure(chain(*[0.1] * 12), ones(), mean, iterations=1)
    bars = [line.split(maxsplit=3)[3] for line in below_the_cause(error)[2:14]]
    lengths = [bar.count("█") for bar in bars]
    assert lengths == sorted(lengths)
    assert lengths[0] >= 1
    steps = [b - a for a, b in itertools.pairwise(lengths)]
    # one decade each; a bar that passes the mark has one cell less
    assert max(steps) - min(steps) <= 2
    flagged = [bar.removesuffix("vanishing").rstrip() for bar in bars if "vanishing" in bar]
    assert flagged
    assert all(bar.endswith("|") for bar in flagged)
    assert all("|█" in bar for bar in bars[len(flagged) + 1 :])


def test_the_message_begins_with_the_cause_and_what_mends_it(batches):
    """Weights of std 1e-5 at every layer: the gradient loses five powers of ten at each."""
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(3, 3, bias=False), nn.Tanh())))[:-1]
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=1e-5)
    error = failure(net, batches, cross_entropy, policy=gp.ThresholdPolicy(1e-99))
    verdict, step, *rest = str(error).splitlines()
    assert verdict.startswith("Sick. ")
    assert "lost over the depth" in verdict
    assert step.startswith("Initialise by ")
    assert rest[0].startswith("signal lost at ")


def test_zero_is_not_unreached(chain):
    error = failure(chain(1.0, 0.0, 1.0), ones(), mean, iterations=1)
    lines = below_the_cause(error)
    assert lines[0] == "the gradient is vanishing at 1 layer (0)"
    assert lines[2].split()[:4] == ["0", "0", "0", "|"]


def test_a_layer_that_explodes(chain):
    error = failure(chain(1.0, 1e5, 1.0), ones(), mean, iterations=1)
    assert below_the_cause(error)[0].startswith("the gradient is exploding at ")
    assert "exploding (above 1000)" in str(error)


def test_a_gradient_that_is_not_finite_says_where_it_began(batches):
    net = Net()
    calls = iter(range(99))
    net.fc.register_forward_hook(lambda _, __, y: y * math.inf if next(calls) == 2 else y)
    error = failure(net, batches, cross_entropy)
    assert "nonfinite at 3 layers (stem, mid, fc)" in str(error)
    assert "first in iteration 2, nearest the output at fc" in str(error)
    assert "nan, inf" in text_profile(error.history, error.placement, how="last")


def test_a_loss_that_becomes_nan_fails_also_where_the_gradients_are_fine(batches):
    error = failure(Net(), batches, lambda y, t: cross_entropy(y, t) + math.nan)
    assert "\nthe loss became nan at iteration 0: the record ends there\n" in str(error)


NOT_REACHED = {
    "never called": (lambda layer, x: x, "never called as a module"),
    "cut off": (lambda layer, x: layer(x).detach(), "no path from its output to the loss"),
    "its weight is detached": (
        lambda layer, x: nn.functional.linear(x, layer.weight.detach(), layer.bias),
        "never called as a module",
    ),
}


@pytest.mark.parametrize("case", NOT_REACHED)
def test_a_layer_that_no_gradient_arrives_at(case, batches):
    way, why = NOT_REACHED[case]
    error = failure(Net(way), batches, cross_entropy)
    assert below_the_cause(error)[0] == "the gradient is unreached at 1 layer (mid)"
    assert f"unreached: mid: {why}" in str(error)
    assert "pass unreached='ignore'" in str(error)
    assert assert_gradients_reach(Net(way), batches, cross_entropy, unreached="ignore").iterations == 10


REACHED = {
    "frozen": Net(layer=nn.Linear(4, 4).requires_grad_(False)),
    "its weight used by hand": Net(lambda layer, x: nn.functional.linear(x, layer.weight)),
    "attention": Net(
        lambda layer, x: layer(x[None])[0], nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    ),
}


@pytest.mark.parametrize("case", REACHED)
def test_a_layer_that_is_frozen_or_gets_its_gradient_otherwise_is_fine(case, batches):
    assert assert_gradients_reach(REACHED[case], batches, cross_entropy, iterations=2).iterations == 2


def test_where_nothing_arrives_at_all_it_fails_whatever_may_be_ignored(batches):
    net = Net(NOT_REACHED["never called"][0])
    error = failure(net, batches, cross_entropy, layers=["mid"], unreached="ignore")
    assert "unreached at 1 layer (mid)" in str(error)


def test_only_the_layers_named_can_fail(chain):
    net = chain(1.0, 1e-9, 1.0)
    history = assert_gradients_reach(net, ones(), mean, iterations=1, layers=["1", "2"])
    assert len(history.layers) == 3
    assert "at 1 layer (0)" in str(failure(net, ones(), mean, iterations=1, layers="[01]"))
    with pytest.raises(ValueError, match="no layer is called '7'"):
        assert_gradients_reach(net, ones(), mean, layers=["7"])


def test_the_policy_and_the_optimizer_are_the_callers(chain):
    # with these weights only the scale-free rule flags a layer
    net = chain(1.0, 1e-5, 1.0)
    assert_gradients_reach(net, ones(), mean, iterations=1)
    error = failure(net, ones(), mean, iterations=1, policy=gp.RelativePolicy())
    assert "below 1e-4 of the largest" in str(error)
    policy = gp.ThresholdPolicy(of="weight", aggregate="max")
    weighed = failure(chain(1e-9, 1.0), ones(), mean, iterations=1, policy=policy)
    # dL/d weight is what comes in
    assert below_the_cause(weighed)[0].startswith("the gradient is vanishing at 1 layer (1)")
    assert "mean |dL/d weight| by depth, max over 1 iteration, log scale" in str(weighed)
    steps = assert_gradients_reach(net, ones(), mean, optimizer=lambda m: torch.optim.Adam(m.parameters()))
    assert "Adam" in steps.conditions["optimizer"]


def test_nonsense_is_refused(chain):
    with pytest.raises(ValueError, match=r"expected unreached= to be one of \['fail', 'ignore'\], got 'maybe'"):
        assert_gradients_reach(chain(1.0), ones(), mean, unreached="maybe")


def made(*sizes, names=None):
    names = names or [f"conv{i}" for i in range(len(sizes))]
    rows = [
        (0, name, i, "output", *((None,) * 5 if size is None else (size, 0, 0, 0, 0)))
        for i, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    layers = tuple(Layer(name, i, "Conv2d", 9) for i, name in enumerate(names))
    return GradientHistory(tidy(rows), {}, layers, (), None)


@pytest.mark.parametrize("low", [0, 20, 150])
def test_long_runs_are_folded_and_counted(low):
    history = made(*[1e-9] * low, *[1e-2] * (200 - low))
    lines = text_profile(history, gp.place(history)).splitlines()[1:]
    folded = [int(line.split()[1]) for line in lines if "…" in line]
    assert sum(folded) + len(lines) - len(folded) == 200
    assert len(lines) < MOST_ROWS
    assert sum("vanishing" in line for line in lines) == (9 if low else 0)


def test_awkward_names_and_no_magnitude_at_all():
    history = made(None, None, names=["", "encoder.layers.11.attention.output.dense"])
    lines = text_profile(history, gp.place(history), {}).splitlines()
    assert lines[1].split()[:3] == ["0", "(root)", "none"]
    assert "e.l.11.a.output.dense" in lines[2]


PROJECT = """
import torch
from torch import nn

def net(std):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=std)
    return net

batches = [(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]))]

def test_fine(gradients_reach):
    assert gradients_reach(net(1.0), batches, nn.functional.cross_entropy).iterations == 10

def test_lost(gradients_reach):
    gradients_reach(net(1e-5), batches, nn.functional.cross_entropy, iterations=3)

def test_lost_twice(gradients_reach, tmp_path):
    (tmp_path / "gradprobe").mkdir()  # as a failure before left it
    try:
        gradients_reach(net(1e-5), batches, nn.functional.cross_entropy, iterations=3)
    except AssertionError as error:
        assert str(tmp_path) in str(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gradprobe", "gradprobe-2"]
"""


def test_the_fixture_keeps_the_run_of_a_failure_and_names_it(tmp_path):
    (tmp_path / "test_project.py").write_text(PROJECT)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "gradprobe.plugin", "--basetemp", tmp_path / "kept"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 2 passed" in done.stdout
    assert "the gradient is vanishing at 1 layer (0)" in done.stdout
    line = next(i for i, text in enumerate(PROJECT.splitlines(), 1) if "iterations=3" in text)
    assert f"test_project.py:{line}: GradientReachError" in done.stdout  # the line of the test, not one of ours
    note = next(line for line in done.stdout.splitlines() if "run written to" in line)
    folder = Path(note.split("run written to ")[1])
    assert folder == tmp_path / "kept" / "test_lost0" / "gradprobe"
    assert gp.load(folder).placement.flagged == ("0",)
    assert (folder / "depth.png").is_file()


def test_the_plugin_loads_nothing_before_it_is_used():
    code = "import sys, gradprobe.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "matplotlib", "click"} & set(done.stdout.split())
