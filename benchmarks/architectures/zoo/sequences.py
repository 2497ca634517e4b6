"""Networks of torch alone that read sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.zoo.architecture import Architecture
from benchmarks.architectures.zoo.batches import FIVE, integers, normal
from benchmarks.architectures.zoo.losses import last_axis


class LSTMClassifier(nn.Module):
    """Two LSTMs on word vectors, read off at the last token or from the last hidden state."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.read = read
        self.embedding = nn.Embedding(120, 12)
        self.lstm1 = nn.LSTM(12, 16, batch_first=True)
        self.lstm2 = nn.LSTM(16, 16, batch_first=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of a batch of token sequences."""
        out, _ = self.lstm1(self.embedding(tokens))
        out, (hidden, _) = self.lstm2(out)
        return self.fc(out[:, -1] if self.read == "out" else hidden[-1])


class GRULanguageModel(nn.Module):
    """Word vectors, two GRU layers that take the sequence first, and a projection onto the vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(120, 12)
        self.input = nn.Linear(12, 16)
        self.gru = nn.GRU(16, 16, num_layers=2, dropout=0.1, batch_first=True)
        self.decoder = nn.Linear(16, 120)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token at each place."""
        return self.decoder(self.gru(torch.tanh(self.input(self.embedding(tokens))))[0])


class TemporalBlock(nn.Module):
    """A residual block of two causal, weight-normalised convolutions (Bai et al. 2018)."""

    def __init__(self, inside: int, outside: int, dilation: int) -> None:
        super().__init__()
        weight_norm = torch.nn.utils.parametrizations.weight_norm
        self.cut = 2 * dilation
        self.conv1 = weight_norm(nn.Conv1d(inside, outside, 3, padding=self.cut, dilation=dilation))
        self.conv2 = weight_norm(nn.Conv1d(outside, outside, 3, padding=self.cut, dilation=dilation))
        self.downsample = nn.Conv1d(inside, outside, 1) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        """The sequence, (N, C, T)."""
        out = F.relu(self.conv1(x)[..., : -self.cut])
        out = F.relu(self.conv2(out)[..., : -self.cut])
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class TemporalNet(nn.Module):
    """Temporal blocks of rising dilation on (N, C, T), a score for each class at the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(TemporalBlock(i, 12, 2**k) for k, i in enumerate([4, 12, 12, 12])))
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of sequences."""
        return self.fc(self.blocks(x)[..., -1])


class EncoderClassifier(nn.Module):
    """`torch.nn.TransformerEncoder`, which takes a fused path of its own in evaluation."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
        self.project = nn.Linear(6, 16)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of sequences, (N, T, 6)."""
        return self.fc(self.encoder(self.project(x)).mean(1))


SEQUENCES = [
    Architecture(
        "LSTM, out[:, -1]",
        lambda: LSTMClassifier("out"),
        integers(120, 4, 9),
        FIVE,
        expected=(r"lstm1", r"lstm2"),
        forbidden=(r"fc",),
    ),
    Architecture(
        "LSTM, h_n[-1]",
        lambda: LSTMClassifier("hidden"),
        integers(120, 4, 9),
        FIVE,
        expected=(r"lstm1",),
        forbidden=(r"fc",),
    ),
    Architecture(
        "GRU language model",
        GRULanguageModel,
        integers(120, 4, 9),
        integers(120, 4, 9),
        last_axis,
        expected=(r"input", r"gru"),
        forbidden=(r"decoder",),
    ),
    Architecture(
        "TCN, weight norm",
        TemporalNet,
        normal(4, 4, 20),
        FIVE,
        expected=(r"blocks\.0", r"blocks\.1", r"blocks\.2", r"blocks\.3|blocks"),
        forbidden=(r"blocks\.\d\.(conv|down).*", r".*parametrizations.*"),
    ),
    Architecture(
        "nn.TransformerEncoder, pre-norm",
        lambda: EncoderClassifier(True),
        normal(4, 7, 6),
        FIVE,
        expected=(r"project", r"encoder\.layers\.0", r"encoder\.layers\.1", r"encoder\.layers\.2|encoder"),
        forbidden=(r"encoder\.layers\.\d\..*",),
    ),
    Architecture(
        "nn.TransformerEncoder, post-norm",
        lambda: EncoderClassifier(False),
        normal(4, 7, 6),
        FIVE,
        expected=(
            r"project",
            r"encoder\.layers\.0(\.norm2)?",
            r"encoder\.layers\.0\.norm1",
            r"encoder\.layers\.1(\.norm2)?",
        ),
        forbidden=(r"encoder\.layers\.\d\.(self_attn|linear|dropout).*",),
    ),
]
