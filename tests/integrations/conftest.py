"""Weights & Biases offline, MLflow in a file, and what gradprobe says in its log."""

import logging
import shutil

import pytest


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, logger="gradprobe")
    return lambda: [entry.getMessage() for entry in caplog.records if entry.name == "gradprobe"]


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """Offline; the client reads its environment once, so it begins anew."""
    import wandb

    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    yield wandb
    wandb.teardown()


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
