"""Families that no rule was chosen on, written down before anything of them was run.

A GRU over the rows of a digit and one over its pixels, 1-D convolutions, plain and residual, SELU and maxout
networks, a sigmoid autoencoder, a deep regression on diabetes, and a segmentation of two digits on one canvas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.placement.nets import UNet
from gradprobe.zoo import digits

BATCH_SIZE = 32
ITERATIONS = 250
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class NewTask:
    """A network to train, with its data, loss and optimizer.

    Attributes:
        build: Draws its weights from torch's global generator.
        data: Training and held-out data.
        loss: Of the output.
        optimizer: Of a network's parameters.
        branch: The smallest kind that suits it.
    """

    build: Callable[[], nn.Module]
    data: Callable[[], tuple[Batch, Batch]]
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    branch: str = "pooled"

    def batches(self, seed: int) -> list[Batch]:
        """The batches of one training, in an order that depends on the seed."""
        (x, y), _ = self.data()
        generator = torch.Generator().manual_seed(seed)
        batches: list[Batch] = []
        while len(batches) < ITERATIONS:
            order = torch.randperm(len(x), generator=generator)
            batches += [(x[part], y[part]) for part in order.split(BATCH_SIZE) if len(part) == BATCH_SIZE]
        return batches[:ITERATIONS]

    def score(self, net: nn.Module) -> float:
        """Accuracy on held-out data, of numbers the explained share of the variance; at least 0."""
        _, (x, y) = self.data()
        net.eval()
        with torch.no_grad():
            output = net(x)
        if not y.is_floating_point():
            return float((output.argmax(1) == y).float().mean())
        share = 1 - float((output - y).square().mean() / (y - y.mean(0)).square().mean())
        return max(share, 0.0) if share == share else 0.0


def _adam(rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda net: torch.optim.Adam(net.parameters(), lr=rate)


def _sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)


@cache
def _digits() -> tuple[Batch, Batch]:
    data = digits((64,), batch_size=2, held_out=0.4)
    train, test = ([torch.cat(parts) for parts in zip(*split, strict=True)] for split in data)
    return (train[0], train[1]), (test[0], test[1])


@cache
def _images() -> tuple[Batch, Batch]:
    a, b = (x for x, _ in _digits())
    low = min(a.min(), b.min())
    scaled = [(x - low) / (a.max() - low) for x in (a, b)]
    return (scaled[0], scaled[0]), (scaled[1], scaled[1])


@cache
def _diabetes() -> tuple[Batch, Batch]:
    from sklearn.datasets import load_diabetes

    table = load_diabetes()
    x, y = (torch.tensor(one, dtype=torch.float32) for one in (table.data, table.target[:, None]))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    return (x[:300], y[:300]), (x[300:], y[300:])


@cache
def _canvases() -> tuple[Batch, Batch]:
    """Two digits on a canvas of 16 x 16, at corners drawn by chance; each pixel names its digit, 10 for paper."""
    return _composed(_digits()[0], 1), _composed(_digits()[1], 2)


def _composed(data: Batch, seed: int) -> Batch:
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    canvas, target = x.new_full((len(x), 1, 16, 16), float(x.min())), torch.full((len(x), 16, 16), 10)
    partner = torch.randperm(len(x), generator=generator)
    for index in range(len(x)):
        top = int(torch.randint(9, (), generator=generator))
        for which, left in ((index, 0), (int(partner[index]), 8)):
            image = x[which].view(8, 8)
            canvas[index, 0, top : top + 8, left : left + 8] = image
            ink = image > x[which].min() + 0.2
            target[index, top : top + 8, left : left + 8][ink] = y[which]
    return canvas, target


class Rows(nn.Module):
    """Stacked GRUs over the parts of a digit, answered from the last step."""

    def __init__(self, layers: int, width: int, inputs: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(inputs, width, layers, batch_first=True)
        self.fc, self.inputs = nn.Linear(width, 10), inputs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 64)`` to ``(N, 10)``."""
        out: Tensor = self.fc(self.rnn(x.reshape(len(x), -1, self.inputs))[0][:, -1])
        return out


class Residual1d(nn.Module):
    """Two normalised 1-D convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width)
        self.conv2, self.norm2 = nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, L)`` to the same."""
        return torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))) + x)


class Maxout(nn.Module):
    """A linear layer of two pieces, of which the larger counts (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs)`` to ``(N, outputs)``."""
        return self.fc(x).view(len(x), -1, 2).amax(2)


def _conv1d(depth: int, width: int, blocks: int = 0) -> nn.Module:
    parts: list[nn.Module] = [
        nn.Unflatten(1, (1, 64)),
        nn.Conv1d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool1d(2),
    ]
    for _ in range(depth):
        parts += [nn.Conv1d(width, width, 3, padding=1), nn.ReLU()]
    parts += [Residual1d(width) for _ in range(blocks)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 10))


def _chain(
    sizes: list[int], activation: Callable[[], nn.Module], last: Callable[[], nn.Module] = nn.Identity
) -> nn.Module:
    pairs = list(pairwise(sizes))
    parts = [part for a, b in pairs[:-1] for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*parts, nn.Linear(*pairs[-1]), last())


def _maxout(depth: int, width: int) -> nn.Module:
    net = nn.Sequential(Maxout(64, width), *(Maxout(width, width) for _ in range(depth)), nn.Linear(width, 10))
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
    return net


_ENTROPY, _SQUARES = nn.functional.cross_entropy, nn.functional.mse_loss
NEW_TASKS = {
    "gru-rows": NewTask(partial(Rows, 2, 16, 8), _digits, _ENTROPY, _adam(2e-3), "token"),
    "gru-pixels": NewTask(partial(Rows, 2, 16, 1), _digits, _ENTROPY, _sgd, "token"),
    "conv1d": NewTask(partial(_conv1d, 12, 8), _digits, _ENTROPY, _adam(2e-3)),
    "conv1d-residual": NewTask(partial(_conv1d, 0, 8, 3), _digits, _ENTROPY, _adam(2e-3)),
    "selu": NewTask(partial(_chain, [64, *[32] * 20, 10], nn.SELU), _digits, _ENTROPY, _adam(2e-3)),
    "maxout": NewTask(partial(_maxout, 12, 24), _digits, _ENTROPY, _sgd),
    "autoencoder": NewTask(
        partial(_chain, [64, 48, 32, 16, 8, 16, 32, 48, 64], nn.Sigmoid, nn.Sigmoid),
        _images,
        _SQUARES,
        _adam(2e-3),
    ),
    "diabetes": NewTask(partial(_chain, [10, *[24] * 14, 1], nn.Tanh), _diabetes, _SQUARES, _sgd),
    "canvases": NewTask(partial(UNet, 8, 2, nn.ReLU), _canvases, _ENTROPY, _adam(2e-3), "dense"),
}
