"""The gradient over time against plain autograd, and the training that it must not change."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import gradprobe as gp
from gradprobe.measure.evidence.over_time import STEPS, lags

KINDS = {
    "RNN": (nn.RNN, {"batch_first": True}),
    "time first": (nn.RNN, {}),
    "LSTM of two layers": (nn.LSTM, {"num_layers": 2, "dropout": 0.3}),
    "GRU in both directions": (nn.GRU, {"bidirectional": True, "batch_first": True}),
}


class Net(nn.Module):
    """A recurrent layer on an input, on what a linear layer makes of it, or on packed or single sequences."""

    def __init__(self, kind, options, before=None, given="tensor"):
        super().__init__()
        self.rnn = kind(3, 4, **options)
        self.fc = nn.Linear(4 * (1 + self.rnn.bidirectional), 1)
        self.before, self.given = before, given

    def forward(self, x):
        x = x if self.before is None else self.before(x)
        if self.given == "packed":
            output, _ = self.rnn(x)
            return self.fc(output.data).square()
        output, _ = self.rnn(input=x) if self.given == "by name" else self.rnn(x)
        return self.fc(output[:, -1] if self.rnn.batch_first and x.dim() == 3 else output[-1])


def data(net, steps=50):
    torch.manual_seed(1)
    if net.given == "packed":
        return pack_sequence([torch.randn(length, 3) for length in (steps, 9, 4)])
    if net.given == "one sequence":
        return torch.randn(steps, 3)
    return torch.randn(5, steps, 3) if net.rnn.batch_first else torch.randn(steps, 5, 3)


def trained(make, x, probed, steps=3, dtype=None):
    torch.manual_seed(0)
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    probe = gp.GradientProbe(net, optimizer=optimizer, iterations=steps)
    if probed:
        probe.__enter__()
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = net(x).float().square().mean()
        loss.backward()
        optimizer.step()
    weights = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    return (probe.history if probed else None), weights


def of_layer(history, layer="rnn"):
    assert history.evidence.network["stopped"] is None
    return history.evidence.layers[layer]["over_time"]


def expected(net, x):
    """By plain autograd in float64: mean |dL/dx_t| by how many steps before the end of its sequence t is."""
    net = net.double()
    packed = net.given == "packed"
    given = (x.data if packed else x).double().requires_grad_()
    arguments = x._replace(data=given) if packed else given
    (gradient,) = torch.autograd.grad(net(arguments).square().mean(), given)
    if packed:
        steps, start = len(x.batch_sizes), [0, *x.batch_sizes.cumsum(0).tolist()]
        sequences = [
            [gradient[start[t] + i] for t in range(steps) if x.batch_sizes[t] > i] for i in range(x.batch_sizes[0])
        ]
        return [
            torch.stack([rows[-1 - lag] for rows in sequences if len(rows) > lag]).abs().mean().item()
            for lag in range(steps)
        ]
    axis = 1 if net.rnn.batch_first and x.dim() == 3 else 0
    return [float(one.abs().mean()) for one in reversed(gradient.unbind(axis))]


@pytest.mark.parametrize("given", ["tensor", "by name", "packed", "one sequence"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_that_of_autograd_and_the_training_is_the_same_to_the_last_bit(kind, given):
    def make():
        return Net(*KINDS[kind], given=given)

    net = make()
    x = data(net)
    history, weights = trained(make, x, True)
    assert torch.equal(weights, trained(make, x, False)[1])
    found = of_layer(history)
    assert (found["steps"], found["of"], found["before_end"]) == (50, "input", lags(50))
    assert len(found["gradient"]) == STEPS
    if "dropout" in KINDS[kind][1]:
        return  # its masks are others in float64
    torch.manual_seed(0)
    net = make()  # two iterations are looked at, with nearly the same weights: the median of two is the lower one
    first, _ = trained(make, x, True, steps=1)
    by_lag = expected(net, x)
    assert of_layer(first)["gradient"] == pytest.approx([by_lag[lag] for lag in lags(50)], rel=1e-4, abs=1e-12)


def test_a_gradient_that_fades_is_told_down_to_the_smallest_numbers():
    def make():
        return Net(nn.RNN, {"batch_first": True})

    history, _ = trained(make, torch.randn(5, 400, 3), True, steps=1)
    gradient = of_layer(history)["gradient"]
    assert gradient[0] > 1e-3
    assert 0 < min(value for value in gradient if value) < 1e-38
    assert gradient[-1] == 0


def test_an_input_that_requires_a_gradient_is_not_replaced():
    def make():
        net = Net(nn.RNN, {"batch_first": True}, before=nn.Linear(3, 3))
        net.rnn.register_forward_hook(lambda module, args, output: seen.append(args[0].grad_fn))
        return net

    seen = []
    history, weights = trained(make, torch.ones(5, 30, 3), True)
    assert torch.equal(weights, trained(make, torch.ones(5, 30, 3), False)[1])
    assert all(node is not None for node in seen)
    assert of_layer(history)["steps"] == 30


class Checkpointed(Net):
    """The recurrent layer is computed again in the backward pass."""

    def forward(self, x):
        return self.fc(checkpoint(lambda x: self.rnn(x)[0], x, use_reentrant=False)[:, -1])


class OwnForward(nn.LSTM):
    """Changes its input in place."""

    def forward(self, x):
        x += 0.0
        return super().forward(x)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Checkpointed(nn.RNN, {"batch_first": True}), "checkpointed"),
        (lambda: Net(OwnForward, {"batch_first": True}), "own_forward"),
    ],
)
def test_where_it_cannot_be_taken_it_is_missing_with_a_reason(make, why):
    history, weights = trained(make, torch.ones(5, 30, 3), True)
    assert torch.equal(weights, trained(make, torch.ones(5, 30, 3), False)[1])
    assert of_layer(history) == {"missing": why}


def test_bfloat16_autocast_trains_the_same():
    def make():
        return Net(nn.GRU, {"batch_first": True})

    history, weights = trained(make, torch.ones(5, 30, 3), True, dtype=torch.bfloat16)
    assert torch.equal(weights, trained(make, torch.ones(5, 30, 3), False, dtype=torch.bfloat16)[1])
    assert of_layer(history)["steps"] == 30


class Cells(nn.Module):
    """A cell in a loop."""

    def __init__(self):
        super().__init__()
        self.cell, self.fc = nn.GRUCell(3, 4), nn.Linear(4, 1)

    def states(self, x):
        state, states = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            states.append(state)
        return states

    def forward(self, x):
        return self.fc(self.states(x)[-1])


def test_of_a_cell_in_a_loop_it_is_the_gradient_of_each_state():
    x = torch.randn(5, 20, 3)
    history, weights = trained(Cells, x, True, steps=2)
    assert torch.equal(weights, trained(Cells, x, False, steps=2)[1])
    net, (_, after_one_step) = Cells(), trained(Cells, x, False, steps=1)
    nn.utils.vector_to_parameters(after_one_step, net.parameters())
    net.double()
    states = net.states(x.double())
    gradients = torch.autograd.grad(net.fc(states[-1]).square().mean(), states)
    found = of_layer(history, "cell")
    assert (found["of"], found["steps"], found["iterations"]) == ("output", 20, 1)
    assert found["gradient"] == pytest.approx([float(one.abs().mean()) for one in reversed(gradients)], rel=1e-4)


def test_small_batches_of_an_iteration_are_averaged():
    net = Net(nn.RNN, {"batch_first": True})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.randn(2, 5, 20, 3)
    by_lag = [expected(net, one) for one in x]
    net.float()
    with gp.GradientProbe(net, optimizer=optimizer, iterations=1) as probe:
        for one in x:
            net(one).square().mean().backward()
        optimizer.step()
    mean = [(a + b) / 2 for a, b in zip(*by_lag, strict=True)]
    assert of_layer(probe.history)["gradient"] == pytest.approx(mean, rel=1e-4)


def test_two_passes_through_one_sequence_are_not_taken_for_one():
    net = Net(nn.RNN, {"batch_first": True})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gp.GradientProbe(net, optimizer=optimizer, iterations=1) as probe:
        loss = net(torch.randn(5, 20, 3)).square().mean()
        loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
    assert of_layer(probe.history) == {"missing": "several_passes"}


def test_a_gradient_scaler_is_taken_out():
    def make():
        return Net(nn.RNN, {"batch_first": True})

    x = torch.randn(5, 20, 3)
    plain, _ = trained(make, x, True, steps=1)
    torch.manual_seed(0)
    net, scaler = make(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gp.GradientProbe(net, optimizer=optimizer, iterations=1) as probe:
        scaler.scale(net(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert of_layer(probe.history)["gradient"] == pytest.approx(of_layer(plain)["gradient"], rel=1e-4)
