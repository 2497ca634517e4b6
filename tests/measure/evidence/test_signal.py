"""Signal, updates and losses against float64 and the definitions."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradprobe as gp
from gradprobe.measure.evidence.sampling import ROWS
from gradprobe.record.history import GradientHistory


def recorded(model, x, loss_of, *, optimizer=None, steps=3):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with gp.GradientProbe(model, optimizer=optimizer, iterations=steps) as probe:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_of(model(x))
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
    return probe.history, losses


def at(history, iteration, layer):
    frame = history.evidence.frame
    return frame[(frame["iteration"] == iteration) & (frame["layer"] == layer)].iloc[0]


@pytest.mark.parametrize("offset", [0.0, 3.0, 1e3])
def test_spread_and_size_are_those_of_the_definition(offset):
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5), torch.randn(ROWS, 6)
    with torch.no_grad():
        layer.bias += offset
        output = layer(x).double()
    history, _ = recorded(nn.Sequential(layer), x, lambda out: out.square().mean(), steps=1)
    varied = (output - output.mean(0)).square().sum() / (ROWS - 1) / 5
    assert at(history, 0, "0")["spread"] == pytest.approx(
        float((varied / output.square().mean()).sqrt()), rel=2e-3
    )
    assert at(history, 0, "0")["rms"] == pytest.approx(float(output.square().mean().sqrt()), rel=1e-4)


def test_an_update_is_relative_to_the_weight():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5), torch.randn(8, 6)
    before = layer.weight.detach().double().clone()
    history, losses = recorded(nn.Sequential(layer), x, lambda out: out.square().mean(), steps=1)
    moved = (layer.weight.detach().double() - before).norm() / before.norm()
    assert at(history, 0, "0")["update"] == pytest.approx(float(moved), rel=1e-4)
    assert history.evidence.network["losses"] == pytest.approx(losses, rel=1e-5)


@pytest.mark.limit("`clip_grad_norm_` before the step", signal="exact; `left` is what clipping left")
def test_what_clipping_leaves_of_a_gradient():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(8, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gp.GradientProbe(model, optimizer=optimizer, iterations=1) as probe:
        model(x).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-4)
        optimizer.step()
    assert at(probe.history, 0, "0")["left"] == pytest.approx(1e-4 / float(norm), rel=1e-3)


def test_units_that_are_never_active_and_saturated_ones():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    nn.init.constant_(model[0].bias, 50.0)
    model[0].bias.data[0] = -50.0
    nn.init.constant_(model[2].bias, 0.0)
    nn.init.constant_(model[2].weight, 1.0)
    history, _ = recorded(model, torch.randn(8, 2), lambda out: out.square().mean(), steps=2)
    assert history.evidence.layers["0"]["never_positive"] == 0.25
    assert history.evidence.layers["2"]["never_inside"] == 1.0
    assert [history.evidence.layers[name].get("after") for name in "024"] == ["relu", "tanh", None]


def test_a_history_with_evidence_is_read_back_exactly(tmp_path):
    history, _ = recorded(nn.Sequential(nn.Linear(2, 2)), torch.randn(8, 2), lambda out: out.square().mean())
    folder = gp.save(tmp_path / "run", history, gp.place(history), figures=False)
    assert gp.load(folder).history == history
    assert GradientHistory.from_dict(history.frame, history.to_dict()) == history


def test_training_is_the_same_to_the_last_bit_and_nothing_is_left_behind():
    def weights(probed):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(model.parameters())
        probe = gp.GradientProbe(model, optimizer=optimizer, iterations=3) if probed else None
        if probe:
            probe.__enter__()
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(16, 2)).square().mean().backward()
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    original = torch.autograd.backward
    assert torch.equal(weights(False), weights(True))
    assert torch.autograd.backward is original


class Checkpointed(nn.Module):
    """The whole network is computed again in the backward pass, its last activation too."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Sigmoid())
        self.inside[1].register_forward_hook(lambda *_: self.calls.append(1))
        self.calls = []

    def forward(self, x):
        return checkpoint(self.inside, x, use_reentrant=False)


def test_reading_the_graph_computes_nothing_again_that_is_checkpointed():
    calls, means = [], []
    for stats in ("mean", "all"):
        torch.manual_seed(0)
        net, target = Checkpointed(), torch.rand(8, 2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with gp.GradientProbe(net, optimizer=optimizer, iterations=3, stats=stats):
            for _ in range(3):
                optimizer.zero_grad()
                nn.functional.mse_loss(net(torch.randn(8, 3)), target).backward()
                optimizer.step()
        calls.append(len(net.calls))
        means.append(net.inside[1].running_mean)
    assert calls == [6, 6]
    assert torch.equal(*means)
