"""How the models of transformers are built and called, with tiny sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import transformers as hf
from torch import Tensor, nn

from benchmarks.architectures.zoo.architecture import Architecture
from benchmarks.architectures.zoo.batches import FIVE, IDS, IMAGES, NEXT
from benchmarks.architectures.zoo.losses import own_loss

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


def resnet_config(**changes: Any) -> Any:
    """A small ResNet of `transformers`."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [2, 2, 2, 2], "num_labels": 5}
    return hf.ResNetConfig(**{**sizes, **changes})


def small_llama(**changes: Any) -> dict[str, Any]:
    """The sizes of a small decoder-only language model."""
    return {**TINY, **TEXT, "num_key_value_heads": 1, "head_dim": 8, **changes}


text_classifier = partial(transformer, inputs=IDS, labels=FIVE)
language_model = partial(transformer, inputs=IDS, labels=NEXT)
image_classifier = partial(transformer, inputs=IMAGES, labels=FIVE)
