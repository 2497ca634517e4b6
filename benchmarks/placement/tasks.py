"""The tasks: a network, how it is initialised, its optimizer and real data. Which families were held out.

The families were divided here, in code, before any policy was tuned: what is chosen on `DEVELOPMENT` is run once
on `HELD_OUT`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial

import torch
from torch import Tensor, nn

from benchmarks.placement.nets import ACTIVATIONS, Recurrent, Transformer, UNet, plain_conv, resnet
from gradprobe.network.survey import survey
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.zoo import digits, plain_mlp

DEVELOPMENT = ("mlp", "conv", "resnet")
HELD_OUT = ("narrow", "lstm", "postnorm", "unet", "vit")
BATCH_SIZE = 32
MOST_SINGLES = 6
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A network to train, from its initialisation to its optimizer.

    Attributes:
        name: Family, depth, initialisation, activation and optimizer.
        family: Of architectures.
        build: Builds it; draws its weights from torch's global generator.
        optimizer: ``"adam"`` (2e-3), ``"fast"`` (Adam, 1e-2) or ``"sgd"`` (0.02, momentum 0.9).
        shape: Of one input, as `gradprobe.zoo.digits` takes it.
        dense: Whether every pixel has a target.
        iterations: Length of a training.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    optimizer: str
    shape: tuple[int, ...] = (64,)
    dense: bool = False
    iterations: int = 300

    @property
    def branch(self) -> str:
        """The smallest branch that suits it: a CNDS branch has a hundred times the weights of these networks."""
        return "dense" if self.dense else "token" if self.family in ("lstm", "postnorm", "vit") else "pooled"

    def make_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over a network's parameters; fused, which is faster and gives the same."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, fused=True)
        return torch.optim.Adam(net.parameters(), lr={"adam": 2e-3, "fast": 1e-2}[self.optimizer], fused=True)

    def loss(self, output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(output, target, reduction=reduction)

    def batches(self, seed: int, size: int = BATCH_SIZE) -> list[Batch]:
        """The batches of one training, in an order that depends on the seed."""
        x, y = self._data()[0]
        generator = torch.Generator().manual_seed(seed)
        batches: list[Batch] = []
        while len(batches) < self.iterations:
            order = torch.randperm(len(x), generator=generator)
            batches += [(x[part], y[part]) for part in order.split(size) if len(part) == size]
        return batches[: self.iterations]

    def held_out(self) -> list[Batch]:
        """The 719 digits that no training sees, as one batch."""
        return [self._data()[1]]

    @property
    def chance(self) -> tuple[int, float]:
        """Number of held-out targets, and the share of the most frequent: the accuracy of a constant answer."""
        target = self.held_out()[0][1]
        return target.numel(), target.unique(return_counts=True)[1].max().item() / target.numel()

    def _data(self) -> tuple[Batch, Batch]:
        train, test = _digits(self.shape)
        return (_dense(train), _dense(test)) if self.dense else (train, test)


@lru_cache
def _digits(shape: tuple[int, ...]) -> tuple[Batch, Batch]:
    data = digits(shape, batch_size=2, held_out=0.4)
    train, test = ([torch.cat(parts) for parts in zip(*split, strict=True)] for split in data)
    return (train[0], train[1]), (test[0], test[1])


def _dense(batch: Batch) -> Batch:
    """A target for each pixel: the digit that it is part of, 10 for the paper around it."""
    x, y = batch
    ink = x[:, 0] > 0
    return x, torch.where(ink, y[:, None, None], 10)


def initialise(net: nn.Module, scheme: str, activation: str = "relu") -> nn.Module:
    """Draw the weights of all linear and convolutional layers again; biases become 0.

    Args:
        net: Changed in place.
        scheme: ``"default"`` (unchanged), ``"gaussian"`` (N(0, .01)), ``"xavier"`` or ``"kaiming"``.
        activation: What follows the layers, for the gain.
    """
    if scheme == "default":
        return net
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            if scheme == "gaussian":
                nn.init.normal_(layer.weight, std=0.01)
            elif scheme == "xavier":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity=activation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def _initialised(make: Callable[[], nn.Module], init: str, activation: str) -> nn.Module:
    return initialise(make(), init, activation)


def _plain(family: str, depth: int, width: int, init: str, activation: str, optimizer: str) -> Task:
    kind = ACTIVATIONS[activation]
    conv = family == "conv"
    make = partial(plain_conv, depth, width, kind) if conv else partial(plain_mlp, depth, width, activation=kind)
    name = f"{family}{depth}-{init}-{activation}-{optimizer}"
    shape = (1, 8, 8) if conv else (64,)
    steps = 300 if conv else 400
    return Task(name, family, partial(_initialised, make, init, activation), optimizer, shape, iterations=steps)


def _other(family: str, depth: int, make: Callable[[], nn.Module], optimizer: str, init: str = "default") -> Task:
    image = family in ("resnet", "unet")
    return Task(
        f"{family}{depth}-{init}-{optimizer}",
        family,
        partial(_initialised, make, init, "relu"),
        optimizer,
        (1, 8, 8) if image else (64,),
        family == "unet",
    )


def _tasks() -> list[Task]:
    mlp, conv = partial(_plain, "mlp"), partial(_plain, "conv")
    narrow = partial(_plain, "narrow")
    post, vit = partial(Transformer, norm_first=False), partial(Transformer, norm_first=True)
    return [
        mlp(16, 32, "default", "relu", "adam"),
        mlp(16, 32, "default", "relu", "sgd"),
        mlp(16, 32, "gaussian", "relu", "adam"),
        mlp(16, 32, "xavier", "tanh", "sgd"),
        mlp(16, 32, "kaiming", "relu", "adam"),
        mlp(16, 32, "default", "sigmoid", "adam"),
        mlp(24, 32, "default", "relu", "adam"),
        mlp(24, 32, "default", "relu", "sgd"),
        mlp(24, 32, "gaussian", "tanh", "adam"),
        mlp(24, 32, "default", "tanh", "adam"),
        mlp(32, 32, "default", "relu", "adam"),
        mlp(32, 32, "xavier", "relu", "adam"),
        mlp(32, 32, "xavier", "tanh", "adam"),
        conv(8, 8, "default", "relu", "adam"),
        conv(8, 8, "gaussian", "relu", "adam"),
        conv(8, 8, "default", "relu", "sgd"),
        conv(8, 8, "xavier", "sigmoid", "adam"),
        conv(13, 8, "default", "relu", "adam"),
        conv(13, 8, "kaiming", "relu", "sgd"),
        conv(13, 8, "default", "tanh", "adam"),
        conv(20, 8, "default", "relu", "adam"),
        _other("resnet", 4, partial(resnet, 4, 8), "adam"),
        _other("resnet", 4, partial(resnet, 4, 8), "sgd"),
        narrow(8, 12, "xavier", "sigmoid", "adam"),
        narrow(8, 12, "default", "tanh", "adam"),
        narrow(8, 12, "default", "relu", "sgd"),
        narrow(12, 12, "xavier", "tanh", "sgd"),
        narrow(12, 12, "default", "tanh", "adam"),
        narrow(12, 12, "kaiming", "relu", "adam"),
        narrow(16, 12, "default", "tanh", "sgd"),
        narrow(16, 12, "gaussian", "sigmoid", "adam"),
        narrow(16, 12, "xavier", "tanh", "adam"),
        _other("lstm", 3, partial(Recurrent, 3, 16, 4), "adam"),
        _other("lstm", 4, partial(Recurrent, 4, 16, 4), "sgd"),
        _other("lstm", 2, partial(Recurrent, 2, 16, 1), "adam"),
        _other("postnorm", 6, partial(post, 6, 16), "fast"),
        _other("postnorm", 8, partial(post, 8, 16), "sgd"),
        _other("unet", 2, partial(UNet, 8, 2, nn.ReLU), "adam"),
        _other("unet", 3, partial(UNet, 8, 3, nn.ReLU), "sgd", "gaussian"),
        _other("vit", 4, partial(vit, 4, 16), "adam"),
    ]


TASKS = {task.name: task for task in _tasks()}


@cache
def everywhere(name: str) -> Placement:
    """All supervision points of a task's network, as a placement."""
    task = TASKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        surveyed = survey(task.build(), task.batches(0)[0][0])
    return Placement(
        "everywhere",
        (),
        tuple(surveyed.points),
        "all of them",
        output_shape=surveyed.output_shape,
        output_channels=surveyed.output_channels,
        head=surveyed.head,
        activation=surveyed.activation,
    )


def points(name: str) -> tuple[Point, ...]:
    """The supervision points of a task's network in forward order."""
    return everywhere(name).points


def evenly(count: int, most: int = MOST_SINGLES) -> list[int]:
    """Indices of at most ``most`` of ``count`` points, the first and the last among them.

    Example:
        >>> evenly(3), evenly(23)
        ([0, 1, 2], [0, 4, 9, 13, 18, 22])
    """
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]
