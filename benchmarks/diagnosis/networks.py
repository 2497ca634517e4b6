"""Networks of the kinds that people train, each with its task, its loss and a measure of what it has learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnosis import data
from benchmarks.diagnosis.data import CLASSES, TOKENS, Batch
from benchmarks.placement.nets import Transformer, UNet, resnet

MOMENTUM = 0.9


class Lstm(nn.Module):
    """A recurrent classifier, by its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of series."""
        return self.head(self.rnn(x)[0][:, -1])


class Vae(nn.Module):
    """A variational autoencoder: reconstruction, mean and logarithm of the variance, as monai's returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decode = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 768))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean, logarithm of the variance."""
        hidden = self.encode(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decode(z).view_as(x), mean, log_variance


def vit() -> nn.Module:
    """ViT of transformers, tiny."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=CLASSES)).train()


def gpt2() -> nn.Module:
    """GPT-2 of transformers, tiny."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=TOKENS, n_positions=32, n_embd=32, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0
        )
    ).train()


def bert() -> nn.Module:
    """BERT of transformers with a class for each token, tiny."""
    from transformers import BertConfig, BertForTokenClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    return BertForTokenClassification(BertConfig(**sizes, vocab_size=TOKENS, num_labels=TOKENS)).train()


def unet() -> nn.Module:
    """U-Net of monai with residual units."""
    from monai.networks.nets import UNet as MonaiUNet

    sizes = {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 1}
    return MonaiUNet(spatial_dims=2, in_channels=1, out_channels=2, **sizes)


def attention_unet() -> nn.Module:
    """U-Net of monai whose skips pass attention gates."""
    from monai.networks.nets import AttentionUnet

    return AttentionUnet(spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16), strides=(2,))


def plain_unet() -> nn.Module:
    """A U-Net of plain convolutions, with a score for bright and one for dark."""
    net = UNet(8, 1, nn.ReLU)
    net.head = nn.Conv2d(8, 2, 1)
    return net


def resnet_of_transformers() -> nn.Module:
    """ResNet of transformers, tiny."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic", num_labels=CLASSES
    )
    return ResNetForImageClassification(config).train()


def resnet_of_monai() -> nn.Module:
    """ResNet of monai with one block at each size, tiny."""
    from monai.networks.nets import ResNet

    return ResNet(
        block="basic", layers=[1, 1, 1, 1], block_inplanes=[4, 8, 8, 8], spatial_dims=2, num_classes=CLASSES,
        conv1_t_size=3,
    )  # fmt: skip


def post_norm() -> nn.Module:
    """Encoder blocks as of 2017, over the rows of a digit."""
    return nn.Sequential(nn.Flatten(), Transformer(4, 16, norm_first=False))


def vae_of_monai() -> nn.Module:
    """Variational autoencoder of monai, without the sigmoid at its end."""
    from monai.networks.nets import VarAutoEncoder

    return VarAutoEncoder(
        spatial_dims=2, in_shape=(1, 16, 16), out_channels=1, latent_size=8, channels=(8, 16), strides=(2, 2),
        use_sigmoid=False,
    )  # fmt: skip


def scores_of(output: Any) -> Tensor:
    """The scores in what a network returns, the classes on axis 1."""
    scores: Tensor = output.logits.movedim(-1, 1) if hasattr(output, "logits") else output
    return scores


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Of classes for each example, token or pixel."""
    return F.cross_entropy(scores_of(model(batch[0])), batch[1])


def accuracy(model: nn.Module, batch: Batch) -> float:
    """How far the accuracy has come from that of a constant answer (0) to 1."""
    right = (scores_of(model(batch[0])).argmax(1) == batch[1]).float().mean().item()
    chance = batch[1].unique(return_counts=True)[1].max().item() / batch[1].numel()
    return (right - chance) / (1 - chance)


def vae_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error, and the divergence of the code from a standard normal one."""
    made, mean, log_variance = model(batch[0])[:3]
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
    return F.mse_loss(made, batch[0]) + divergence / batch[0][0].numel()


def explained(model: nn.Module, batch: Batch) -> float:
    """The share of the images' variance that the reconstruction has."""
    error = (model(batch[0])[0] - batch[0]).square().mean()
    return 1 - (error / (batch[0] - batch[0].mean(0)).square().mean()).item()


@dataclass(frozen=True)
class Subject:
    """A network and how it is trained.

    Attributes:
        name: Of the network.
        library: Where it is from.
        build: Builds it; draws its weights from torch's global generator.
        batch: Draws so many examples of its task.
        rates: The learning rate of Adam, and of SGD with momentum .9.
        loss: ``(model, batch) -> scalar``.
        score: What share of the task a network has learned, on a batch in eval mode.
    """

    name: str
    library: str
    build: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    rates: tuple[float, float]
    loss: Callable[[nn.Module, Any], Tensor] = cross_entropy
    score: Callable[[nn.Module, Any], float] = accuracy

    def optimizer(self, model: nn.Module, name: str) -> torch.optim.Optimizer:
        """Over a network's parameters."""
        if name == "Adam":
            return torch.optim.Adam(model.parameters(), lr=self.rates[0])
        return torch.optim.SGD(model.parameters(), lr=self.rates[1], momentum=MOMENTUM)


def zoo(name: str) -> nn.Module:
    """A network of the zoo."""
    from benchmarks.architectures.zoo import ZOO

    return ZOO[name].build()


_masks = partial(data.masks, channels=1)
_bright = partial(data.quadrants, noise=0.1)
_SUBJECTS = (
    Subject("ResNet", "torch", partial(resnet, 4, 8), data.digits, (3e-3, 0.05)),
    Subject("ResNet, transformers", "transformers", resnet_of_transformers, data.quadrants, (3e-3, 0.02)),
    Subject("ResNet, monai", "monai", resnet_of_monai, data.quadrants, (3e-3, 0.02)),
    Subject("U-Net", "monai", unet, _masks, (3e-3, 0.05)),
    Subject("U-Net, attention", "monai", attention_unet, _masks, (3e-3, 0.05)),
    Subject("U-Net, no normalisation", "torch", plain_unet, _masks, (2e-3, 0.02)),
    Subject("ViT", "transformers", vit, data.quadrants, (2e-3, 0.02)),
    Subject("GPT-2", "transformers", gpt2, data.counting, (3e-3, 0.1)),
    Subject("BERT, tokens", "transformers", bert, data.counting, (3e-3, 0.1)),
    Subject(
        "BERT, texts", "transformers", partial(zoo, "BertForSequenceClassification"), data.marked, (3e-3, 0.02)
    ),
    Subject("transformer, post-norm", "torch", post_norm, data.digits, (3e-3, 0.02)),
    Subject("LSTM", "torch", Lstm, data.series, (5e-3, 0.1)),
    Subject("LSTM, two on tokens", "torch", partial(zoo, "LSTM, out[:, -1]"), data.marked, (1e-2, 0.2)),
    Subject("VAE", "torch", Vae, _bright, (2e-3, 0.1), vae_loss, explained),
    Subject("VAE, monai", "monai", vae_of_monai, partial(_bright, channels=1), (3e-3, 0.1), vae_loss, explained),
)
SUBJECTS = {each.name: each for each in _SUBJECTS}
