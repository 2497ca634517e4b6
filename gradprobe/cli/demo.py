"""The target of ``gradprobe demo``: CNDS-8 on scikit-learn's real digits."""

from __future__ import annotations

import click
import torch
from torch import nn

from gradprobe.cli.target import Target
from gradprobe.zoo import cnds8, digits

IMAGE_SIZE = 69  # the smallest that CNDS-8 takes
LEARNING_RATE = 3e-4
BATCH_SIZE = 32
ARMS = ("none", "cnds", "diagnosis")


def demo_target() -> Target:
    """CNDS-8 at an eighth of its width, initialised as by its authors; inputs and Adam as they are today."""
    try:
        data = digits((1, IMAGE_SIZE, IMAGE_SIZE), BATCH_SIZE)
    except ImportError as error:
        raise click.UsageError(str(error)) from error
    return Target(
        name="CNDS-8 (width 1/8)",
        model=_build(),
        build=_build,
        batches=data.batches,
        loss_fn=nn.functional.cross_entropy,
        optimizer=lambda net: torch.optim.Adam(net.parameters(), lr=LEARNING_RATE),
        held_out=data.held_out,
        data=f"digits, 1797 real images at {IMAGE_SIZE}x{IMAGE_SIZE}",
    )


def _build() -> nn.Module:
    return cnds8(width=0.125, image_size=IMAGE_SIZE, classes=10, channels=1)
