"""The networks that the cost of a probe is measured on, with random weights, a batch and a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Training(NamedTuple):
    """A network and what it is trained on."""

    model: nn.Module
    inputs: Tensor
    target: Tensor

    def loss(self) -> Tensor:
        """The loss of one forward pass."""
        return criterion(self.model(self.inputs), self.target)

    def to(self, device: torch.device) -> Training:
        """The same on another device."""
        return Training(self.model.to(device), self.inputs.to(device), self.target.to(device))


def criterion(output: Any, target: Tensor) -> Tensor:
    """Cross-entropy."""
    scores = getattr(output, "logits", output)  # transformers' models return more than the scores
    if scores.dim() == 3:  # (sequence, token, class)
        scores, target = scores.flatten(0, 1), target.flatten()
    return nn.functional.cross_entropy(scores, target)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The modules that own parameters."""
    return [module for module in model.modules() if list(module.parameters(recurse=False))]


def cnn() -> Training:
    """8 convolutions with in-place ReLUs at 64x64, batch 32."""
    widths = [3, 32, 32, 64, 64, 64, 64, 64, 64]
    layers: list[nn.Module] = []
    for index in range(8):
        layers += [nn.Conv2d(widths[index], widths[index + 1], 3, padding=1), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)] if index in (3, 5) else []
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return Training(model, torch.randn(32, 3, 64, 64), torch.randint(10, (32,)))


def resnet50(batch: int = 8) -> Training:
    """ResNet-50 of transformers at 224x224, batch 8."""
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    return Training(model, torch.randn(batch, 3, 224, 224), torch.randint(1000, (batch,)))


def gpt2() -> Training:
    """GPT-2 small of transformers, 2 sequences of 128 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens = torch.randint(50257, (2, 129))
    return Training(GPT2LMHeadModel(GPT2Config(use_cache=False)), tokens[:, :-1], tokens[:, 1:])


def unet() -> Training:
    """U-Net of monai with residual units at 128x128, batch 8."""
    from monai.networks.nets import UNet

    model = UNet(2, 1, 2, channels=(32, 64, 128, 256, 512), strides=(2, 2, 2, 2), num_res_units=2)
    return Training(model, torch.randn(8, 1, 128, 128), torch.randint(2, (8, 128, 128)))


def deep(layers: int = 1000, width: int = 64, batch: int = 32) -> Training:
    """1,000 linear layers of width 64 with tanh, batch 32: the least work for each layer."""
    hidden = [module for _ in range(layers) for module in (nn.Linear(width, width), nn.Tanh())]
    model = nn.Sequential(*hidden, nn.Linear(width, 10))
    return Training(model, torch.randn(batch, width), torch.randint(10, (batch,)))


NETS: dict[str, Callable[[], Training]] = {
    "cnn": cnn,
    "resnet50": resnet50,
    "gpt2": gpt2,
    "unet": unet,
    "deep": deep,
}
