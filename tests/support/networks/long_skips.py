"""Networks with long skips: U-Nets, and streams side by side."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from support.networks.convolutional import BasicBlock
from support.networks.registry import NOTHING_AFTER, OUTPUT, UNCALLED, conv, images, network


def double_conv(before, after):
    return nn.Sequential(
        conv(before, after),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        conv(after, after),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Ronneberger et al. 2015 with two convolutions a stage; skips are concatenated or added."""

    def __init__(self, levels, concat, stage=double_conv):
        super().__init__()
        sizes = [4 + k for k in range(levels)]
        self.down = nn.ModuleList(stage(*pair) for pair in zip([3, *sizes], sizes, strict=False))
        self.up, self.right = nn.ModuleList(), nn.ModuleList()
        for k in reversed(range(levels - 1)):
            self.up.append(nn.ConvTranspose2d(sizes[k + 1], sizes[k], 2, 2))
            self.right.append(stage(2 * sizes[k] if concat else sizes[k], sizes[k]))
        self.out, self.concat = conv(4, 2, 1), concat

    def forward(self, x):
        skips = []
        for k, stage in enumerate(self.down):
            x = stage(F.max_pool2d(x, 2) if k else x)
            skips.append(x)
        for up, stage, skip in zip(self.up, self.right, reversed(skips[:-1]), strict=True):
            x = up(x)
            x = stage(torch.cat([skip, x], 1) if self.concat else skip + x)
        return self.out(x)


def stage_points(name):
    return {f"{name}.2": f"{name}.0 {name}.1", name: f"{name}.3 {name}.4"}


def unet_points(levels, stage):
    down = {key: value for k in range(levels) for key, value in stage(f"down.{k}").items()}
    up = [{f"up.{k}": f"up.{k}"} | stage(f"right.{k}") for k in range(levels - 1)]
    return down | {key: value for part in up for key, value in part.items()}


@network(unet_points(4, stage_points), {"out": OUTPUT}, long_skips=True)
def unet_concat():
    return UNet(4, concat=True), images(size=16)


@network(unet_points(4, stage_points), {"out": OUTPUT}, long_skips=True)
def unet_additive():
    return UNet(4, concat=False), images(size=16)


@network(unet_points(3, lambda name: {name: f"{name}.*"}), {"out": OUTPUT}, long_skips=True)
def unet_residual():
    return UNet(3, concat=True, stage=BasicBlock), images(size=16)


class NnUNet(nn.Module):
    """Isensee et al. 2021: stages of conv, InstanceNorm, LeakyReLU twice; strided, transposed, concatenated."""

    def __init__(self, levels=5):
        super().__init__()
        sizes = [4] * levels
        self.encoder = nn.ModuleList(
            self.stage(pair[0], pair[1], 1 + bool(k))
            for k, pair in enumerate(zip([3, *sizes], sizes, strict=False))
        )
        self.transposed = nn.ModuleList(nn.ConvTranspose2d(4, 4, 2, 2, bias=False) for _ in sizes[1:])
        self.decoder = nn.ModuleList(self.stage(8, 4, 1) for _ in sizes[1:])
        self.heads = nn.ModuleList(conv(4, 2, 1) for _ in sizes[1:])

    @staticmethod
    def stage(before, after, stride):
        return nn.Sequential(
            conv(before, after, 3, stride), nn.InstanceNorm2d(after, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
            conv(after, after), nn.InstanceNorm2d(after, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )  # fmt: skip

    def forward(self, x):
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        for up, stage, skip in zip(self.transposed, self.decoder, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat([up(x), skip], 1))
        return self.heads[-1](x)


@network(
    {key: value for k in range(5) for key, value in stage_points(f"encoder.{k}").items()}
    | {
        key: value
        for k in range(4)
        for key, value in ({f"transposed.{k}": f"transposed.{k}"} | stage_points(f"decoder.{k}")).items()
    },
    {"heads.[012]": UNCALLED, "heads.3": OUTPUT},
    long_skips=True,
)
def nnunet():
    """The decoder stages, at which nnU-Net supervises (Isensee et al. 2021), are points."""
    return NnUNet(), images(size=32)


class Exchange(nn.Module):
    """HRNet's stage: a block for each resolution, then every resolution is added to every other one."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([BasicBlock(4, 4), BasicBlock(6, 6)])
        self.up, self.down = conv(6, 4, 1), conv(4, 6, 3, 2)

    def forward(self, streams):
        high, low = (branch(stream) for branch, stream in zip(self.branches, streams, strict=True))
        return [F.relu(high + F.interpolate(self.up(low), scale_factor=2)), F.relu(low + self.down(high))]


class HRNet(nn.Module):
    """Wang et al. 2019 (HRNet), with two resolutions."""

    def __init__(self, stages):
        super().__init__()
        self.stem, self.relu, self.first = conv(3, 4), nn.ReLU(), conv(4, 6, 3, 2)
        self.stages = nn.ModuleList(Exchange() for _ in range(stages))
        self.head = conv(10, 2, 1)

    def forward(self, x):
        x = self.relu(self.stem(x))
        streams = [x, self.first(x)]
        for stage in self.stages:
            streams = stage(streams)
        return self.head(torch.cat([streams[0], F.interpolate(streams[1], scale_factor=2)], 1))


@network(
    {
        "relu": "stem",
        "stages.0": "first stages.0.branches* stages.0.up",
        "stages.1": "stages.0.down stages.1.branches* stages.1.up",
    },
    {"stages.1.down": NOTHING_AFTER, "head": OUTPUT},
)
def hrnet():
    """Lists between the stages: all tensors of a stage together are what every path passes.

    A branch gets the first of them, on which what leads to the lower resolution only does not depend.
    """
    return HRNet(2), images()


@network(
    {f"{side}.{k}{act}": f"{side}.{k}.{lin}" for side, count in [("down", 5)] for k in range(count)
     for act, lin in [(".1", 0), ("", 2)]}
    | {name: layers for k in range(4) for name, layers in
       [(f"up.{k}", f"up.{k}"), (f"right.{k}.1", f"right.{k}.0"), (f"right.{k}", f"right.{k}.2")]},
    {"out": OUTPUT},
    long_skips=True,
)  # fmt: skip
def unet_of_2015():
    """Ronneberger et al. 2015: five levels, two convolutions each, no normalisation."""

    def stage(before, after):
        return nn.Sequential(conv(before, after), nn.ReLU(), conv(after, after), nn.ReLU())

    return UNet(5, concat=True, stage=stage), images(size=32)
