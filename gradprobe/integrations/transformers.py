"""Transformers: ``Trainer(..., callbacks=[GradprobeCallback()])``."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.integrations.recording import REFUSALS, Recorder, Settings, Writers, bare, errors_logged

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError("this callback needs transformers: pip install 'gradprobe[transformers]'") from error


class GradprobeCallback(Settings, TrainerCallback):
    """Records the first iterations, writes the run, logs it to what ``report_to`` names, and takes its hooks off.

    TensorBoard, Weights & Biases and MLflow are supported; anything else can be passed as ``writers=``.

    Args:
        iterations: Length of the window.
        **settings: See `gradprobe.integrations.recording.Settings`.

    Attributes:
        recording: The probe, with ``history``, ``placement`` and ``folder``; None before the training.

    Example:
        >>> callback = GradprobeCallback(iterations=20)
        >>> # Trainer(model, args, train_dataset=data, callbacks=[callback]).train()
        >>> callback.recording is None
        True
    """

    recording: Recorder | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach: model and optimizer are prepared, and no batch was trained on."""
        if self.recording is not None:  # of an earlier training that ended with an error
            self.recording.__exit__(RuntimeError, None, None)
        if args.n_gpu > 1:
            raise ValueError(
                "the Trainer would wrap the model in DataParallel, whose copies have no hooks: use one device, or "
                "launch with torchrun"
            )
        with errors_logged("record this training", but=REFUSALS):
            optimizers = [bare(kwargs["optimizer"])]
            self.recording = self.attach(kwargs["model"], optimizers, _writers(args), facts={"seed": args.seed})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what was recorded, if the window is not full."""
        if self.recording is not None:
            self.recording.detach()


def _writers(args: TrainingArguments) -> Writers:
    """What the trainer reports to; its own callbacks run before this one and have started their runs."""
    names = args.report_to or ()
    runs = [_active(name) for name in ("wandb", "mlflow") if name in names]
    logs = os.getenv("TENSORBOARD_LOGGING_DIR") or str(args.output_dir)
    folder = _newest(Path(logs).expanduser()) if "tensorboard" in names else None

    def writers() -> Iterator[Any]:
        yield from (run for run in runs if run is not None)
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # the trainer's writer is private: a second file in the same folder is shown as the same run
            with contextlib.closing(SummaryWriter(str(folder))) as writer:
                yield writer

    return writers


def _active(name: str) -> Any:
    """The trainer's run, which may have ended by the time the record is complete."""
    module: Any = importlib.import_module(name)
    return module.run if name == "wandb" else module.active_run()


def _newest(folder: Path) -> Path:
    files = list(folder.rglob("events.out.tfevents.*"))
    return max(files, key=lambda file: file.stat().st_mtime).parent if files else folder / "gradprobe"
