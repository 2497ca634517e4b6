import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gradprobe.remedies import REMEDIES, kaiming, lsuv


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


def test_lsuv_scales_a_layer_that_is_called_twice_once():
    torch.manual_seed(0)
    shared, x = nn.Linear(16, 16), 3 * torch.randn(256, 16)
    lsuv(nn.Sequential(shared, nn.Tanh(), shared), x)
    assert shared(x).detach().std() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("remedy", REMEDIES.values(), ids=REMEDIES)
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


def test_lsuv_takes_any_inputs_that_a_batch_may_have():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, first, second):
            return self.fc(first + second)

    for inputs in (
        (torch.randn(64, 8), torch.randn(64, 8)),
        {name: torch.randn(64, 8) for name in ("first", "second")},
    ):
        net = Two()
        lsuv(net, inputs)
        weights = net.fc.weight.detach()
        assert torch.isfinite(weights).all()
        assert (weights @ weights.T)[0, 1].abs() < 1e-5
