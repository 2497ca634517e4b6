"""transformers' Trainer on a model from a config."""

import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


def build():
    torch.manual_seed(0)
    sizes = {"vocab_size": 17, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **rates, **ends)).double()


def rows():
    tokens = torch.randint(17, (4, 8), generator=torch.Generator().manual_seed(4))
    return [{"input_ids": row, "labels": row} for row in tokens]


if __name__ == "__main__":
    model = build()
    args = TrainingArguments(
        output_dir=sys.argv[1],
        per_device_train_batch_size=4,  # all rows: the order in which they come makes no difference
        max_steps=4,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        optim="sgd",
        max_grad_norm=0.0,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    Trainer(model=model, args=args, train_dataset=rows()).train()
