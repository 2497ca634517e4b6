"""Cases: who owns which parameters and what they are called; layers of all kinds."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from support.cases.loop import Made, data, mlp, plain, squared, tokens

# --- who owns what, and what it is called ----------------------------------------------------------------------


@plain
def parameters_of_the_root():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4).double())
            self.bias = nn.Parameter(torch.zeros(4).double())
            self.inner = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.inner(x) * self.scale + self.bias

    return Root(), data(6, 4)


@plain
def parameter_lists_and_dicts():
    def forward(net, x):
        for weight in net.weights:
            x = torch.tanh(x @ weight)
        return net.heads["last"](x @ net.table["mix"])

    weights = nn.ParameterList(torch.randn(4, 4) for _ in range(3))
    table = nn.ParameterDict({"mix": torch.randn(4, 4), "unused": torch.randn(2)})
    heads = nn.ModuleDict({"last": nn.Linear(4, 2), "other": nn.Linear(4, 3)})
    return Made(forward, weights=weights, table=table, heads=heads), data(6, 4)


@plain
def numbers_nan_and_unicode_as_names():
    net = nn.Sequential(
        OrderedDict({"0": nn.Linear(4, 4), "nan": nn.Linear(4, 4), "Größe 層": nn.Linear(4, 3), "None": mlp(3, 2)})
    )
    return net.double(), data(6, 4)


@plain
def parameter_handed_out_as_output():
    class Gives(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            return self.weight

    return Made(lambda s, x: x @ s.given(x), given=Gives()), data(6, 4)


@plain
def layer_that_returns_its_input():
    class Passing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x

    return Made(lambda s, x: s.b(s.passing(s.a(x))), a=nn.Linear(4, 4), passing=Passing(), b=mlp(4, 2)), data(6, 4)


@plain
def scalar_outputs():
    class Energy(nn.Linear):
        def forward(self, x):
            return super().forward(x).square().mean()

    return Made(lambda s, x: s.a(x) + s.b(x), a=Energy(4, 3), b=Energy(4, 2)), data(6, 4), lambda y: y


@plain
def empty_batches():
    inputs = data(6, 4, count=4)
    inputs[1] = inputs[1][:0]
    return mlp(4, 5, 2), inputs, lambda y: y.square().sum()


@plain
def outputs_without_elements():
    net = Made(lambda s, x: s.a(x).sum() + s.b(x[:0]).sum(), a=nn.Linear(4, 2), b=nn.Linear(4, 3))
    return net, data(6, 4), lambda y: y


@plain
def integer_inputs():
    net = nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 2)).double()
    return net, tokens(7, 5, 3)


@plain
def normalisations():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm(5),
        nn.RMSNorm(5),
        nn.PReLU(4),
    )
    return net.double(), data(3, 2, 7, 5 + 2), lambda y: y.square().mean() + (y[:, :2] ** 3).mean()


@plain
def convolutions_of_all_dimensions():
    def forward(net, x):
        y = net.one(x).unsqueeze(1)
        z = net.two(y).unsqueeze(1)
        return net.back3(net.three(z)).mean(1), net.back2(net.two(y)), net.back1(net.one(x))

    net = Made(
        forward,
        one=nn.Conv1d(2, 5, 3, padding=1),
        two=nn.Conv2d(1, 3, 3, padding=1),
        three=nn.Conv3d(1, 2, 3, padding=1, groups=1),
        back1=nn.ConvTranspose1d(5, 2, 2),
        back2=nn.ConvTranspose2d(3, 1, 2, stride=2),
        back3=nn.ConvTranspose3d(2, 1, 2),
    )
    return net, data(2, 2, 6), lambda output: sum(squared(y) for y in output)


@plain
def bilinear_and_distance():
    net = Made(
        lambda s, x: s.pair(s.a(x), s.b(x)), a=nn.Linear(4, 3), b=nn.Linear(4, 3), pair=nn.Bilinear(3, 3, 2)
    )
    return net, data(6, 4)


@plain
def lazy_layers_after_their_first_batch():
    net = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(2)).double()
    net(torch.ones(2, 4).double())
    return net, data(6, 4)


@plain
def channels_last_and_not_contiguous():
    net = (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        .double()
        .to(memory_format=torch.channels_last)
    )
    return net, [x.to(memory_format=torch.channels_last).transpose(2, 3) for x in data(2, 2, 7, 7)]


@plain
def expanded_gradients():
    return mlp(4, 5, 2), data(6, 4), lambda y: y.sum() * 0.125
