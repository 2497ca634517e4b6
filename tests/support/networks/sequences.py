"""Recurrent networks, several inputs, graphs, and layers in an unusual order."""

from __future__ import annotations

import torch
from torch import nn

from support.networks.registry import OUTPUT, REUSED, UNCALLED, Apply, conv, images, network
from support.networks.transformers import Layer, tokens


@network({"lstm1": "lstm1", "lstm2": "lstm2"}, {"fc": OUTPUT})
def lstm_last_step():
    def forward(self, x):
        return self.fc(self.lstm2(self.lstm1(x)[0])[0][:, -1])

    lstms = {f"lstm{k}": nn.LSTM(4, 4, batch_first=True) for k in (1, 2)}
    return Apply(forward, **lstms, fc=nn.Linear(4, 5)), tokens()


@network({"lstm": "lstm"}, {"fc": OUTPUT})
def lstm_last_state():
    def forward(self, x):
        _, (h, _) = self.lstm(x)
        return self.fc(h[-1])

    return Apply(forward, lstm=nn.LSTM(4, 4, 2, batch_first=True), fc=nn.Linear(4, 5)), tokens()


@network({"embed": "embed", "gru": "gru"}, {"fc": OUTPUT})
def gru_of_embedded_words():
    def forward(self, x):
        return self.fc(self.gru(self.embed(x))[0].mean(1))

    gru = nn.GRU(4, 3, batch_first=True, bidirectional=True)
    return Apply(forward, embed=nn.Embedding(9, 4), gru=gru, fc=nn.Linear(6, 5)), torch.randint(9, (2, 6))


@network({"embed": "embed"}, {"cell": REUSED.format(6), "fc": OUTPUT})
def cell_in_a_loop():
    def forward(self, x):
        h, x = None, self.embed(x)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.fc(h)

    return Apply(forward, embed=nn.Linear(3, 4), cell=nn.RNNCell(4, 4), fc=nn.Linear(4, 5)), tokens(3)


@network({"join": "join"}, {"encoder.*": REUSED.format(2), "fc": OUTPUT})
def siamese():
    def forward(self, a, b):
        return self.fc(self.join(torch.cat([self.encoder(a), self.encoder(b)], 1)).relu())

    encoder = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    net = Apply(forward, encoder=encoder, join=nn.Linear(8, 4), fc=nn.Linear(4, 1))
    return net, (torch.randn(3, 4), torch.randn(3, 4))


@network({"left": "left", "right": "right", "join": "join"}, {"fc": OUTPUT})
def two_inputs():
    def forward(self, a, b):
        return self.fc(self.join(torch.cat([self.left(a), self.right(b)], 1)).relu())

    net = Apply(forward, left=nn.Linear(4, 4), right=nn.Linear(3, 4), join=nn.Linear(8, 4), fc=nn.Linear(4, 1))
    return net, (torch.randn(3, 4), torch.randn(3, 3))


class Message(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.lin, self.norm = nn.Linear(size, size), nn.LayerNorm(size)

    def forward(self, x, adjacency):
        return x + torch.relu(self.norm(adjacency @ self.lin(x)))


@network({"embed": "embed", "layers.0": "layers.0.*", "layers.1": "layers.1.*"}, {"head": OUTPUT})
def message_passing():
    def forward(self, x, adjacency):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, adjacency)
        return self.head(x)

    layers = nn.ModuleList([Message(4), Message(4)])
    net = Apply(forward, embed=nn.Linear(3, 4), layers=layers, head=nn.Linear(4, 2))
    return net, (torch.randn(7, 3), (torch.rand(7, 7) > 0.5).float())


@network({"words": "words", "layer:input": "positions", "layer": "layer.*"}, {"head": OUTPUT})
def language_model():
    """Positions from arange are no input: all of it passes the words, and the sum is no module's output."""

    def forward(self, ids):
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.head(self.layer(x))

    net = Apply(
        forward, words=nn.Embedding(9, 4), positions=nn.Embedding(6, 4), layer=Layer(), head=nn.Linear(4, 9)
    )
    return net, torch.randint(9, (2, 6))


def conditioned(self, x, t):
    return x + self.conv(x).relu() * self.scale(t)[:, :, None, None]


@network(
    {"stem": "stem", "time.1": "time.0", "time.2": "time.2"} | {f"blocks.{k}": f"blocks.{k}.*" for k in range(3)},
    {"fc": OUTPUT},
)
def conditioned_blocks():
    """Diffusion models: the time goes into every residual block, and its own layers before."""

    def forward(self, x, t):
        x, t = self.stem(x), self.time(t)
        for block in self.blocks:
            x = block(x, t)
        return self.fc(x.flatten(1))

    blocks = nn.ModuleList(Apply(conditioned, conv=conv(4, 4), scale=nn.Linear(4, 4)) for _ in range(3))
    time = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 4))
    net = Apply(forward, time=time, stem=conv(3, 4), blocks=blocks, fc=nn.Linear(256, 5))
    return net, (images(), torch.randn(2, 3))


@network(
    {"stem": "stem", "blocks.0": "blocks.0.*", "blocks.1": "blocks.1.*", "blocks.2": "blocks.2.* bias"},
    {"fc": OUTPUT},
)
def bias_of_every_block():
    """T5: what goes into every block, and comes from no input, passes the last block only."""

    def block(self, x, bias):
        return x + self.lin(self.norm(x)) * bias

    def forward(self, x):
        x, bias = self.stem(x), self.bias(torch.arange(3))
        for block in self.blocks:
            x = block(x, bias)
        return self.fc(x)

    blocks = nn.ModuleList(Apply(block, norm=nn.LayerNorm(4), lin=nn.Linear(4, 4)) for _ in range(3))
    net = Apply(forward, bias=nn.Embedding(3, 4), stem=nn.Linear(4, 4), blocks=blocks, fc=nn.Linear(4, 2))
    return net, torch.randn(3, 4)


@network(
    {"words": "words", "drop": "positions", "layers.0": "layers.0.*", "layers.1": "layers.1.*", "norm": "norm"},
    {"head": OUTPUT},
)
def gpt():
    def forward(self, ids):
        x = self.drop(self.words(ids) + self.positions(torch.arange(ids.shape[1])))
        return self.head(self.norm(self.layers(x)))

    net = Apply(
        forward, words=nn.Embedding(9, 4), positions=nn.Embedding(6, 4), drop=nn.Dropout(0.1),
        layers=nn.Sequential(Layer(), Layer()), norm=nn.LayerNorm(4), head=nn.Linear(4, 9),
    )  # fmt: skip
    return net, torch.randint(9, (2, 6))


@network({"0": "0", "1": "1.*", "2": "2.*"}, {"3": OUTPUT})
def highway():
    """Srivastava et al. 2015: a gate between the layer and what came in."""

    def gated(self, x):
        gate = self.gate(x).sigmoid()
        return gate * self.lin(x).relu() + (1 - gate) * x

    layers = [Apply(gated, gate=nn.Linear(4, 4), lin=nn.Linear(4, 4)) for _ in range(2)]
    return nn.Sequential(nn.Linear(4, 4), *layers, nn.Linear(4, 2)), torch.randn(3, 4)


@network({"0": "0", "1": "1.lin", "3": "3.lin"}, {"2.lin": UNCALLED, "4": OUTPUT})
def stochastic_depth():
    """Huang et al. 2016: a block that is left out gives back what it got."""

    def block(self, x):
        return x if self.left_out else x + self.lin(x).relu()

    blocks = [Apply(block, lin=nn.Linear(4, 4)) for _ in range(3)]
    for k, made in enumerate(blocks):
        made.left_out = k == 1
    return nn.Sequential(nn.Linear(4, 4), *blocks, nn.Linear(4, 2)), torch.randn(3, 4)


@network({"2": "0 1 2", "4": "3 4"}, {"6": OUTPUT})
def activations_with_parameters():
    return nn.Sequential(
        conv(3, 4), nn.BatchNorm2d(4), nn.PReLU(), conv(4, 4), nn.PReLU(4), nn.Flatten(), nn.Linear(256, 2)
    ), images()


@network({"0": "0", "1": "1.*", "2": "2.*"}, {"4": OUTPUT})
def temporal_convolutions():
    """Bai et al. 2018: dilated, cut off at the end, channels first."""

    def block(self, x):
        return (x + self.conv2(self.conv1(x).relu())[..., : x.shape[-1]]).relu()

    blocks = [
        Apply(block, conv1=nn.Conv1d(4, 4, 3, padding=4, dilation=2), conv2=nn.Conv1d(4, 4, 3, padding=1))
        for _ in range(2)
    ]
    return nn.Sequential(nn.Conv1d(3, 4, 1), *blocks, nn.Flatten(), nn.Linear(24, 2)), torch.randn(2, 3, 6)
