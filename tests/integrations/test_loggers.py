"""The real clients of the loggers, read back."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.logged import assert_series, events, metric_series, wandb_rows

import gradprobe as gp
from gradprobe.integrations.loggers import log_to
from gradprobe.record.history import GradientHistory, Layer, tidy

# what the trainers and clients warn about among themselves is not ours to mend
pytestmark = pytest.mark.filterwarnings("default")


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


OUTPUT = "gradprobe/mean |dL/d output|"
SERIES = {
    "(root)": [(0, 2e-9), (1, 0.0), (2, 5e3)],
    "[0]": [(0, 1.5), (1, 1.5), (2, float("nan"))],
    "_0_": [(0, 0.25)],
}


def test_a_function_gets_every_value_that_arrived(history):
    got = []
    log_to(history, lambda name, value, step: got.append((name, step, value)))
    for layer, series in SERIES.items():
        assert_series([(step, value) for name, step, value in got if name == f"{OUTPUT}/{layer}"], series)
    assert len(got) == sum(map(len, SERIES.values()))


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
