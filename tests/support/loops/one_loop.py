"""One training of a small BERT: as a plain loop, and by Lightning and transformers."""

from __future__ import annotations

import torch

from support.trainers import BATCH, QUIET, bert, pl, sentences, sgd

SCRIPT = """
from support.loops.one_loop import batches, bert, sgd
model = bert()
optimizer = sgd(model)
for batch in batches():
    optimizer.zero_grad()
    model(**batch).loss.backward()
    optimizer.step()
"""


def batches():
    rows = sentences()
    parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    return [{key: torch.stack([row[key] for row in part]) for key in part[0]} for part in parts]


def train(model, optimizer):
    for batch in batches():
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()


class Wrapped(pl.LightningModule):
    """Around the network, whose layers keep their names behind ``net.``."""

    def __init__(self):
        super().__init__()
        self.net = bert().train()

    def training_step(self, batch, index):
        return self.net(**batch).loss

    def configure_optimizers(self):
        return sgd(self)


def fit(callback):
    settings = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False, **QUIET}
    loader = torch.utils.data.DataLoader(batches(), batch_size=None)
    pl.Trainer(callbacks=[callback], **settings).fit(Wrapped(), loader)
