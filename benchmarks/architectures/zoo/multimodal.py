"""Models of transformers for speech, and for pairs of image and text."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch.nn import functional as F

from benchmarks.architectures.zoo.architecture import Places, with_places
from benchmarks.architectures.zoo.batches import FIVE, IDS, NEXT, normal
from benchmarks.architectures.zoo.huggingface import PICTURE, TEXT, TINY, TWO_STACKS, transformer
from benchmarks.architectures.zoo.patterns import PROJECTIONS, each, normed


def clip_config() -> Any:
    """Two small towers."""
    text = {**TINY, **TEXT, "eos_token_id": 2}
    return hf.CLIPConfig(text_config=text, vision_config={**TINY, **PICTURE}, projection_dim=12)


_ARCHITECTURES = [
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
]

_PLACES: dict[str, Places] = {
    "Wav2Vec2ForSequenceClassification": (
        (
            *normed(r"wav2vec2\.encoder\.layers", 3, "final_layer_norm", "layer_norm"),
            r"wav2vec2\.feature_extractor\.conv_layers\.0(\.activation)?",
        ),
        (*PROJECTIONS, r".*\.feed_forward(\..+)?", r".*\.attention", r".*pos_conv_embed.*"),
    ),
    "WhisperForConditionalGeneration": (
        (*each(r"model\.encoder\.layers\.@", 0, 1), *each(r"model\.decoder\.layers\.@", 0, 1, 2)),
        (*PROJECTIONS, r".*\.(self|encoder)_attn", r"proj_out"),
    ),
    "CLIPModel": (
        (r"vision_model\.encoder\.layers\.\d", r"text_model\.encoder\.layers\.\d"),
        (r".*\.layers\.\d\..+",),
    ),
}

MULTIMODAL = with_places(_ARCHITECTURES, _PLACES)
