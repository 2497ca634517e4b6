"""The networks of the random loops: all map (rows, 4) to (rows, 4), so that any of them can follow another."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

WIDTH = 4


class Residual(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self):
        super().__init__()
        self.layer = linear()

    def forward(self, x):
        return torch.tanh(self.layer(torch.tanh(self.layer(x))))


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.conv(x[:, None])).sum(1)


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two = linear(), linear()
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


class BiasOnly(nn.Module):
    """Of the layer only the bias is trained."""

    def __init__(self):
        super().__init__()
        self.layer = linear()
        self.layer.weight.requires_grad_(False)

    def forward(self, x):
        return torch.tanh(self.layer(x))


def linear():
    return nn.Linear(WIDTH, WIDTH)


BLOCKS = {
    "linear": lambda: nn.Sequential(linear(), nn.Tanh()),
    "relu": lambda: nn.Sequential(linear(), nn.ReLU()),
    "in place": lambda: nn.Sequential(linear(), nn.LeakyReLU(inplace=True)),
    "norm": lambda: nn.LayerNorm(WIDTH),
    "residual": lambda: Residual(nn.Sequential(linear(), nn.Tanh())),
    "twice": Twice,
    "conv": Convolution,
    "tied": Tied,
    "frozen": lambda: nn.Sequential(linear().requires_grad_(False), nn.Tanh()),
    "bias": BiasOnly,
}


class Net(nn.Module):
    """A stem, a trunk and two heads: the first two columns of the output are of head ``a``, the others of ``b``.

    Args:
        blocks: Keys of `BLOCKS`.
        seed: Of the weights.

    Attributes:
        checkpointing: How the trunk is called: None plainly, else ``use_reentrant`` of a checkpoint.
    """

    def __init__(self, blocks, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = linear()
        self.trunk = nn.Sequential(*(BLOCKS[block]() for block in blocks))
        self.a, self.b = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 2)
        self.checkpointing = None
        self.double()
        self.trained = [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        if self.checkpointing is None:
            h = self.trunk(h)
        else:
            h = checkpoint(self.trunk, h, use_reentrant=self.checkpointing)
        return torch.cat([self.a(h), self.b(h)], 1)


def layers_of(model):
    """The modules that own parameters, by name."""
    return {name: module for name, module in model.named_modules() if list(module.parameters(recurse=False))}
