"""What a supervised network hands on to its trunk, and what it keeps to itself."""

import copy
import pickle

import pytest
import torch
from torch import nn

import gradprobe as gp


class Net(nn.Module):
    """A model with a method that builds its optimizer, as nanoGPT's has."""

    def __init__(self):
        super().__init__()
        self.config = {"layers": 2}
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self._private = 1
        self.points = "the trunk's"

    @property
    def width(self):
        return self.first.out_features

    def configure_optimizers(self, rate):
        return torch.optim.SGD(self.parameters(), lr=rate)

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.fixture
def net():
    return gp.supervise(Net(), ["first"], inputs=torch.zeros(3, 4))


def test_methods_properties_and_attributes_are_the_trunks(net):
    assert net.config is net.trunk.config
    assert net.width == 8
    assert net.second is net.trunk.second
    optimizer = net.configure_optimizers(0.1)
    optimizer.add_param_group({"params": net.branches.parameters()})
    before = [parameter.clone() for parameter in net.parameters()]
    prediction = net(torch.randn(3, 4))
    (prediction.output.sum() + prediction.auxiliary[0].sum()).backward()
    optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def test_its_own_names_come_first_and_private_ones_are_not_handed_on(net):
    assert net.points == ("first",)
    assert not hasattr(net, "_private")
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'absent'"):
        _ = net.absent
    assert not hasattr(net, "__len__")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_hand_on_to_their_own_trunk(net, copied):
    other = copied(net)
    assert list(other.state_dict()) == list(net.state_dict())
    assert other.second is other.trunk.second
    assert other.second is not net.second
    empty = gp.SupervisedModel.__new__(gp.SupervisedModel)  # as while it is unpickled
    with pytest.raises(AttributeError):
        _ = empty.config


def test_the_keys_are_those_of_trunk_and_branches_alone(net):
    parts = {name.partition(".")[0] for name, _ in net.named_parameters()}
    assert parts == {"trunk", "branches"}
    assert [name for name, _ in net.named_children()] == ["trunk", "branches"]


def test_what_wraps_it_finds_no_mark_of_its_trunk(net):
    net.trunk._is_marked = True  # as fully_shard and torch.compile mark a module
    assert not hasattr(net, "_is_marked")


def test_a_model_that_returns_its_loss_in_a_tuple_keeps_it():
    scores, labels = torch.randn(6, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = nn.functional.cross_entropy(scores, labels)
    branch = torch.randn(6, 3)
    joint = gp.DeepSupervisionLoss(None, weight=0.5, schedule="constant")
    total = joint(gp.SupervisedOutput((scores, loss), (branch,)), labels)
    assert total.item() == pytest.approx(loss.item() + 0.5 * nn.functional.cross_entropy(branch, labels).item())


def test_a_prediction_is_laid_out_as_the_output_is():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.rnn, self.out = nn.Embedding(5, 4), nn.LSTM(4, 6), nn.Linear(6, 5)

        def forward(self, tokens):
            return self.out(self.rnn(self.embedding(tokens))[0])

    tokens = torch.randint(5, (7, 3))
    net = gp.supervise(Sequence(), ["embedding"], inputs=tokens)
    prediction = net(tokens)
    assert prediction.output.is_contiguous()
    assert prediction.auxiliary[0].view(-1, 5).shape == (21, 5)
