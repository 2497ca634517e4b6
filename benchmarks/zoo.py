"""Architectures with random weights and tiny sizes: how each is built, fed, trained, and where a point may be.

`Architecture.expected` and `Architecture.forbidden` are written from how each network is built (its forward and
the names of its modules), never from what the tool printed. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import transformers as hf
from monai.networks import nets
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Architecture:
    """A network and all that it takes to train it.

    Attributes:
        name: How the row is called.
        build: Builds the network, in training mode; draws its weights from torch's global generator.
        inputs: What it is called with: a tensor, a tuple of positional or a dict of keyword arguments.
        target: The target of one batch.
        loss: ``(output, target) -> scalar``.
        library: ``"transformers"``, ``"monai"`` or ``"torch"``.
        expected: Each of these patterns has to match a point's whole name.
        forbidden: None of these patterns may match a point's whole name.
        long_skips: Whether long bypasses cross most of it (U-Nets, encoder-decoders; several inputs, streams or
            outputs), so that a point need not lie on every path from the input to the output.
        branch: As `gradprobe.supervise` takes it.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    target: Callable[[], Any]
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    library: str = "torch"
    expected: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    long_skips: bool = False
    branch: Any = "auto"


# -------------------------------------------------------------------------------------------- batches and losses


def seeded(make: Callable[[], Any], seed: int = 7) -> Any:
    """What ``make`` returns with torch's generator set to a seed, and left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def normal(*shape: int) -> Callable[[], Tensor]:
    """A function that draws the same standard normal tensor each time."""
    return lambda: seeded(lambda: torch.randn(shape))


def integers(high: int, *shape: int, seed: int = 11) -> Callable[[], Tensor]:
    """A function that draws the same integers below ``high`` each time."""
    return lambda: seeded(lambda: torch.randint(high, shape), seed)


def logits(loss: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A loss on the ``logits`` of a container."""
    return lambda output, target: loss(output.logits, target)


def own_loss(output: Any, target: Any) -> Tensor:
    """The loss that the model computed itself."""
    result: Tensor = output.loss
    return result


def last_axis(scores: Tensor, target: Tensor) -> Tensor:
    """Cross entropy with the classes on the last axis."""
    return F.cross_entropy(scores.flatten(0, -2), target.flatten())


def resized(scores: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of a map that may be smaller than the target."""
    return F.cross_entropy(F.interpolate(scores, target.shape[1:]), target)


def boxes_and_classes(output: Any, target: Tensor) -> Tensor:
    """DETR's two terms with the assignment given: object i is query i, in the middle of the image."""
    return last_axis(output.logits, target) + (output.pred_boxes - 0.5).abs().mean()


def first(loss: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A loss on the first entry of a tuple, or on what is no tuple."""
    return lambda output, target: loss(output[0] if isinstance(output, (tuple, list)) else output, target)


# -------------------------------------------------------------------------------------------------- transformers

TEXT = {"vocab_size": 120, "max_position_embeddings": 64}
TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
PICTURE = {"image_size": 32, "patch_size": 8}
TWO_STACKS = {
    "d_model": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}


def transformer(
    kind: str,
    config: Callable[[], Any],
    inputs: Mapping[str, Callable[[], Any]],
    labels: Callable[[], Any],
    *,
    loss: Callable[[Any, Any], Tensor] = own_loss,
    long_skips: bool = False,
) -> Architecture:
    """A model of `transformers` that is called with keywords and, with its own loss, with ``labels``."""

    def build() -> nn.Module:
        model: nn.Module = getattr(hf, kind)(config())
        return model.train()

    def keywords() -> dict[str, Any]:
        made = {key: make() for key, make in inputs.items()}
        return {**made, "labels": labels()} if loss is own_loss else made

    return Architecture(kind, build, keywords, labels, loss, "transformers", long_skips=long_skips)


def resnet_config(layer_type: str = "bottleneck", **changes: Any) -> Any:
    """A small ResNet of `transformers`."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [2, 2, 2, 2], "num_labels": 5}
    return hf.ResNetConfig(layer_type=layer_type, **{**sizes, **changes})


def detr() -> nn.Module:
    """A small DETR on a small ResNet, which is trained with it."""
    config = hf.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=resnet_config(out_features=["stage4"], depths=[1, 1, 2, 1]),
        num_queries=6,
        **TWO_STACKS,
        encoder_layers=2,
        decoder_layers=3,
        num_labels=4,
    )
    model: nn.Module = hf.DetrForObjectDetection(config)
    return model.requires_grad_(True)


def mask2former() -> nn.Module:
    """A small Mask2Former on a small Swin; what starts at zero, and lets no gradient through, is drawn as well."""
    backbone = hf.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = hf.Mask2FormerConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=2,
        decoder_layers=7,
        num_attention_heads=2,
        dim_feedforward=32,
        num_queries=6,
        num_labels=4,
    )
    model: nn.Module = hf.Mask2FormerForUniversalSegmentation(config)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def upernet_config() -> Any:
    """A small UperNet on a small ResNet."""
    backbone = resnet_config(out_features=["stage1", "stage2", "stage3", "stage4"])
    return hf.UperNetConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        hidden_size=16,
        pool_scales=[1, 2],
        num_labels=4,
        use_auxiliary_head=False,
    )


def clip_config() -> Any:
    """Two small towers."""
    text = {**TINY, **TEXT, "eos_token_id": 2}
    return hf.CLIPConfig(text_config=text, vision_config={**TINY, **PICTURE}, projection_dim=12)


def small_llama(**changes: Any) -> dict[str, Any]:
    """The sizes of a small decoder-only language model."""
    return {**TINY, **TEXT, "num_key_value_heads": 1, "head_dim": 8, **changes}


IDS = {"input_ids": integers(120, 4, 12, seed=3)}
IMAGES = {"pixel_values": normal(4, 3, 32, 32)}
IMAGES64 = {"pixel_values": normal(2, 3, 64, 64)}
FIVE = integers(5, 4)
NEXT = IDS["input_ids"]

text_classifier = partial(transformer, inputs=IDS, labels=FIVE)
language_model = partial(transformer, inputs=IDS, labels=NEXT)
image_classifier = partial(transformer, inputs=IMAGES, labels=FIVE)

TRANSFORMERS = [
    text_classifier("BertForSequenceClassification", lambda: hf.BertConfig(**TINY, **TEXT, num_labels=5)),
    text_classifier(
        "DistilBertForSequenceClassification",
        lambda: hf.DistilBertConfig(**TEXT, dim=16, n_layers=3, n_heads=2, hidden_dim=32, num_labels=5),
    ),
    transformer(
        "RobertaForTokenClassification",
        lambda: hf.RobertaConfig(**TINY, **TEXT, num_labels=5),
        IDS,
        integers(5, 4, 12),
    ),
    text_classifier(
        "DebertaV2ForSequenceClassification",
        lambda: hf.DebertaV2Config(
            **TINY, **TEXT, num_labels=5, relative_attention=True, pos_att_type=["p2c", "c2p"]
        ),
    ),
    text_classifier(
        "ElectraForSequenceClassification",
        lambda: hf.ElectraConfig(**TINY, **TEXT, embedding_size=12, num_labels=5),
    ),
    text_classifier(
        "AlbertForSequenceClassification", lambda: hf.AlbertConfig(**TINY, **TEXT, embedding_size=12, num_labels=5)
    ),
    language_model("BertForMaskedLM", lambda: hf.BertConfig(**TINY, **TEXT)),
    language_model(
        "GPT2LMHeadModel", lambda: hf.GPT2Config(vocab_size=120, n_positions=64, n_embd=16, n_layer=3, n_head=2)
    ),
    language_model("GPTNeoXForCausalLM", lambda: hf.GPTNeoXConfig(**TINY, **TEXT)),
    language_model("LlamaForCausalLM", lambda: hf.LlamaConfig(**small_llama())),
    language_model("MistralForCausalLM", lambda: hf.MistralConfig(**small_llama())),
    language_model("Qwen2ForCausalLM", lambda: hf.Qwen2Config(**small_llama())),
    language_model(
        "MixtralForCausalLM", lambda: hf.MixtralConfig(**small_llama(num_local_experts=4, num_experts_per_tok=2))
    ),
    language_model(
        "OPTForCausalLM",
        lambda: hf.OPTConfig(
            **TEXT, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, ffn_dim=32, word_embed_proj_dim=16
        ),
    ),
    language_model(
        "T5ForConditionalGeneration",
        lambda: hf.T5Config(
            vocab_size=120, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2, decoder_start_token_id=0
        ),
        long_skips=True,
    ),
    language_model(
        "BartForConditionalGeneration",
        lambda: hf.BartConfig(**TEXT, **TWO_STACKS, encoder_layers=3, decoder_layers=3),
        long_skips=True,
    ),
    language_model(
        "MarianMTModel",
        lambda: hf.MarianConfig(
            **TEXT, **TWO_STACKS, encoder_layers=2, decoder_layers=3, decoder_start_token_id=1, pad_token_id=1
        ),
        long_skips=True,
    ),
    language_model(
        "MambaForCausalLM",
        lambda: hf.MambaConfig(vocab_size=120, hidden_size=16, state_size=4, num_hidden_layers=3),
    ),
    image_classifier("ViTForImageClassification", lambda: hf.ViTConfig(**TINY, **PICTURE, num_labels=5)),
    image_classifier("DeiTForImageClassification", lambda: hf.DeiTConfig(**TINY, **PICTURE, num_labels=5)),
    image_classifier("BeitForImageClassification", lambda: hf.BeitConfig(**TINY, **PICTURE, num_labels=5)),
    transformer(
        "SwinForImageClassification",
        lambda: hf.SwinConfig(
            image_size=64, embed_dim=8, depths=[2, 2, 2], num_heads=[1, 2, 2], window_size=4, num_labels=5
        ),
        {"pixel_values": normal(4, 3, 64, 64)},
        FIVE,
    ),
    image_classifier(
        "ConvNextForImageClassification",
        lambda: hf.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[2, 2, 3, 2], num_labels=5),
    ),
    image_classifier(
        "ConvNextV2ForImageClassification",
        lambda: hf.ConvNextV2Config(hidden_sizes=[8, 16, 24, 32], depths=[2, 2, 3, 2], num_labels=5),
    ),
    image_classifier(
        "RegNetForImageClassification",
        lambda: hf.RegNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 3, 1], groups_width=8, num_labels=5
        ),
    ),
    image_classifier(
        "MobileNetV2ForImageClassification",
        lambda: hf.MobileNetV2Config(image_size=32, depth_multiplier=0.25, num_labels=5),
    ),
    image_classifier("ResNetForImageClassification", resnet_config),
    image_classifier(
        "BitForImageClassification",
        lambda: hf.BitConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 2, 1], num_groups=4, num_labels=5
        ),
    ),
    transformer(
        "MobileViTForImageClassification",
        lambda: hf.MobileViTConfig(
            image_size=64,
            hidden_sizes=[16, 20, 24],
            neck_hidden_sizes=[4, 8, 12, 16, 20, 24, 32],
            num_attention_heads=2,
            num_labels=5,
        ),
        {"pixel_values": normal(4, 3, 64, 64)},
        FIVE,
        long_skips=True,  # each block joins its input to the map that came through its transformer
    ),
    image_classifier(
        "PoolFormerForImageClassification",
        lambda: hf.PoolFormerConfig(hidden_sizes=[8, 16, 24, 32], depths=[2, 2, 2, 2], num_labels=5),
    ),
    transformer(
        "SegformerForSemanticSegmentation",
        lambda: hf.SegformerConfig(
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 2, 1],
            num_attention_heads=[1, 2, 2, 4],
            decoder_hidden_size=16,
            num_labels=4,
        ),
        IMAGES64,
        integers(4, 2, 64, 64),
        loss=logits(resized),
        long_skips=True,
    ),
    transformer(
        "UperNetForSemanticSegmentation",
        upernet_config,
        IMAGES64,
        integers(4, 2, 64, 64),
        loss=logits(resized),
        long_skips=True,
    ),
    Architecture(
        "DetrForObjectDetection",
        detr,
        lambda: {"pixel_values": normal(2, 3, 64, 64)()},
        integers(5, 2, 6),
        boxes_and_classes,
        "transformers",
        long_skips=True,
    ),
    Architecture(
        "Mask2FormerForUniversalSegmentation",
        mask2former,
        lambda: {"pixel_values": normal(2, 3, 64, 64)()},
        integers(5, 2, 6),
        lambda output, target: last_axis(output.class_queries_logits, target),
        "transformers",
        long_skips=True,
    ),
    transformer(
        "Wav2Vec2ForSequenceClassification",
        lambda: hf.Wav2Vec2Config(
            **TINY,
            conv_dim=(8, 8, 8),
            conv_stride=(5, 2, 2),
            conv_kernel=(10, 3, 2),
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            num_labels=5,
            classifier_proj_size=12,
            mask_time_prob=0.0,
            layerdrop=0.0,
        ),
        {"input_values": normal(4, 800)},
        FIVE,
    ),
    transformer(
        "WhisperForConditionalGeneration",
        lambda: hf.WhisperConfig(
            vocab_size=120,
            num_mel_bins=8,
            **TWO_STACKS,
            encoder_layers=2,
            decoder_layers=3,
            max_source_positions=20,
            max_target_positions=24,
            pad_token_id=1,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=3,
        ),
        {"input_features": normal(4, 8, 40)},
        NEXT,
        long_skips=True,
    ),
    transformer(
        "CLIPModel",
        clip_config,
        {**IDS, "pixel_values": normal(4, 3, 32, 32)},
        lambda: torch.arange(4),
        loss=lambda output, target: F.cross_entropy(output.logits_per_image, target),
        long_skips=True,
    ),
    transformer(
        "PerceiverForImageClassificationLearned",
        lambda: hf.PerceiverConfig(
            num_latents=8,
            d_latents=16,
            d_model=16,
            num_blocks=1,
            num_self_attends_per_block=3,
            num_self_attention_heads=2,
            num_cross_attention_heads=1,
            image_size=16,
            num_labels=5,
        ),
        {"inputs": normal(2, 3, 16, 16)},
        integers(5, 2),
    ),
]

# --------------------------------------------------------------------------------------------------------- monai


medical = partial(Architecture, library="monai")


class PatchesOfABag(nn.Module):
    """A user's own branch: the average over the patches of each bag, then one linear layer."""

    def __init__(self, features: int, output_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bags = output_shape[0]
        self.fc = nn.Linear(features, output_shape[1])

    def forward(self, point: Tensor) -> Tensor:
        return self.fc(point.unflatten(0, (self.bags, -1)).flatten(3).mean((1, 3)))


def bag_of_patches() -> nn.Module:
    """MILModel on a small backbone: it takes (bags, patches, 3, H, W)."""
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return nets.MILModel(5, mil_mode="att", pretrained=False, backbone=backbone, backbone_num_features=12)


ENCODER = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
FOUR_LEVELS = {"channels": (4, 8, 12, 16), "strides": (2, 2, 2)}
SLICE, SLICE_TARGET = normal(2, 1, 32, 32), integers(2, 2, 32, 32)
DYN = {
    **ENCODER,
    "kernel_size": [3, 3, 3, 3],
    "strides": [1, 2, 2, 2],
    "upsample_kernel_size": [2, 2, 2],
    "filters": [4, 8, 12, 16],
}

medical_classifier = partial(medical, inputs=IMAGES["pixel_values"], target=FIVE)
segmenter = partial(medical, inputs=SLICE, target=SLICE_TARGET, long_skips=True)


def every_head(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of heads stacked on axis 1 (DynUNet's own deep supervision), or of one prediction."""
    heads = output.unbind(1) if output.dim() == target.dim() + 2 else (output,)
    return torch.stack([F.cross_entropy(head, target) for head in heads]).mean()


MONAI = [
    medical_classifier(
        "monai ResNet-18",
        lambda: nets.ResNet(
            block="basic", layers=[2, 2, 2, 2], block_inplanes=[8, 16, 24, 32], spatial_dims=2, num_classes=5
        ),
    ),
    medical_classifier(
        "monai ResNet-50",
        lambda: nets.ResNet(
            block="bottleneck", layers=[3, 4, 6, 3], block_inplanes=[4, 8, 12, 16], spatial_dims=2, num_classes=5
        ),
    ),
    medical_classifier(
        "monai DenseNet-121",
        lambda: nets.DenseNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=5,
            init_features=8,
            growth_rate=4,
            block_config=(6, 12, 24, 16),
        ),
    ),
    medical_classifier(
        "monai EfficientNet-B0",
        lambda: nets.EfficientNetBN(model_name="efficientnet-b0", pretrained=False, num_classes=5),
    ),
    medical_classifier(
        "monai SEResNet",
        lambda: nets.SENet(
            spatial_dims=2,
            in_channels=3,
            block="se_resnet_bottleneck",
            layers=(1, 1, 2, 1),
            groups=1,
            reduction=16,
            downsample_kernel_size=1,
            inplanes=16,
            num_classes=5,
        ),
    ),
    segmenter("UNet", lambda: nets.UNet(**ENCODER, **FOUR_LEVELS, num_res_units=2)),
    segmenter("BasicUNet", lambda: nets.BasicUNet(**ENCODER, features=(4, 4, 8, 12, 16, 4))),
    segmenter(
        "BasicUNetPlusPlus",
        lambda: nets.BasicUNetPlusPlus(**ENCODER, features=(4, 4, 8, 12, 16, 4)),
        loss=first(F.cross_entropy),
    ),
    segmenter("DynUNet", lambda: nets.DynUNet(**DYN)),
    segmenter(
        "DynUNet (deep supervision)",
        lambda: nets.DynUNet(**DYN, deep_supervision=True, deep_supr_num=2),
        loss=every_head,
    ),
    medical(
        "SegResNet",
        lambda: nets.SegResNet(spatial_dims=3, init_filters=8, blocks_down=(1, 2, 2, 2)),
        normal(1, 1, 16, 16, 16),
        integers(2, 1, 16, 16, 16),
        long_skips=True,
    ),
    segmenter("AttentionUnet", lambda: nets.AttentionUnet(**ENCODER, **FOUR_LEVELS)),
    segmenter("VNet", lambda: nets.VNet(spatial_dims=2, out_channels=2, dropout_prob_down=0.5, dropout_dim=2)),
    segmenter(
        "UNETR",
        lambda: nets.UNETR(**ENCODER, img_size=32, feature_size=4, hidden_size=24, mlp_dim=48, num_heads=2),
    ),
    medical(
        "SwinUNETR",
        lambda: nets.SwinUNETR(**ENCODER, feature_size=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        normal(2, 1, 64, 64),
        integers(2, 2, 64, 64),
        long_skips=True,
    ),
    medical(
        "HighResNet",
        lambda: nets.HighResNet(spatial_dims=3, out_channels=2),
        normal(1, 1, 12, 12, 12),
        integers(2, 1, 12, 12, 12),
    ),
    medical(
        "AutoEncoder",
        lambda: nets.AutoEncoder(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(4, 8, 12, 16),
            strides=(2, 2, 2, 2),
            num_res_units=2,
            inter_channels=[16, 16],
            inter_dilations=[1, 2],
        ),
        SLICE,
        SLICE,
        F.mse_loss,
    ),
    medical(
        "VarAutoEncoder",
        lambda: nets.VarAutoEncoder(
            spatial_dims=2,
            in_shape=(1, 32, 32),
            out_channels=1,
            use_mean_at_inference=True,
            latent_size=6,
            channels=(4, 8, 12),
            strides=(2, 2, 2),
            num_res_units=1,
        ),
        SLICE,
        lambda: SLICE().sigmoid(),
        first(F.binary_cross_entropy),
    ),
    medical(
        "Generator",
        lambda: nets.Generator(
            latent_shape=(10,), start_shape=(8, 4, 4), channels=(8, 8, 4, 1), strides=(2, 2, 2, 1)
        ),
        normal(4, 10),
        normal(4, 1, 32, 32),
        F.mse_loss,
    ),
    medical(
        "Discriminator",
        lambda: nets.Discriminator(in_shape=(1, 32, 32), channels=(4, 8, 12), strides=(2, 2, 2)),
        normal(4, 1, 32, 32),
        lambda: torch.tensor([[0.0], [1.0], [0.0], [1.0]]),
        F.binary_cross_entropy,
    ),
    medical(
        "FlexibleUNet",
        lambda: nets.FlexibleUNet(
            in_channels=3, out_channels=2, backbone="resnet10", decoder_channels=(32, 16, 16, 8, 8)
        ),
        normal(2, 3, 32, 32),
        SLICE_TARGET,
        long_skips=True,
    ),
    medical(
        "PatchDiscriminator",
        lambda: nets.PatchDiscriminator(spatial_dims=2, channels=8, in_channels=1),
        normal(4, 1, 32, 32),
        lambda: torch.ones(4, 1, 1, 1),
        lambda output, target: torch.stack([(made - target).square().mean() for made in output]).mean(),
        long_skips=True,  # every map is an output
    ),
    medical(
        "MILModel",
        bag_of_patches,
        normal(4, 3, 3, 16, 16),
        FIVE,
        # the batch of its points is one of patches: whose they are, only the user knows
        branch=lambda point, output: PatchesOfABag(point[1], output),
    ),
]

# --------------------------------------------------------------------------------------------------- plain torch


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


class BasicBlock(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The feature map."""
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


class HRModule(nn.Module):
    """Parallel streams at falling resolution, each summed up from all at the end: list in, list out."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(BasicBlock(width), BasicBlock(width)) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(source, width, 1) if i != j else nn.Identity() for j, source in enumerate(widths)
            )
            for i, width in enumerate(widths)
        )

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """The streams, each with what the others know."""
        made = [branch(stream) for branch, stream in zip(self.branches, streams, strict=True)]
        return [
            F.relu(sum(F.interpolate(fuse(x), target.shape[-2:]) for fuse, x in zip(fuses, made, strict=True)))
            for fuses, target in zip(self.fuse_layers, made, strict=True)
        ]


class HRNet(nn.Module):
    """Stem, three stages of one, two and three streams, and a head on all streams."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8, 3, 2)
        self.stage1 = nn.Sequential(BasicBlock(8), BasicBlock(8))
        self.transition1 = conv_bn_relu(8, 12, 3, 2)
        self.stage2 = HRModule([8, 12])
        self.transition2 = conv_bn_relu(12, 16, 3, 2)
        self.stage3 = HRModule([8, 12, 16])
        self.last_layer = nn.Sequential(conv_bn_relu(36, 16, 1), nn.Conv2d(16, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scores for each pixel."""
        high = self.stage1(self.stem(x))
        streams = self.stage2([high, self.transition1(high)])
        streams = self.stage3([*streams, self.transition2(streams[-1])])
        joined = torch.cat([F.interpolate(stream, streams[0].shape[-2:]) for stream in streams], 1)
        return F.interpolate(self.last_layer(joined), x.shape[-2:])


class MessagePassing(nn.Module):
    """A residual step of message passing over an adjacency matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """New states of the nodes."""
        return nodes + F.relu(self.linear(adjacency @ self.norm(nodes)))


class GraphNet(nn.Module):
    """Nodes (N, nodes, features) and an adjacency matrix in, one set of scores for each graph out."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 16)
        self.steps = nn.ModuleList(MessagePassing(16) for _ in range(4))
        self.readout = nn.Linear(16, 5)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """Scores of a batch of graphs."""
        nodes = self.encode(nodes)
        for step in self.steps:
            nodes = step(nodes, adjacency)
        return self.readout(nodes.mean(1))


class Siamese(nn.Module):
    """One encoder for both images of a pair, a head on the difference."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv_bn_relu(3, 8, 3, 2), conv_bn_relu(8, 12, 3, 2))
        self.head = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """One score for each pair."""
        difference = (self.encoder(left) - self.encoder(right)).abs().mean((2, 3))
        return self.head(difference).squeeze(1)


class Detector(nn.Module):
    """Two maps of scores from two depths: a list comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = conv_bn_relu(3, 8, 3, 2), conv_bn_relu(8, 12)
        self.stage3, self.stage4 = conv_bn_relu(12, 16), conv_bn_relu(16, 16, 3, 2)
        self.fine, self.coarse = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """A fine and a coarse map."""
        shared = self.stage3(self.stage2(self.stage1(x)))
        return [self.fine(shared), self.coarse(self.stage4(shared))]


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


def relu_mlp(depth: int = 24) -> nn.Module:
    """Linear and ReLU in turn, and a last layer."""
    layers: list[nn.Module] = [nn.Linear(12, 16), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(16, 16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 5))


def adjacency() -> Tensor:
    """A ring of six nodes, rows normalised."""
    ring = torch.eye(6).roll(1, 0) + torch.eye(6).roll(-1, 0)
    return (ring / 2).expand(4, 6, 6)


def both_maps(output: list[Tensor], target: list[Tensor]) -> Tensor:
    """The sum of the maps' cross entropies."""
    return torch.stack([F.cross_entropy(*pair) for pair in zip(output, target, strict=True)]).sum()


PLAIN = [
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
        "HRNet",
        HRNet,
        normal(2, 3, 32, 32),
        integers(4, 2, 32, 32),
        expected=(
            r"stem(\.2)?",
            r"stage1\.0(\.relu)?",
            r"stage2(\..*)?",
            r"stage3(\..*)?",
            r"last_layer\.0(\.2)?",
        ),
        forbidden=(r".*\.(conv1|bn1|conv2|bn2)", r"last_layer(\.1)?"),
        long_skips=True,
    ),
    Architecture(
        "Graph net",
        GraphNet,
        lambda: (normal(4, 6, 6)(), adjacency()),
        FIVE,
        expected=(r"encode", r"steps\.0", r"steps\.1", r"steps\.2", r"steps\.3"),
        forbidden=(r"steps\.\d\..*", r"readout"),
    ),
    Architecture(
        "Siamese",
        Siamese,
        lambda: (normal(4, 3, 16, 16)(), normal(4, 3, 16, 16)().flip(0)),
        lambda: torch.tensor([0.0, 1.0, 0.0, 1.0]),
        F.binary_cross_entropy_with_logits,
        expected=(r"head\.1", r"head\.3"),
        forbidden=(r"encoder.*",),
    ),
    Architecture(
        "MLP, 24 ReLU layers",
        relu_mlp,
        normal(8, 12),
        integers(5, 8),
        expected=(r"1", r"23", r"47"),
        forbidden=(r"\d*[02468]",),
    ),
    Architecture(
        "Detector, list of maps",
        Detector,
        normal(2, 3, 32, 32),
        lambda: [integers(5, 2, 16, 16)(), integers(5, 2, 8, 8)()],
        both_maps,
        expected=(r"stage1(\.2)?", r"stage2(\.2)?", r"stage3(\.2)?"),
        forbidden=(r"fine", r"coarse", r"stage\d\.[01]"),
        long_skips=True,  # the fine map leaves before stage4
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

# -------------------------------------------------------------------------------------------------------- places


def each(pattern: str, *values: object) -> tuple[str, ...]:
    """The pattern with each of the values at its ``@``."""
    return tuple(pattern.replace("@", str(value)) for value in values)


def post_norm_bert(prefix: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Post-norm: both sums, after the attention and after the MLP, are normalised, and nothing goes round them."""
    places = (rf"{prefix}\.@\.attention(\.output(\.LayerNorm)?)?", rf"{prefix}\.@(\.output(\.LayerNorm)?)?")
    inner = r"attention\.self.*|attention\.output\.d.*|intermediate.*|output\.d.*"
    return (*each(places[0], 0, 1, 2), *each(places[1], 0, 1, 2)), (rf"{prefix}\.\d\.({inner})",)


def pre_norm(prefix: str, *others: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pre-norm: the sums are made in the block's own forward, so of all its modules only the block is a cut."""
    return (*each(rf"{prefix}\.@", 0, 1, 2), *others), (rf"{prefix}\.\d\..+", r"lm_head|classifier|embed_out")


def normed(prefix: str, count: int, *norms: str) -> tuple[str, ...]:
    """Each block of a post-norm stack, by its own name or its last norm's, and its other norms."""
    final, *inner = norms
    return (
        *each(rf"{prefix}\.@(\.{final})?", *range(count)),
        *(place for norm in inner for place in each(rf"{prefix}\.@\.{norm}", *range(count))),
    )


PROJECTIONS = (
    r".*\.([qkvo]|[qkvo]_proj|out_proj|[qkv]_lin|out_lin|query|key|value|query_key_value|c_attn|c_proj|c_fc)",
    r".*\.(fc[12]|dense_(h_to_4h|4h_to_h)|(gate|up|down)_proj|lin[12]|wi|wo)",
)
RESNET_BLOCKS = (r"layer\d\.\d\.(conv|bn|downsample).*",)
HF_RESNET = (r".*\.stages\.\d\.layers\.\d\.(layer|shortcut).*",)
UNITS = (r".*\.conv\.unit\d.*", r".*\.residual")

# architecture -> what has to be among the points, what must not be
PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "BertForSequenceClassification": post_norm_bert(r"bert\.encoder\.layer"),
    "BertForMaskedLM": post_norm_bert(r"bert\.encoder\.layer"),
    "RobertaForTokenClassification": post_norm_bert(r"roberta\.encoder\.layer"),
    "ElectraForSequenceClassification": post_norm_bert(r"electra\.encoder\.layer"),
    "DebertaV2ForSequenceClassification": post_norm_bert(r"deberta\.encoder\.layer"),
    "DistilBertForSequenceClassification": (
        normed(r"distilbert\.transformer\.layer", 3, "output_layer_norm", "sa_layer_norm"),
        (*PROJECTIONS, r".*\.ffn"),
    ),
    # one group of layers, called three times: its own modules are reused, what is before and after it is not
    "AlbertForSequenceClassification": (
        (
            r"albert\.embeddings(\..*)?",
            r"albert\.encoder\.embedding_hidden_mapping_in",
            r"albert\.pooler(_activation)?",
        ),
        (*PROJECTIONS, r".*\.ffn(_output)?"),
    ),
    "GPT2LMHeadModel": pre_norm(r"transformer\.h", r"transformer\.ln_f"),
    "GPTNeoXForCausalLM": pre_norm(r"gpt_neox\.layers", r"gpt_neox\.final_layer_norm"),
    "LlamaForCausalLM": pre_norm(r"model\.layers", r"model\.norm"),
    "MistralForCausalLM": pre_norm(r"model\.layers", r"model\.norm"),
    "Qwen2ForCausalLM": pre_norm(r"model\.layers", r"model\.norm"),
    "MixtralForCausalLM": pre_norm(r"model\.layers", r"model\.norm"),
    "OPTForCausalLM": pre_norm(r"model\.decoder\.layers", r"model\.decoder\.final_layer_norm"),
    "MambaForCausalLM": pre_norm(r"backbone\.layers", r"backbone\.norm_f"),
    "T5ForConditionalGeneration": (
        (*each(r"encoder\.block\.@(\.layer\.1)?", 0, 1, 2), *each(r"decoder\.block\.@(\.layer\.2)?", 0, 1, 2)),
        (*PROJECTIONS, r".*\.(SelfAttention|EncDecAttention|DenseReluDense)", r"lm_head"),
    ),
    "BartForConditionalGeneration": (
        (
            *normed(r"model\.encoder\.layers", 3, "final_layer_norm"),
            *normed(r"model\.decoder\.layers", 3, "final_layer_norm"),
        ),
        (*PROJECTIONS, r".*\.(self|encoder)_attn", r"lm_head"),
    ),
    "MarianMTModel": (
        (
            *normed(r"model\.encoder\.layers", 2, "final_layer_norm"),
            *normed(r"model\.decoder\.layers", 3, "final_layer_norm"),
        ),
        (*PROJECTIONS, r".*\.(self|encoder)_attn", r"lm_head"),
    ),
    "WhisperForConditionalGeneration": (
        (*each(r"model\.encoder\.layers\.@", 0, 1), *each(r"model\.decoder\.layers\.@", 0, 1, 2)),
        (*PROJECTIONS, r".*\.(self|encoder)_attn", r"proj_out"),
    ),
    "ViTForImageClassification": pre_norm(r"vit\.layers", r"vit\.embeddings\.patch_embeddings(\.projection)?"),
    "DeiTForImageClassification": pre_norm(r"deit\.layers"),
    "BeitForImageClassification": pre_norm(r"beit\.layers"),
    "SwinForImageClassification": (
        (
            *each(r"swin\.encoder\.layers\.@", r"0\.blocks\.0", r"0\.blocks\.1", r"1\.blocks\.0", r"2\.blocks\.1"),
            r"swin\.encoder\.layers\.0\.downsample(\.reduction)?",
            r"swin\.embeddings(\.norm)?",
        ),
        (r".*\.blocks\.\d\..+",),
    ),
    "ConvNextForImageClassification": (
        (
            *each(r"convnext\.encoder\.stages\.@", r"0\.layers\.0", r"2\.layers\.1", r"3\.layers\.1"),
            r"convnext\.encoder\.stages\.1\.downsampling_layer\.1",
        ),
        (r".*\.stages\.\d\.layers\.\d\..+",),
    ),
    "ConvNextV2ForImageClassification": (
        each(r"convnextv2\.encoder\.stages\.@", r"0\.layers\.0", r"2\.layers\.1", r"3\.layers\.1"),
        (r".*\.stages\.\d\.layers\.\d\..+",),
    ),
    "RegNetForImageClassification": (
        each(r"regnet\.encoder\.stages\.@", r"0\.layers\.0", r"2\.layers\.2"),
        HF_RESNET,
    ),
    "ResNetForImageClassification": (
        each(r"resnet\.encoder\.stages\.@", r"0\.layers\.0", r"2\.layers\.1"),
        HF_RESNET,
    ),
    # pre-activation: norm1 of a block with a downsampling shortcut stands before the fork
    "BitForImageClassification": (
        each(r"bit\.encoder\.stages\.@", r"0\.layers\.0", r"1\.layers\.1", r"2\.layers\.1"),
        (r".*\.layers\.\d\.(conv\d|norm[23]|downsample).*",),
    ),
    # the inverted residuals of stride 1 and equal width have a shortcut, the others are plain
    "MobileNetV2ForImageClassification": (
        (*each(r"mobilenet_v2\.layer\.@", 1, 3, 8, 14), r"mobilenet_v2\.conv_1x1(\.activation)?"),
        (r"mobilenet_v2\.layer\.(1|3|4|6|7|8|10|11|13|14)\..+",),
    ),
    "MobileViTForImageClassification": (
        (
            r"mobilevit\.encoder\.layer\.1\.layer\.[12]",
            *each(r"mobilevit\.encoder\.layer\.@(\.fusion.*)?", 2, 3, 4),
        ),
        (r"mobilevit\.encoder\.layer\.1\.layer\.[12]\..+", r".*\.attention(\..+)?", *PROJECTIONS),
    ),
    "PoolFormerForImageClassification": (
        each(r"poolformer\.encoder\.block\.@", r"0\.0", r"1\.1", r"2\.1"),
        (r".*\.block\.\d\.\d\..+",),
    ),
    "SegformerForSemanticSegmentation": (
        (
            *each(r"segformer\.stages\.@", r"0\.blocks\.0", r"2\.blocks\.0", r"2\.blocks\.1"),
            r"decode_head\.activation",
        ),
        (r".*\.blocks\.\d\..+", r"decode_head\.(linear_fuse|classifier)"),
    ),
    "UperNetForSemanticSegmentation": (
        (
            *each(r"backbone\.encoder\.stages\.@\.layers\.1", 0, 1, 2),
            r"decode_head\.fpn_bottleneck(\.activation)?",
        ),
        HF_RESNET,
    ),
    "DetrForObjectDetection": (
        (
            *normed(r"model\.decoder\.layers", 2, "final_layer_norm"),
            r"model\.decoder(\.layers\.2.*|\.layernorm)?",  # the decoder ends with one more norm
            *normed(r"model\.encoder\.layers", 2, "final_layer_norm"),
            r"model\.input_projection",
            r"model\.backbone\.model\.encoder\.stages\.2\.layers\.0",
        ),
        (*PROJECTIONS, *HF_RESNET, r".*_attn", r".*\.mlp", r"class_labels_classifier|bbox_predictor.*"),
    ),
    "Mask2FormerForUniversalSegmentation": (
        normed(r"model\.transformer_module\.decoder\.layers", 3, "final_layer_norm"),
        # but layers.0.cross_attn: what it is added to there is a parameter, so all of the input does pass it
        (*PROJECTIONS, r".*\.self_attn", r".*[1-5]\.cross_attn", r".*\.blocks\.\d\..+", r"class_predictor"),
    ),
    "Wav2Vec2ForSequenceClassification": (
        (
            *normed(r"wav2vec2\.encoder\.layers", 3, "final_layer_norm", "layer_norm"),
            r"wav2vec2\.feature_extractor\.conv_layers\.0(\.activation)?",
        ),
        (*PROJECTIONS, r".*\.feed_forward(\..+)?", r".*\.attention", r".*pos_conv_embed.*"),
    ),
    "CLIPModel": (
        (r"vision_model\.encoder\.layers\.\d", r"text_model\.encoder\.layers\.\d"),
        (r".*\.layers\.\d\..+",),
    ),
    "PerceiverForImageClassificationLearned": (
        each(r"perceiver\.encoder\.self_attends\.@", 0, 1, 2),
        (
            *each(
                r"perceiver\.encoder\.self_attends\.\d\.@(\..+)?", r"attention\.self", r"attention\.output", "mlp"
            ),
        ),
    ),
    "monai ResNet-18": (
        ("act", *each(r"layer@", r"1\.0", r"2\.1", r"3\.0", r"3\.1")),
        (*RESNET_BLOCKS, "maxpool"),
    ),
    "monai ResNet-50": (
        ("act", *each(r"layer@", r"1\.0", r"2\.3", r"3\.0", r"3\.5")),
        (*RESNET_BLOCKS, "maxpool"),
    ),
    "monai DenseNet-121": (
        (
            *each(r"features\.denseblock@(\.denselayer\d+)?", 1, 2, 3),
            *each(r"features\.transition@\.conv", 1, 2, 3),
        ),
        (r".*\.denselayer\d+\.layers.*", r"features\.transition\d(\.pool)?"),
    ),
    "monai EfficientNet-B0": (
        each(r"_blocks\.@", r"1\.2", r"2\.4", r"3\.7", r"4\.10", r"5\.14"),
        (*each(r"_blocks\.@\..+", r"1\.2", r"2\.4", r"3\.[67]", r"4\.(9|10)", r"5\.1[234]"), r".*\._se_.*"),
    ),
    "monai SEResNet": (
        each(r"layer@(\.relu)?", r"1\.0", r"2\.0", r"3\.0", r"3\.1"),
        (r"layer[1-4]\.\d\.(conv\d|se_layer|project).*",),
    ),
    # U-Nets: the bottom with the innermost skip is a region of no more than a dozen layers, a block like others
    "UNet": (
        (
            r"model\.0",
            r"model\.1\.submodule\.0",
            r"model\.1\.submodule\.1\.submodule\.0",
            r"model\.1\.submodule\.1\.submodule\.2(\.1)?",
            r"model\.1\.submodule\.2(\.1)?",
        ),
        UNITS,
    ),
    "BasicUNet": (
        (
            r"conv_0(\.conv_1.*)?",
            *each(r"down_@(\.convs(\.conv_1.*)?)?", 1, 2, 3),
            *each(r"upcat_@(\.convs(\.conv_1.*)?)?", 4, 3, 2, 1),
        ),
        (r".*\.(conv|N|D|max_pooling|final_conv)",),
    ),
    "BasicUNetPlusPlus": ((r"conv_0_0(\.conv_1.*)?", r"upcat_0_4(\.convs(\.conv_1.*)?)?"), (r"final_conv_.*",)),
    "DynUNet": (
        (
            "input_block",
            *each(r"downsamples\.@", 0, 1),
            *each(r"upsamples\.@(\.conv_block)?", 0, 1, 2),
        ),
        (r".*\.conv[12]\.conv", r"output_block.*"),
    ),
    # the heads that it has of its own leave behind each of the first stages of the decoder
    "DynUNet (deep supervision)": (
        ("input_block", *each(r"downsamples\.@", 0, 1), r"upsamples\.0(\.conv_block)?"),
        (r".*\.conv[12]\.conv", r"output_block.*"),
    ),
    "SegResNet": (
        (
            r"convInit(\.conv)?",
            *each(r"down_layers\.@", r"0\.1", r"1\.2", r"2\.2"),
            *each(r"up_layers\.@(\.0)?", 0, 1, 2),
        ),
        (r"(down_layers\.\d\.[12]|up_layers\.\d\.0)\.(norm|conv|act).*",),
    ),
    "AttentionUnet": (
        (
            r"model\.0(\.conv.*)?",
            r"model\.1\.submodule\.0(\.conv.*)?",
            r"model\.1(\.merge.*)?",
            r"model\.1\.submodule\.1(\.merge.*)?",
        ),
        (r".*\.(psi|W_g|W_x|attention)(\..+)?",),
    ),
    "VNet": (
        (
            r"in_tr(\.act_function)?",
            *each(r"down_tr@(\.act_function2)?", 32, 64, 128),
            *each(r"up_tr@(\.act_function2)?", 256, 128, 64, 32),
        ),
        (r"(down|up)_tr\d+\.ops.*",),
    ),
    "UNETR": (
        (r"vit\.blocks\.\d+", r"decoder5(\.conv_block)?", r"decoder4(\.conv_block)?", r"decoder2(\.conv_block)?"),
        (r"vit\.blocks\.\d+\..+", r".*\.(conv[123]|norm[123])(\..+)?"),
    ),
    "SwinUNETR": (
        (
            r"swinViT\.layers1\.0(\.blocks\.\d|\.downsample.*)?",
            r"swinViT\.layers3\.0(\.blocks\.\d|\.downsample.*)?",
            r"decoder5(\.conv_block)?",
            r"decoder1(\.conv_block)?",
        ),
        (r".*\.blocks\.\d\..+", r".*\.(conv[123]|norm[123])(\..+)?"),
    ),
    "HighResNet": ((r"blocks\.0(\.adn.*)?", *each(r"blocks\.@", *range(1, 10))), (r"blocks\.[1-9]\..+",)),
    "AutoEncoder": (
        (
            *each(r"encode\.encode_@", 0, 3),
            r"intermediate\.inter_0",
            *each(r"decode\.decode_@(\.resunit)?", 0, 1, 2),
        ),
        UNITS,
    ),
    "VarAutoEncoder": (
        (r"encode\.encode_2", "decodeL", *each(r"decode\.decode_@(\.resunit)?", 0, 1)),
        (*UNITS, "mu|logvar"),
    ),
    "Generator": (("linear", *each(r"conv\.layer_@(\.1)?", 0, 1, 2)), UNITS),
    "Discriminator": (each(r"net\.layer_@", 0, 1, 2), UNITS),
    "FlexibleUNet": (
        (
            *each(r"encoder\.layer@(\.0)?", 1, 2, 3),
            *each(r"decoder\.blocks\.@(\.convs(\.conv_1.*)?)?", 1, 2, 3, 4),
        ),
        (r".*layer\d\.\d\.(conv|bn|downsample).*",),
    ),
    # its output is the list of all its maps, the first of which is the first layer's: nothing is certain
    "PatchDiscriminator": ((), ("final_conv",)),
    # the attention scores the patches and is multiplied with them: it is bypassed
    "MILModel": ((r"net\.1", r"net\.3"), (r"attention.*", "myfc", r"net\.[02]")),
}


def placed(architecture: Architecture) -> Architecture:
    """The architecture with its places from `PLACES`; those of plain torch state their own."""
    expected, forbidden = PLACES.get(architecture.name, (architecture.expected, architecture.forbidden))
    return replace(architecture, expected=expected, forbidden=forbidden)


ZOO = {architecture.name: placed(architecture) for architecture in [*TRANSFORMERS, *MONAI, *PLAIN]}
