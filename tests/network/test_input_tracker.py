"""Which nodes of the autograd graph take a network's inputs in, and that to look on changes nothing."""

from __future__ import annotations

import copy
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

import gradprobe as gp
from gradprobe.network.input_tracker import InputTracker

WEIGHT = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
TABLE = nn.Parameter(torch.arange(12.0).view(4, 3))


def entered(compute, *inputs):
    """What was computed, and the tracker that saw it."""
    tracker = InputTracker()
    tracker.begin(inputs)
    with tracker:
        result = compute(*inputs)
    return result, tracker


def kinds(tracker):
    return {type(node).__name__: which for node, which in tracker.entries.items()}


def numbers():
    return torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


@pytest.mark.parametrize(
    "prepared",
    [
        lambda x: x / 255,
        lambda x: (x - x.mean()) / x.std(),
        lambda x: x.T.T,
        lambda x: x.permute(1, 0).contiguous().view(-1)[:6].reshape(2, 3),
        lambda x: torch.stack([x, x])[0],
        lambda x: torch.cat([x, torch.zeros(2, 3)])[:2],
        lambda x: x.double().float(),
        lambda x: F.pad(x, (0, 1))[:, :3],
        lambda x: x.chunk(2)[1],
        lambda x: x.clone().add_(1),
        lambda x: torch.fft.fft(x).real,
        lambda x: F.layer_norm(x, (3,)),
        lambda x: torch.where(x > 2, x, 0.0),
    ],
)
def test_an_input_enters_after_its_preprocessing(prepared):
    result, tracker = entered(lambda x: prepared(x) * WEIGHT, numbers())
    assert tracker.entries == {result.grad_fn: {0}}
    assert not tracker.foreign


def test_it_enters_at_every_use():
    def residual(x):
        inside = torch.tanh(x * WEIGHT)
        return inside, x + inside

    (inside, result), tracker = entered(residual, numbers())
    first = inside.grad_fn.next_functions[0][0]
    assert tracker.entries == {first: {0}, result.grad_fn: {0}}


def test_it_enters_where_it_is_joined_with_a_feature():
    def joined(x):
        return torch.cat([x / 2, x * WEIGHT], 1)

    result, tracker = entered(joined, numbers())
    assert kinds(tracker) == {"MulBackward0": {0}, "CatBackward0": {0}}
    assert result.grad_fn in tracker.entries


def test_what_was_computed_with_a_gradient_enters_no_more():
    _, tracker = entered(lambda x: torch.tanh(x * WEIGHT) * WEIGHT, numbers())
    assert kinds(tracker) == {"MulBackward0": {0}}


def test_what_is_no_input_does_not_enter():
    constant = torch.ones(2, 3)
    result, tracker = entered(lambda x: constant * WEIGHT + (x * WEIGHT), numbers())
    assert list(tracker.entries) == [result.grad_fn.next_functions[1][0]]


def test_indices_enter_where_they_choose_among_parameters():
    result, tracker = entered(lambda ids: F.embedding(ids, TABLE) * WEIGHT, torch.tensor([1, 3]))
    assert kinds(tracker) == {"EmbeddingBackward0": {0}}
    assert result.grad_fn not in tracker.entries


@pytest.mark.parametrize("shift", [lambda ids: ids + 1, lambda ids: ids.view(-1), lambda ids: ids.clamp(max=2)])
def test_indices_stay_indices_through_functions_of_indices(shift):
    _, tracker = entered(lambda ids: F.embedding(shift(ids), TABLE), torch.tensor([0, 1]))
    assert kinds(tracker) == {"EmbeddingBackward0": {0}}


def test_a_mask_made_from_indices_does_not_enter():
    def attention(ids):
        x = F.embedding(ids, TABLE)
        mask = (ids == 0).float().masked_fill(ids == 0, -9.0)
        return torch.softmax(x @ x.T + mask, -1) @ x, x * (ids != 0)[:, None]

    _, tracker = entered(attention, torch.tensor([1, 3, 0]))
    assert kinds(tracker) == {"EmbeddingBackward0": {0}}


def test_positions_from_arange_do_not_enter():
    def embedded(ids):
        positions = torch.arange(ids.shape[0])
        return F.embedding(ids, TABLE), F.embedding(positions, TABLE)

    (words, positions), tracker = entered(embedded, torch.tensor([1, 3]))
    assert words.grad_fn in tracker.entries
    assert positions.grad_fn not in tracker.entries


def test_indices_do_not_enter_where_they_choose_from_a_feature():
    def chosen(x, ids):
        return (x * WEIGHT)[ids]

    _, tracker = entered(chosen, numbers(), torch.tensor([0, 0]))
    assert kinds(tracker) == {"MulBackward0": {0}}


def test_an_input_that_requires_a_gradient_enters_at_once():
    leaf = numbers().requires_grad_()
    made = leaf * 2
    _, tracker = entered(lambda a, b: a * WEIGHT + b, leaf, made)
    leaves = {type(node).__name__: which for node, which in tracker.entries.items()}
    assert leaves == {"AccumulateGrad": {0}, "MulBackward0": {1}}
    assert tracker.foreign == set(tracker.entries)


def test_each_input_by_its_position():
    (left, right, both), tracker = entered(
        lambda a, b: (a * WEIGHT, b + WEIGHT, (a + b) * WEIGHT), numbers(), numbers()
    )
    assert tracker.entries == {left.grad_fn: {0}, right.grad_fn: {1}, both.grad_fn: {0, 1}}


def test_several_calls_count_on():
    tracker = InputTracker()
    tracker.begin([numbers()])
    tracker.begin([x := numbers()])
    with tracker:
        result = x * WEIGHT
    assert tracker.entries == {result.grad_fn: {1}}


def test_a_change_in_place_is_followed():
    def changed(x):
        x.mul_(2)
        x[:, 0] = 1
        return x * WEIGHT

    result, tracker = entered(changed, numbers())
    assert tracker.entries == {result.grad_fn: {0}}


def test_an_input_that_a_parameter_is_added_to_in_place():
    result, tracker = entered(lambda x: x.add_(WEIGHT), numbers())
    assert tracker.entries == {result.grad_fn: {0}}


def test_what_is_computed_without_gradients_stays_input():
    def backbone(x):
        with torch.no_grad():
            x = torch.relu(x * WEIGHT) * WEIGHT
        return x * WEIGHT

    result, tracker = entered(backbone, numbers())
    assert tracker.entries == {result.grad_fn: {0}}


def test_what_is_detached_from_the_graph_is_no_input():
    """After a layer that is trained it has come another way, and that way is cut off."""
    _, tracker = entered(lambda x: (x * WEIGHT).detach() * WEIGHT, numbers())
    assert kinds(tracker) == {"MulBackward0": {0}}
    assert len(tracker.entries) == 1


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x)
        return x * weight

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return None, (gradient * x).sum(0)


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return Double.apply(x, self.weight)


def test_a_custom_function_is_not_seen_and_the_first_layer_stands_in():
    _, tracker = entered(lambda x: Double.apply(x, WEIGHT), numbers())
    assert not tracker.entries
    net = nn.Sequential(Custom(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    points = gp.points(net, numbers())
    assert [(point.name, point.layers) for point in points] == [("0", ("0",)), ("2", ("1",))]


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.fc = nn.Embedding(5, 4), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True)
        _, (h, _) = self.lstm(packed)
        return self.fc(h[-1])


def test_lengths_of_a_packed_sequence_do_not_enter():
    points = gp.points(Packed(), (torch.tensor([[1, 2, 3], [4, 1, 0]]), torch.tensor([3, 2])))
    assert points[0].name == "embed"
    assert points[0].layers == ("embed",)


def test_the_mode_gives_the_same_bits():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    x = torch.randn(2, 3, 8, 8)
    twin = copy.deepcopy(net)
    plain = net(x)
    seen, _ = entered(twin, x)
    plain.square().sum().backward()
    seen.square().sum().backward()
    assert torch.equal(plain, seen)
    for parameter, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)


def test_the_mode_keeps_no_input_alive():
    tracker, x = InputTracker(), numbers()
    tracker.begin([x])
    with tracker:
        y = x / 2
    gone = weakref.ref(x), weakref.ref(y)
    del x, y
    assert all(reference() is None for reference in gone)


class FrozenEncoder(nn.Module):
    """A pretrained encoder in eval mode, under no_grad, inside a net that is trained."""

    def __init__(self, whole):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.encoder = nn.TransformerEncoder(layer, 2) if whole else layer
        self.encoder.eval().requires_grad_(False)
        self.head = nn.Linear(8, 3)

    def forward(self, x, padding=None):
        with torch.no_grad():
            x = self.encoder(x, src_key_padding_mask=padding)
        return self.head(x[:, 0])


def trained(whole, padded, probed):
    torch.manual_seed(0)
    net = FrozenEncoder(whole)
    net.head.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, padding = torch.randn(4, 6, 8), torch.zeros(4, 6, dtype=torch.bool)
    padding[1, 4:] = True

    def step():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*nested tensors.*")
            output = net(x, padding if padded else None)
        output.square().sum().backward()
        optimizer.step()
        return output.detach()

    if not probed:
        return step(), net
    with gp.GradientProbe(net, optimizer=optimizer, iterations=1):
        return step(), net


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_frozen_transformer_takes_its_fast_path_under_a_probe(whole, padded):
    """Its other path rounds otherwise: the user's training would depend on whether it is looked at."""
    output, net = trained(whole, padded, probed=False)
    probed, other = trained(whole, padded, probed=True)
    assert torch.equal(output, probed)
    for parameter, again in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, again)


def test_the_frozen_transformer_s_output_is_still_input():
    torch.manual_seed(0)
    net = FrozenEncoder(whole=True)
    net.encoder.eval()
    middle = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    net.head = nn.Sequential(middle, nn.Linear(8, 3))
    points = gp.points(net, torch.randn(4, 6, 8))
    assert [point.name for point in points] == ["head.0"]
