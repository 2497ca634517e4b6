"""Signal and update at the edge of what can be measured: exact, or missing with a code that says why."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from support.account import Account
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradprobe as gp
from gradprobe.measure.evidence.sampling import BYTES_OF_EACH, elements_of_each
from gradprobe.measure.evidence.signal import Signal

STEPS = 3


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def train(net, parameters=None, forward=None, inputs=None, between=None):
    """A training with a probe, and the account beside it."""
    optimizer = torch.optim.SGD(net.parameters() if parameters is None else parameters, lr=0.1)
    # the account's hooks come first: it reads the number of the iteration before the probe ends it
    account = Account(SimpleNamespace(recorded=0), net, [optimizer])
    drawn = torch.Generator().manual_seed(1)
    with gp.GradientProbe(net, optimizer=optimizer, iterations=STEPS) as probe:
        account.probe = probe
        for step in range(STEPS):
            optimizer.zero_grad()
            x = torch.randn(8, 6, generator=drawn) if inputs is None else inputs
            (net if forward is None else forward)(x).square().mean().backward()
            if between is not None:
                between(net, step)
            optimizer.step()
    account.close()
    return probe.history, account


def column(history, layer, name):
    frame = history.evidence.frame
    return frame.loc[frame["layer"] == layer, name]


def codes(history):
    return {layer.name: dict(layer.unreached_code) for layer in history.layers if layer.unreached_code}


@pytest.mark.limit("an error inside gradprobe", signal="missing with the reason; the training goes on")
def test_an_error_in_the_evidence_ends_it_alone(monkeypatch):
    def weights(fails):
        net = chain()
        if fails:
            monkeypatch.setattr(Signal, "_sample", lambda *_: 1 / 0)
        history, _ = train(net)
        return history, torch.cat([one.detach().flatten() for one in net.parameters()])

    (whole, expected), (history, found) = weights(False), weights(True)
    assert torch.equal(expected, found)
    assert history.frame.equals(whole.frame)
    assert history.evidence is None or "ZeroDivisionError" in history.evidence.network["stopped"]


class ChangesItsLayer(nn.Module):
    """Changes in place what a layer has returned, a view of its result."""

    def __init__(self, columns):
        super().__init__()
        self.a, self.b, self.columns = View(columns), nn.Linear(columns, 2), columns

    def forward(self, x):
        return self.b(self.a(x).mul_(3.0))


class View(nn.Linear):
    """Returns the first columns of its result."""

    def __init__(self, columns):
        super().__init__(6, 4)
        self.columns = columns

    def forward(self, x):
        return super().forward(x)[:, : self.columns]


@pytest.mark.limit("a view changed in place after its layer", signal="exact, as the layer returned it")
@pytest.mark.parametrize("columns", [4, 2])
def test_a_view_is_looked_at_before_it_is_changed(columns):
    torch.manual_seed(0)
    history, account = train(ChangesItsLayer(columns))
    assert not account.differences(history)
    assert column(history, "a", "spread").notna().all()


@pytest.mark.limit("modules that come while the window is open", signal="missing, named with the reason")
def test_a_module_that_comes_late():
    def put_in(net, step):
        if step == 0:
            net.append(nn.Linear(3, 3))

    history, account = train(chain(), between=put_in)
    assert not account.differences(history)
    assert codes(history) == {"5": {"output": "came_late", "weight": "not_held_new"}}
    assert not len(column(history, "5", "rms"))


@pytest.mark.limit(
    "steps captured in a CUDA graph (imitated)", signal="signal missing with the reason, update exact"
)
def test_what_a_cuda_graph_captures_has_no_signal(monkeypatch):
    monkeypatch.setattr("gradprobe.measure.evidence.signal.is_captured", lambda: True)
    history, account = train(chain())
    assert not account.differences(history)
    assert {facts["no_signal"] for facts in history.evidence.layers.values()} == {"captured"}
    assert column(history, "0", "update").notna().all()


@pytest.mark.limit("layers that no optimizer holds", signal="signal exact; no update, named with the reason")
def test_what_no_optimizer_holds_has_a_signal_and_no_update():
    net = chain()
    history, account = train(net, parameters=net[4].parameters())
    assert not account.differences(history)
    for name in "02":
        assert column(history, name, "spread").notna().all()
        assert column(history, name, "update").isna().all()
        assert codes(history)[name]["weight"] == "not_held"
    assert column(history, "4", "update").notna().all()


class CutOff(nn.Module):
    """What is inside a reentrant checkpoint gets no gradient, since no input of it requires one."""

    def __init__(self):
        super().__init__()
        self.inside, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(checkpoint(self.inside, x, use_reentrant=True))


@pytest.mark.limit(
    "reentrant checkpointing none of whose inputs requires a gradient",
    signal="no signal, named with the reason; update 0",
)
def test_what_a_checkpoint_cuts_off_has_no_signal():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history, account = train(CutOff())
    assert not account.differences(history)
    assert codes(history) == {"inside": {"output": "checkpointed", "weight": "checkpointed"}}
    assert column(history, "inside", "rms").isna().all()
    assert column(history, "inside", "update").tolist() == [0.0] * STEPS


class Spiking(nn.Module):
    """Returns spikes and its state."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.arange(len(x)), torch.sigmoid(self.decay * x), self.decay * x


@pytest.mark.limit("outputs that are tuples", signal="of the same tensor, exact")
def test_of_a_tuple_the_signal_is_that_of_the_tensor_that_is_measured():
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Linear(6, 4), Spiking()])
    history, account = train(net, forward=lambda x: net[1](net[0](x))[2])
    assert not account.differences(history)
    assert (column(history, "1", "rms") < 1).all()  # a sigmoid's, which is the first that requires a gradient


@pytest.mark.limit(
    "modules whose `forward` is called past their hooks", signal="no signal, named with the reason; update exact"
)
def test_bypassed_hooks_leave_the_updates():
    net = chain()

    def bypassing(x):
        for module in net:
            x = module.forward(x)
        return x

    history, account = train(net, forward=bypassing)
    assert not account.differences(history)
    assert {code["output"] for code in codes(history).values()} == {"bypassed"}
    assert column(history, "0", "rms").isna().all()
    assert column(history, "0", "update").notna().all()


def test_the_memory_for_weights_is_below_one_percent():
    # what a step needs of each sampled element, against 4 bytes for each element
    for weights, elements in ((160, 25 * 10**6), (12, 10**8), (1000, 10**9), (700, 7 * 10**10)):
        needed = weights * elements_of_each(weights, elements) * BYTES_OF_EACH
        assert needed <= 0.01 * 4 * elements + BYTES_OF_EACH * 2**14


def test_what_is_kept_of_weights_is_what_is_counted_by_hand():
    net = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gp.GradientProbe(net, optimizer=optimizer, iterations=9) as probe:
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.ones(2, 64)).mean().backward()
            optimizer.step()
        samples, collected = probe._evidence._weights, probe._evidence._collected
        sampled = 4 * 256  # 256 elements of each of 4 weights
        assert samples._owner.nbytes == 4 * sampled
        assert [one.nbytes for one in collected._turned] == [4 * sampled, 4 * 4, 4 * 4]
        assert not samples._of_gradients  # which would be kept alive after they are cleared
        own = {one.untyped_storage().data_ptr() for one in net.parameters()}
        assert {view.untyped_storage().data_ptr() for view in samples._of_weights} <= own
