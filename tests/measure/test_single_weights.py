"""Recurrent layers: a row for each weight, beside the layer's own."""

import json

import pytest
import torch
from support.oracle import assert_agrees, record
from torch import nn

import gradprobe as gp
from gradprobe.measure.reduction import Reducer
from gradprobe.measure.reduction.values import PartialSumError
from gradprobe.show.formats import as_json

KINDS = {
    "RNN": lambda: nn.RNN(3, 4, batch_first=True),
    "LSTM of two layers in both directions": lambda: nn.LSTM(
        3, 4, num_layers=2, bidirectional=True, batch_first=True
    ),
    "LSTM with a projection": lambda: nn.LSTM(3, 4, proj_size=2, batch_first=True),
    "GRU without biases": lambda: nn.GRU(3, 4, bias=False, batch_first=True),
}
BATCHES = [(torch.randn(6, 7, 3, generator=torch.Generator().manual_seed(i)).double(), None) for i in range(3)]


class Recurrent(nn.Module):
    """A recurrent layer, and a linear one of its last output."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.fc = rnn, nn.LazyLinear(2)

    def forward(self, x):
        return self.fc(self.rnn(x)[0][:, -1])


class Cells(nn.Module):
    """Cells in a loop."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.fc = nn.LSTMCell(3, 4), nn.GRUCell(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        state = second = None
        for step in x.unbind(1):
            state = self.one(step, state)
            second = self.two(state[0], second)
        return self.fc(second)


def loss_of(output, target=None):
    return output.square().mean()


def made(make):
    torch.manual_seed(0)
    net = make().double()
    net(BATCHES[0][0])  # a lazy layer learns its size
    return net


def trained(net, of=("output", "weight")):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    before, moved = {}, {}
    with gp.GradientProbe(net, optimizer=optimizer, iterations=3, of=of) as probe:
        for x, _ in BATCHES:
            optimizer.zero_grad()
            loss_of(net(x)).backward()
            before = {name: one.detach().clone() for name, one in net.named_parameters()}
            optimizer.step()
            for name, one in net.named_parameters():
                moved.setdefault(name, []).append(
                    float((one.detach() - before[name]).norm() / before[name].norm())
                )
    return probe.history, moved


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("make", [*(lambda kind=kind: Recurrent(kind()) for kind in KINDS.values()), Cells])
def test_every_weight_has_the_gradient_and_the_update_of_float64(make):
    history, moved = trained(made(make))
    assert_agrees(history, record(made(make), BATCHES, loss_of, 3))
    names = [name for layer in history.layers for name in layer.weights]
    assert names == [name for name, _ in made(make).named_parameters() if "weight_" in name]
    assert list(history.single_weights().index) == names
    frame = history.evidence.frame
    for name in names:
        assert frame[frame["layer"] == name]["update"].tolist() == pytest.approx(moved[name], rel=1e-4)


def test_what_goes_by_layers_is_not_disturbed():
    history, _ = trained(made(lambda: Recurrent(nn.GRU(3, 4, batch_first=True))))
    layers = ["rnn", "fc"]
    assert [set(history.select(of)["layer"]) for of in history.of] == [set(layers)] * 2
    assert all(list(history.aggregate(of).index) == layers for of in history.of)
    assert history.summary()["layer"].tolist() == layers
    assert {name for one in gp.diagnose(history).findings for name in one.layers} <= set(layers)
    assert gp.place(history).flagged == ()
    assert "rnn.weight_hh_l0" in str(history)
    rows = json.loads(as_json(history, gp.place(history)))
    assert [row["layer"] for row in rows["layers"]] == layers
    assert [row["weight"] for row in rows["weights"]] == ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    assert all(row["gradient"] > 0 and row["update"] > 0 for row in rows["weights"])


def test_the_layers_number_is_that_of_all_its_weights():
    history, _ = trained(made(lambda: Recurrent(nn.LSTM(3, 4, batch_first=True))))
    frame = history.frame[(history.frame["of"] == "weight") & (history.frame["iteration"] == 0)].set_index("layer")
    whole, one, two = (frame.loc[name] for name in ("rnn", "rnn.weight_ih_l0", "rnn.weight_hh_l0"))
    assert whole["mean_abs"] == pytest.approx((one["mean_abs"] * 48 + two["mean_abs"] * 64) / 112)
    assert whole["max_abs"] == max(one["max_abs"], two["max_abs"])


def test_without_weights_asked_for_there_are_no_rows_of_them():
    history, _ = trained(made(lambda: Recurrent(nn.RNN(3, 4, batch_first=True))), of=("output",))
    assert set(history.frame["layer"]) == {"rnn", "fc"}
    assert all(layer.weights == () for layer in history.layers)


def test_a_root_that_is_recurrent_and_a_run_on_disk(tmp_path):
    net = nn.GRU(3, 4, batch_first=True).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with gp.GradientProbe(net, optimizer=optimizer, iterations=1) as probe:
        net(BATCHES[0][0])[0].sum().backward()
        optimizer.step()
    assert set(probe.history.frame["layer"]) == {"", "weight_ih_l0", "weight_hh_l0"}
    run = gp.save(tmp_path / "run", probe.history, gp.place(probe.history))
    assert gp.load(run).history == probe.history


def test_where_one_weight_cannot_be_measured_the_layers_number_is_missing_too(monkeypatch):
    same, one = Reducer.same, Reducer.one

    def refuses(self, gradient, original=one):
        if tuple(gradient.shape) == (4, 4):
            raise PartialSumError("no rank holds the true values")
        return original(self, gradient)

    def refuses_all(self, gradients):
        if any(tuple(gradient.shape) == (4, 4) for gradient in gradients):
            raise RuntimeError("no rank holds the true values")
        return same(self, gradients)

    monkeypatch.setattr(Reducer, "one", refuses)
    monkeypatch.setattr(Reducer, "same", refuses_all)
    history, _ = trained(made(lambda: Recurrent(nn.RNN(3, 4, batch_first=True))))
    assert history.unreached == {"rnn": {"weight": "no rank holds the true values"}}
    assert list(history.aggregate("weight").index) == ["fc"]
