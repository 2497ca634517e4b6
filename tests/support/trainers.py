"""The loops of Lightning, transformers and Accelerate, small; as a program, one rank of several."""

import os
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradprobe.integrations.accelerate import probe
from gradprobe.integrations.lightning import GradprobeCallback as LightningCallback
from gradprobe.integrations.transformers import GradprobeCallback as TransformersCallback
from support.oracle import record

ITERATIONS, BATCH, COUNT = 4, 5, 9
OUTPUT, WEIGHT = "gradprobe/mean |dL/d output|", "gradprobe/mean |dL/d weight|"
QUIET = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def dataset():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH * COUNT, 6, generator=generator)
    return TensorDataset(x, torch.randint(3, (len(x),), generator=generator))


def loader():
    return DataLoader(dataset(), batch_size=BATCH)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.01)


def expected(iterations=ITERATIONS):
    return record(network(), list(loader()), nn.functional.cross_entropy, iterations)


class Lit(pl.LightningModule):
    """The network is one of its modules; its own forward is never called, and the loss is a module too."""

    def __init__(self, dropout=0.0, fail_at=None):
        super().__init__()
        self.net, self.criterion, self.fail_at = network(dropout), nn.CrossEntropyLoss(), fail_at

    def training_step(self, batch, index):
        if index == self.fail_at:
            raise ZeroDivisionError
        x, y = batch
        return self.criterion(self.net(x), y)

    def validation_step(self, batch, index):
        x, _ = batch
        self.net(x)

    def configure_optimizers(self):
        return sgd(self)


def fit(module, *callbacks, loggers=False, **arguments):
    settings = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, **arguments}
    trainer = pl.Trainer(callbacks=list(callbacks), logger=loggers, log_every_n_steps=1, **QUIET, **settings)
    trainer.fit(module, loader(), loader() if arguments.get("val_check_interval") else None)
    return trainer


class Called(nn.Module):
    """Calls a model with keywords, for the oracle."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model(**batch)


def bert(dropout=0.0):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    off = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForSequenceClassification(BertConfig(vocab_size=30, num_labels=3, **sizes, **off))


def sentences():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(30, (BATCH * COUNT, 7), generator=generator)
    labels = torch.randint(3, (len(tokens),), generator=generator)
    return [{"input_ids": ids, "labels": label} for ids, label in zip(tokens, labels, strict=True)]


def hf_train(model, folder, *callbacks, **arguments):
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return SequentialSampler(self.train_dataset)

    settings = {"num_train_epochs": 1, "max_grad_norm": 0.0, "report_to": "none", **arguments}
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        **settings,
    )
    optimizer = sgd(model)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    InOrder(
        model, args, train_dataset=sentences(), callbacks=list(callbacks), optimizers=(optimizer, constant)
    ).train()
    return optimizer


def hf_expected(iterations=ITERATIONS, rows=BATCH):
    data = sentences()
    batches = [
        ({key: torch.stack([row[key] for row in data[i : i + rows]]) for key in data[0]}, None)
        for i in range(0, len(data), rows)
    ]
    means = record(Called(bert()), batches, lambda output, _: output.loss, iterations)
    return {(i, name.removeprefix("model."), of): value for (i, name, of), value in means.items()}


def ranks(folder):
    """Lightning's DistributedDataParallel and Accelerate's, one after the other."""
    torch.set_num_threads(1)
    callback = LightningCallback(3, out=folder / "lightning")
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        callbacks=[callback],
        logger=TensorBoardLogger(str(folder / "tb")),
        **QUIET,
    )
    rank = int(os.environ["RANK"])
    mine = list(loader())[rank:6:2]
    trainer.fit(Lit(), DataLoader(mine, batch_size=None))
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(net := network(), sgd(net))
    probe(accelerator, model, optimizer, 3, out=folder / "accelerate")
    for x, y in mine:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()
    hf_train(
        bert(), folder, TransformersCallback(3, out=folder / "transformers"), average_tokens_across_devices=False
    )
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    # Everything is written. On a busy machine gloo's threads are sometimes still at work when the objects that own
    # them are deleted; the process then aborts ("terminate called without an active exception") or never ends.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    ranks(Path(sys.argv[1]))
