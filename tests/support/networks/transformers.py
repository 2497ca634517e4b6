"""Transformers, for text and for images."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from support.networks.registry import OUTPUT, REUSED, UNCALLED, Apply, conv, images, named, network


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
