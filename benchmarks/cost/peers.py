"""Other ways to see gradients, each as a context that yields what has to be called after every backward pass."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from torch import Tensor, nn

from benchmarks.cost.nets import layers_of

Peer = Callable[[nn.Module], AbstractContextManager[Callable[[], object]]]


def weights(model: nn.Module) -> list[Tensor]:
    """The gradients of the parameters other than biases."""
    named = model.named_parameters()
    return [p.grad for name, p in named if p.grad is not None and "bias" not in name]


@contextlib.contextmanager
def recipe(model: nn.Module) -> Iterator[Callable[[], object]]:
    """plot_grad_flow as forums copy it: one number for each weight, brought to the host."""
    yield lambda: [gradient.abs().mean().item() for gradient in weights(model)]


@contextlib.contextmanager
def norms(model: nn.Module) -> Iterator[Callable[[], object]]:
    """The L1 norm of each weight's gradient, left on the device."""
    yield lambda: [gradient.norm(1) for gradient in weights(model)]


@contextlib.contextmanager
def lightning(model: nn.Module) -> Iterator[Callable[[], object]]:
    """Lightning's `grad_norm`: the L1 norm of every parameter."""
    from lightning.pytorch.utilities import grad_norm

    yield lambda: grad_norm(model, norm_type=1)


@contextlib.contextmanager
def cockpit(model: nn.Module) -> Iterator[Callable[[], object]]:
    """Cockpit's `GradNorm`: the L2 norm of every parameter, brought to the host."""
    from cockpit.quantities import GradNorm

    quantity = GradNorm(lambda step: True)
    yield lambda: quantity.track(0, list(model.parameters()), None)


@contextlib.contextmanager
def wandb_histograms(model: nn.Module) -> Iterator[Callable[[], object]]:
    """`wandb.watch` of the gradients at every step, offline: a histogram of every parameter."""
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        run = wandb.init(mode="offline", dir=folder, project="overhead", settings=wandb.Settings(silent=True))
        run.watch(model, log="gradients", log_freq=1)
        try:
            yield lambda: run.log({"loss": 0.0})  # which takes the histograms with it
        finally:
            run.unwatch(model)
            run.finish()


@contextlib.contextmanager
def full_backward_hooks(model: nn.Module) -> Iterator[Callable[[], object]]:
    """`register_full_backward_hook` on every module without children: one statistic, left on the device."""
    values: list[Tensor] = []

    def record(module: nn.Module, inputs: object, outputs: tuple[Tensor | None, ...]) -> None:
        if outputs[0] is not None:
            values.append(outputs[0].abs().mean())

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_full_backward_hook(record) for module in leaves]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the first module's input needs no gradient
            yield values.clear
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def output_hooks(model: nn.Module) -> Iterator[Callable[[], object]]:
    """A tensor hook on the output of every layer: one statistic, left on the device."""
    values: list[Tensor] = []

    def record(gradient: Tensor) -> None:
        values.append(gradient.abs().mean())

    def tap(module: nn.Module, args: object, output: Tensor) -> None:
        output.register_hook(record)

    hooks = [module.register_forward_hook(tap) for module in layers_of(model)]
    try:
        yield values.clear
    finally:
        for hook in hooks:
            hook.remove()


AFTER_BACKWARD: dict[str, Peer] = {
    "plot_grad_flow recipe": recipe,
    "`p.grad.norm(1)`": norms,
    "Lightning `grad_norm`": lightning,
    "Cockpit `GradNorm`": cockpit,
}
IN_HOOKS: dict[str, Peer] = {
    "`wandb.watch`": wandb_histograms,
    "full backward hooks": full_backward_hooks,
    "a hook on each output": output_hooks,
}
