"""Convolutional networks: plain ones, and those of blocks with a shortcut."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from support.networks.registry import NO_GRADIENT, NOTHING_AFTER, OUTPUT, Apply, conv, images, named, network


@network({"2": "0 1", "5": "4"}, {"8": OUTPUT}, channels={"2": 1, "5": 1})
def plain():
    return nn.Sequential(
        conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4), nn.ReLU(), nn.AvgPool2d(4),
        nn.Flatten(), nn.Linear(4, 5),
    ), images()  # fmt: skip


@network({"conv1": "conv1", "conv2": "conv2"}, {"fc": OUTPUT})
def functional_relu():
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.fc(F.relu(self.conv2(x)).flatten(1))

    return Apply(forward, conv1=conv(3, 4), conv2=conv(4, 4), fc=nn.Linear(64, 5)), images()


@network({"0": "0.*", "1.1": "1.0", "1": "1.2", "2.1": "2.0"}, {"4": OUTPUT})
def sequential_blocks():
    """A block is named where it holds all layers; after a pool it is not what the layer made."""
    return nn.Sequential(
        nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(conv(4, 4), nn.ReLU(), conv(4, 4), nn.ReLU()),
        nn.Sequential(conv(4, 4), nn.ReLU(), nn.MaxPool2d(8)),
        nn.Flatten(),
        nn.Linear(4, 5),
    ), images()


@network({"2": "0", "4": "4"}, {"7": OUTPUT})
def identities():
    return nn.Sequential(
        conv(3, 4), nn.Identity(), nn.ReLU(), nn.Identity(), conv(4, 1), nn.Identity(), nn.Flatten(),
        nn.Linear(64, 5),
    ), images()  # fmt: skip


@network({"2": "0"}, {"4": OUTPUT})
def dropout_in_eval():
    return nn.Sequential(conv(3, 4), nn.Dropout(), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)).eval(), images()


@network({"0": "0"}, {"4": OUTPUT})
def dropout_in_training():
    return nn.Sequential(conv(3, 4), nn.Dropout(), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)), images()


@network({"2": "0 1", "4": "3", "6": "5"}, {"8": OUTPUT})
def in_place_activations():
    return nn.Sequential(
        conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True), conv(4, 4), nn.LeakyReLU(0.1, inplace=True),
        conv(4, 4), nn.SiLU(inplace=True), nn.Flatten(), nn.Linear(256, 5),
    ), images()  # fmt: skip


@network({"conv1": "conv1", "conv2": "conv2"}, {"fc": OUTPUT})
def views_changed_in_place():
    def forward(self, x):
        x = self.conv1(x)
        x[:, :2].mul_(2)
        x = self.conv2(x)
        x.view(-1).sigmoid_()
        return self.fc(x.flatten(1))

    return Apply(forward, conv1=conv(3, 4), conv2=conv(4, 4), fc=nn.Linear(256, 5)), images()


@network({"up": "up", "relu1": "deconv1 norm1", "relu2": "deconv2 norm2"}, {"deconv3": OUTPUT})
def gan_generator():
    def forward(self, z):
        x = self.up(z).view(-1, 8, 2, 2)
        x = self.relu1(self.norm1(self.deconv1(x)))
        x = self.relu2(self.norm2(self.deconv2(x)))
        return self.tanh(self.deconv3(x))

    def double(before, after):
        return nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)

    return Apply(
        forward, up=nn.Linear(6, 32), deconv1=double(8, 4), norm1=nn.BatchNorm2d(4), relu1=nn.ReLU(True),
        deconv2=double(4, 4), norm2=nn.BatchNorm2d(4), relu2=nn.ReLU(True), deconv3=double(4, 3), tanh=nn.Tanh(),
    ), torch.randn(2, 6)  # fmt: skip


@network({"encoder.1": "encoder.0", "encoder.2": "encoder.2", "decoder.1": "decoder.0"}, {"decoder.2": OUTPUT})
def autoencoder():
    encoder = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    decoder = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 12))
    return named(encoder=encoder, decoder=decoder), torch.randn(4, 12)


@network({"0": "0", "nan": "nan", "values": "keys"}, {"items": OUTPUT})
def odd_names():
    net = nn.Sequential()
    for name, module in [
        ("0", nn.Linear(4, 4)), ("nan", nn.Linear(4, 4)), ("keys", nn.Linear(4, 4)), ("values", nn.Tanh()),
        ("items", nn.Linear(4, 2)),
    ]:  # fmt: skip
        net.add_module(name, module)
    return net, torch.randn(3, 4)


@network({"1": "0", "3": "2"}, {"5": OUTPUT})
def weight_norm():
    return nn.Sequential(
        parametrizations.weight_norm(conv(3, 4)), nn.ReLU(), parametrizations.spectral_norm(conv(4, 4)), nn.ReLU(),
        nn.Flatten(), parametrizations.weight_norm(nn.Linear(256, 5)),
    ), images()  # fmt: skip


@network({"3": "2", "5": "4"}, {"0": NO_GRADIENT, "7": OUTPUT})
def frozen_first_and_third():
    net = nn.Sequential(
        conv(3, 4), nn.ReLU(), conv(4, 4), nn.ReLU(), conv(4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    )
    net[0].requires_grad_(False)
    net[4].requires_grad_(False)
    return net, images()


@network({"neck": "neck"}, {"backbone.*": NO_GRADIENT, "fc": OUTPUT})
def backbone_under_no_grad():
    def forward(self, x):
        with torch.no_grad():
            x = self.backbone(x)
        return self.fc(torch.relu(self.neck(x)).flatten(1))

    backbone = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), nn.ReLU())
    return Apply(forward, backbone=backbone, neck=conv(4, 4), fc=nn.Linear(256, 5)), images()


# blocks with a shortcut


class BasicBlock(nn.Module):
    """He et al. 2016, Deep residual learning; torchvision's form, with one ReLU called twice."""

    def __init__(self, before, after, stride=1):
        super().__init__()
        self.conv1, self.bn1 = conv(before, after, 3, stride, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv(after, after, bias=False), nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(conv(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, before, inside, after):
        super().__init__()
        self.conv1, self.bn1 = conv(before, inside, 1), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = conv(inside, inside), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = conv(inside, after, 1), nn.BatchNorm2d(after)
        self.act1, self.act2, self.act3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Identity() if before == after else conv(before, after, 1)

    def forward(self, x):
        out = self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))
        return self.act3(self.bn3(self.conv3(out)) + self.shortcut(x))


class PreActivation(nn.Module):
    """He et al. 2016, Identity mappings: nothing follows the addition."""

    def __init__(self, channels):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), conv(channels, channels)
        self.bn2, self.conv2 = nn.BatchNorm2d(channels), conv(channels, channels)

    def forward(self, x):
        return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


RESNET_BLOCKS = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1"]


@network({"relu": "conv1 bn1"} | {block: f"{block}.*" for block in RESNET_BLOCKS}, {"fc": OUTPUT})
def resnet():
    return named(
        conv1=conv(3, 4, 3, bias=False), bn1=nn.BatchNorm2d(4), relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(2), layer1=nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 4)),
        layer2=nn.Sequential(BasicBlock(4, 6, 2), BasicBlock(6, 6)),
        layer3=nn.Sequential(BasicBlock(6, 8, 2), BasicBlock(8, 8)), pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(), fc=nn.Linear(8, 5),
    ), images(size=16)  # fmt: skip


@network({"stem": "stem", "block1": "block1.*", "block2": "block2.*", "relu": "norm"}, {"fc": OUTPUT})
def preactivation_resnet():
    return named(
        stem=conv(3, 4), block1=PreActivation(4), block2=PreActivation(4), norm=nn.BatchNorm2d(4), relu=nn.ReLU(),
        flatten=nn.Flatten(), fc=nn.Linear(256, 5),
    ), images()  # fmt: skip


@network({"relu": "conv", "block1": "block1.*", "block2": "block2.*"}, {"fc": OUTPUT})
def bottlenecks():
    return named(
        conv=conv(3, 4), relu=nn.ReLU(), block1=Bottleneck(4, 2, 8), block2=Bottleneck(8, 2, 8),
        flatten=nn.Flatten(), fc=nn.Linear(512, 5),
    ), images()  # fmt: skip


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = conv(channels, 2, 1), conv(2, channels, 1)

    def forward(self, x):
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


@network({"act": "conv", "se": "se.*", "block": "block.*"}, {"fc": OUTPUT})
def squeeze_and_excitation():
    """Hu et al. 2018: the gate alone, and inside a residual block."""

    def block(self, x):
        return x + self.se(self.conv(x))

    return named(
        conv=conv(3, 4), act=nn.SiLU(), se=SqueezeExcite(4),
        block=Apply(block, conv=conv(4, 4), se=SqueezeExcite(4)), flatten=nn.Flatten(), fc=nn.Linear(256, 5),
    ), images()  # fmt: skip


class Inception(nn.Module):
    def __init__(self, before):
        super().__init__()
        self.branch1 = nn.Sequential(conv(before, 2, 1), nn.ReLU())
        self.branch2 = nn.Sequential(conv(before, 2, 1), nn.ReLU(), conv(2, 2, 3), nn.ReLU())
        self.branch3 = nn.Sequential(conv(before, 2, 1), nn.ReLU(), conv(2, 2, 5), nn.ReLU())
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(before, 2, 1), nn.ReLU())

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


@network({"relu": "conv", "mixed1": "mixed1.*", "mixed2": "mixed2.*"}, {"fc": OUTPUT})
def inception():
    return named(
        conv=conv(3, 4), relu=nn.ReLU(), mixed1=Inception(4), mixed2=Inception(8), flatten=nn.Flatten(),
        fc=nn.Linear(512, 5),
    ), images()  # fmt: skip


class DenseLayer(nn.Module):
    def __init__(self, before):
        super().__init__()
        self.norm, self.relu, self.conv = nn.BatchNorm2d(before), nn.ReLU(), conv(before, 2)

    def forward(self, x):
        return self.conv(self.relu(self.norm(x)))


class TorchvisionDenseBlock(nn.ModuleDict):
    def __init__(self, before, layers):
        super().__init__({f"layer{k}": DenseLayer(before + 2 * k) for k in range(layers)})

    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


class MonaiDenseLayer(DenseLayer):
    def forward(self, x):
        return torch.cat([x, super().forward(x)], 1)


def densenet(block1, block2):
    transition = named(norm=nn.BatchNorm2d(10), relu=nn.ReLU(), conv=conv(10, 4, 1), pool=nn.AvgPool2d(2))
    return named(
        conv0=conv(3, 4), norm0=nn.BatchNorm2d(4), relu0=nn.ReLU(), block1=block1, transition=transition,
        block2=block2, norm5=nn.BatchNorm2d(10), flatten=nn.Flatten(), fc=nn.Linear(160, 5),
    )  # fmt: skip


@network(
    {"relu0": "conv0 norm0", "block1": "block1.*", "transition.relu": "transition.norm",
     "transition.conv": "transition.conv", "block2": "block2.*", "norm5": "norm5"},
    {"fc": OUTPUT},
)  # fmt: skip
def torchvision_densenet():
    return densenet(TorchvisionDenseBlock(4, 3), TorchvisionDenseBlock(4, 3)), images()


@network(
    {"relu0": "conv0 norm0"} | {f"block1.{k}": f"block1.{k}.*" for k in range(3)}
    | {"transition.relu": "transition.norm", "transition.conv": "transition.conv"}
    | {f"block2.{k}": f"block2.{k}.*" for k in range(3)} | {"norm5": "norm5"},
    {"fc": OUTPUT},
)  # fmt: skip
def monai_densenet():
    """Each layer returns all features so far: every path passes it."""
    blocks = [nn.Sequential(*(MonaiDenseLayer(4 + 2 * k) for k in range(3))) for _ in range(2)]
    return densenet(*blocks), images()


@network({}, {"body.[02]": NOTHING_AFTER, "body.4": OUTPUT})
def short_dncnn():
    """Zhang et al. 2017, x - f(x): the image itself goes around all of it."""

    def forward(self, x):
        return x - self.body(x)

    return Apply(forward, body=nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), nn.ReLU(), conv(4, 3))), images()


@network({f"body.{2 * k + 1}": f"body.{2 * k}" for k in range(16)}, {"body.32": OUTPUT}, long_skips=True)
def dncnn():
    """Zhang et al. 2017: 17 convolutions, a trunk of its own once the one long skip is gone."""

    def forward(self, x):
        return x - self.body(x)

    inside = [part for _ in range(15) for part in (conv(4, 4), nn.ReLU())]
    return Apply(forward, body=nn.Sequential(conv(3, 4), nn.ReLU(), *inside, conv(4, 3))), images()


class Branches(nn.Module):
    """The shortcut is outside of the blocks: what they return is not what every path passes."""

    def __init__(self, blocks):
        super().__init__()
        self.embed, self.blocks = nn.Linear(4, 4), nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 5)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x).mean(1))


@network(
    {"embed": "embed", "blocks.1:input": "blocks.0.*", "norm": "blocks.1.* norm"},
    {"head": OUTPUT},
    channels={"embed": 2, "blocks.1:input": 2, "norm": 2},
)
def blocks_that_return_only_the_branch():
    """The sum is made in the network's own forward: the next block receives what no module returns."""
    blocks = [nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)) for _ in range(2)]
    return Branches(blocks), torch.randn(2, 6, 4)


class LoRA(nn.Module):
    """Hu et al. 2021: a frozen layer and a trained way of low rank around it."""

    def __init__(self, size):
        super().__init__()
        self.base = nn.Linear(size, size).requires_grad_(False)
        self.down, self.up = nn.Linear(size, 2, bias=False), nn.Linear(2, size, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@network({"0": "0.down 0.up", "2": "2.*"}, {"0.base": NO_GRADIENT, "4": OUTPUT})
def adapters():
    return nn.Sequential(LoRA(4), nn.Sigmoid(), LoRA(4), nn.Sigmoid(), nn.Linear(4, 2)), torch.randn(3, 4)
