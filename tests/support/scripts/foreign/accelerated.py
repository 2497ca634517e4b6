"""An accelerate example, by heart (nlp_example without downloads)."""
# ruff: noqa

import torch
from accelerate import Accelerator
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification


def get_dataloaders():
    g = torch.Generator().manual_seed(0)
    rows = [
        {"input_ids": torch.randint(20, (8,), generator=g), "labels": torch.randint(2, (), generator=g)}
        for _ in range(16)
    ]
    return DataLoader(rows, batch_size=4, shuffle=True), DataLoader(rows, batch_size=4)


def training_function():
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    train_dataloader, eval_dataloader = get_dataloaders()
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=2,
    )
    model = BertForSequenceClassification(config)
    model = model.to(accelerator.device)
    optimizer = AdamW(params=model.parameters(), lr=1e-3)
    lr_scheduler = LambdaLR(optimizer, lambda step: 1.0)
    model, optimizer, train_dataloader, eval_dataloader, lr_scheduler = accelerator.prepare(
        model, optimizer, train_dataloader, eval_dataloader, lr_scheduler
    )
    for epoch in range(2):
        model.train()
        for step, batch in enumerate(train_dataloader):
            batch.to(accelerator.device) if hasattr(batch, "to") else None
            outputs = model(**batch)
            loss = outputs.loss
            loss = loss / 1
            accelerator.backward(loss)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
        model.eval()
        right = 0
        for step, batch in enumerate(eval_dataloader):
            with torch.no_grad():
                outputs = model(**batch)
            predictions = outputs.logits.argmax(dim=-1)
            predictions, references = accelerator.gather_for_metrics((predictions, batch["labels"]))
            right += (predictions == references).sum().item()
        accelerator.print(f"epoch {epoch}:", right)


if __name__ == "__main__":
    training_function()
