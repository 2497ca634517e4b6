"""The real loops of the trainers against a plain one."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from support.logged import assert_series, events, metric_series, wandb_rows
from support.oracle import assert_agrees, record
from support.torchrun import torchrun
from support.trainers import (
    BATCH,
    COUNT,
    ITERATIONS,
    OUTPUT,
    WEIGHT,
    Lit,
    bert,
    expected,
    fit,
    hf_expected,
    hf_train,
    loader,
    network,
    sgd,
)
from torch import nn

import gradprobe as gp
from gradprobe.integrations.accelerate import probe
from gradprobe.integrations.lightning import GradprobeCallback as LightningCallback
from gradprobe.integrations.transformers import GradprobeCallback as TransformersCallback
from gradprobe.network.hooks import Hook
from gradprobe.runs.folder import RUNS

# what the trainers and clients warn about among themselves is not ours to mend
pytestmark = pytest.mark.filterwarnings("default")


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
    x, _ = next(iter(loader()))
    output = reference.generator(x)
    gradient, weight = torch.autograd.grad(
        reference.discriminator(output).square().mean(), [output, reference.generator.weight]
    )
    first = history.frame[(history.frame["iteration"] == 0) & (history.frame["layer"] == "generator")]
    assert first["mean_abs"].tolist() == pytest.approx([gradient.abs().mean().item(), weight.abs().mean().item()])


def test_a_training_shorter_than_the_window_is_kept_with_the_reason(tmp_path):
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


def accelerate_train(accelerator, model, iterations=None, **settings):
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


@pytest.mark.slow
def test_of_several_ranks_one_writes_what_all_counted(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    torchrun(2, "-m", "support.trainers", tmp_path, env=environment)
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
