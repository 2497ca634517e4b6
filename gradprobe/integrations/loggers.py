"""Log a history to the logger that the user has anyway: TensorBoard, Weights & Biases, MLflow, or a function.

A logger is recognised by the methods it has, so that none of them has to be installed.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gradprobe.decide.policies import place
from gradprobe.record.history import GradientHistory, check_history
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import label

Scalar = tuple[str, float, int]
_BATCH = 1000  # metrics that an MLflow store takes at once (its REST API, log-batch)


@dataclass(frozen=True)
class Message:
    """What a logger gets.

    Attributes:
        scalars: Name, value and iteration, in the order of the iterations.
        placement: The decision, in words.
        pictures: Returns the files of the figures, which are drawn only when a logger asks for them.
    """

    scalars: tuple[Scalar, ...]
    placement: str
    pictures: Callable[[], Sequence[Path]]

    def by_iteration(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The values of each iteration, by name."""
        for iteration, group in groupby(self.scalars, key=lambda scalar: scalar[2]):
            yield iteration, {name: value for name, value, _ in group}


def log_to(
    history: GradientHistory,
    writer: Any,
    placement: Placement | None = None,
    *,
    run_id: str | None = None,
    rows: bool = True,
    pictures: Sequence[Path] | None = None,
) -> None:
    """Log every layer's magnitude at every iteration, the figures and the decision.

    The scalars are called ``gradprobe/mean |dL/d output|/LAYER``; MLflow, which allows no ``|`` in a name, gets
    ``gradprobe/mean abs dL/d output/LAYER``. Layers that no gradient arrived at are left out; NaN and inf are
    logged.

    Args:
        history: The record.
        writer: A TensorBoard ``SummaryWriter``, a Weights & Biases run, ``mlflow`` itself, one of its runs or an
            ``MlflowClient``, a Lightning logger, or any function ``(name, value, step)``, which gets the scalars.
        placement: The decision to log and to draw; that of `gradprobe.place` by default.
        run_id: The run, for an ``MlflowClient``.
        rows: In Weights & Biases, log each iteration as a step, drawn over ``gradprobe/iteration``. That advances
            the run's step, and a later ``run.log(..., step=)`` with a smaller step would be dropped. With False
            the step stays, the iterations go into a table and their medians into the summary.
        pictures: Files of figures that are drawn already.

    Raises:
        TypeError: If the writer is none of these, or ``history`` is not one.
        ValueError: If there is no MLflow run or no Weights & Biases run to log to.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, "conv", 0, "output", 2e-9, 3e-9, 1e-8, 0.0, 0)]
        >>> log_to(GradientHistory(tidy(rows), {}, (Layer("conv", 0, "Conv2d", 9),), (), None), print)
        gradprobe/mean |dL/d output|/conv 2e-09 0
    """
    check_history(history)
    send = _sender(writer, run_id, rows)
    if send is None:
        raise TypeError(
            "expected a SummaryWriter, a wandb run, mlflow, an MLflow run or client, a Lightning logger or a "
            f"function (name, value, step), got {type(writer).__name__}"
        )
    placement = placement or place(history)
    with tempfile.TemporaryDirectory() as folder:
        draw = partial(_draw, folder, history, placement) if pictures is None else lambda: pictures
        send(Message(tuple(_scalars(history)), str(placement), draw))


def knows(writer: Any) -> bool:
    """Whether `log_to` can log to this writer."""
    return _sender(writer, "", True) is not None


def _draw(folder: str, history: GradientHistory, placement: Placement) -> list[Path]:
    from gradprobe.show.plots import save_figures

    return save_figures(folder, history, placement)


def _scalars(history: GradientHistory) -> Iterator[Scalar]:
    measured = history.frame[history.frame["nonfinite"].notna()]
    for row in measured.to_dict("records"):
        name = f"gradprobe/{label(row['of'])}/{row['layer'] or '(root)'}"
        yield name, float(row["mean_abs"]), int(row["iteration"])


def _sender(writer: Any, run_id: str | None, rows: bool) -> Callable[[Message], None] | None:
    """The function that sends a message to this writer, or None if its kind is not known."""
    if isinstance(writer, ModuleType):
        return _of_module(writer, rows)
    if hasattr(writer, "add_scalar"):
        return partial(_to_tensorboard, writer)
    if hasattr(writer, "define_metric"):
        return partial(_to_wandb, writer, rows)
    if hasattr(writer, "log_batch") and hasattr(writer, "log_artifact"):
        return partial(_to_mlflow, writer, run_id)
    if hasattr(getattr(writer, "info", None), "run_id"):
        from mlflow import MlflowClient

        return partial(_to_mlflow, MlflowClient(), writer.info.run_id)
    if hasattr(writer, "log_metrics") and hasattr(writer, "experiment"):
        return _of_logger(writer, rows)
    return partial(_to_function, writer) if callable(writer) else None


def _of_module(module: ModuleType, rows: bool) -> Callable[[Message], None] | None:
    """The active run of ``mlflow`` or ``wandb``."""
    if module.__name__ not in ("mlflow", "wandb"):
        return None
    run = module.active_run() if module.__name__ == "mlflow" else module.run
    if run is None:
        start = {"mlflow": "mlflow.start_run()", "wandb": "wandb.init()"}[module.__name__]
        raise ValueError(f"{module.__name__} has no active run to log to: call {start} first")
    return _sender(run, None, rows)


def _of_logger(logger: Any, rows: bool) -> Callable[[Message], None]:
    """Send to the client of a Lightning logger, or through the logger itself if the client's kind is not known."""
    send = _sender(logger.experiment, getattr(logger, "run_id", None), rows)
    return send or partial(_to_logger, logger)


def _to_function(function: Callable[[str, float, int], Any], message: Message) -> None:
    for scalar in message.scalars:
        function(*scalar)


def _to_logger(logger: Any, message: Message) -> None:
    for iteration, values in message.by_iteration():
        logger.log_metrics(values, step=iteration)


def _to_tensorboard(writer: Any, message: Message) -> None:
    from PIL import Image

    for name, value, iteration in message.scalars:
        writer.add_scalar(name, value, iteration)
    for picture in message.pictures():
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        writer.add_image(f"gradprobe/{picture.stem}", pixels, dataformats="HWC")
    writer.add_text("gradprobe/placement", message.placement)
    writer.flush()


def _to_wandb(run: Any, rows: bool, message: Message) -> None:
    import wandb

    values: dict[str, Any] = {f"gradprobe/{path.stem}": wandb.Image(str(path)) for path in message.pictures()}
    if rows:
        run.define_metric("gradprobe/iteration")
        run.define_metric("gradprobe/*", step_metric="gradprobe/iteration")
        for iteration, scalars in message.by_iteration():
            run.log({"gradprobe/iteration": iteration, **scalars})
    else:
        names = list(dict.fromkeys(name for name, _, _ in message.scalars))
        table: list[Iterable[Any]] = [[at, *map(scalars.get, names)] for at, scalars in message.by_iteration()]
        values["gradprobe/iterations as a table"] = wandb.Table(["iteration", *names], table)
        run.summary.update(_medians(message))
    run.log(values, commit=False)
    run.summary["gradprobe/placement"] = message.placement


def _medians(message: Message) -> dict[str, float]:
    """Of each scalar over the iterations; a value that is not finite counts as inf, as in `GradientHistory`."""
    series: dict[str, list[float]] = {}
    for name, value, _ in message.scalars:
        series.setdefault(name, []).append(value if np.isfinite(value) else np.inf)
    return {name: float(np.median(values)) for name, values in series.items()}


def _to_mlflow(client: Any, run_id: str | None, message: Message) -> None:
    if run_id is None:
        raise ValueError("an MlflowClient may write to any run: say which one with run_id=")
    from mlflow.entities import Metric

    now, names = int(time.time() * 1000), _mlflow_names([name for name, _, _ in message.scalars])
    metrics = [Metric(names[name], value, now, iteration) for name, value, iteration in message.scalars]
    for first in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + _BATCH])
    for picture in message.pictures():
        client.log_artifact(run_id, str(picture), "gradprobe")
    client.log_text(run_id, message.placement, "gradprobe/placement.txt")


def _mlflow_names(names: Sequence[str]) -> dict[str, str]:
    """For each name one that MLflow accepts; no two are the same.

    Example:
        >>> list(_mlflow_names(["mean |dL/d output|/a[0]", "mean |dL/d output|/a_0_"]).values())
        ['mean abs dL/d output/a_0_', 'mean abs dL/d output/a_0_ 2']
    """
    accepted: dict[str, str] = {}
    used: set[str] = set()
    for name in dict.fromkeys(names):
        clean = candidate = re.sub(r"[^/\w.\- ]", "_", re.sub(r"\|(.*?)\|", r"abs \1", name, count=1))
        number = 1
        while candidate in used:
            number += 1
            candidate = f"{clean} {number}"
        used.add(candidate)
        accepted[name] = candidate
    return accepted
