"""Networks with the supervision points that they should have, drawn by hand, and what they are built of."""

from __future__ import annotations

import fnmatch
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

OUTPUT = "it makes the network's output"
NOTHING_AFTER = "no module after it returns what every path to the output passes"
NO_GRADIENT = "its output requires no gradient: frozen with everything before it, or under no_grad"
UNCALLED = "never called as a module"
NO_PREDICTION = (
    "the network returns no prediction but its loss, or something else for each sample: supervise a part of it, "
    "gp.supervise(model.part, ...), by a loss of your own on what its branches predict (branch_loss=; see "
    "the recipe on detectors)"
)
REUSED = "reused: called {} times in one forward"
NO_PATH = "it leads to another output only"
NETWORKS = {}


def network(points, unserved, channels=(), long_skips=False, main=lambda output: output):
    """Register a function that builds a model and its inputs, with what should be found.

    Args:
        points: For each point, in forward order, the layers that it serves (shell patterns, by words).
        unserved: For the other layers (shell patterns) the reason.
        channels: The axis of the channels for some of the points.
        long_skips: The points are cuts only without the long skips.
        main: Takes the main tensor from the output.
    """

    def register(build):
        expected = SimpleNamespace(
            build=build,
            points=points,
            unserved=unserved,
            channels=dict(channels),
            long_skips=long_skips,
            main=main,
        )
        NETWORKS[build.__name__] = expected
        return build

    return register


def built(name):
    torch.manual_seed(0)
    return NETWORKS[name].build()


def matching(names, patterns):
    return {name for name in names for pattern in patterns if fnmatch.fnmatchcase(name, pattern)}


def images(channels=3, size=8):
    return torch.randn(2, channels, size, size)


def conv(before, after, size=3, stride=1, **options):
    return nn.Conv2d(before, after, size, stride, padding=size // 2, **options)


def named(**modules):
    return nn.Sequential(OrderedDict(modules))


class Apply(nn.Module):
    """Submodules by keyword and what forward does with them."""

    def __init__(self, does, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.does = does

    def forward(self, *args, **kwargs):
        return self.does(self, *args, **kwargs)


def expected_to_fail(*values, reason):
    return pytest.param(*values, marks=pytest.mark.xfail(strict=True, reason=reason))
