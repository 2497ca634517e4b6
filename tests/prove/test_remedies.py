import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gradprobe.prove.remedies import kaiming, lsuv, normalised


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


@pytest.mark.parametrize("remedy", [kaiming, lsuv])
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
