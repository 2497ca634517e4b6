"""The gradient over time: what is said of it, and when nothing is."""

import dataclasses

import pytest
import torch
from torch import nn

import gradprobe as gp
from gradprobe.decide.causes.sequence import FAR, HEARD
from gradprobe.record.evidence import Evidence
from gradprobe.record.history import GradientHistory, Layer, tidy

AT = list(range(0, 100, 10))


def history(gradient, losses, kind="RNN", update=1e-3, missing=None):
    layers = (Layer("rnn", 0, kind, 9, weights=("rnn.weight_hh_l0",)), Layer("fc", 1, "Linear", 9))
    rows = [(0, layer.name, layer.depth, "output", 1e-3, 1e-3, 1e-3, 0.0, 0) for layer in layers]
    samples = [(i, name, 0.9, 1.0, 0.0, 0.0, 0.0, 0.0, 8, update, 1.0) for i in range(3) for name in ("rnn", "fc")]
    facts = {"of": "input", "steps": 100, "before_end": AT, "gradient": gradient, "iterations": 1}
    over_time = {"missing": missing} if missing else facts
    evidence = Evidence.from_rows(samples, {"rnn": {"over_time": over_time}, "fc": {}}, {"losses": losses})
    return GradientHistory(tidy(rows), {}, layers, (), None, evidence=evidence)


FLAT = [0.7, 0.69, 0.71, 0.7] * 10
FALLS = [1.0 - 0.02 * i for i in range(40)]
FADES = [10.0 ** (-6 * i) for i in range(10)]


def test_a_gradient_that_fades_over_time_is_said_with_how_far_it_reaches():
    [found] = gp.diagnose(history(FADES, FLAT)).findings
    assert (found.cause, found.layers) == ("signal_collapse", ("rnn",))
    assert (found.evidence["reach"], found.evidence["steps"]) == (11, 100)  # 1e-6 is heard, 1e-12 is not
    assert "nn.init.orthogonal_(rnn.weight_hh_l0)" in found.remedy


@pytest.mark.parametrize(("kind", "gate"), [("RNN", "an LSTM"), ("LSTM", "forget gate"), ("GRU", "update gate")])
def test_the_remedy_is_one_for_the_kind_of_layer(kind, gate):
    assert gate in gp.diagnose(history(FADES, FLAT, kind)).findings[0].remedy


@pytest.mark.parametrize(
    "healthy",
    [
        history(FADES, FALLS),
        history(FADES, FLAT[:12]),
        history([HEARD * 2] + [1.0] * 9, FLAT),
        history([1.0, 1e-2, 1e-4, 1e-9, *[1e-12] * 6], FLAT),  # it arrives at 30 of 100 steps
        history([0.0] * 10, FLAT),
        history([], FLAT, missing="checkpointed"),
    ],
)
def test_nothing_is_said_where_the_loss_falls_or_the_gradient_arrives(healthy):
    assert "signal_collapse" not in [found.cause for found in gp.diagnose(healthy).findings]


def test_where_steps_are_too_small_it_is_that():
    assert [found.cause for found in gp.diagnose(history(FADES, FLAT, update=1e-6)).findings] == ["lr_low"]


def test_a_gradient_that_grows_over_time():
    grows = [10.0**i for i in range(10)]
    assert [found.cause for found in gp.diagnose(history(grows, FLAT)).findings] == ["exploding"]
    assert gp.diagnose(history(grows, FALLS)).findings == ()


def test_a_loss_that_falls_from_far_above_a_constant_answers_still_explodes():
    falling = history([10.0**i for i in range(10)], [1e6 - 1e4 * i for i in range(40)])
    use = {
        "layer": "fc", "activations": [], "loss": "mse", "shape": [4, 1], "plain": True, "reduction": "mean",
        "squared": False, "labels": None, "classes": None, "broadcast": 1, "clamped": None, "output": None,
        "seen": 1, "target": {"rms": 1.0, "min": -1.0, "max": 1.0, "mean": 0.0, "std": 1.0, "whole": 0.0},
    }  # fmt: skip
    network = {**falling.evidence.network, "loss": [use]}
    falling = dataclasses.replace(falling, evidence=dataclasses.replace(falling.evidence, network=network))
    assert FAR < 6e5
    assert "exploding" in [found.cause for found in gp.diagnose(falling).findings]


def test_a_network_that_needs_its_first_step_and_a_gradient_that_does_not_get_there():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.RNN(1, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.fc(self.rnn(x)[0][:, -1])

    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    with gp.GradientProbe(net, optimizer=optimizer, iterations=24) as probe:
        for _ in range(24):
            x = torch.randn(64, 150, 1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), (x[:, 0, 0] > 0).long()).backward()
            optimizer.step()
    [found] = gp.diagnose(probe.history).findings
    assert found.cause == "signal_collapse"
    assert "over time" in found.sentence
    assert found.evidence["reach"] < 40
