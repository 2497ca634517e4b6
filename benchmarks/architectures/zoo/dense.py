"""Models of transformers that segment images or detect objects."""

from __future__ import annotations

from typing import Any

import transformers as hf
from torch import nn

from benchmarks.architectures.zoo.architecture import Architecture, Places, with_places
from benchmarks.architectures.zoo.batches import IMAGES64, integers, normal
from benchmarks.architectures.zoo.huggingface import TWO_STACKS, resnet_config, transformer
from benchmarks.architectures.zoo.losses import boxes_and_classes, last_axis, logits, resized
from benchmarks.architectures.zoo.patterns import HF_RESNET, PROJECTIONS, each, normed


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


_ARCHITECTURES = [
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
]

_PLACES: dict[str, Places] = {
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
}

DENSE = with_places(_ARCHITECTURES, _PLACES)
