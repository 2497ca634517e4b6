"""What supervising costs: a training step with branches against the same step with them written into the model.

Both networks have the same weights and see the same batch, in turns in one process; a third, also written by hand,
shows the noise.

    python benchmarks/cost/supervise.py [MODEL...] [--repeats 60] [--out benchmarks/results/supervise.md]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import gradprobe as gp
from benchmarks.cost.timing import ratio, timed
from benchmarks.report import Report

EXPLANATION = """\
Medians in ms of {repeats} interleaved training steps; ratio of the medians with its 95 % bootstrap interval. The
last column is by hand against itself: the noise."""

Step = Callable[[], None]


class Chain(nn.Module):
    """Blocks one after the other, and heads after some of them, written by hand into the forward pass."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head
        self.heads = nn.ModuleDict()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        x = self.stem(x)
        tapped = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if self.training and str(index) in self.heads:
                tapped.append((self.heads[str(index)], x))
        output = self.head(x)
        return (output, [head(point) for head, point in tapped]) if self.heads and self.training else output


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + x)


def plain_conv() -> tuple[Chain, Tensor]:
    """8 convolutions at 64x64, batch 32, with in-place ReLUs."""
    conv = [nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True)) for _ in range(7)]
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(inplace=True))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return Chain(stem, conv, head), torch.randn(32, 3, 64, 64)


def resnet() -> tuple[Chain, Tensor]:
    """9 residual blocks of width 64 at 32x32, batch 32."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return Chain(nn.Conv2d(3, 64, 3, padding=1), [Residual(64) for _ in range(9)], head), torch.randn(
        32, 3, 32, 32
    )


def transformer() -> tuple[Chain, Tensor]:
    """8 pre-norm blocks of width 256, 8x128 tokens, one answer for each token."""
    blocks = [nn.TransformerEncoderLayer(256, 8, 1024, 0.0, batch_first=True, norm_first=True) for _ in range(8)]
    return Chain(nn.Linear(64, 256), blocks, nn.Linear(256, 100)), torch.randn(8, 128, 64)


def mlp() -> tuple[Chain, Tensor]:
    """64 layers of width 128, batch 64: the least work for each branch."""
    blocks = [nn.Sequential(nn.Linear(128, 128), nn.ReLU()) for _ in range(64)]
    return Chain(nn.Linear(64, 128), blocks, nn.Linear(128, 10)), torch.randn(64, 64)


MODELS = {"plain_conv": plain_conv, "resnet": resnet, "transformer": transformer, "mlp": mlp}


def written_by_hand(net: gp.SupervisedModel) -> Chain:
    """The trunk with copies of the branches in its own forward pass."""
    chain: Chain = copy.deepcopy(net.trunk)
    for name, branch in zip(net.points, net.branches.values(), strict=True):
        chain.heads[name.split(".")[1]] = copy.deepcopy(branch)
    return chain


def step_of(net: nn.Module, x: Tensor, y: Tensor) -> Step:
    """One training step: forward, joint loss, backward, optimizer."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def loss_of(output: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.flatten(0, -2), y)

    criterion = gp.DeepSupervisionLoss(lambda output, _: loss_of(output), weight=0.3, schedule="constant")

    def step() -> None:
        optimizer.zero_grad()
        prediction = net(x)
        if isinstance(prediction, gp.SupervisedOutput):
            loss = criterion(prediction, y)
        else:
            loss = loss_of(prediction[0]) + 0.3 * sum(loss_of(output) for output in prediction[1])
        loss.backward()
        optimizer.step()

    return step


def measure(name: str, branches: int, repeats: int) -> list[str]:
    """The times and ratios of one row of the table."""
    torch.manual_seed(0)
    chain, x = MODELS[name]()
    points = [f"blocks.{index}" for index in np.linspace(0, len(chain.blocks) - 2, branches).round().astype(int)]
    net = gp.supervise(chain, points, inputs=x)
    with torch.no_grad():
        y = torch.randint(10, chain.eval()(x).shape[:-1]).flatten()
    chain.train()
    # all three are copies, so that their parameters lie in memory in the same way
    arms = [step_of(arm, x, y) for arm in (written_by_hand(net), copy.deepcopy(net), written_by_hand(net))]
    times = np.empty((repeats, len(arms)))
    for round_ in range(-3, repeats):  # the first three warm up
        for index in np.roll(range(len(arms)), round_):
            seconds = timed(arms[index])
            if round_ >= 0:
                times[round_, index] = seconds
    hand, ours, again = times.T
    medians = [f"{1e3 * np.median(each):.1f}" for each in (hand, ours)]
    return [*medians, ratio(hand, ours), ratio(hand, again)]


def main() -> None:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], default=[])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = Report("What supervising costs", EXPLANATION.format(repeats=options.repeats))
    report.columns("model", "branches", "by hand", "gradprobe", "ratio", "by hand again")
    for name in options.models or MODELS:
        for branches in (1, 4):
            report.row(name, branches, *measure(name, branches, options.repeats))
    report.write(options.out)


if __name__ == "__main__":
    main()
