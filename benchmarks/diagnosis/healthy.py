"""Healthy networks out of libraries and of the kinds that people train: each has to be called healthy.

    python -m benchmarks.diagnosis.healthy [NAME ...]

Every network learns a small synthetic task at batches of 2, 8 and 64, in windows of 10, 50 and 150 iterations,
with SGD and Adam, and once under bfloat16 autocast.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import gradprobe as gp

SETTINGS = [
    (batch, window, optimizer, False)
    for batch, window, optimizer in (
        (2, 10, "Adam"),
        (2, 50, "SGD"),
        (8, 10, "SGD"),
        (8, 50, "Adam"),
        (8, 150, "Adam"),
        (64, 10, "Adam"),
        (64, 50, "SGD"),
        (64, 50, "Adam"),
    )
] + [(8, 50, "Adam", True)]


def images(batch: int) -> tuple[Tensor, Tensor]:
    """Images whose class is where the bright square is."""
    labels = torch.randint(0, 4, (batch,))
    x = 0.3 * torch.randn(batch, 3, 16, 16)
    for image, label in zip(x, labels.tolist(), strict=True):
        row, column = 8 * (label // 2), 8 * (label % 2)
        image[:, row : row + 8, column : column + 8] += 1.0
    return x, labels


def masks(batch: int) -> tuple[Tensor, Tensor]:
    """Images of which the bright part is to be found."""
    x, _ = images(batch)
    return x, (x.mean(1, keepdim=True) > 0.5).float()


def tokens(batch: int) -> tuple[Tensor, Tensor]:
    """Sequences that count up, with noise."""
    start = torch.randint(0, 40, (batch, 1))
    x = (start + torch.arange(17)) % 40
    return x[:, :-1], x[:, 1:]


def sequences(batch: int) -> tuple[Tensor, Tensor]:
    """Series whose class is the sign of their sum."""
    x = torch.randn(batch, 20, 4)
    return x, (x[..., 0].sum(1) > 0).long()


class ResNet(nn.Module):
    """Residual blocks with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
                nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16),
            )
            for _ in range(4)
        )  # fmt: skip
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


class Lstm(nn.Module):
    """A recurrent classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Vae(nn.Module):
    """A variational autoencoder, which returns its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decode = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 768))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encode(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return (self.decode(z) - x.flatten(1)).square().sum(1).mean() / 100 + kl / 100


def vit() -> nn.Module:
    """transformers' ViT, tiny."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, image_size=16,
        patch_size=4,
        num_labels=4,
    )  # fmt: skip
    return ViTForImageClassification(config)


def gpt2() -> nn.Module:
    """transformers' GPT-2, tiny."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=32, n_embd=32, n_layer=4, n_head=4))


def bert() -> nn.Module:
    """transformers' BERT, tiny."""
    from transformers import BertConfig, BertForTokenClassification

    config = BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=40,
    )
    return BertForTokenClassification(config)


def unet() -> nn.Module:
    """monai's U-Net."""
    from monai.networks.nets import UNet

    return UNet(
        spatial_dims=2, in_channels=3, out_channels=1, channels=(8, 16, 32), strides=(2, 2), num_res_units=1
    )


cross_entropy = nn.functional.cross_entropy


def _lm_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(model(x).logits.flatten(0, 1), y.flatten())


Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, Tensor]], Loss, float, float]] = {
    "resnet": (ResNet, images, lambda m, x, y: cross_entropy(m(x), y), 3e-3, 0.05),
    "lstm": (Lstm, sequences, lambda m, x, y: cross_entropy(m(x), y), 5e-3, 0.5),
    "vae": (Vae, images, lambda m, x, y: m(x), 2e-3, 0.02),
    "vit": (vit, images, lambda m, x, y: cross_entropy(m(x).logits, y), 2e-3, 0.05),
    "gpt2": (gpt2, tokens, _lm_loss, 2e-3, 0.1),
    "bert": (bert, tokens, _lm_loss, 2e-3, 0.1),
    "unet": (unet, masks, lambda m, x, y: nn.functional.binary_cross_entropy_with_logits(m(x), y), 3e-3, 0.1),
}


def diagnosed(name: str, batch: int, window: int, optimizer: str, bf16: bool) -> gp.Diagnosis:
    """The diagnosis of one network under one setting."""
    build, data, loss_of, adam, sgd = NETWORKS[name]
    torch.manual_seed(0)
    model = build()
    steps: Any
    if optimizer == "Adam":
        steps = torch.optim.Adam(model.parameters(), lr=adam)
    else:
        steps = torch.optim.SGD(model.parameters(), lr=sgd, momentum=0.9)
    cast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
    with gp.GradientProbe(model, optimizer=steps, iterations=window) as probe:
        for _ in range(window):
            x, y = data(batch)
            steps.zero_grad()
            with cast:
                loss = loss_of(model, x, y)
            loss.backward()
            steps.step()
    return gp.diagnose(probe.history)


def rows(names: list[str]) -> Iterator[tuple[str, int, int, str, bool, gp.Diagnosis]]:
    """Every network under every setting."""
    for name in names or NETWORKS:
        for batch, window, optimizer, bf16 in SETTINGS:
            yield name, batch, window, optimizer, bf16, diagnosed(name, batch, window, optimizer, bf16)


def main() -> None:
    """Print a line for each, and how many are healthy."""
    results = []
    for name, batch, window, optimizer, bf16, diagnosis in rows(sys.argv[1:]):
        results.append(diagnosis.verdict == "healthy")
        causes = [finding.cause for finding in diagnosis.findings]
        precision = "bf16" if bf16 else "fp32"
        print(
            name, batch, window, optimizer, precision, diagnosis.verdict, *causes, diagnosis.sentence, flush=True
        )
    print(f"{sum(results)} of {len(results)} healthy")


if __name__ == "__main__":
    main()
