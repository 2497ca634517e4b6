"""Cases: shared parameters and modules, and changes in place."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from support.cases.loop import Made, data, mlp, plain, tokens

# --- shared parameters and modules -----------------------------------------------------------------------------


@plain
def tied_embedding_and_head():
    net = Made(lambda s, x: s.head(torch.tanh(s.mix(s.embed(x)))), embed=nn.Embedding(9, 4), mix=nn.Linear(4, 4))
    net.head = nn.Linear(4, 9, bias=False).double()
    net.head.weight = net.embed.weight
    return net, tokens(9, 2, 5), lambda y: F.cross_entropy(y.flatten(0, 1), torch.arange(10) % 9)


@plain
def embedding_weight_used_again_as_a_function():
    net = Made(lambda s, x: F.linear(s.mix(s.embed(x)), s.embed.weight), embed=nn.Embedding(9, 4), mix=mlp(4, 4))
    return net, tokens(9, 2, 5)


@plain
def module_called_three_times():
    net = Made(lambda s, x: s.b(s.a(torch.tanh(s.a(torch.tanh(s.a(x)))))), a=nn.Linear(4, 4), b=nn.Linear(4, 1))
    return net, data(6, 4)


@plain
def module_called_on_different_sizes():
    net = Made(lambda s, x: s.a(x).sum() + s.a(s.b(x)[:2]).square().sum(), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    return net, data(6, 4)


@plain
def module_under_two_names():
    net = Made(lambda s, x: s.again(torch.tanh(s.first(x))), first=nn.Linear(4, 4))
    net.again = net.first
    return net, data(6, 4)


@plain
def siamese():
    net = Made(lambda s, x: s.tower(x[0]) - s.tower(x[1]), tower=mlp(4, 5, 2))
    return net, data(2, 6, 4)


# --- in place --------------------------------------------------------------------------------------------------


@plain
def inplace_relu():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), nn.ReLU(inplace=True))
    return net.double(), data(2, 1, 7, 7)


def added_in_place(net, x):
    x = net.a(x)
    y = net.norm(net.b(x))
    y += x
    return F.relu_(y)


@plain
def inplace_residual():
    return Made(added_in_place, a=nn.Linear(4, 4), b=nn.Linear(4, 4), norm=nn.BatchNorm1d(4)), data(6, 4)


@plain
def inplace_dropout_and_scale():
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.4, inplace=True), nn.ELU(inplace=True), nn.Linear(5, 2))
    return net.double(), data(6, 4)


def view_of_an_output_changed(net, x):
    y = net.a(x)
    y[:, :2].mul_(3.0)
    y.view(-1)[0] = 0.0
    return net.b(y)


@plain
def inplace_on_a_view_of_an_output():
    return Made(view_of_an_output_changed, a=nn.Linear(4, 4), b=nn.Linear(4, 2)), data(6, 4)


@plain
def layer_whose_output_is_a_view_changed_in_place():
    class Transposed(nn.Linear):
        def forward(self, x):
            return super().forward(x).t()

    return Made(lambda s, x: s.b(F.relu_(s.a(x)).t()), a=Transposed(4, 5), b=nn.Linear(5, 2)), data(6, 4)


def attention_added_in_place(net, x):
    x = net.first(x)
    y = net.attention(x, x, x, need_weights=False)[0]
    y += x
    return y


@plain
def attention_output_changed_in_place():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    return Made(attention_added_in_place, first=nn.Linear(4, 4), attention=attention), data(2, 3, 4)


@plain
def chunks_of_an_output():
    def gated(net, x):
        value, gate = net.a(x).chunk(2, dim=-1)
        return net.b(value * gate.sigmoid())

    return Made(gated, a=nn.Linear(4, 6), b=nn.Linear(3, 2)), data(6, 4)
