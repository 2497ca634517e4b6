"""Models of transformers that read text."""

from __future__ import annotations

import transformers as hf

from benchmarks.architectures.zoo.architecture import Places, with_places
from benchmarks.architectures.zoo.batches import IDS, integers
from benchmarks.architectures.zoo.huggingface import (
    TEXT,
    TINY,
    TWO_STACKS,
    language_model,
    small_llama,
    text_classifier,
    transformer,
)
from benchmarks.architectures.zoo.patterns import PROJECTIONS, each, normed, post_norm_bert, pre_norm

_ARCHITECTURES = [
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
]

_PLACES: dict[str, Places] = {
    "BertForSequenceClassification": post_norm_bert(r"bert\.encoder\.layer"),
    "DistilBertForSequenceClassification": (
        normed(r"distilbert\.transformer\.layer", 3, "output_layer_norm", "sa_layer_norm"),
        (*PROJECTIONS, r".*\.ffn"),
    ),
    "RobertaForTokenClassification": post_norm_bert(r"roberta\.encoder\.layer"),
    "DebertaV2ForSequenceClassification": post_norm_bert(r"deberta\.encoder\.layer"),
    "ElectraForSequenceClassification": post_norm_bert(r"electra\.encoder\.layer"),
    # one group of layers, called three times: its own modules are reused, what is before and after it is not
    "AlbertForSequenceClassification": (
        (
            r"albert\.embeddings(\..*)?",
            r"albert\.encoder\.embedding_hidden_mapping_in",
            r"albert\.pooler(_activation)?",
        ),
        (*PROJECTIONS, r".*\.ffn(_output)?"),
    ),
    "BertForMaskedLM": post_norm_bert(r"bert\.encoder\.layer"),
    "GPT2LMHeadModel": pre_norm(r"transformer\.h", r"transformer\.ln_f"),
    "GPTNeoXForCausalLM": pre_norm(r"gpt_neox\.layers", r"gpt_neox\.final_layer_norm"),
    "LlamaForCausalLM": pre_norm(r"model\.layers", r"model\.norm"),
    "MistralForCausalLM": pre_norm(r"model\.layers", r"model\.norm"),
    "Qwen2ForCausalLM": pre_norm(r"model\.layers", r"model\.norm"),
    "MixtralForCausalLM": pre_norm(r"model\.layers", r"model\.norm"),
    "OPTForCausalLM": pre_norm(r"model\.decoder\.layers", r"model\.decoder\.final_layer_norm"),
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
    "MambaForCausalLM": pre_norm(r"backbone\.layers", r"backbone\.norm_f"),
}

TEXT_MODELS = with_places(_ARCHITECTURES, _PLACES)
