"""Faulty trainings with one cause each, and sound ones; scale, reduction and batch size can be changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnosis import data
from benchmarks.diagnosis.data import Batch
from benchmarks.diagnosis.networks import Lstm, post_norm, vit
from benchmarks.placement.nets import resnet
from gradprobe.zoo import plain_mlp


def _all(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.parameters()


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        name: Of the case.
        cause: The code of what is wrong, empty where nothing is.
        build: Builds the network.
        rates: The learning rate of Adam, and of SGD with momentum .9.
        batch: Draws so many examples.
        loss: ``(output, target, reduction=...) -> scalar``.
        parameters: Those that the optimizer gets.
    """

    name: str
    cause: str
    build: Callable[[], nn.Module]
    rates: tuple[float, float] = (2e-3, 0.05)
    batch: Callable[[int], Batch] = data.digits
    loss: Callable[..., Tensor] = F.cross_entropy
    parameters: Callable[[nn.Module], Iterable[nn.Parameter]] = _all


class Logits(nn.Module):
    """The logits of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        scores: Tensor = self.model(x).logits
        return scores


def mlp(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Three layers on digits."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), activation(), nn.Linear(48, 48), activation(), nn.Linear(48, 10)
    )


def cnn() -> nn.Sequential:
    """Two convolutions and two linear layers on digits."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def with_softmax() -> nn.Module:
    """Probabilities, which the loss takes for logits."""
    return cnn().append(nn.Softmax(1))


def always_off() -> nn.Module:
    """A hidden layer whose biases keep it off."""
    net = mlp()
    nn.init.constant_(net[3].bias, -5.0)
    return net


def at_the_ends() -> nn.Module:
    """Sigmoids whose inputs are far too large."""
    net = mlp(nn.Sigmoid)
    nn.init.normal_(net[1].weight, std=20.0)
    nn.init.normal_(net[3].weight, std=20.0)
    return net


def all_alike() -> nn.Module:
    """All units of a layer begin with the same weights."""
    net = mlp()
    for layer in (net[1], net[3]):
        nn.init.constant_(layer.weight, 0.05)
        nn.init.zeros_(layer.bias)
    return net


def grows() -> nn.Module:
    """Initial weights that make the signal grow with each layer."""
    net = nn.Sequential(nn.Flatten(), plain_mlp(10, 32))
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    return net


def collapses() -> nn.Module:
    """Sixteen layers with torch's own initialisation."""
    return nn.Sequential(nn.Flatten(), plain_mlp(16, 32))


def linear() -> nn.Module:
    """Three layers with nothing between them."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10))


def unscaled(size: int) -> Batch:
    """Digits with features in the thousands."""
    x, y = data.digits(size)
    return 4000 * x, y


def shuffled(size: int) -> Batch:
    """Digits with the labels of others."""
    x, y = data.digits(size)
    return x, y[torch.randperm(size)]


def prices(size: int, scale: float = 1.0) -> Batch:
    """A smooth function of eight features."""
    x = torch.randn(size, 8)
    return x, scale * (x[:, :1] + torch.sin(2 * x[:, 1:2]) + x[:, 2:3] * x[:, 3:4])


def regressor() -> nn.Module:
    """Three layers with one output."""
    return nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))


def broadcast(output: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Squared error of (N, 1) against (N,)."""
    difference = (output - target.squeeze(1)).square()
    return difference.mean() if reduction == "mean" else difference.sum() / len(target)


def head(model: nn.Module) -> Iterable[nn.Parameter]:
    """The last layer alone."""
    assert isinstance(model, nn.Sequential)
    return model[-1].parameters()


def evaluating() -> nn.Module:
    """A residual network in eval mode."""
    return resnet(3, 8).eval()


_CASES = (
    Case("deep MLP", "signal_collapse", collapses),
    Case("large steps", "lr_high", cnn, (1.0, 30.0)),
    Case("small steps", "lr_low", cnn, (1e-6, 1e-5)),
    Case("units off", "dead_units", always_off),
    Case("sigmoids at their ends", "saturated", at_the_ends),
    Case("units alike", "symmetry", all_alike),
    Case("large weights", "exploding", grows),
    Case("softmax in the model", "double_softmax", with_softmax),
    Case("head alone in the optimizer", "not_in_optimizer", cnn, parameters=head),
    Case("linear layers", "no_activation", linear),
    Case("features in the thousands", "input_scale", mlp, batch=unscaled),
    Case(
        "targets in the hundreds",
        "target_scale",
        regressor,
        (2e-3, 1e-4),
        partial(prices, scale=300.0),
        F.mse_loss,
    ),
    Case("(N, 1) against (N,)", "loss_broadcast", regressor, (2e-3, 0.01), prices, broadcast),
    Case("labels of others", "labels_wrong", cnn, batch=shuffled),
    Case("eval mode", "eval_mode", evaluating, (2e-3, 0.02)),
    Case("MLP", "", mlp),
    Case("CNN", "", cnn),
    Case("regression", "", regressor, (2e-3, 0.01), prices, F.mse_loss),
    Case("ResNet", "", partial(resnet, 3, 8), (3e-3, 0.05)),
    Case("LSTM", "", Lstm, (5e-3, 0.1), data.series),
    Case("ViT", "", lambda: Logits(vit()), (2e-3, 0.02), data.quadrants),
    Case("transformer, post-norm", "", post_norm, (3e-3, 0.02)),
)
CASES = {case.name: case for case in _CASES}
