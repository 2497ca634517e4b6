"""A plain loop with argparse."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.body = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()) for _ in range(depth)))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.body(x))


def batches(count, size=5):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 8, generator=generator).double(), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def build(depth=12):
    torch.manual_seed(0)
    return Net(depth).double()


def train(args, model, optimizer):
    for x, y in batches(args.steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--depth", type=int, default=12)
    args = parser.parse_args()
    model = build(args.depth)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(args, model, optimizer)
    print("trained to the end")


if __name__ == "__main__":
    main()
