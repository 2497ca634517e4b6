"""Where people train: the trainers' real loops against a plain one, and the loggers' real clients, read back."""

import dataclasses
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.oracle import assert_agrees, record
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradprobe as gp
from gradprobe.integrations.loggers import log_to
from gradprobe.integrations.recording import Settings
from gradprobe.network.hooks import Hook
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.runs.folder import RUNS

# what the trainers and clients warn about among themselves is not ours to mend
pytestmark = pytest.mark.filterwarnings("default")
ITERATIONS, BATCH, COUNT = 4, 5, 9
OUTPUT, WEIGHT = "gradprobe/mean |dL/d output|", "gradprobe/mean |dL/d weight|"


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


def parameters(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_bit_equal(first, second):
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def assert_left(model, *optimizers):
    """No hook of ours is on it."""
    for module in model.modules():
        registries = (module._forward_hooks, module._forward_pre_hooks)
        assert not [hook for registry in registries for hook in registry.values() if isinstance(hook, Hook)]
    assert not any(optimizer._optimizer_step_pre_hooks for optimizer in optimizers)


def assert_written(folder, recording):
    run = gp.load(folder)
    assert run.history == recording.history
    assert run.placement == recording.placement == gp.place(recording.history)
    assert {"iterations.png", "depth.png", "heatmap.png"} <= {path.name for path in folder.iterdir()}


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="gradprobe")
    return lambda: [entry.getMessage() for entry in caplog.records if entry.name == "gradprobe"]


# the loggers' own clients -------------------------------------------------------------------------------------


@pytest.fixture
def history():
    """Three layers: one measured, one that became NaN, one that nothing arrived at. The root has no name."""
    layers = (Layer("", 0, "Net", 4), Layer("[0]", 1, "Linear", 9), Layer("_0_", 2, "Linear", 9))
    rows = []
    for iteration, value in enumerate([2e-9, 0.0, 5e3]):
        rows.append((iteration, "", 0, "output", value, value, value, 0.0, 0))
        bad = iteration == 2
        rows.append((iteration, "[0]", 1, "output", float("nan") if bad else 1.5, None, None, 0.0, int(bad)))
        missing = (None,) * 5 if iteration else (0.25, 0.5, 1.0, 0.0, 0)
        rows.append((iteration, "_0_", 2, "output", *missing))
    return GradientHistory(tidy(rows), {"batch_size": 8}, layers, (), (8, 2))


SERIES = {
    "(root)": [(0, 2e-9), (1, 0.0), (2, 5e3)],
    "[0]": [(0, 1.5), (1, 1.5), (2, float("nan"))],
    "_0_": [(0, 0.25)],
}


def assert_series(found, expected, rel=1e-6):
    assert [step for step, _ in found] == [step for step, _ in expected]
    values, wanted = [value for _, value in found], [value for _, value in expected]
    assert values == pytest.approx(wanted, rel=rel, nan_ok=True)


def test_a_function_gets_every_value_that_arrived(history):
    got = []
    log_to(history, lambda name, value, step: got.append((name, step, value)))
    for layer, series in SERIES.items():
        assert_series([(step, value) for name, step, value in got if name == f"{OUTPUT}/{layer}"], series)
    assert len(got) == sum(map(len, SERIES.values()))


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    return read


def test_tensorboard_reads_back_what_was_logged(history, tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        log_to(history, writer)
    read = events(tmp_path)
    assert sorted(read.Tags()["scalars"]) == sorted(f"{OUTPUT}/{layer}" for layer in SERIES)
    for layer, series in SERIES.items():
        assert_series([(e.step, e.value) for e in read.Scalars(f"{OUTPUT}/{layer}")], series)
    assert sorted(read.Tags()["images"]) == [f"gradprobe/{name}" for name in ("depth", "heatmap", "iterations")]
    assert read.Images("gradprobe/depth")[0].width > 500
    assert read.Tags()["tensors"] == ["gradprobe/placement/text_summary"]


def wandb_records(folder):
    """The records of an offline run: a LevelDB log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = Path(folder).rglob("*.wandb")
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def items_of(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_rows(folder):
    return [items_of(r.history.item) for r in wandb_records(folder) if r.WhichOneof("record_type") == "history"]


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """Offline; the client reads its environment once, so it begins anew."""
    import wandb

    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    yield wandb
    wandb.teardown()


def test_weights_and_biases_reads_back_what_was_logged(history, tmp_path, wandb):
    with wandb.init(project="p") as run:
        run.log({"mine": 1})
        log_to(history, run)
        run.log({"mine": 2})
        assert run.summary["gradprobe/placement"] == str(gp.place(history))
    rows = wandb_rows(tmp_path)
    for layer, series in SERIES.items():
        name = f"{OUTPUT}/{layer}"
        assert_series([(row["gradprobe/iteration"], float(row[name])) for row in rows if name in row], series)
    assert [row["mine"] for row in rows if "mine" in row] == [1, 2]
    assert len([row for row in rows if "gradprobe/heatmap/path" in row]) == 1
    assert [path.stat().st_size > 1000 for path in tmp_path.rglob("heatmap*.png")] == [True]


def test_weights_and_biases_keeps_its_step_if_asked(history, tmp_path, wandb):
    with wandb.init(project="p") as run:
        run.log({"mine": 1}, step=3)
        log_to(history, run, rows=False)
        assert run.step in (3, 4)
        run.log({"mine": 2}, step=4)
        assert run.summary[f"{OUTPUT}/(root)"] == 2e-9
        assert run.summary[f"{OUTPUT}/[0]"] == 1.5
    rows = wandb_rows(tmp_path)
    assert [(row["_step"], row["mine"]) for row in rows if "mine" in row] == [(3, 1), (4, 2)]
    (file,) = tmp_path.rglob("*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["iteration", *(f"{OUTPUT}/{layer}" for layer in SERIES)]
    assert [row[1] for row in table["data"]] == [2e-9, 0.0, 5e3]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """An SQLite store with its tables, which take seconds to make."""
    import mlflow

    file = tmp_path_factory.mktemp("store") / "store.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow_store(empty_store, tmp_path):
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'store.db')}")
    mlflow.create_experiment("gradients", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("gradients")
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


def metric_series(client, run_id, name):
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))


@pytest.mark.parametrize("given", ["module", "run", "client"])
def test_mlflow_reads_back_what_was_logged(given, history, mlflow_store):
    client = mlflow_store.MlflowClient()
    with mlflow_store.start_run() as run:
        run_id = run.info.run_id
        writer = {"module": mlflow_store, "run": run, "client": client}[given]
        log_to(history, writer, run_id=run_id if given == "client" else None)
    # neither | nor brackets may be in a name, and two layers must not become one
    names = {"(root)": "_root_", "[0]": "_0_", "_0_": "_0_ 2"}
    assert set(client.get_run(run_id).data.metrics) == {
        f"gradprobe/mean abs dL/d output/{n}" for n in names.values()
    }
    for layer, name in names.items():
        found = metric_series(client, run_id, f"gradprobe/mean abs dL/d output/{name}")
        assert_series(found, SERIES[layer])
    artifacts = {Path(file.path).name for file in client.list_artifacts(run_id, "gradprobe")}
    assert artifacts == {"depth.png", "heatmap.png", "iterations.png", "placement.txt"}


def test_more_metrics_than_a_store_takes_at_once(mlflow_store):
    rows = [(i, "a", 0, "output", float(i), 0.0, 0.0, 0.0, 0) for i in range(2001)]
    long = GradientHistory(tidy(rows), {}, (Layer("a", 0, "Linear", 9),), (), None)
    with mlflow_store.start_run() as run:
        log_to(long, run, pictures=[])
    found = metric_series(mlflow_store.MlflowClient(), run.info.run_id, "gradprobe/mean abs dL/d output/a")
    assert found == [(i, float(i)) for i in range(2001)]


def test_what_cannot_be_logged_to_is_refused(history, mlflow_store):
    with pytest.raises(TypeError, match=r"expected a SummaryWriter, .*, got dict"):
        log_to(history, {})
    with pytest.raises(TypeError, match="got module"):
        log_to(history, np)
    with pytest.raises(ValueError, match=r"call mlflow\.start_run"):
        log_to(history, mlflow_store)
    with pytest.raises(ValueError, match="say which one with run_id="):
        log_to(history, mlflow_store.MlflowClient())


# Lightning ----------------------------------------------------------------------------------------------------

import lightning.pytorch as pl  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger  # noqa: E402

from gradprobe.integrations.accelerate import probe  # noqa: E402
from gradprobe.integrations.lightning import GradprobeCallback as LightningCallback  # noqa: E402
from gradprobe.integrations.transformers import GradprobeCallback as TransformersCallback  # noqa: E402


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
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(callbacks=list(callbacks), logger=loggers, log_every_n_steps=1, **quiet, **settings)
    trainer.fit(module, loader(), loader() if arguments.get("val_check_interval") else None)
    return trainer


def test_lightning_has_the_numbers_of_a_plain_loop(tmp_path):
    callback = LightningCallback(ITERATIONS, out=tmp_path / "run")
    module = Lit()
    trainer = fit(module, callback, val_check_interval=2)  # validation between the iterations is not recorded
    assert_agrees(callback.recording.history, expected())
    assert callback.recording.history.output_shape == (BATCH, 3)
    assert [point.name for point in callback.recording.history.points] == ["1"]
    assert callback.recording.history.conditions["target"] == "Lit"
    assert_written(tmp_path / "run", callback.recording)
    assert_left(module, *trainer.optimizers)


@pytest.mark.parametrize("arguments", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.01}])
def test_lightning_trains_on_as_without_us(arguments, tmp_path):
    callback = LightningCallback(3, out=tmp_path / "run")
    trained = []
    for callbacks in ([], [callback]):
        module = Lit(dropout=0.5)
        pl.seed_everything(7)
        fit(module, *callbacks, **arguments)
        trained.append(parameters(module))
    assert_bit_equal(*trained)
    assert callback.recording.history.iterations == 3
    assert callback.recording.history.conditions["seed"] == 7
    assert callback.recording.history.conditions["micro_batches"] == arguments.get("accumulate_grad_batches", 1)


def test_what_lightning_clipped_is_what_the_optimizer_sees(tmp_path):
    clipped, raw = (LightningCallback(1, out=tmp_path / name) for name in ("clipped", "raw"))
    fit(Lit(), clipped, gradient_clip_val=1e-3)
    fit(Lit(), raw)
    net = network()
    nn.functional.cross_entropy(net(loader().dataset[:BATCH][0]), loader().dataset[:BATCH][1]).backward()
    norm = nn.utils.get_total_norm([p.grad for p in net.parameters()]).item()
    ratio = clipped.recording.history.aggregate("weight") / raw.recording.history.aggregate("weight")
    assert ratio.tolist() == pytest.approx([1e-3 / (norm + 1e-6)] * 2, rel=1e-5)


class Gan(pl.LightningModule):
    """Two networks and two optimizers, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.generator, self.discriminator = nn.Linear(6, 6), nn.Linear(6, 1)

    def training_step(self, batch, index):
        x, _ = batch
        for optimizer, fake in zip(
            self.optimizers(), (self.generator(x), self.generator(x).detach()), strict=True
        ):
            optimizer.zero_grad()
            self.manual_backward(self.discriminator(fake).square().mean())
            optimizer.step()

    def configure_optimizers(self):
        return [sgd(self.generator), sgd(self.discriminator)]


def test_lightning_with_two_optimizers_by_hand(tmp_path):
    callback = LightningCallback(3, out=tmp_path / "run")
    module = Gan()
    fit(module, callback)
    history = callback.recording.history
    assert history.iterations == 3
    assert [layer.name for layer in history.layers] == ["generator", "discriminator"]
    reference = Gan()
    for x, _ in list(loader())[:1]:
        output = reference.generator(x)
        gradient, weight = torch.autograd.grad(
            reference.discriminator(output).square().mean(), [output, reference.generator.weight]
        )
    first = history.frame[(history.frame["iteration"] == 0) & (history.frame["layer"] == "generator")]
    assert first["mean_abs"].tolist() == pytest.approx([gradient.abs().mean().item(), weight.abs().mean().item()])


def test_a_training_shorter_than_the_window_is_kept_and_said(tmp_path):
    callback = LightningCallback(50, out=tmp_path / "run")
    module = Lit()
    fit(module, callback, max_epochs=1)
    assert_written(tmp_path / "run", callback.recording)
    assert_agrees(callback.recording.history, expected(COUNT))
    assert callback.recording.history.conditions["stopped"] == "the training ended after 9 of 50 iterations"
    assert_left(module)


def test_a_training_that_fails_fails_as_before_and_keeps_what_was_recorded(tmp_path):
    callback = LightningCallback(50, out=tmp_path / "run")
    module = Lit(fail_at=3)
    with pytest.raises(ZeroDivisionError):
        fit(module, callback)
    assert_agrees(gp.load(tmp_path / "run").history, expected(3))
    assert_left(module)


def test_an_existing_run_is_refused_before_the_training(tmp_path):
    fit(Lit(), LightningCallback(1, out=tmp_path / "run"))
    module = Lit()
    before = parameters(module)
    with pytest.raises(FileExistsError, match="choose another folder"):
        fit(module, LightningCallback(1, out=tmp_path / "run"))
    assert_bit_equal(before, parameters(module))
    fit(module, LightningCallback(1, out=tmp_path / "run", force=True))


def test_without_a_folder_each_training_has_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callback = LightningCallback(1)
    for _ in range(2):
        fit(Lit(), callback)
    assert sorted(path.name for path in RUNS.iterdir()) == ["Lit", "Lit-2"]


def test_lightning_logs_to_every_logger_that_the_trainer_has(tmp_path, wandb):
    loggers = [
        TensorBoardLogger(str(tmp_path / "tb")),
        CSVLogger(str(tmp_path / "csv")),
        WandbLogger(save_dir=str(tmp_path), offline=True, project="p"),
        MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path / 'm.db'}", artifact_location=(tmp_path / "a").as_uri()),
    ]
    callback = LightningCallback(ITERATIONS, out=tmp_path / "run")
    trainer = fit(Lit(), callback, loggers=loggers)
    loggers[2].experiment.finish()
    numbers = {
        f"{prefix}/{name}": [(i, values[i, name, of]) for i in range(ITERATIONS)]
        for values in [expected()]
        for of, prefix in (("output", OUTPUT), ("weight", WEIGHT))
        for name in ("0", "3")
    }
    read = events(loggers[0].log_dir)
    table = pd.read_csv(Path(loggers[1].log_dir) / "metrics.csv")
    rows = wandb_rows(tmp_path / "wandb")
    client = loggers[3].experiment
    for name, series in numbers.items():
        assert_series([(e.step, e.value) for e in read.Scalars(name)], series, 1e-5)
        column = table[["step", name]].dropna().itertuples(index=False)
        assert_series([tuple(row) for row in column], series, 1e-5)
        assert_series([(r["gradprobe/iteration"], r[name]) for r in rows if name in r], series, 1e-5)
        assert_series(
            metric_series(client, loggers[3].run_id, name.replace("|", "abs ", 1).replace("|", "")), series, 1e-5
        )
    assert "gradprobe/iterations" in read.Tags()["images"]
    assert trainer.global_step == 2 * COUNT


# Transformers -------------------------------------------------------------------------------------------------


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
    found = record(Called(bert()), batches, lambda output, _: output.loss, iterations)
    return {(i, name.removeprefix("model."), of): value for (i, name, of), value in found.items()}


def test_the_transformers_trainer_has_the_numbers_of_a_plain_loop(tmp_path):
    model, callback = bert(), TransformersCallback(ITERATIONS, out=tmp_path / "run")
    optimizer = hf_train(model, tmp_path, callback)
    assert_agrees(callback.recording.history, hf_expected())
    assert callback.recording.history.conditions["target"] == "BertForSequenceClassification"
    assert callback.recording.history.conditions["seed"] == 42
    assert_written(tmp_path / "run", callback.recording)
    assert_left(model, optimizer)


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 3, "max_grad_norm": 0.5}])
def test_the_transformers_trainer_trains_on_as_without_us(arguments, tmp_path):
    callback = TransformersCallback(2, out=tmp_path / "run")
    trained = []
    for callbacks in ([], [callback]):
        model = bert(dropout=0.3)
        hf_train(model, tmp_path, *callbacks, **arguments)
        trained.append(parameters(model))
    assert_bit_equal(*trained)
    assert callback.recording.history.conditions["micro_batches"] == arguments.get(
        "gradient_accumulation_steps", 1
    )


def test_the_transformers_trainer_reports_where_it_reports_itself(tmp_path, monkeypatch, wandb, mlflow_store):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    callback = TransformersCallback(50, out=tmp_path / "run")  # ends with the training, after the others' runs
    hf_train(
        bert(), tmp_path / "out", callback, report_to=["tensorboard", "wandb", "mlflow"], max_steps=ITERATIONS
    )
    wandb.finish()
    layer = "bert.encoder.layer.0.output.dense"
    series = [(i, hf_expected()[i, layer, "output"]) for i in range(ITERATIONS)]
    read = events(tmp_path / "tb")
    assert_series([(e.step, e.value) for e in read.Scalars(f"{OUTPUT}/{layer}")], series, 1e-5)
    assert "train/loss" in read.Tags()["scalars"]  # shown as one run with the trainer's own
    rows = wandb_rows(tmp_path / "wandb")
    found = [(row["gradprobe/iteration"], row[f"{OUTPUT}/{layer}"]) for row in rows if f"{OUTPUT}/{layer}" in row]
    assert_series(found, series, 1e-5)
    client = mlflow_store.MlflowClient()
    (run,) = mlflow_store.search_runs(output_format="list")
    found = metric_series(client, run.info.run_id, f"gradprobe/mean abs dL/d output/{layer}")
    assert_series(found, series, 1e-5)


def test_a_second_training_after_a_failed_one_has_a_record_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callback = TransformersCallback(ITERATIONS, writers=[])
    broken = bert()
    monkeypatch.setattr(broken.classifier, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hf_train(broken, tmp_path, callback)
    hf_train(bert(), tmp_path, callback)
    assert_agrees(callback.recording.history, hf_expected())
    assert_left(broken)


# Accelerate ---------------------------------------------------------------------------------------------------


@pytest.fixture
def accelerated():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    def made(**arguments):
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        return Accelerator(cpu=True, **arguments)

    yield made
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def accelerate_train(accelerator, model, iterations=None, dropout=None, **settings):
    model, optimizer, batches = accelerator.prepare(model, sgd(model), loader())
    recording = probe(accelerator, model, optimizer, iterations, **settings) if iterations else None
    torch.manual_seed(3)
    for step, (x, y) in enumerate(batches):
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
        accelerator.log({"mine": step}, step=step)
    return recording


def test_accelerate_has_the_numbers_of_a_plain_loop(accelerated, tmp_path):
    model = network()
    recording = accelerate_train(accelerated(), model, ITERATIONS, out=tmp_path / "run")
    assert_agrees(recording.history, expected())
    assert_written(tmp_path / "run", recording)
    assert_left(model)


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 2}, {"mixed_precision": "bf16"}])
def test_accelerate_trains_on_as_without_us(arguments, accelerated, tmp_path):
    plain, probed = network(dropout=0.5), network(dropout=0.5)
    accelerate_train(accelerated(**arguments), plain)
    recording = accelerate_train(accelerated(**arguments), probed, 2, out=tmp_path / "run")
    assert_bit_equal(parameters(plain), parameters(probed))
    assert recording.history.conditions["micro_batches"] == arguments.get("gradient_accumulation_steps", 1)


def test_accelerate_logs_to_its_trackers_and_leaves_their_steps_alone(accelerated, tmp_path, wandb, mlflow_store):
    accelerator = accelerated(log_with=["tensorboard", "wandb", "mlflow"], project_dir=tmp_path / "tb")
    options = {"wandb": {"dir": str(tmp_path)}, "mlflow": {"logging_dir": (tmp_path / "artifacts").as_uri()}}
    accelerator.init_trackers("trained", init_kwargs=options)
    accelerate_train(accelerator, network(), ITERATIONS, out=tmp_path / "run")
    run_id = accelerator.get_tracker("mlflow", unwrap=True).info.run_id
    accelerator.end_training()
    series = [(i, expected()[i, "0", "output"]) for i in range(ITERATIONS)]
    read = events(tmp_path / "tb" / "trained")
    assert_series([(e.step, e.value) for e in read.Scalars(f"{OUTPUT}/0")], series, 1e-5)
    found = metric_series(mlflow_store.MlflowClient(), run_id, "gradprobe/mean abs dL/d output/0")
    assert_series(found, series, 1e-5)
    rows = wandb_rows(tmp_path / "wandb")
    assert [(row["_step"], row["mine"]) for row in rows if "mine" in row] == [(i, i) for i in range(COUNT)]
    (file,) = tmp_path.rglob("*.table.json")
    table = json.loads(file.read_text())
    at = table["columns"].index(f"{OUTPUT}/0")
    assert_series([(row[0], row[at]) for row in table["data"]], series, 1e-5)


def test_a_tracker_that_we_do_not_know_gets_the_scalars(accelerated, tmp_path):
    from accelerate.tracking import GeneralTracker

    class Own(GeneralTracker):
        name, requires_logging_directory = "own", False

        def __init__(self):
            super().__init__()
            self.got = []

        @property
        def tracker(self):
            return {}

        def log(self, values, step=None, **kwargs):
            self.got.append((step, values))

    own = Own()
    accelerator = accelerated(log_with=[own])
    accelerator.init_trackers("gradients")
    accelerate_train(accelerator, network(), ITERATIONS, out=tmp_path / "run")
    found = [(step, values[f"{OUTPUT}/0"]) for step, values in own.got if f"{OUTPUT}/0" in values]
    assert_series(found, [(i, expected()[i, "0", "output"]) for i in range(ITERATIONS)], 1e-5)


def test_a_with_block_around_the_loop_ends_the_record(accelerated, tmp_path):
    accelerator, model = accelerated(), network()
    model, optimizer, batches = accelerator.prepare(model, sgd(model), loader())
    with probe(accelerator, model, optimizer, out=tmp_path / "run") as recording:
        for x, y in batches:
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
    assert_agrees(recording.history, expected(COUNT))
    assert_written(tmp_path / "run", recording)


SHORT = """
import torch
from accelerate import Accelerator
from gradprobe.integrations.accelerate import probe
accelerator, net = Accelerator(cpu=True), torch.nn.Linear(4, 1)
net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
probe(accelerator, net, optimizer, out="run")
for _ in range(3):
    accelerator.backward(net(torch.ones(8, 4)).mean())
    optimizer.step()
"""


@pytest.mark.slow
def test_what_a_short_script_recorded_is_written_at_its_end(tmp_path):
    subprocess.run([sys.executable, "-c", SHORT], cwd=tmp_path, check=True, timeout=120)
    run = gp.load(tmp_path / "run")
    assert run.history.conditions["stopped"] == "the training ended after 3 of 50 iterations"
    assert run.history.aggregate("output").tolist() == [0.125]  # of a mean over 8 numbers


# what all of them share ---------------------------------------------------------------------------------------


def recorded(tmp_path, writers, **settings):
    net = network()
    optimizer = sgd(net)
    recording = Settings(2, out=tmp_path / "run", writers=writers, **settings).attach(net, [optimizer], tuple)
    for x, y in loader():
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return recording


def test_a_logger_that_fails_is_said_and_the_others_and_the_training_go_on(tmp_path, said):
    got = []
    recorded(tmp_path, [lambda *_: 1 / 0, lambda *scalar: got.append(scalar)])
    assert len(got) == 8
    assert [line for line in said() if "division by zero" in line] == [
        "gradprobe could not log the run to function: division by zero"
    ]


def test_a_folder_that_cannot_be_written_is_said_and_the_training_goes_on(tmp_path, said, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("gradprobe.integrations.recording.save", full)
    recording = recorded(tmp_path, [])
    assert any("no space left on device" in line for line in said())
    assert_agrees(recording.history, expected(2))


def test_a_training_without_a_step_writes_nothing_and_says_so(tmp_path, said):
    net = network()
    with Settings(out=tmp_path / "run").attach(net, [sgd(net)], tuple):
        pass
    assert said() == ["gradprobe recorded nothing: no optimizer step was seen"]
    assert not (tmp_path / "run").exists()


def test_the_settings_reach_the_probe(tmp_path):
    policy = gp.RelativePolicy(0.9, of="weight")
    recording = recorded(tmp_path, [], policy=policy, of="weight", layers=["3"], conditions={"data": "noise"})
    assert set(recording.history.frame["of"]) == {"weight"}
    assert set(recording.history.frame["layer"]) == {"3"}
    assert recording.history.conditions["data"] == "noise"
    assert recording.placement == gp.place(recording.history, policy)


def test_a_policy_that_looks_at_what_is_not_recorded_is_refused_before_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"looks at of='output', but only \['weight'\] is recorded"):
        recorded(tmp_path, [], policy=gp.ThresholdPolicy(), of="weight")


def test_a_policy_that_fails_does_not_end_the_training(tmp_path, said):
    recording = recorded(tmp_path, [], policy=lambda history: 1 / 0)
    assert "gradprobe could not apply the policy, so CNDS' rule decides: division by zero" in said()
    assert_written(tmp_path / "run", recording)


def test_fsdp_1_is_refused():
    wrapped = type("FullyShardedDataParallel", (nn.Sequential,), {})(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"use FSDP2 \(fully_shard\)"):
        Settings().attach(wrapped, [sgd(wrapped)], tuple)


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["lightning", "transformers"])
def test_a_missing_package_is_answered_with_what_to_install(extra):
    gone = ["lightning", "pytorch_lightning", "transformers"]
    code = f"import sys; sys.modules.update(dict.fromkeys({gone})); import gradprobe.integrations.{extra}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'gradprobe[{extra}]'" in done.stderr


# several ranks: this file is the program of each ---------------------------------------------------------------


def ranks(folder):
    """Lightning's DistributedDataParallel and Accelerate's, one after the other."""
    torch.set_num_threads(1)
    callback = LightningCallback(3, out=folder / "lightning")
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        callbacks=[callback],
        logger=TensorBoardLogger(str(folder / "tb")),
        **quiet,
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
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_of_several_ranks_one_writes_what_all_counted(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = list(loader())
    pairs = [tuple(torch.cat(parts) for parts in zip(*both[i : i + 2], strict=True)) for i in range(0, 6, 2)]
    whole = record(network(), pairs, nn.functional.cross_entropy, 3)
    for name in ("lightning", "accelerate"):
        history = gp.load(tmp_path / name).history
        assert_agrees(history, whole)
        assert history.conditions["ranks"] == "combined over 2 ranks"
        assert history.conditions["wrapper"] == "DistributedDataParallel"
    history, whole = gp.load(tmp_path / "transformers").history, hf_expected(3, rows=2 * BATCH)
    # the positions' embedding has no batch dimension: each rank has one of its own, and their sum is nowhere
    positions = (history.frame["layer"] == "bert.embeddings.position_embeddings") & (
        history.frame["of"] == "output"
    )
    assert positions.sum() == 3
    kept = {key: value for key, value in whole.items() if "position" not in key[1] or key[2] == "weight"}
    assert_agrees(dataclasses.replace(history, frame=history.frame[~positions]), kept)
    files = list((tmp_path / "tb").rglob("events.out.tfevents.*"))
    assert len(files) == 1
    assert f"{OUTPUT}/0" in events(files[0].parent).Tags()["scalars"]


if __name__ == "__main__":
    ranks(Path(sys.argv[1]))
