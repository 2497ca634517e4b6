"""Short trainings of small networks, and what the diagnosis says of them."""

import torch
from torch import nn

import gradprobe as gp
from gradprobe.decide.diagnosis import diagnose


def data(inputs=8, classes=4, count=256):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, inputs, generator=generator)
    return x, x[:, :classes].argmax(1)


def trained(model, step=None, **options):
    """The diagnosis of a short training."""
    return diagnose(recorded(model, step, **options))


def recorded(model, step=None, *, lr=0.01, steps=30, optimizer=None, scale=1.0):
    """The record of a short training; ``step`` is what happens with a batch, the usual by default."""
    x, y = data()
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=lr)

    def usual(a, b):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(a), b).backward()
        optimizer.step()

    step = step(model, optimizer) if step else usual
    with gp.GradientProbe(model, optimizer=optimizer, iterations=steps) as probe:
        for index in range(steps):
            rows = slice(32 * (index % 8), 32 * (index % 8) + 32)
            step(scale * x[rows], y[rows])
    return probe.history


def mlp(*last, width=32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4), *last
    )
