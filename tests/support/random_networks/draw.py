"""Drawing a random network: its blocks, how they are put together, what it returns and what it is called with."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gradprobe.network.tensors import as_arguments
from support.random_networks import blocks

SPACES = ("images1", "images2", "images2", "images3", "tokens", "tokens", "sequences", "vectors")


@dataclass
class Output:
    logits: Any
    extra: Any = None


@dataclass
class Drawn:
    """A network with what it takes.

    Attributes:
        model: In training mode.
        inputs: As `gradprobe.points` takes them.
        loss: ``(output, target) -> scalar``.
        target: Its target.
        description: What was drawn, for a failing test.
        exact: Whether every point has to be on every path from the input.
        predicts: Whether the network returns a prediction.
    """

    model: nn.Module
    inputs: Any
    loss: Any
    target: Any
    description: str
    exact: bool
    predicts: bool


class Network(nn.Module):
    """Stem, blocks put together in some way, head; what comes out is packed in some way."""

    def __init__(self, parts, plan, pack):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.plan, self.pack = plan, pack

    def forward(self, x, scale=1.0):
        x = self.stem(x) * scale
        return self.pack(self, self.head(PLANS[self.plan](self, x)))


def _chain(net, x):
    for block in net.blocks:
        x = block(x)
    return x


def _sums_outside(net, x):
    for block in net.blocks:
        x = x + block(x)
    return x


def _concat_outside(net, x):
    for block, squeeze in zip(net.blocks, net.squeezes, strict=True):
        x = squeeze(torch.cat([x, block(x)], net.axis))
    return x


def _two_back(net, x):
    before, now = x, x
    for cell in net.blocks:
        before, now = now, cell(before, now)
    return now


def _pairs(net, x):
    streams = (net.first(x), net.second(x))
    for pair in net.blocks:
        streams = pair(streams)
    a, b = streams.values() if isinstance(streams, dict) else streams
    return a + b


def _long_skips(net, x):
    kept, half = [], len(net.blocks) // 2
    for block in net.blocks[:half]:
        x = block(x)
        kept.append(x)
    for block in net.blocks[half:]:
        x = block(x)
        x = x + kept.pop() if kept else x
    return x


def _beside(net, x):
    """A shallow stream beside all blocks."""
    return _chain(net, x) + net.side(x)


PLANS = {
    "chain": _chain,
    "sums outside": _sums_outside,
    "concat outside": _concat_outside,
    "two back": _two_back,
    "pairs": _pairs,
    "long skips": _long_skips,
    "beside": _beside,
}
PACKS = {
    "tensor": lambda net, y: y,
    "tuple": lambda net, y: (y, y.detach().sum()),
    "dict": lambda net, y: {"loss": y.square().mean(), "out": y},
    "dataclass": lambda net, y: Output(y),
    "list of scales": lambda net, y: [y, y * 2],
    "losses in train": lambda net, y: {"loss": y.square().mean()} if net.training else [{"out": row} for row in y],
    "loss": lambda net, y: y.square().mean(),
}


def draw(number: int) -> Drawn:
    """The network of a number, one that trains: an in-place operation may be where autograd does not allow it."""
    for attempt in range(100):
        drawn = _draw(100 * number + attempt)
        if _trains(drawn):
            return drawn
    raise AssertionError(number)


def _trains(drawn: Drawn) -> bool:
    model = copy.deepcopy(drawn.model)
    args, kwargs = as_arguments(drawn.inputs)
    try:
        drawn.loss(model(*args, **kwargs), drawn.target).backward()
    except RuntimeError:
        return False
    return True


def _draw(number: int) -> Drawn:
    rng = random.Random(number)
    torch.manual_seed(number)
    space = blocks.Space(rng.choice(SPACES), rng)
    channels, batch, length = rng.choice([4, 6]), rng.choice([2, 3, 4]), rng.choice([3, 4, 5, 6])
    plan = rng.choice([*PLANS, "chain", "chain"])
    count = rng.randint(1, 6) if plan != "two back" else rng.randint(3, 6)
    parts = {"stem": _stem(space, channels, rng), "blocks": _blocks(space, plan, channels, count, rng)}
    if plan == "concat outside":
        parts["squeezes"] = nn.ModuleList(space.layer(2 * channels, channels, 1) for _ in range(count))
    if plan == "pairs":
        parts |= {"first": space.layer(channels, channels), "second": space.layer(channels, channels)}
    if plan == "beside":
        parts["side"] = _block(space, channels, rng)
    parts["head"], task = _head(space, channels, rng)
    pack = rng.choice([*PACKS, "tensor", "tensor", "tensor"])
    model = Network(parts, plan, PACKS[pack])
    model.axis = space.channels
    inputs = _inputs(space, parts["stem"], batch, length)
    dtype = rng.choice([torch.float32] * 9 + [torch.float64])
    model, inputs = model.to(dtype), inputs.to(dtype) if inputs.is_floating_point() else inputs
    model = _frozen(model, rng)
    given = rng.choice([inputs, (inputs, 0.5), {"x": inputs, "scale": 0.5}])
    kinds = [type(block).__name__ for block in parts["blocks"]]
    description = f"{number}: {space.kind}, {plan} of {kinds}, {task} in {pack}, {dtype}"
    loss = _Loss(pack)
    exact = plan in ("chain", "sums outside", "concat outside") and inputs.is_floating_point()
    return Drawn(model.train(), given, loss, 0.1, description, exact, pack not in ("losses in train", "loss"))


class _Loss:
    """Of whatever a network returns: the mean square distance from the target."""

    def __init__(self, pack):
        self.pack = pack

    def __call__(self, output, target):
        if self.pack == "list of scales":
            return sum(F.mse_loss(part, torch.full_like(part, target)) for part in output)
        if self.pack == "losses in train":
            return output["loss"]
        main = {"tuple": lambda: output[0], "dict": lambda: output["out"], "dataclass": lambda: output.logits}
        y = main.get(self.pack, lambda: output)()
        return F.mse_loss(y, torch.full_like(y, target))


def _stem(space, channels, rng):
    if space.dimensions is None and space.kind != "vectors" and rng.random() < 0.4:
        return nn.Embedding(7, channels)
    return nn.Sequential(space.layer(3, channels), space.act()) if rng.random() < 0.5 else space.layer(3, channels)


def _inputs(space, stem, batch, length):
    shape = {"vectors": (batch,), "tokens": (batch, length), "sequences": (length, batch)}.get(space.kind)
    if shape is None:
        return torch.randn(batch, 3, *[length + 2] * space.dimensions)
    return torch.randint(7, shape) if isinstance(stem, nn.Embedding) else torch.randn(*shape, 3)


def _blocks(space, plan, channels, count, rng):
    if plan == "two back":
        return nn.ModuleList(blocks.Cell(space, channels) for _ in range(count))
    if plan == "pairs":
        container = rng.choice([tuple, list, dict])
        return nn.ModuleList(
            blocks.Pair(space, _row(space, channels, rng), _row(space, channels, rng), channels, container)
            for _ in range(count)
        )
    return nn.ModuleList(_block(space, channels, rng) for _ in range(count))


def _row(space, channels, rng):
    return nn.Sequential(*[_block(space, channels, rng, deep=False) for _ in range(rng.randint(1, 4))])


def _body(space, channels, rng):
    layers = []
    for _ in range(rng.randint(1, 3)):
        layers += [space.layer(channels, channels)]
        layers += [space.norm(channels)] if rng.random() < 0.5 else []
        layers += [space.act()] if rng.random() < 0.7 else []
        layers += [nn.Dropout(0.1)] if rng.random() < 0.1 else []
    return nn.Sequential(*layers)


def _block(space, channels, rng, deep=True):
    if space.kind in ("tokens", "sequences") and rng.random() < 0.4:
        first = space.kind == "tokens"
        if rng.random() < 0.6:
            return blocks.Attention(channels, first, rng.random() < 0.4, rng.random() < 0.5)
        return blocks.Recurrent(rng.choice([nn.RNN, nn.GRU, nn.LSTM]), channels, first, rng.random() < 0.5)
    body = _body(space, channels, rng)
    kinds = [blocks.Plain, blocks.Residual, blocks.Residual, blocks.InPlaceResidual, blocks.Gated, blocks.Autocast,
             blocks.Detached, blocks.Checkpointed]  # fmt: skip
    choice = rng.random()
    if choice < 0.7 or not deep:
        return rng.choice(kinds)(body)
    if choice < 0.8:
        return blocks.Scaled(body, channels, space.channels)
    if choice < 0.9:
        return blocks.Dense(space, channels, rng.randint(1, 3))
    return blocks.Parallel(space, [_body(space, channels, rng) for _ in range(2)], channels, rng.random() < 0.5)


class _Head(nn.Module):
    def __init__(self, layer, reduce, last):
        super().__init__()
        self.layer, self.reduce, self.last = layer, reduce, last

    def forward(self, x):
        return self.last(self.layer(self.reduce(x)))


class Call(nn.Module):
    """A function, or a view, as a module."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


LASTS = (
    lambda y: y, lambda y: y, lambda y: y, torch.sigmoid, lambda y: F.log_softmax(y, -1),
    lambda y: F.normalize(y, dim=-1), lambda y: y.squeeze(-1),
)  # fmt: skip


def _head(space, channels, rng):
    """A head for one vector, or for every position."""
    last = Call(rng.choice(LASTS))
    classes = rng.choice([1, 3, 5])
    if space.kind != "vectors" and rng.random() < 0.4:
        return _Head(space.layer(channels, classes, 1), nn.Identity(), last), "every position"
    axes = {"tokens": (1,), "sequences": (0,), "vectors": ()}.get(space.kind, (2, 3, 4)[: space.dimensions])
    reduce = Call(lambda x: x.mean(axes) if axes else x)
    if space.dimensions and rng.random() < 0.3:
        reduce = Call(lambda x: x.flatten(2).mean(2).view(x.shape[0], -1))
    return _Head(nn.Linear(channels, classes), reduce, last), "vector"


def _frozen(model, rng):
    if rng.random() < 0.15:
        for parameter in [*model.stem.parameters(), *model.blocks[0].parameters()]:
            parameter.requires_grad_(False)
    return model
