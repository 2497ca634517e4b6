"""Models of transformers that classify images."""

from __future__ import annotations

import transformers as hf

from benchmarks.architectures.zoo.architecture import Places, with_places
from benchmarks.architectures.zoo.batches import FIVE, integers, normal
from benchmarks.architectures.zoo.huggingface import PICTURE, TINY, image_classifier, resnet_config, transformer
from benchmarks.architectures.zoo.patterns import HF_RESNET, PROJECTIONS, each, pre_norm

_ARCHITECTURES = [
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

_PLACES: dict[str, Places] = {
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
    # the inverted residuals of stride 1 and equal width have a shortcut, the others are plain
    "MobileNetV2ForImageClassification": (
        (*each(r"mobilenet_v2\.layer\.@", 1, 3, 8, 14), r"mobilenet_v2\.conv_1x1(\.activation)?"),
        (r"mobilenet_v2\.layer\.(1|3|4|6|7|8|10|11|13|14)\..+",),
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
    "PerceiverForImageClassificationLearned": (
        each(r"perceiver\.encoder\.self_attends\.@", 0, 1, 2),
        (
            *each(
                r"perceiver\.encoder\.self_attends\.\d\.@(\..+)?", r"attention\.self", r"attention\.output", "mlp"
            ),
        ),
    ),
}

IMAGE_CLASSIFIERS = with_places(_ARCHITECTURES, _PLACES)
