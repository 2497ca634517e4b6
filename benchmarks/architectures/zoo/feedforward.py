"""Networks of torch alone in which one layer follows the other or the blocks are closed: VGG to DenseNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.zoo.architecture import Architecture
from benchmarks.architectures.zoo.batches import FIVE, integers, normal


def conv_bn_relu(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


def vgg() -> nn.Module:
    """Plain convolutions in pairs, then two fully connected layers."""
    layers: list[nn.Module] = []
    for inside, outside in [(3, 8), (8, 12), (12, 16)]:
        for channels in (inside, outside):
            layers += [nn.Conv2d(channels, outside, 3, padding=1), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(16 * 16, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 5)]
    return nn.Sequential(*layers, *head)


class CNDS8(nn.Module):
    """CNDS-8 of Wang et al. 2015 (convolutions 1, 2, 3_1 to 5_2, fc6 to fc8), narrow and for 96 pixels."""

    WIDTHS = (
        ("1", 3, 8),
        ("2", 8, 8),
        ("3_1", 8, 12),
        ("3_2", 12, 12),
        ("4_1", 12, 16),
        ("4_2", 16, 16),
        ("5_1", 16, 16),
        ("5_2", 16, 16),
    )

    def __init__(self) -> None:
        super().__init__()
        for name, inside, outside in self.WIDTHS:
            conv = nn.Conv2d(inside, outside, 7, 2) if name == "1" else nn.Conv2d(inside, outside, 3, padding=1)
            self.add_module(f"conv{name}", conv)
            self.add_module(f"relu{name}", nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.fc6, self.relu6, self.drop6 = nn.Linear(16, 32), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.fc7, self.relu7, self.drop7 = nn.Linear(32, 32), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.fc8 = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of images."""
        for name, _, _ in self.WIDTHS:
            x = self.get_submodule(f"relu{name}")(self.get_submodule(f"conv{name}")(x))
            if name in ("1", "2", "3_2", "4_2", "5_2"):
                x = self.pool(x)
        x = self.drop6(self.relu6(self.fc6(x.flatten(1))))
        return self.fc8(self.drop7(self.relu7(self.fc7(x))))


class BasicConv2d(nn.Module):
    """Convolution, batch norm and a functional ReLU, as in torchvision's GoogLeNet."""

    def __init__(self, inside: int, outside: int, **arguments: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, bias=False, **arguments)
        self.bn = nn.BatchNorm2d(outside, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """The feature map."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four parallel branches of ``width`` channels each, concatenated."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(inside, width, kernel_size=1)
        self.branch2 = nn.Sequential(
            BasicConv2d(inside, width, kernel_size=1), BasicConv2d(width, width, kernel_size=3, padding=1)
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(inside, width, kernel_size=1), BasicConv2d(width, width, kernel_size=3, padding=1)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), BasicConv2d(inside, width, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """The four maps side by side."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


INCEPTIONS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


class GoogLeNet(nn.Module):
    """GoogLeNet with torchvision's names, 8 channels to a branch and without its auxiliary classifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(3, 8, kernel_size=7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = BasicConv2d(8, 8, kernel_size=1)
        self.conv3 = BasicConv2d(8, 12, kernel_size=3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a, self.inception3b = Inception(12, 8), Inception(32, 8)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a, self.inception4b = Inception(32, 8), Inception(32, 8)
        self.inception4c, self.inception4d, self.inception4e = (Inception(32, 8) for _ in range(3))
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a, self.inception5b = Inception(32, 8), Inception(32, 8)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of images."""
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(x)))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4e(self.inception4d(self.inception4c(self.inception4b(self.inception4a(x)))))
        x = self.inception5b(self.inception5a(self.maxpool4(x)))
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))


class DenseLayer(nn.Module):
    """A dense layer that returns only its new features, as torchvision's."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(inside), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inside, 2 * growth, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(2 * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        """New features from all that came before."""
        x = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    """Dense layers whose list of features is concatenated at the end."""

    def __init__(self, inside: int, growth: int, layers: int) -> None:
        super().__init__({f"denselayer{i + 1}": DenseLayer(inside + i * growth, growth) for i in range(layers)})

    def forward(self, x: Tensor) -> Tensor:
        """All features side by side."""
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Sequential):
    """Norm, ReLU, 1x1 convolution, pooling."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(inside), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inside, outside, 1, bias=False)
        self.pool = nn.AvgPool2d(2)


class DenseNet(nn.Module):
    """DenseNet-121 with torchvision's names and numbers of layers, narrow."""

    def __init__(self, growth: int = 2, layers: Sequence[int] = (6, 12, 24, 16)) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.features.norm0, self.features.relu0 = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        width = 8
        for index, count in enumerate(layers, 1):
            self.features.add_module(f"denseblock{index}", DenseBlock(width, growth, count))
            width += count * growth
            if index < len(layers):
                self.features.add_module(f"transition{index}", Transition(width, width // 2))
                width //= 2
        self.features.norm5 = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of images."""
        x = F.relu(self.features(x), inplace=True)
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def relu_mlp(depth: int = 24) -> nn.Module:
    """Linear and ReLU in turn, and a last layer."""
    layers: list[nn.Module] = [nn.Linear(12, 16), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(16, 16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 5))


FEEDFORWARD = [
    Architecture(
        "VGG",
        vgg,
        normal(4, 3, 32, 32),
        FIVE,
        expected=(r"1", r"3", r"6", r"8", r"11", r"13", r"17"),
        forbidden=(r"0", r"2", r"4", r"5", r"7", r"9", r"10", r"12", r"14", r"15", r"16", r"19"),
    ),
    Architecture(
        "CNDS-8",
        CNDS8,
        normal(2, 3, 96, 96),
        integers(5, 2),
        expected=(r"relu1", r"relu2", r"relu3_1", r"relu3_2", r"relu4_2", r"relu5_2", r"relu6", r"relu7"),
        forbidden=(r"conv.*", r"pool", r"fc8"),
    ),
    Architecture(
        "GoogLeNet",
        GoogLeNet,
        normal(2, 3, 64, 64),
        integers(5, 2),
        expected=(r"conv1(\.bn)?", *(rf"inception{block}" for block in INCEPTIONS)),
        forbidden=(r"inception\d.\..*", r"maxpool\d", r"fc"),
    ),
    Architecture(
        "DenseNet (list of features)",
        DenseNet,
        normal(4, 3, 16, 16),
        FIVE,
        expected=(
            r"features\.relu0",
            *(rf"features\.denseblock{block}" for block in (1, 2, 3)),
            *(rf"features\.transition{block}\.conv" for block in (1, 2, 3)),
            r"features\.norm5",
        ),
        forbidden=(r"features\.denseblock\d\.denselayer.*", r"features\.transition\d(\.pool)?"),
    ),
    Architecture(
        "MLP, 24 ReLU layers",
        relu_mlp,
        normal(8, 12),
        integers(5, 8),
        expected=(r"1", r"23", r"47"),
        forbidden=(r"\d*[02468]",),
    ),
]
