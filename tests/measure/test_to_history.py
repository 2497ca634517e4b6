"""From sums to layers: which layers there are, and which of them an optimizer holds."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gradprobe.measure.to_history import HookedLayers, conditions_of, describe_optimizer
from gradprobe.network.survey import survey

ARRIVED, NOTHING = [4.0, 4.0, 0.0, 0.0, 4.0, 1.0], [0.0] * 6


def hooked(net, **calls):
    layers = dict(net.named_children())
    hooks = {
        name: SimpleNamespace(calls=calls.get(name, 1), differentiable_calls=calls.get(name, 1)) for name in layers
    }
    return HookedLayers(layers, {name: ["weight"] for name in layers}, hooks, ("output", "weight"), {})


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))


def codes(net, sums, hooks=None, **keywords):
    layers = (hooks or hooked(net)).layers(survey(net, torch.ones(1, 2)), sums, is_complete=True, **keywords)
    return {layer.name: dict(layer.unreached_code) for layer in layers}


def test_who_holds_a_weight_decides_what_its_missing_number_means(net):
    # weights of the first two layers have no number: an optimizer holds the bias of the second one only
    sums = [[ARRIVED, NOTHING, ARRIVED, NOTHING, ARRIVED, ARRIVED]]
    held = {id(net[1].bias), id(net[2].weight)}
    assert codes(net, sums, held=held) == {"0": {"weight": "not_held"}, "1": {"weight": "not_held"}, "2": {}}
    assert codes(net, sums, held=held | {id(net[0].weight)})["0"] == {"weight": "consumed"}
    assert codes(net, sums) == {"0": {"weight": "consumed"}, "1": {"weight": "consumed"}, "2": {}}


def test_a_layer_that_was_replaced_before_anything_came_is_left_out(net):
    sums = [[ARRIVED, ARRIVED, ARRIVED, ARRIVED, NOTHING, NOTHING]]
    now = {**dict(net.named_children()), "2": nn.Linear(2, 5)}
    assert list(codes(net, sums, hooked(net, **{"2": 0}), now=now)) == ["0", "1"]
    assert list(codes(net, [[ARRIVED] * 6], now=now)) == ["0", "1", "2"]


def test_the_weight_of_a_layer_of_which_one_tensor_only_has_a_path_is_recorded():
    net = nn.Sequential(nn.LSTM(2, 2))
    hooks = hooked(net)
    layers = hooks.layers(survey(net, torch.ones(3, 1, 2)), [[NOTHING, ARRIVED]], is_complete=True)
    assert dict(layers[0].unreached_code) == {"output": "other_tensor"}


class Loose(nn.Module):
    """A layer in a plain list."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(2, 2)]
        self.head = nn.Linear(2, 1)

    def forward(self, x):
        return self.head(self.layers[0](x))


def test_the_batch_is_that_which_a_gradient_arrived_at_and_loose_parameters_are_listed():
    net = Loose()
    topology = survey(net, torch.ones(1, 2))
    outputs = SimpleNamespace(averaged=1, micro_batches=1, shapes={"head": (128, 1)}, ambiguous={})
    window = SimpleNamespace(skipped=[])
    seen = conditions_of(net, (), window, outputs, None, topology)
    assert (seen["batch_size"], sorted(seen["loose_parameters"])) == (128, [[2], [2, 2]])
    held = {id(parameter) for parameter in net.layers[0].parameters()}
    assert conditions_of(net, (), window, outputs, None, topology, held)["loose_parameters"] is None


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"lr": 1e-3 / 3}, "Adam lr 0.0003333, betas (0.9, 0.999)"),
        ({"lr": torch.tensor(0.25)}, "Adam lr 0.25, betas (0.9, 0.999)"),
        ({"lr": 1e-3, "betas": (0.9, 1 - 2**-20)}, "Adam lr 0.001, betas (0.9, 1.0)"),
    ],
)
def test_numbers_of_an_optimizer_are_for_reading(settings, shown):
    assert describe_optimizer(torch.optim.Adam([nn.Parameter(torch.ones(1))], **settings)) == shown
