"""Checkpointed blocks, and networks that return more than a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from support.networks.registry import NO_PATH, NO_PREDICTION, OUTPUT, Apply, conv, images, named, network


def checkpointed(reentrant):
    def forward(self, x):
        x = self.first(x)
        x = checkpoint(self.block, x, use_reentrant=reentrant)
        return self.fc(self.last(x).relu())

    block = named(fc1=nn.Linear(4, 4), act=nn.Tanh(), fc2=nn.Linear(4, 4))
    return Apply(
        forward, first=nn.Linear(4, 4), block=block, last=nn.Linear(4, 4), fc=nn.Linear(4, 2)
    ), torch.randn(3, 4)


REENTRANT = "inside reentrant checkpointing: pass use_reentrant=False"


@network({"first": "first", "last": "last"}, {"block.*": REENTRANT, "fc": OUTPUT})
def reentrant_checkpointing():
    return checkpointed(True)


@network({"first": "first", "block.act": "block.fc1", "block.fc2": "block.fc2", "last": "last"}, {"fc": OUTPUT})
def other_checkpointing():
    return checkpointed(False)


# what a network returns


@dataclass
class ModelOutput:
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


def returning(what):
    def forward(self, x):
        return what(self.fc(self.act(self.lin(x))))

    return Apply(forward, lin=nn.Linear(4, 4), act=nn.Tanh(), fc=nn.Linear(4, 2)), torch.randn(3, 4)


@network({"act": "lin"}, {"fc": OUTPUT}, main=lambda output: output[0])
def returns_a_tuple():
    return returning(lambda y: (y, y.sum()))


@network({"act": "lin"}, {"fc": OUTPUT}, main=lambda output: output["out"])
def returns_a_dict():
    return returning(lambda y: {"loss": y.sum(), "out": y})


@network({"act": "lin"}, {"fc": OUTPUT}, main=lambda output: output.logits)
def returns_a_dataclass():
    return returning(lambda y: ModelOutput(y.sum(), y))


@network({}, {"lin": NO_PREDICTION, "fc": OUTPUT})
def returns_its_loss():
    return returning(lambda y: y.square().mean())


@network({"relu1": "conv1", "relu2": "conv2"}, {"large": NO_PATH, "small": OUTPUT}, main=lambda output: output[1])
def returns_a_list():
    """Detection: a map for each resolution; the last one has most layers before it."""

    def forward(self, x):
        x = self.relu1(self.conv1(x))
        y = self.relu2(self.conv2(x))
        return [self.large(x), self.small(y)]

    return Apply(
        forward, conv1=conv(3, 4), relu1=nn.ReLU(), conv2=conv(4, 4, 3, 2), relu2=nn.ReLU(), large=conv(4, 2, 1),
        small=conv(4, 2, 1),
    ), images()  # fmt: skip


@network({"relu1": "conv1", "relu2": "conv2"}, {"fc": OUTPUT})
def keyword_inputs():
    def forward(self, *, image, scale=1.0):
        return self.fc(self.relu2(self.conv2(self.relu1(self.conv1(image)) * scale)).flatten(1))

    net = Apply(
        forward, conv1=conv(3, 4), relu1=nn.ReLU(), conv2=conv(4, 4), relu2=nn.ReLU(), fc=nn.Linear(256, 5)
    )
    return net, {"image": images(), "scale": 0.5}
