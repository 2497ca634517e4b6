"""The blocks that random networks are built of. Each keeps the shape of what it gets, or says what it changes.

A space says which axes there are: images ``(N, C, *S)``, tokens ``(N, T, C)``, sequences ``(T, N, C)``, vectors
``(N, C)``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Space:
    """How layers are made for one kind of tensor."""

    def __init__(self, kind, random):
        self.kind, self.random = kind, random
        self.dimensions = {"images1": 1, "images2": 2, "images3": 3}.get(kind)

    def layer(self, before, after, size=None, stride=1):
        if self.dimensions is None:
            layer = nn.Linear(before, after)
        else:
            size = size or self.random.choice([1, 3])
            layer = CONVS[self.dimensions](before, after, size, stride, size // 2)
        kind = self.random.random()
        if kind < 0.05:
            return parametrizations.weight_norm(layer)
        if kind < 0.1:
            return parametrizations.spectral_norm(layer)
        if kind < 0.15:
            layer.weight.requires_grad_(False)
        return layer

    def norm(self, channels):
        if self.dimensions is None:
            return self.random.choice([nn.LayerNorm, nn.RMSNorm])(channels)
        group = nn.GroupNorm(1, channels)
        return self.random.choice(
            [BATCH_NORMS[self.dimensions](channels), group, NormAct(self.dimensions, channels)]
        )

    def act(self):
        kinds = [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.Tanh(), nn.SiLU(inplace=True), Functional()]
        return self.random.choice(kinds)

    @property
    def channels(self):
        """The axis of the channels."""
        return 1 if self.dimensions else -1


def NormAct(dimensions, channels):  # noqa: N802
    """Normalisation with its activation inside, as in timm."""

    class _NormAct(BATCH_NORMS[dimensions]):
        def __init__(self):
            super().__init__(channels)
            self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.act(self.drop(super().forward(x)))

    return _NormAct()


class Functional(nn.Module):
    """An activation that is no module of torch."""

    def forward(self, x):
        return F.leaky_relu(x, 0.2)


class Block(nn.Module):
    """A block whose parts are a list of layers; ``bypassed`` where something goes around all of them."""

    bypassed = True

    def __init__(self, body):
        super().__init__()
        self.body = body


class Plain(Block):
    bypassed = False

    def forward(self, x):
        return self.body(x)


class Residual(Block):
    def forward(self, x):
        return x + self.body(x)


class InPlaceResidual(Block):
    def forward(self, x):
        y = self.body(x)
        y += x
        return F.relu_(y)


class Scaled(Block):
    """A block that owns its layer scale, as ConvNeXt's."""

    def __init__(self, body, channels, axis):
        super().__init__(body)
        self.gamma = nn.Parameter(torch.full((channels,), 0.1))
        self.axis = axis

    def forward(self, x):
        gamma = self.gamma.view(-1, *[1] * (x.dim() - 2)) if self.axis == 1 else self.gamma
        return x + gamma * self.body(x)


class Gated(Block):
    def forward(self, x):
        return x * torch.sigmoid(self.body(x))


class Autocast(Block):
    """Computes in bfloat16 by itself."""

    bypassed = False

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.body(x)
        return y.to(x.dtype)


class Detached(Block):
    """Part of what goes around is without gradient."""

    def forward(self, x):
        return self.body(x) + x.detach()

    bypassed = False


class Checkpointed(Block):
    bypassed = False

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


class Dense(nn.Module):
    """Each layer gets all before it; a last one brings the channels back."""

    bypassed = True

    def __init__(self, space, channels, count):
        super().__init__()
        self.layers = nn.ModuleList(space.layer(channels * (k + 1), channels) for k in range(count))
        self.merge, self.axis = space.layer(channels * (count + 1), channels), space.channels

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, self.axis)).relu())
        return self.merge(torch.cat(features, self.axis))


class Parallel(nn.Module):
    """Ways side by side, of unequal depth, added or concatenated."""

    bypassed = True

    def __init__(self, space, ways, channels, concat):
        super().__init__()
        self.ways, self.axis = nn.ModuleList(ways), space.channels
        self.merge = space.layer(channels * len(ways), channels) if concat else None

    def forward(self, x):
        made = [way(x) for way in self.ways]
        return sum(made) if self.merge is None else self.merge(torch.cat(made, self.axis))


class Attention(nn.Module):
    """A transformer block on ``(N, T, C)`` or ``(T, N, C)``: pre- or post-norm, torch's attention or by hand."""

    bypassed = True

    def __init__(self, channels, batch_first, post_norm, by_hand):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels) if by_hand else None
        self.attn = None if by_hand else nn.MultiheadAttention(channels, 2, batch_first=batch_first)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))
        self.batch_first, self.post_norm = batch_first, post_norm

    def attend(self, x):
        if self.attn is not None:
            return self.attn(x, x, x, need_weights=False)[0]
        x = x if self.batch_first else x.transpose(0, 1)
        q, k, v = self.qkv(x).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v)
        return y if self.batch_first else y.transpose(0, 1)

    def forward(self, x):
        if self.post_norm:
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Recurrent(nn.Module):
    bypassed = False

    def __init__(self, kind, channels, batch_first, residual):
        super().__init__()
        self.rnn = kind(channels, channels, batch_first=batch_first)
        self.bypassed = residual

    def forward(self, x):
        y, _ = self.rnn(x)
        return x + y if self.bypassed else y


class Pair(nn.Module):
    """Two streams of unequal depth that exchange at the end: takes and returns a tuple, a list or a dict."""

    bypassed = True

    def __init__(self, space, first, second, channels, container):
        super().__init__()
        self.first, self.second, self.container = first, second, container
        self.across, self.back = space.layer(channels, channels, 1), space.layer(channels, channels, 1)

    def forward(self, streams):
        a, b = streams.values() if isinstance(streams, dict) else streams
        a, b = self.first(a), self.second(b)
        made = (a + self.back(b), b + self.across(a))
        return {"a": made[0], "b": made[1]} if self.container is dict else self.container(made)


class Cell(nn.Module):
    """Takes the outputs of the two cells before it (NASNet)."""

    bypassed = False

    def __init__(self, space, channels):
        super().__init__()
        self.left, self.right = space.layer(channels, channels), space.layer(channels, channels)
        self.inner = space.layer(channels, channels)

    def forward(self, before, now):
        a, b = self.left(before).relu(), self.right(now).relu()
        return a + self.inner(b) + b
