import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gradprobe.prove.remedies import (
    REMEDIES,
    clipping,
    kaiming,
    learning_rate,
    lsuv,
    normalised,
    orthogonal,
    residual_scaled,
    within_channel,
    xavier,
)
from gradprobe.record.evidence import Evidence
from gradprobe.record.history import GradientHistory, Layer, tidy


def deep(depth=5, width=16):
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())))


def test_lsuv_gives_every_layer_unit_variance():
    net, x = deep(), 3 * torch.randn(256, 16)
    lsuv(net, x)
    for layer in net:
        x = layer(x).detach()
        if isinstance(layer, nn.Linear):
            assert x.std() == pytest.approx(1, rel=1e-4)
            weight = layer.weight.detach()
            scale = weight @ weight.T  # orthonormal rows, scaled
            assert torch.allclose(scale / scale[0, 0], torch.eye(16), atol=1e-5)


def test_kaiming_has_the_variance_of_the_paper():
    net = nn.Conv2d(32, 64, 3)
    kaiming(net)
    assert net.weight.detach().std() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.02)
    assert not net.bias.any()


def test_the_linear_layers_of_gpt2_are_linear_layers():
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    layer, x = Conv1D(32, 256), 3 * torch.randn(512, 256)  # 256 inputs, 32 outputs
    kaiming(layer)
    assert layer.weight.detach().std() == pytest.approx((2 / 256) ** 0.5, rel=0.03)
    lsuv(layer, x)
    assert layer(x).detach().std() == pytest.approx(1, rel=1e-4)
    columns = layer.weight.detach().T @ layer.weight.detach()  # one for each output: orthonormal, scaled
    assert torch.allclose(columns / columns[0, 0], torch.eye(32), atol=1e-5)


def test_lsuv_scales_a_layer_that_is_called_twice_once():
    torch.manual_seed(0)
    shared, x = nn.Linear(16, 16), 3 * torch.randn(256, 16)
    lsuv(nn.Sequential(shared, nn.Tanh(), shared), x)
    assert shared(x).detach().std() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("remedy", [kaiming, xavier, lsuv, within_channel])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_and_parametrized_weights_and_other_layers_stay(remedy, dtype):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)).to(dtype)
    parametrizations.weight_norm(net[0])
    net[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    remedy(net, torch.randn(4, 8, dtype=dtype))
    parameters = dict(net.named_parameters())
    changed = {name for name, value in parameters.items() if not torch.equal(before[name], value)}
    assert changed == {"3.weight", "3.bias"}


def test_a_dead_layer_is_left_as_it_is():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    lsuv(net, torch.zeros(4, 8))
    assert torch.isfinite(net[0].weight).all()


def test_lsuv_takes_any_inputs_that_a_batch_may_have(two_inputs):
    for inputs in (
        (torch.randn(64, 8), torch.randn(64, 8)),
        {name: torch.randn(64, 8) for name in ("a", "b")},
    ):
        net = two_inputs(nn.Linear(8, 4))
        lsuv(net, inputs)
        weights = net.fc.weight.detach()
        assert torch.isfinite(weights).all()
        assert (weights @ weights.T)[0, 1].abs() < 1e-5


def test_normalisation_follows_every_layer_but_the_last():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()
    normalised(net)
    assert [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)] == ["0.1", "2.0.1"]
    assert isinstance(net[4], nn.Linear)
    assert not any(module.training for module in net.modules())
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_tokens_are_normalised_over_all_positions():
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    normalised(net)
    x = net[0](torch.randn(16, 5, 8)).detach()
    assert torch.allclose(x.mean((0, 1)), torch.zeros(6), atol=1e-5)
    assert torch.allclose(x.var((0, 1), unbiased=False), torch.ones(6), atol=1e-3)


@pytest.mark.parametrize(
    "other", [nn.BatchNorm1d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.LSTM(8, 8), nn.MultiheadAttention(8, 2)]
)
def test_what_has_normalisation_or_is_recurrent_is_left_as_it_is(other):
    net = nn.Sequential(nn.Linear(8, 8), other, nn.Linear(8, 8))
    before = str(net)
    normalised(net)
    assert str(net) == before


@pytest.mark.parametrize("remedy", REMEDIES.values(), ids=REMEDIES)
def test_what_a_remedy_does_not_understand_it_leaves_alone(remedy):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(8, 4), nn.LayerNorm(4), nn.PReLU(), nn.ConstantPad1d(1, 0.0))
    before, flags = {name: value.clone() for name, value in net.state_dict().items()}, net.training
    remedy(net, torch.randint(8, (16, 5)))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert len(list(net.modules())) == 5
    assert net.training == flags
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.ReLU, (2 / 256) ** 0.5),  # He et al. 2015, equation 10
        (nn.Tanh, (2 / (256 + 128)) ** 0.5),  # Glorot and Bengio 2010, equation 16
        (nn.Sigmoid, 4 * (2 / (256 + 128)) ** 0.5),
        (nn.Identity, (2 / (256 + 128)) ** 0.5),
    ],
)
def test_weights_are_drawn_by_the_activation_that_follows(activation, expected):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 128), activation(), nn.Linear(128, 4))
    xavier(net, torch.randn(8, 256))
    assert net[0].weight.detach().std() == pytest.approx(expected, rel=0.02)
    assert not net[0].bias.any()


@pytest.mark.parametrize("shape", [(256, 16), (64, 4, 16)])
def test_each_unit_has_mean_0_and_variance_1_also_after_sigmoids(shape):
    torch.manual_seed(0)
    net = nn.Sequential(*(part for _ in range(6) for part in (nn.Linear(16, 16), nn.Sigmoid())))
    x = 3 * torch.randn(shape)
    within_channel(net, x)
    for layer in net:
        x = layer(x).detach()
        if isinstance(layer, nn.Linear):
            units = x.flatten(0, -2)
            assert torch.allclose(units.mean(0), torch.zeros(16), atol=1e-3)
            assert torch.allclose(units.std(0), torch.ones(16), atol=1e-3)


def test_channels_of_convolutions_have_mean_0_and_variance_1_and_dead_ones_stay():
    torch.manual_seed(0)
    net, x = nn.Conv2d(2, 6, 3), torch.randn(16, 2, 8, 8)
    within_channel(net, x)
    y = net(x).detach().transpose(0, 1).flatten(1)
    assert torch.allclose(y.mean(1), torch.zeros(6), atol=1e-4)
    assert torch.allclose(y.std(1), torch.ones(6), atol=1e-4)
    within_channel(net, torch.zeros(16, 2, 8, 8))
    assert torch.isfinite(net.weight).all()


@pytest.mark.parametrize(("kind", "gates", "open_gate"), [(nn.LSTM, 4, 1), (nn.GRU, 3, 1), (nn.RNN, 1, None)])
def test_each_gate_has_an_orthogonal_matrix_and_what_keeps_the_state_is_open(kind, gates, open_gate):
    net = nn.ModuleList([kind(4, 8, 2), nn.Linear(8, 8)])
    before = net[1].weight.clone()
    orthogonal(net)
    for name in ("weight_hh_l0", "weight_hh_l1"):
        for gate in getattr(net[0], name).detach().split(8):
            assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)
    bias = (net[0].bias_ih_l1 + net[0].bias_hh_l1).detach().view(gates, 8)
    assert [float(row.mean()) for row in bias] == [float(gate == open_gate) for gate in range(gates)]
    assert torch.equal(net[1].weight, before)


class Block(nn.Module):
    def __init__(self, *, normalised=False, dropout=0.0):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm = nn.LayerNorm(8) if normalised else nn.Identity()
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        return (x + self.drop(self.norm(self.down(self.up(x).relu_())))).relu()


def test_only_what_ends_a_residual_branch_is_scaled():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    net = nn.Sequential(nn.ReLU(), *(Block(dropout=0.5) for _ in range(4)), Block(normalised=True), plain)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    residual_scaled(net, torch.randn(16, 8))
    changed = {name for name, value in net.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == {f"{index}.down.{part}" for index in range(1, 5) for part in ("weight", "bias")}
    assert torch.equal(net[1].down.weight, before["1.down.weight"] / 2)  # sqrt(4)
    assert all(module.training for module in net.modules())


def test_two_branches_of_one_block_are_both_found():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = x + self.a(x)
            return x + self.c(self.b(x).tanh())

    net = nn.Sequential(Two(), Two())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    residual_scaled(net, torch.randn(16, 8))
    scaled = {n for n, value in net.state_dict().items() if torch.equal(value, before[n] / 2)}
    assert scaled == {f"{i}.{layer}.{part}" for i in range(2) for layer in "ac" for part in ("weight", "bias")}


def test_the_rate_of_every_group_and_what_a_scheduler_begins_from_are_multiplied():
    evidence = Evidence.from_rows([(0, "fc", 0.9, 1.0, 0, 0, 0, 0, 8, 0.3, 1.0)], {}, {})
    history = GradientHistory(tidy([]), {}, (Layer("fc", 0, "Linear", 9),), (), None, evidence=evidence)
    one, two = (torch.ones(1, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": one, "lr": 1.0}, {"params": two, "lr": 0.5, "initial_lr": 0.5}])
    assert learning_rate(optimizer, history) == 0.01  # a step moved 0.3 of a weight; 3e-3 is usual
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.005])
    assert optimizer.param_groups[1]["initial_lr"] == pytest.approx(0.005)


def test_a_gradient_below_the_norm_is_not_touched():
    weight = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.SGD([weight, torch.ones(1, requires_grad=True)], lr=1.0)  # one without a gradient
    clipping(optimizer)
    weight.grad = torch.full((4,), 0.25)
    optimizer.step()
    assert weight.tolist() == [-0.25] * 4
