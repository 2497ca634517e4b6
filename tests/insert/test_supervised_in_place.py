"""In-place operations after a point."""

import copy
import warnings

import pytest
import torch
from support.supervised import Changing, Operators, assert_same_gradients, classes, criterion, joint

import gradprobe as gp

pytestmark = pytest.mark.usefixtures("no_hook_of_a_branch_stays")


def zero_column_(x):
    x[:, 0] = 0
    return x


def relu_of_view_(x):
    x.view(-1).relu_()
    return x


MASK = torch.tensor([0.0, 1, 1, 1, 1], dtype=torch.float64)
CHANGES = {  # in place, written out, copies of the point in later forward passes
    "nothing": (torch.relu, torch.relu, 0),
    "relu": (torch.relu_, torch.relu, 1),
    "added to": (lambda x: x.mul_(2).add_(1), lambda x: 2 * x + 1, 1),
    "a column": (zero_column_, lambda x: MASK * x, 1),
    "a view": (relu_of_view_, torch.relu, 1),
    "a copy": (lambda x: x.clone().relu_(), torch.relu, 1),  # the network's own copy
}


def changing(changes):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(7)).double()
    torch.manual_seed(0)
    return gp.supervise(Changing(changes), ["first"], inputs=x), x


def changing_by_hand(net, x, change):
    hand = copy.deepcopy(net)
    hand.zero_grad()
    point = hand.trunk.first(x)
    prediction = gp.SupervisedOutput(hand.trunk.last(change(point)), (hand.branches["at_first"](point),))
    joint(prediction, classes()).backward()
    return hand


@pytest.mark.parametrize("change", CHANGES)
def test_in_place_changes_of_a_point(change):
    in_place, written, copies = CHANGES[change]
    net, x = changing(lambda x, _: in_place(x))
    for number in range(3):
        net.zero_grad()
        with Operators() as ran:
            prediction = net(x)
        criterion()(prediction, classes()).backward()
        assert_same_gradients(net, changing_by_hand(net, x, written))
        if number:
            assert ran.names.count("aten.clone.default") == copies


@pytest.mark.parametrize(
    "in_place", [lambda n: n >= 3, lambda n: n >= 3 and n % 2], ids=["from the third on", "every second"]
)
def test_a_network_that_begins_to_change_in_place_is_warned_of_once(in_place):
    net, x = changing(lambda x, number: torch.relu_(x) if in_place(number) else torch.relu(x))
    net.trunk.passes = 0  # supervise() made one
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    warned = []
    for _ in range(7):
        optimizer.zero_grad()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            criterion()(net(x), classes()).backward()
        warned.append([str(warning.message) for warning in caught])
        if not warned[-1]:
            assert_same_gradients(net, changing_by_hand(net, x, torch.relu))
        optimizer.step()
    assert [len(messages) for messages in warned] == [0, 0, 1, 0, 0, 0, 0]
    assert "'first' was changed in place in this forward pass" in warned[2][0]
