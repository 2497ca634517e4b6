"""What one forward pass shows: the batch, calls that explain a missing gradient, parameters of no module."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

from gradprobe.network.batch_size import OutputAxes
from gradprobe.network.survey import Survey, survey

B, T, F, C = 6, 5, 3, 4


class Net(nn.Module):
    """Modules by name and what to do with them."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.compute = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args, **kwargs):
        return self.compute(self, *args, **kwargs)


def recurrent(batch_first, **options):
    return {"rnn": nn.GRU(F, 8, batch_first=batch_first, **options), "out": nn.Linear(8, C)}


def flat(net, x):
    """All steps of all samples one after the other, as cross entropy wants them."""
    return net.out(net.rnn(x)[0]).flatten(0, 1)


def pooled(net, edges, x, graph):
    hidden = net.node(x).index_add(0, edges[0], net.node(x)[edges[1]])
    return net.out(torch.zeros(B, 8).index_add(0, graph, hidden))


def own_cell(net, x):
    state = torch.zeros(x.shape[1], 8)
    return net.out(torch.stack([state := net.cell(step, state) for step in x]))


def spikes(net, x):
    return torch.stack([net.out(net.hidden(x)) for _ in range(T)])


def graph_inputs(graph_count=B, nodes=21):
    return torch.randint(nodes, (2, 40)), torch.randn(nodes, F), torch.arange(nodes) % graph_count


node_layers = {"node": nn.Linear(F, 8), "out": nn.Linear(8, C)}
detector = {"backbone": nn.Conv2d(3, 8, 3), "out": nn.Linear(8, C)}
BATCHES = {
    "rows": (nn.Linear(F, C), torch.ones(B, F), B, 0),
    "images": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)), torch.ones(B, 3, 4, 4), B, 0),
    "batch first": (Net(lambda n, x: n.out(n.rnn(x)[0]), **recurrent(True)), torch.ones(B, T, F), B, 0),
    "time first": (Net(lambda n, x: n.out(n.rnn(x)[0]), **recurrent(False)), torch.ones(T, B, F), B, 1),
    "last step of time first": (
        Net(lambda n, x: n.out(n.rnn(x)[0][-1]), **recurrent(False)),
        torch.ones(T, B, F),
        B,
        0,
    ),
    "a cell of one's own": (Net(own_cell, cell=nn.GRUCell(F, 8), out=nn.Linear(8, C)), torch.ones(T, B, F), B, 1),
    "flattened": (Net(flat, **recurrent(True)), torch.ones(B, T, F), B, 0),
    "time is stacked": (Net(spikes, hidden=nn.Linear(F, 8), out=nn.Linear(8, C)), torch.ones(B, F), B, 1),
    "packed": (
        Net(lambda n, x: n.out(n.rnn(x)[1][-1]), **recurrent(True)),
        pack_padded_sequence(torch.ones(B, T, F), [5, 5, 4, 3, 2, 1], batch_first=True),
        B,
        0,
    ),
    "a dict": (
        Net(lambda n, x, length: n.out(x), out=nn.Linear(F, C)),
        {"length": T, "x": torch.ones(B, F)},
        B,
        0,
    ),
    "an index first": (
        Net(lambda n, pair, x: n.out(x) + pair.sum(), out=nn.Linear(F, C)),
        (torch.tensor([0, 1]), torch.ones(B, F)),
        B,
        0,
    ),
    "many graphs": (Net(pooled, **node_layers), graph_inputs(), B, 0),
    "one graph": (
        Net(lambda n, edges, x: n.out(n.node(x)[edges[0]][:0].sum() + n.node(x)), **node_layers),
        graph_inputs()[:2],
        None,
        None,
    ),
    "a list of images": (
        Net(lambda n, images: {"loss": n.out(n.backbone(torch.stack(images)).mean((2, 3))).mean()}, **detector),
        ([torch.ones(3, 8, 8) for _ in range(B)],),
        B,
        None,
    ),
    "only its loss": (
        Net(
            lambda n, tokens, labels: n.out(n.embed(tokens)).mean(), embed=nn.Embedding(9, F), out=nn.Linear(F, 9)
        ),
        (torch.ones(B, T, dtype=torch.long), torch.ones(B, T, dtype=torch.long)),
        B,
        None,
    ),
    "frames of videos": (
        Net(
            lambda n, x: n.out(n.conv(x.flatten(0, 1)).mean((2, 3)).view(B, T, 8).mean(1)),
            conv=nn.Conv2d(3, 8, 3),
            out=nn.Linear(8, C),
        ),
        torch.ones(B, T, 3, 4, 4),
        B,
        0,
    ),
    "a number for each": (Net(lambda n, x: n.out(x).squeeze(-1), out=nn.Linear(F, 1)), torch.ones(B, F), B, 0),
    "one state": (nn.Sequential(nn.Linear(F, 8), nn.Tanh(), nn.Linear(8, 2)), torch.ones(F), None, None),
    "one image": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(0), nn.Linear(16, 2)),
        torch.ones(3, 4, 4),
        None,
        None,
    ),
    "one sequence": (Net(lambda n, x: n.out(n.rnn(x)[0]), **recurrent(True)), torch.ones(T, F), None, None),
    "no tensor": (
        Net(lambda n, x: SimpleNamespace(logits=n.out(x)), out=nn.Linear(F, C)),
        torch.ones(B, F),
        B,
        None,
    ),
}


@pytest.mark.parametrize("case", BATCHES)
def test_the_batch_is_that_of_the_output_or_unknown(case):
    net, inputs, size, axis = BATCHES[case]
    inputs = (inputs,) if isinstance(inputs, nn.utils.rnn.PackedSequence) else inputs
    batch = survey(net, inputs).batch
    assert (batch and tuple(batch)) == (None if size is None else (size, axis))


def test_the_batch_of_another_pass_is_read_off_the_gradients_that_arrived():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    one = survey(net, torch.ones(1, 3, 4, 4)).output_axes
    assert one.size_in({}) == 1
    assert one.size_in({"2": (128, 2)}) == one.size_in({"0": (128, 4, 2, 2)}) == 128


def test_where_one_sample_was_surveyed_a_batch_has_an_axis_more():
    axes = survey(nn.Linear(F, C), torch.ones(F)).output_axes
    assert axes == OutputAxes(None, {})  # the root is no module below itself
    axes = survey(nn.Sequential(nn.Linear(F, C)), torch.ones(F)).output_axes
    assert axes.size_in({"0": (C,)}) is None
    assert axes.size_in({"0": (B, C)}) == B


@pytest.mark.parametrize(("reentrant", "requires_grad"), [(True, False), (True, True), (False, False)])
def test_only_reentrant_checkpointing_without_an_input_that_requires_a_gradient_cuts_layers_off(
    reentrant, requires_grad
):
    net = Net(
        lambda n, x: n.head(checkpoint(n.block, x, use_reentrant=reentrant)),
        block=nn.Sequential(nn.Linear(F, F), nn.Linear(F, F).requires_grad_(False)),
        head=nn.Linear(F, C),
    )
    with (
        pytest.warns(UserWarning, match="requires_grad")
        if reentrant and not requires_grad
        else torch.enable_grad()
    ):
        facts = survey(net, torch.ones(B, F, requires_grad=requires_grad)).facts
    # the frozen layer has nothing to be cut off from
    assert facts == ({"block.0": "checkpointed"} if reentrant and not requires_grad else {})


def test_a_layer_under_no_grad_is_not_checkpointed():
    def forward(net, x):
        with torch.no_grad():
            x = net.block(x)
        return net.head(x)

    assert not survey(Net(forward, block=nn.Linear(F, F), head=nn.Linear(F, C)), torch.ones(B, F)).facts


def test_several_tensors_and_none_at_all_are_told_apart():
    net = Net(lambda n, x: n.out(n.lstm(n.odd(x).x)[0]), odd=Odd(), lstm=nn.LSTM(F, F), out=nn.Linear(F, C))
    assert survey(net, torch.ones(T, B, F)).facts == {"odd": "opaque", "lstm": "several"}


class Odd(nn.Module):
    """Returns an object in which nothing can be seen, as a distribution is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Parameter(torch.ones(F))

    def forward(self, x):
        return SimpleNamespace(x=x * self.layer)


class PlainList(nn.Module):
    """Layers in a list, which no module registers."""

    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(F, 7), nn.Linear(7, F)]
        self.head = nn.Linear(F, C)

    def forward(self, x):
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


def test_parameters_of_no_module_are_found_with_their_shapes():
    net = PlainList()
    loose = survey(net, torch.ones(B, F)).loose_parameters
    assert sorted(parameter.shape for parameter in loose) == [(3,), (3, 7), (7,), (7, 3)]
    assert {parameter.id for parameter in loose} == {id(p) for layer in net.hidden for p in layer.parameters()}


def test_what_comes_in_with_the_inputs_is_not_the_networks():
    generator, prompt = nn.Linear(F, F), nn.Parameter(torch.ones(B, F))
    seen = Survey(net := nn.Sequential(nn.Linear(F, C)))
    for inputs in (generator(torch.ones(B, F)), prompt):
        seen = Survey(net)
        seen.attach()
        net(inputs)
        assert seen.finish().loose_parameters == ()


@pytest.mark.parametrize("method", ["_find_topology", "_enter", "_leave"])
def test_what_fails_in_the_survey_does_not_reach_the_training(monkeypatch, method):
    def broken(*_):
        raise RuntimeError("planted")

    monkeypatch.setattr(Survey, method, broken)
    net = nn.Sequential(nn.Linear(F, C))
    seen = Survey(net)
    seen.attach()
    net(torch.ones(B, F)).sum().backward()
    assert "planted" in seen.finish().points.unserved["0"]


def test_a_survey_that_was_asked_for_says_what_is_wrong(monkeypatch):
    def broken(*_):
        raise RuntimeError("planted")

    monkeypatch.setattr(Survey, "_find_topology", broken)
    with pytest.raises(RuntimeError, match="planted"):
        survey(nn.Linear(F, C), torch.ones(B, F))


def test_what_fails_in_following_the_inputs_does_not_reach_the_training(monkeypatch):
    def broken(*_):
        raise RuntimeError("planted")

    for method in ("_uses", "_follow"):
        monkeypatch.setattr(f"gradprobe.network.input_tracker.InputTracker.{method}", broken)
        net = nn.Sequential(nn.Linear(F, C))
        seen = Survey(net)
        seen.attach()
        net(torch.ones(B, F)).sum().backward()
        assert "planted" in seen.finish().points.unserved["0"]
