"""Where a branch may be: on many small networks, the points by hand and by an independent check of gradients."""

from __future__ import annotations

import fnmatch
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import gradprobe as gp
from gradprobe.network.layers import named_layers, named_modules
from gradprobe.network.tensors import tensors
from gradprobe.zoo import cnds8

OUTPUT = "it makes the network's output"
NOTHING_AFTER = "no module after it returns what every path to the output passes"
NO_GRADIENT = "its output requires no gradient: frozen with everything before it, or under no_grad"
UNCALLED = "never called as a module"
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


def conv(before, behind, size=3, stride=1, **options):
    return nn.Conv2d(before, behind, size, stride, padding=size // 2, **options)


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


# plain networks


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
    """A block is named where it holds all layers; behind a pool it is not what the layer made."""
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

    def double(before, behind):
        return nn.ConvTranspose2d(before, behind, 4, 2, 1, bias=False)

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

    def __init__(self, before, behind, stride=1):
        super().__init__()
        self.conv1, self.bn1 = conv(before, behind, 3, stride, bias=False), nn.BatchNorm2d(behind)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv(behind, behind, bias=False), nn.BatchNorm2d(behind)
        self.downsample = None
        if stride != 1 or before != behind:
            self.downsample = nn.Sequential(conv(before, behind, 1, stride, bias=False), nn.BatchNorm2d(behind))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, before, inside, behind):
        super().__init__()
        self.conv1, self.bn1 = conv(before, inside, 1), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = conv(inside, inside), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = conv(inside, behind, 1), nn.BatchNorm2d(behind)
        self.act1, self.act2, self.act3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Identity() if before == behind else conv(before, behind, 1)

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
    """Zhang et al. 2017, x - f(x): the image itself goes round all of it."""

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


@network({"embed": "embed", "norm": "blocks.* norm"}, {"head": OUTPUT}, channels={"embed": 2, "norm": 2})
def blocks_that_return_only_the_branch():
    blocks = [nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)) for _ in range(2)]
    return Branches(blocks), torch.randn(2, 6, 4)


class LoRA(nn.Module):
    """Hu et al. 2021: a frozen layer and a trained way of low rank round it."""

    def __init__(self, size):
        super().__init__()
        self.base = nn.Linear(size, size).requires_grad_(False)
        self.down, self.up = nn.Linear(size, 2, bias=False), nn.Linear(2, size, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@network({"0": "0.down 0.up", "2": "2.*"}, {"0.base": NO_GRADIENT, "4": OUTPUT})
def adapters():
    return nn.Sequential(LoRA(4), nn.Sigmoid(), LoRA(4), nn.Sigmoid(), nn.Linear(4, 2)), torch.randn(3, 4)


# transformers


class Attention(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.qkv, self.proj = nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(F.scaled_dot_product_attention(q, k, v))


class Mlp(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, size=4, norm_first=True):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(size), Attention(size)
        self.norm2, self.mlp = nn.LayerNorm(size), Mlp(size)
        self.norm_first = norm_first

    def forward(self, x):
        if self.norm_first:
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


def tokens(size=4):
    return torch.randn(2, 6, size)


@network(
    {"embed": "embed", "layers.0": "layers.0.*", "layers.1": "layers.1.*", "norm": "norm"}, {"head": OUTPUT},
    channels=dict.fromkeys(["embed", "layers.0", "layers.1", "norm"], 2),
)  # fmt: skip
def prenorm_transformer():
    layers = nn.Sequential(Layer(), Layer())
    return named(embed=nn.Linear(3, 4), layers=layers, norm=nn.LayerNorm(4), head=nn.Linear(4, 5)), tokens(3)


@network(
    {"embed": "embed", "layers.0.norm1": "layers.0.attn.* layers.0.norm1",
     "layers.0": "layers.0.mlp.* layers.0.norm2",
     "layers.1.norm1": "layers.1.attn.* layers.1.norm1", "layers.1": "layers.1.mlp.* layers.1.norm2"},
    {"head": OUTPUT},
)  # fmt: skip
def postnorm_transformer():
    layers = nn.Sequential(Layer(norm_first=False), Layer(norm_first=False))
    return named(embed=nn.Linear(3, 4), layers=layers, head=nn.Linear(4, 5)), tokens(3)


def torch_encoder(norm_first):
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(4) if norm_first else None, enable_nested_tensor=False)


def halves(k):
    prefix = f"encoder.layers.{k}"
    return {f"{prefix}.norm1": f"{prefix}.self_attn {prefix}.norm1", prefix: f"{prefix}.linear? {prefix}.norm2"}


@network(
    {"embed": "embed"} | halves(0) | halves(1), {"encoder.layers.?.self_attn.out_proj": UNCALLED, "head": OUTPUT}
)
def torch_postnorm_encoder():
    return named(embed=nn.Linear(3, 4), encoder=torch_encoder(False), head=nn.Linear(4, 5)), tokens(3)


def whole_layer(k):
    prefix = f"encoder.layers.{k}"
    return {prefix: f"{prefix}.self_attn {prefix}.linear? {prefix}.norm?"}


@network(
    {"embed": "embed"} | whole_layer(0) | whole_layer(1) | {"encoder.norm": "encoder.norm"},
    {"encoder.layers.?.self_attn.out_proj": UNCALLED, "head": OUTPUT},
)
def torch_prenorm_encoder():
    return named(embed=nn.Linear(3, 4), encoder=torch_encoder(True), head=nn.Linear(4, 5)), tokens(3)


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 4, 4)
        self.cls, self.positions = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 5, 4))
        self.blocks = nn.ModuleList([Layer(), Layer()])
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@network(
    {"patches": "patches", "blocks.0": "blocks.0.*", "blocks.1": "blocks.1.*", "norm": "norm"},
    {"": OUTPUT, "head": OUTPUT},
    channels={"patches": 1, "blocks.0": 2, "blocks.1": 2, "norm": 2},
)
def vit():
    return ViT(), images()


class ConvNeXtBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))
        self.depthwise, self.norm = conv(4, 4, 7, groups=4), nn.LayerNorm(4)
        self.fc1, self.fc2 = nn.Linear(4, 16), nn.Linear(16, 4)

    def forward(self, x):
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.fc2(F.gelu(self.fc1(out)))).permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@network(
    {"norm": "stem norm", "stages.0": "stages.0*", "stages.1": "stages.1*", "down": "down"}
    | {"stages.2": "stages.2*", "last": "last"},
    {"head": OUTPUT},
)
def convnext():
    def forward(self, x):
        x = self.stages[1](self.stages[0](self.norm(self.stem(x))))
        return self.head(self.last(self.stages[2](self.down(x)).mean((2, 3))))

    return Apply(
        forward, stem=nn.Conv2d(3, 4, 2, 2), norm=LayerNorm2d(4), down=nn.Conv2d(4, 4, 2, 2), last=nn.LayerNorm(4),
        stages=nn.ModuleList(ConvNeXtBlock() for _ in range(3)), head=nn.Linear(4, 5),
    ), images()  # fmt: skip


class WindowBlock(Layer):
    """Attention in windows of 2x2, the channels last."""

    def __init__(self, size, shift):
        super().__init__(size)
        self.shift = shift

    def forward(self, x):
        n, h, w, c = x.shape
        inside = self.norm1(x).roll((-self.shift, -self.shift), (1, 2))
        inside = inside.view(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        inside = self.attn(inside).view(n, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(n, h, w, c)
        x = x + inside.roll((self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * size), nn.Linear(4 * size, 2 * size, bias=False)

    def forward(self, x):
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


@network(
    {"norm": "patches norm", "stage1.0": "stage1.0.*", "stage1.1": "stage1.1.*", "merge.norm": "merge.norm",
     "merge.reduction": "merge.reduction", "stage2.0": "stage2.0.*", "last": "last"},
    {"head": OUTPUT},
    channels=dict.fromkeys(["norm", "stage1.0", "stage1.1", "merge.norm", "stage2.0", "last"], 3),
)  # fmt: skip
def swin():
    def forward(self, x):
        x = self.norm(self.patches(x).permute(0, 2, 3, 1))
        return self.head(self.last(self.stage2(self.merge(self.stage1(x)))).mean((1, 2)))

    return Apply(
        forward, patches=nn.Conv2d(3, 4, 2, 2), norm=nn.LayerNorm(4), merge=PatchMerging(4), last=nn.LayerNorm(8),
        stage1=nn.Sequential(WindowBlock(4, 0), WindowBlock(4, 1)), stage2=nn.Sequential(WindowBlock(8, 0)),
        head=nn.Linear(8, 5),
    ), images(size=16)  # fmt: skip


class Albert(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.layer, self.pooler, self.head = nn.Linear(3, 4), Layer(), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x):
        x = self.embed(x)
        for _ in range(3):
            x = self.layer(x)
        return self.head(self.pooler(x[:, 0]).tanh())


@network({"embed": "embed", "pooler": "pooler"}, {"layer.*": REUSED.format(3), "head": OUTPUT})
def shared_weights():
    """Lan et al. 2020 (ALBERT): one layer for every depth."""
    return Albert(), tokens(3)


# long skips


def double_conv(before, behind):
    return nn.Sequential(
        conv(before, behind),
        nn.BatchNorm2d(behind),
        nn.ReLU(),
        conv(behind, behind),
        nn.BatchNorm2d(behind),
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
    def stage(before, behind, stride):
        return nn.Sequential(
            conv(before, behind, 3, stride), nn.InstanceNorm2d(behind, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
            conv(behind, behind), nn.InstanceNorm2d(behind, affine=True),
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


# sequences


@network({"lstm1": "lstm1", "lstm2": "lstm2"}, {"fc": OUTPUT})
def lstm_last_step():
    def forward(self, x):
        return self.fc(self.lstm2(self.lstm1(x)[0])[0][:, -1])

    lstms = {f"lstm{k}": nn.LSTM(4, 4, batch_first=True) for k in (1, 2)}
    return Apply(forward, **lstms, fc=nn.Linear(4, 5)), tokens()


@network({"lstm": "lstm"}, {"fc": OUTPUT})
def lstm_last_state():
    def forward(self, x):
        _, (h, _) = self.lstm(x)
        return self.fc(h[-1])

    return Apply(forward, lstm=nn.LSTM(4, 4, 2, batch_first=True), fc=nn.Linear(4, 5)), tokens()


@network({"embed": "embed", "gru": "gru"}, {"fc": OUTPUT})
def gru_of_embedded_words():
    def forward(self, x):
        return self.fc(self.gru(self.embed(x))[0].mean(1))

    gru = nn.GRU(4, 3, batch_first=True, bidirectional=True)
    return Apply(forward, embed=nn.Embedding(9, 4), gru=gru, fc=nn.Linear(6, 5)), torch.randint(9, (2, 6))


@network({"embed": "embed"}, {"cell": REUSED.format(6), "fc": OUTPUT})
def cell_in_a_loop():
    def forward(self, x):
        h, x = None, self.embed(x)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.fc(h)

    return Apply(forward, embed=nn.Linear(3, 4), cell=nn.RNNCell(4, 4), fc=nn.Linear(4, 5)), tokens(3)


@network({"join": "join"}, {"encoder.*": REUSED.format(2), "fc": OUTPUT})
def siamese():
    def forward(self, a, b):
        return self.fc(self.join(torch.cat([self.encoder(a), self.encoder(b)], 1)).relu())

    encoder = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    net = Apply(forward, encoder=encoder, join=nn.Linear(8, 4), fc=nn.Linear(4, 1))
    return net, (torch.randn(3, 4), torch.randn(3, 4))


@network({"left": "left", "right": "right", "join": "join"}, {"fc": OUTPUT})
def two_inputs():
    def forward(self, a, b):
        return self.fc(self.join(torch.cat([self.left(a), self.right(b)], 1)).relu())

    net = Apply(forward, left=nn.Linear(4, 4), right=nn.Linear(3, 4), join=nn.Linear(8, 4), fc=nn.Linear(4, 1))
    return net, (torch.randn(3, 4), torch.randn(3, 3))


class Message(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.lin, self.norm = nn.Linear(size, size), nn.LayerNorm(size)

    def forward(self, x, adjacency):
        return x + torch.relu(self.norm(adjacency @ self.lin(x)))


@network({"embed": "embed", "layers.0": "layers.0.*", "layers.1": "layers.1.*"}, {"head": OUTPUT})
def message_passing():
    def forward(self, x, adjacency):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, adjacency)
        return self.head(x)

    layers = nn.ModuleList([Message(4), Message(4)])
    net = Apply(forward, embed=nn.Linear(3, 4), layers=layers, head=nn.Linear(4, 2))
    return net, (torch.randn(7, 3), (torch.rand(7, 7) > 0.5).float())


@network({"words": "words", "layer": "positions layer.*"}, {"head": OUTPUT})
def language_model():
    """Positions from arange are no input: all of it passes the words, and the sum is no module's output."""

    def forward(self, ids):
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.head(self.layer(x))

    net = Apply(
        forward, words=nn.Embedding(9, 4), positions=nn.Embedding(6, 4), layer=Layer(), head=nn.Linear(4, 9)
    )
    return net, torch.randint(9, (2, 6))


def conditioned(self, x, t):
    return x + self.conv(x).relu() * self.scale(t)[:, :, None, None]


@network(
    {"stem": "stem", "time.1": "time.0", "time.2": "time.2"} | {f"blocks.{k}": f"blocks.{k}.*" for k in range(3)},
    {"fc": OUTPUT},
)
def conditioned_blocks():
    """Diffusion models: the time goes into every residual block, and its own layers before."""

    def forward(self, x, t):
        x, t = self.stem(x), self.time(t)
        for block in self.blocks:
            x = block(x, t)
        return self.fc(x.flatten(1))

    blocks = nn.ModuleList(Apply(conditioned, conv=conv(4, 4), scale=nn.Linear(4, 4)) for _ in range(3))
    time = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 4))
    net = Apply(forward, time=time, stem=conv(3, 4), blocks=blocks, fc=nn.Linear(256, 5))
    return net, (images(), torch.randn(2, 3))


@network(
    {"stem": "stem", "blocks.0": "blocks.0.*", "blocks.1": "blocks.1.*", "blocks.2": "blocks.2.* bias"},
    {"fc": OUTPUT},
)
def bias_of_every_block():
    """T5: what goes into every block, and comes from no input, passes the last block only."""

    def block(self, x, bias):
        return x + self.lin(self.norm(x)) * bias

    def forward(self, x):
        x, bias = self.stem(x), self.bias(torch.arange(3))
        for block in self.blocks:
            x = block(x, bias)
        return self.fc(x)

    blocks = nn.ModuleList(Apply(block, norm=nn.LayerNorm(4), lin=nn.Linear(4, 4)) for _ in range(3))
    net = Apply(forward, bias=nn.Embedding(3, 4), stem=nn.Linear(4, 4), blocks=blocks, fc=nn.Linear(4, 2))
    return net, torch.randn(3, 4)


@network(
    {"words": "words", "drop": "positions", "layers.0": "layers.0.*", "layers.1": "layers.1.*", "norm": "norm"},
    {"head": OUTPUT},
)
def gpt():
    def forward(self, ids):
        x = self.drop(self.words(ids) + self.positions(torch.arange(ids.shape[1])))
        return self.head(self.norm(self.layers(x)))

    net = Apply(
        forward, words=nn.Embedding(9, 4), positions=nn.Embedding(6, 4), drop=nn.Dropout(0.1),
        layers=nn.Sequential(Layer(), Layer()), norm=nn.LayerNorm(4), head=nn.Linear(4, 9),
    )  # fmt: skip
    return net, torch.randint(9, (2, 6))


@network({"0": "0", "1": "1.*", "2": "2.*"}, {"3": OUTPUT})
def highway():
    """Srivastava et al. 2015: a gate between the layer and what came in."""

    def gated(self, x):
        gate = self.gate(x).sigmoid()
        return gate * self.lin(x).relu() + (1 - gate) * x

    layers = [Apply(gated, gate=nn.Linear(4, 4), lin=nn.Linear(4, 4)) for _ in range(2)]
    return nn.Sequential(nn.Linear(4, 4), *layers, nn.Linear(4, 2)), torch.randn(3, 4)


@network({"0": "0", "1": "1.lin", "3": "3.lin"}, {"2.lin": UNCALLED, "4": OUTPUT})
def stochastic_depth():
    """Huang et al. 2016: a block that is left out gives back what it got."""

    def block(self, x):
        return x if self.left_out else x + self.lin(x).relu()

    blocks = [Apply(block, lin=nn.Linear(4, 4)) for _ in range(3)]
    for k, made in enumerate(blocks):
        made.left_out = k == 1
    return nn.Sequential(nn.Linear(4, 4), *blocks, nn.Linear(4, 2)), torch.randn(3, 4)


@network({"2": "0 1 2", "4": "3 4"}, {"6": OUTPUT})
def activations_with_parameters():
    return nn.Sequential(
        conv(3, 4), nn.BatchNorm2d(4), nn.PReLU(), conv(4, 4), nn.PReLU(4), nn.Flatten(), nn.Linear(256, 2)
    ), images()


@network({"0": "0", "1": "1.*", "2": "2.*"}, {"4": OUTPUT})
def temporal_convolutions():
    """Bai et al. 2018: dilated, cut off behind, channels first."""

    def block(self, x):
        return (x + self.conv2(self.conv1(x).relu())[..., : x.shape[-1]]).relu()

    blocks = [
        Apply(block, conv1=nn.Conv1d(4, 4, 3, padding=4, dilation=2), conv2=nn.Conv1d(4, 4, 3, padding=1))
        for _ in range(2)
    ]
    return nn.Sequential(nn.Conv1d(3, 4, 1), *blocks, nn.Flatten(), nn.Linear(24, 2)), torch.randn(2, 3, 6)


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

    def stage(before, behind):
        return nn.Sequential(conv(before, behind), nn.ReLU(), conv(behind, behind), nn.ReLU())

    return UNet(5, concat=True, stage=stage), images(size=32)


# checkpointing


def checkpointed(reentrant):
    def forward(self, x):
        x = self.first(x)
        x = checkpoint(self.block, x, use_reentrant=reentrant)
        return self.fc(self.last(x).relu())

    block = named(fc1=nn.Linear(4, 4), act=nn.Tanh(), fc2=nn.Linear(4, 4))
    return Apply(
        forward, first=nn.Linear(4, 4), block=block, last=nn.Linear(4, 4), fc=nn.Linear(4, 2)
    ), torch.randn(3, 4)


REENTRANT = "inside reentrant checkpointing: pass use_reentrant=False"


@network({"first": "first", "last": "last"}, {"block.*": REENTRANT, "fc": OUTPUT})
def reentrant_checkpointing():
    return checkpointed(True)


@network({"first": "first", "block.act": "block.fc1", "block.fc2": "block.fc2", "last": "last"}, {"fc": OUTPUT})
def other_checkpointing():
    return checkpointed(False)


# what a network returns


@dataclass
class ModelOutput:
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


def returning(what):
    def forward(self, x):
        return what(self.fc(self.act(self.lin(x))))

    return Apply(forward, lin=nn.Linear(4, 4), act=nn.Tanh(), fc=nn.Linear(4, 2)), torch.randn(3, 4)


@network({"act": "lin"}, {"fc": OUTPUT}, main=lambda output: output[0])
def returns_a_tuple():
    return returning(lambda y: (y, y.sum()))


@network({"act": "lin"}, {"fc": OUTPUT}, main=lambda output: output["out"])
def returns_a_dict():
    return returning(lambda y: {"loss": y.sum(), "out": y})


@network({"act": "lin"}, {"fc": OUTPUT}, main=lambda output: output.logits)
def returns_a_dataclass():
    return returning(lambda y: ModelOutput(y.sum(), y))


@network({"act": "lin"}, {"fc": OUTPUT})
def returns_its_loss():
    return returning(lambda y: y.square().mean())


@network({"relu1": "conv1", "relu2": "conv2"}, {"large": NO_PATH, "small": OUTPUT}, main=lambda output: output[1])
def returns_a_list():
    """Detection: a map for each resolution; the last one has most layers before it."""

    def forward(self, x):
        x = self.relu1(self.conv1(x))
        y = self.relu2(self.conv2(x))
        return [self.large(x), self.small(y)]

    return Apply(
        forward, conv1=conv(3, 4), relu1=nn.ReLU(), conv2=conv(4, 4, 3, 2), relu2=nn.ReLU(), large=conv(4, 2, 1),
        small=conv(4, 2, 1),
    ), images()  # fmt: skip


@network({"relu1": "conv1", "relu2": "conv2"}, {"fc": OUTPUT})
def keyword_inputs():
    def forward(self, *, image, scale=1.0):
        return self.fc(self.relu2(self.conv2(self.relu1(self.conv1(image)) * scale)).flatten(1))

    net = Apply(
        forward, conv1=conv(3, 4), relu1=nn.ReLU(), conv2=conv(4, 4), relu2=nn.ReLU(), fc=nn.Linear(256, 5)
    )
    return net, {"image": images(), "scale": 0.5}


# places that were chosen by hand in the literature


INCEPTIONS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


class GoogLeNet(nn.Module):
    """Szegedy et al. 2015, narrow: two convolutional stages, inception 3a-5b, heads on 4a and 4d."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 4, 3, 2), conv(4, 4, 1), conv(4, 8)
        for name in INCEPTIONS:
            self.add_module(f"inception{name}", Inception(8))
        self.aux1, self.aux2 = self.head(), self.head()
        self.fc = nn.Linear(8, 5)

    @staticmethod
    def head():
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(8, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1)
        x = F.relu(self.conv3(F.relu(self.conv2(x))))
        x = F.max_pool2d(self.inception3b(self.inception3a(x)), 3, 2, 1)
        x = self.inception4a(x)
        aux1 = self.aux1(x) if self.training else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.training else None
        x = self.inception5b(self.inception5a(F.max_pool2d(self.inception4e(x), 2)))
        x = self.fc(x.mean((2, 3)))
        return (x, aux2, aux1) if self.training else x


@network(
    {f"conv{k}": f"conv{k}" for k in (1, 2, 3)}
    | {f"inception{name}": f"inception{name}.*" for name in INCEPTIONS},
    {"aux*": NO_PATH, "fc": OUTPUT},
    main=lambda output: output[0],
)
def googlenet():
    """Heads on 4a and 4d (Szegedy et al. 2015, section 5): both are points, and the heads are none."""
    return GoogLeNet(), images(size=32)


class DETRDecoderLayer(nn.Module):
    """Carion et al. 2020: queries are parameters that are added to what attends; the target begins as zeros."""

    def __init__(self, size):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(size, 1)
        self.cross_attn = nn.MultiheadAttention(size, 1)
        self.linear1, self.linear2 = nn.Linear(size, 8), nn.Linear(8, size)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(size), nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, target, memory, queries, positions):
        q = target + queries
        target = self.norm1(target + self.self_attn(q, q, target)[0])
        target = self.norm2(target + self.cross_attn(target + queries, memory + positions, memory)[0])
        return self.norm3(target + self.linear2(F.relu(self.linear1(target))))


class DETREncoderLayer(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(size, 1)
        self.linear1, self.linear2 = nn.Linear(size, 8), nn.Linear(8, size)
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, x, positions):
        q = x + positions
        x = self.norm1(x + self.self_attn(q, q, x)[0])
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class DETR(nn.Module):
    def __init__(self, layers, size=4):
        super().__init__()
        self.backbone, self.relu = nn.Conv2d(3, size, 4, 4), nn.ReLU()
        self.project = conv(size, size, 1)
        self.encoder = nn.ModuleList(DETREncoderLayer(size) for _ in range(layers))
        self.decoder = nn.ModuleList(DETRDecoderLayer(size) for _ in range(layers))
        self.norm = nn.LayerNorm(size)
        self.queries, self.positions = nn.Embedding(5, size), nn.Parameter(torch.randn(4, 1, size))
        self.classes, self.boxes = nn.Linear(size, 3), Mlp(size)

    def forward(self, x):
        memory = self.project(self.relu(self.backbone(x))).flatten(2).permute(2, 0, 1)
        for layer in self.encoder:
            memory = layer(memory, self.positions)
        queries = self.queries.weight[:, None].expand(-1, memory.shape[1], -1)
        target = torch.zeros_like(queries)
        for layer in self.decoder:
            target = layer(target, memory, queries, self.positions)
        found = self.norm(target)
        return {"classes": self.classes(found), "boxes": self.boxes(found).sigmoid()}


SHORT_DECODER = "two decoder layers have twelve layers on their longest path: taken for a block with its shortcut"


def expected_to_fail(*values, reason):
    return pytest.param(*values, marks=pytest.mark.xfail(strict=True, reason=reason))


def blocks(found, pattern):
    return [point.name for point in found if fnmatch.fnmatchcase(point.name, pattern)]


def detr(layers):
    torch.manual_seed(0)
    return gp.points(DETR(layers), images())


@pytest.mark.parametrize("layers", [expected_to_fail(2, reason=SHORT_DECODER), 3, 6])
def test_every_decoder_layer_of_detr_with_an_auxiliary_loss_is_a_point(layers):
    """Carion et al. 2020 (DETR), section 3.2: "auxiliary losses in decoder"; the last layer's is the main one."""
    assert blocks(detr(layers), "decoder.?")[: layers - 1] == [f"decoder.{k}" for k in range(layers - 1)]


@pytest.mark.parametrize("layers", [2, 3, 6])
def test_every_encoder_layer_of_detr_is_a_point(layers):
    assert blocks(detr(layers), "encoder.?") == [f"encoder.{k}" for k in range(layers)]


@pytest.mark.parametrize("layers", [2, 3, 6])
def test_nothing_inside_a_branch_of_detr_is_a_point(layers):
    found = detr(layers)
    assert not [point.name for point in found if "attn" in point.name or "linear" in point.name]


def test_the_last_decoder_layer_of_detr_is_a_point():
    assert "decoder.5" in blocks(detr(6), "decoder.?")


def torch_transformer(layers, norm_first, dropout):
    torch.manual_seed(0)

    def forward(self, source, target):
        return self.head(self.body(self.source(source), self.target(target)))

    size = {"d_model": 4, "nhead": 2, "dim_feedforward": 8, "num_encoder_layers": layers}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "enable_nested_tensor is True")
        body = nn.Transformer(
            **size, num_decoder_layers=layers, dropout=dropout, batch_first=True, norm_first=norm_first
        )
    net = Apply(forward, source=nn.Linear(3, 4), target=nn.Linear(2, 4), body=body, head=nn.Linear(4, 5))
    return gp.points(net, (torch.randn(2, 6, 3), torch.randn(2, 5, 2)))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("layers", [2, 3, 6])
def test_layers_of_torch_s_transformer_but_the_last_are_points(layers, norm_first):
    found = torch_transformer(layers, norm_first, 0.1)
    for part in ("encoder", "decoder"):
        wanted = [f"body.{part}.layers.{k}" for k in range(layers - 1)]
        assert blocks(found, f"body.{part}.layers.?")[: layers - 1] == wanted


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_the_last_layer_of_torch_s_transformer_is_a_point(norm_first, part):
    name = f"body.{part}.layers.2"
    assert blocks(torch_transformer(3, norm_first, 0.1), name) == [name]


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_no_attention_inside_torch_s_transformer_is_a_point(norm_first, dropout):
    """The first cross-attention is all that comes from the source, but the decoder's own stream is added to it."""
    found = torch_transformer(3, norm_first, dropout)
    assert not [point.name for point in found if "attn" in point.name or "linear" in point.name]


def test_where_cnds_branches_is_a_point():
    """Wang et al. 2015: the authors' training file taps conv3_2, the fourth convolution, behind its ReLU."""
    found = gp.points(cnds8(width=0.05, image_size=69, classes=5, channels=1), torch.randn(2, 1, 69, 69))
    assert [point.name for point in found][:8] == [f"relu{k}" for k in range(1, 9)]
    assert found[3].layers == ("conv4",)


def test_the_last_but_one_stage_of_a_resnet_is_a_point():
    """Zhao et al. 2017 (PSPNet), section 3.3; also the auxiliary heads of torchvision's FCN and DeepLab."""
    assert "layer2.1" in [point.name for point in gp.points(*built("resnet"))]


@pytest.mark.parametrize("head", ["inception4a", "inception4d"])
def test_where_googlenet_has_its_heads_is_a_point(head):
    """Szegedy et al. 2015, section 5, with the heads in place and without."""
    model, x = built("googlenet")
    assert head in [point.name for point in gp.points(model, x)]
    assert head in [point.name for point in gp.points(model.eval(), x)]


def test_the_decoder_stages_of_nnunet_are_points():
    """Isensee et al. 2021: a head on every resolution of the decoder but the two lowest."""
    names = [point.name for point in gp.points(*built("nnunet"))]
    assert [f"decoder.{k}" for k in range(4)] == [name for name in names if fnmatch.fnmatchcase(name, "decoder.?")]


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_stages_of_hrnet_are_points(stages):
    """Wang et al. 2019 (HRNet), section 3: every stage returns a list, one tensor for each resolution."""
    found = gp.points(HRNet(stages), images())
    assert [point.name for point in found] == ["relu", *(f"stages.{k}" for k in range(stages))]


# what holds for all of them


INNERMOST = "the innermost skip is added like a residual block's shortcut: the lowest stage is no point"
BY_HAND = [expected_to_fail(name, reason=INNERMOST) if name == "unet_additive" else name for name in NETWORKS]


@pytest.mark.parametrize("name", BY_HAND)
def test_points_are_those_by_hand(name):
    expected = NETWORKS[name]
    model, inputs = built(name)
    found = gp.points(model, inputs)
    layers = list(named_layers(model))
    assert {point.name: sorted(point.layers) for point in found} == {
        name: sorted(matching(layers, patterns.split())) for name, patterns in expected.points.items()
    }
    assert [point.name for point in found] == list(expected.points)
    assert found.unserved == {
        layer: why for pattern, why in expected.unserved.items() for layer in matching(layers, [pattern])
    }
    assert {point.name: point.channels for point in found if point.name in expected.channels} == expected.channels


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_served_once_or_has_a_reason(name):
    model, inputs = built(name)
    found = gp.points(model, inputs)
    served = [layer for point in found for layer in point.layers]
    assert sorted([*served, *found.unserved]) == sorted(named_layers(model))
    for point in found:
        assert list(point.layers) == sorted(point.layers, key=served.index)
    assert [point.depth for point in found] == sorted(point.depth for point in found)


def test_points_lead_to_the_output_that_a_branch_has_to_predict():
    def forward(self, x):
        x = self.body(x)
        return self.first(x), self.second(x)

    second = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    net = Apply(forward, body=nn.Sequential(nn.Linear(4, 4), nn.ReLU()), first=nn.Linear(4, 2), second=second)
    history = gp.scan(
        net, [(torch.randn(3, 4), None)], lambda output, _: sum(map(torch.sum, output)), iterations=1
    )
    assert history.output == (3, 1) or [point.name for point in history.points] == ["body"]


def detached(value):
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, (tuple, list)):
        return type(value)(detached(part) for part in value)
    return value


def leaves(inputs):
    """The inputs again, those of numbers requiring a gradient, and these alone."""
    if isinstance(inputs, torch.Tensor):
        inputs = inputs.clone().requires_grad_(inputs.is_floating_point())
        return inputs, [inputs] * inputs.requires_grad
    if isinstance(inputs, tuple):
        made = [leaves(value) for value in inputs]
        return tuple(value for value, _ in made), [leaf for _, found in made for leaf in found]
    made = {
        key: leaves(value) if isinstance(value, torch.Tensor) else (value, []) for key, value in inputs.items()
    }
    return {key: value for key, (value, _) in made.items()}, [leaf for _, found in made.values() for leaf in found]


def call(model, inputs):
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def loss_of(name, output):
    output = NETWORKS[name].main(output)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    return (output * weights).sum()


def arrives(name, without=None):
    """Whether a gradient arrives at each input and in each layer, with one module's output detached or none."""
    model, inputs = built(name)
    if without is not None:
        dict(named_modules(model))[without].register_forward_hook(lambda module, args, output: detached(output))
    inputs, sources = leaves(inputs)
    loss_of(name, call(model, inputs)).backward()
    layers = {layer: list(module.parameters(recurse=False)) for layer, module in named_layers(model).items()}
    return [_any_gradient([source]) for source in sources], {
        layer: _any_gradient(parameters) for layer, parameters in layers.items()
    }


def _any_gradient(found):
    return any(tensor.grad is not None and bool(tensor.grad.any()) for tensor in found)


SEVERAL_WAYS = ("two_inputs", "conditioned_blocks")
SERVED = [name for name, net in NETWORKS.items() if not net.long_skips]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of reentrant checkpointing
@pytest.mark.parametrize("name", SERVED)
def test_behind_a_detached_point_nothing_arrives(name):
    """Every path from an input to the output, and from every layer that the point serves, passes the point."""
    found = gp.points(*built(name))
    inputs, layers = arrives(name)
    assert all(inputs) == (name != "backbone_under_no_grad")
    served = []
    for point in found:
        served = [*served, *point.layers] if name not in SEVERAL_WAYS else point.layers  # else all before it, too
        at_inputs, at_layers = arrives(name, without=point.name)
        assert at_inputs == [] or not all(at_inputs), f"{point.name} is no cut"
        still = [layer for layer in served if layers[layer] and at_layers[layer]]
        assert not still, f"{point.name} is not behind {still}"
        assert at_layers != layers, f"{point.name} cuts nothing off"


def state(model):
    tensors_of = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(module.training, *(len(vars(module)[key]) for key in HOOKS)) for module in model.modules()]
    flags = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    return tensors_of, modules, flags, torch.get_rng_state()


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_stays_as_it_was(name):
    model, inputs = built(name)
    given = [tensor.clone() for tensor in tensors(inputs)]
    before, modules, flags, rng = state(model)
    gp.points(model, inputs)
    after, modules_after, flags_after, rng_after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (modules, flags) == (modules_after, flags_after)
    assert torch.equal(rng, rng_after)
    assert all(torch.equal(*pair) for pair in zip(given, tensors(inputs), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_twice(name):
    first, again = (gp.points(*built(name)) for _ in range(2))
    model, inputs = built(name)
    gp.points(model, inputs)
    for found in (again, gp.points(model, inputs)):
        assert tuple(found) == tuple(first)
        assert found.unserved == first.unserved


def unserved(history):
    return {layer.name: layer.unserved for layer in history.layers if layer.unserved}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_scan_records_the_same_points(name):
    model, inputs = built(name)
    model.train()
    expected = gp.points(model, inputs)
    history = gp.scan(model, [(inputs, None)], lambda output, _: loss_of(name, output), iterations=1)
    assert history.points == tuple(expected)
    assert unserved(history) == expected.unserved


@pytest.mark.parametrize("name", NETWORKS)
def test_a_probe_in_the_user_s_loop_records_the_same_points(name):
    model, inputs = built(name)
    expected = gp.points(model, inputs)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    with gp.GradientProbe(model, optimizer=optimizer, iterations=1) as probe:
        loss_of(name, call(model, inputs)).backward()
        optimizer.step()
    assert probe.history.points == tuple(expected)
    assert unserved(probe.history) == expected.unserved


def pairs(found):
    return [(point.name, point.layers) for point in found]


@pytest.mark.parametrize("name", ["plain", "resnet", "vit", "hrnet", "nnunet"])
def test_a_compiled_model_has_the_points_of_the_model(name):
    model, inputs = built(name)
    assert pairs(gp.points(torch.compile(model, backend="eager"), inputs)) == pairs(gp.points(model, inputs))


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_model_with_compiled_parts_has_the_points_of_the_model(name):
    model, inputs = built(name)
    expected = pairs(gp.points(model, inputs))
    for child, module in list(model.named_children()):
        if child in ("layer2", "norm"):
            setattr(model, child, torch.compile(module, backend="eager"))
    assert pairs(gp.points(model, inputs)) == expected


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["plain", "resnet", "vit"])
def test_a_distributed_model_has_the_points_of_the_model(name, one_process):
    model, inputs = built(name)
    expected = pairs(gp.points(model, inputs))
    assert pairs(gp.points(nn.parallel.DistributedDataParallel(model), inputs)) == expected


def test_a_thousand_layers():
    deep = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(1000)), nn.Linear(2, 1))
    found = gp.points(deep, torch.randn(3, 2))
    assert [point.name for point in found] == [str(k) for k in range(1000)]


def test_a_thousand_layers_in_residual_blocks():
    def block(self, x):
        return x + self.lin2(self.lin1(x).tanh())

    blocks = [Apply(block, lin1=nn.Linear(2, 2), lin2=nn.Linear(2, 2)) for _ in range(500)]
    found = gp.points(nn.Sequential(nn.Linear(2, 2), *blocks, nn.Linear(2, 1)), torch.randn(3, 2))
    assert [point.name for point in found] == [str(k) for k in range(501)]


def test_a_model_without_layers_has_no_points():
    found = gp.points(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.randn(2, 3))
    assert tuple(found) == ()
    assert found.unserved == {}


def test_a_single_layer_makes_the_output():
    assert gp.points(nn.Linear(3, 2), torch.randn(2, 3)).unserved == {"": OUTPUT}


class CallsItself(nn.Sequential):
    """As a LightningModule under DDP, whose training step is called as its forward."""

    def forward(self, x, y=None):
        return super().forward(x) if y is None else nn.functional.mse_loss(self(x), y)


def test_a_root_that_calls_itself_for_the_loss_has_the_output_of_the_inner_call():
    net = CallsItself(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    with gp.GradientProbe(net) as probe:
        net(x, torch.randn(5, 2)).backward()
        probe.step()
    assert probe.history.output_shape == (5, 2)
    assert probe.history.points == gp.points(net, x)
