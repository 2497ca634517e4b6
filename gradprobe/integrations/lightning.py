"""Lightning (2 and newer): ``Trainer(callbacks=[GradprobeCallback()])``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from gradprobe.integrations.recording import REFUSALS, Recorder, Settings, bare, errors_logged
from gradprobe.measure.ranks import wrapper_name
from gradprobe.measure.weight_gradients import parameter_ids
from gradprobe.network.layers import named_layers

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise ImportError("this callback needs Lightning: pip install 'gradprobe[lightning]'") from error


class GradprobeCallback(Settings, Callback):
    """Records the first iterations, writes the run, logs it to the trainer's loggers, and takes its hooks off.

    If all parameters of the LightningModule are in one of its modules, for instance ``self.net``, that module is
    the network: layers are named as in it, and the placement is for ``gradprobe.supervise(self.net, ...)``.
    Otherwise the network is the LightningModule.

    Args:
        iterations: Length of the window.
        **settings: See `gradprobe.integrations.recording.Settings`.

    Attributes:
        recording: The probe, with ``history``, ``placement`` and ``folder``; None before the training.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> callback = GradprobeCallback(iterations=20)
        >>> trainer = Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
        >>> # trainer.fit(model, loader); print(callback.recording.placement)
    """

    recording: Recorder | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach: the optimizers exist, and no batch was trained on."""
        with errors_logged("record this training", but=REFUSALS):
            network = _network(pl_module)
            self.recording = self.attach(
                network,
                _optimizers_of(network, [bare(optimizer) for optimizer in trainer.optimizers]),
                lambda: trainer.loggers,
                name=type(pl_module).__name__,
                facts=_facts(trainer),
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was recorded, if the window is not full."""
        if self.recording is not None:
            self.recording.detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what was recorded, without waiting for other ranks."""
        if self.recording is not None:
            self.recording.__exit__(type(exception), exception, None)


def _facts(trainer: Trainer) -> dict[str, Any]:
    seed, model = os.environ.get("PL_GLOBAL_SEED"), trainer.strategy.model
    facts = {"seed": None if seed is None else int(seed), "wrapper": model and wrapper_name(model)}
    return {name: value for name, value in facts.items() if value is not None}


def _network(module: nn.Module) -> nn.Module:
    parameters = set(map(id, module.parameters()))
    complete = [child for child in module.children() if set(map(id, child.parameters())) == parameters]
    return complete[0] if len(complete) == 1 and named_layers(module) else module


def _optimizers_of(network: nn.Module, optimizers: Sequence[Optimizer]) -> list[Optimizer]:
    own = set(map(id, network.parameters()))
    return [optimizer for optimizer in optimizers if own & parameter_ids(optimizer)]
