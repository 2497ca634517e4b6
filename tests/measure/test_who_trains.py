"""Whole trainings in which something stands between a layer and its step: what the record says of it."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradprobe as gp
from gradprobe.decide.explain import explain
from gradprobe.decide.findings import findings

F, C, B = 6, 3, 8


def train(net, optimizer, *, steps=3, forward=None, inputs=None, **options):
    """The record of a few steps of mean square error, under a probe that knows the optimizer."""
    forward = forward or net
    with gp.GradientProbe(net, optimizer=optimizer, **options) as probe:
        for _ in range(steps):
            optimizer.zero_grad()
            forward(torch.randn(B, F) if inputs is None else inputs).square().mean().backward()
            optimizer.step()
    return probe.history


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(F, F), nn.Tanh(), nn.Linear(F, F), nn.Tanh(), nn.Linear(F, C))


def found(history):
    return findings(history, gp.place(history))


def sgd(*parts):
    return torch.optim.SGD([parameter for part in parts for parameter in part.parameters()], lr=0.1)


@pytest.mark.limit(
    "layers that no optimizer holds", "that of the passes that train the others", "missing with the reason"
)
def test_what_no_optimizer_holds_has_no_number_and_is_said():
    net = chain()
    history = train(net, sgd(net[0], net[4]))
    assert found(history) == {"not_held": ["2"]}
    assert history.unreached.keys() == {"2"}
    assert list(history.aggregate("weight").index) == ["0", "4"]
    assert list(history.aggregate("output").index) == ["0", "2", "4"]
    assert history.layers[1].unreached_code == {"weight": "not_held"}


@pytest.mark.parametrize(("held", "missing"), [("weight", []), ("bias", ["2"])])
def test_of_a_layer_that_is_held_in_part_the_weight_decides(held, missing):
    net = chain()
    optimizer = sgd(net[0], net[4])
    optimizer.add_param_group({"params": [getattr(net[2], held)]})
    assert found(train(net, optimizer)).get("not_held", []) == missing


def test_without_an_optimizer_nothing_is_said_of_who_trains():
    net = chain()
    with gp.GradientProbe(net) as probe:
        for _ in range(2):
            net(torch.randn(B, F)).square().mean().backward()
            probe.step()
    assert found(probe.history) == {}


@pytest.mark.parametrize("when", ["before the probe", "before the first step"])
def test_a_head_that_was_replaced_after_the_optimizer_was_built(when):
    net = chain()
    optimizer = sgd(net)
    if when == "before the probe":
        net[4] = nn.Linear(F, C + 1)
        history = train(net, optimizer)
    else:
        with gp.GradientProbe(net, optimizer=optimizer) as probe:
            net[4] = nn.Linear(F, C + 1)
            for _ in range(2):
                optimizer.zero_grad()
                net(torch.randn(B, F)).square().mean().backward()
                optimizer.step()
        history = probe.history
    assert found(history) == {"not_held": ["4"]}
    [finding] = explain(history, gp.place(history))
    assert ("after the optimizer was built" in finding.sentence) == (when == "before the first step")


class Adapted(nn.Module):
    """A frozen embedding and frozen layers with an adapter behind each, checkpointed together."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.embed = nn.Embedding(9, F).requires_grad_(False)
        self.blocks = nn.ModuleList(nn.Linear(F, F).requires_grad_(False) for _ in range(3))
        self.adapters = nn.ModuleList(nn.Linear(F, F) for _ in range(3))
        self.head = nn.Linear(F, C)

    def forward(self, tokens):
        h = self.embed(tokens)
        for block, adapter in zip(self.blocks, self.adapters, strict=True):
            part = nn.Sequential(block, adapter)
            h = checkpoint(part, h, use_reentrant=self.reentrant)
        return self.head(h)


@pytest.mark.limit(
    "reentrant checkpointing none of whose inputs requires a gradient",
    "missing with the reason",
    "missing with the reason",
)
@pytest.mark.parametrize("reentrant", [True, False])
def test_what_reentrant_checkpointing_cuts_off_is_said_to_be_so(reentrant):
    net = Adapted(reentrant)
    tokens = torch.randint(9, (B,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = train(net, torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1), inputs=tokens)
    causes = {finding.cause: finding.layers for finding in explain(history, gp.place(history))}
    assert causes == ({"checkpointed": tuple(f"adapters.{i}" for i in range(3))} if reentrant else {})


class InAList(nn.Module):
    """Two layers that no module registers."""

    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(F, F), nn.Linear(F, F)]
        self.head = nn.Linear(F, C)

    def forward(self, x):
        return self.head(self.hidden[1](self.hidden[0](x)))


def test_layers_in_a_plain_list_are_found_unless_an_optimizer_holds_them():
    net = InAList()
    assert sorted(found(train(net, sgd(net)))["unregistered"]) == ["(6, 6)", "(6, 6)", "(6,)", "(6,)"]
    assert found(train(net, sgd(net, *net.hidden))) == {}


def test_the_batch_is_the_one_that_is_trained_on():
    net = chain()
    optimizer = sgd(net)
    for state, size in ((torch.randn(1, F), B), (torch.randn(F), B)):

        def act_then_learn(x, state=state):
            net(state).argmax()
            return net(x)

        assert train(net, optimizer, forward=act_then_learn).conditions["batch_size"] == size
    unbatched = train(net, optimizer, inputs=torch.randn(F))
    assert unbatched.conditions["batch_size"] is None


class Spiking(nn.Module):
    """Returns spikes and its state; only the state has a path to the loss."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.sigmoid(self.decay * x), self.decay * x


@pytest.mark.limit(
    "outputs that are tuples",
    "of the first tensor that requires a gradient; missing with the reason if it has no path to the loss",
    "exact",
)
def test_of_a_tuple_it_is_said_which_tensor_is_measured():
    net = nn.ModuleList([nn.Linear(F, F), Spiking()])
    history = train(net, sgd(net), forward=lambda x: net[1](net[0](x))[1])
    assert {layer.name: dict(layer.unreached_code) for layer in history.layers} == {
        "0": {},
        "1": {"output": "other_tensor"},
    }
    assert found(history) == {}


@pytest.mark.limit("outputs that are tuples")
def test_a_tensor_without_a_gradient_does_not_stand_for_the_others():
    class Numbered(nn.Linear):
        def forward(self, x):
            return torch.arange(len(x)), super().forward(x)

    net = nn.ModuleList([Numbered(F, C)])
    history = train(net, sgd(net), forward=lambda x: net[0](x)[1])
    # the mean of B x C squares: d/dy = 2 y / (B C), and it arrives
    assert list(history.aggregate("output").index) == ["0"]


@pytest.mark.limit("modules whose `forward` is called past their hooks", "missing with the reason", "exact")
def test_bypassed_hooks_are_said_to_be_so():
    net = chain()

    def bypassing(x):
        for module in net:
            x = module.forward(x)
        return x

    history = train(net, sgd(net), forward=bypassing)
    assert {layer.unreached_code["output"] for layer in history.layers} == {"bypassed"}
    assert [finding.cause for finding in explain(history, gp.place(history))] == ["bypassed"]
    assert list(history.aggregate("weight").index) == ["0", "2", "4"]
