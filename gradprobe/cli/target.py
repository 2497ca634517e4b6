"""What the command line is pointed at: ``model.py``, ``model.py:attr``, ``package.module:attr``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import click
import torch
from torch import Tensor, nn

from gradprobe.cli.data import find_data
from gradprobe.cli.names import find_part, is_loss, unused
from gradprobe.cli.options import Options
from gradprobe.cli.terminal import say
from gradprobe.cli.training_script import training_script
from gradprobe.cli.user_modules import (
    TargetError,
    import_module,
    named_value,
    public_names,
    run_user,
    split_target,
)
from gradprobe.insert.branches import BranchFactory
from gradprobe.measure.batches import Source
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.network.layers import no_such_name
from gradprobe.network.losses import LossFunction
from gradprobe.network.mismatch import label_mismatch
from gradprobe.network.tensors import main_tensor
from gradprobe.prove.held_out.accuracy import is_classified, labels_in
from gradprobe.prove.held_out.measure import MetricFunction, check_metric
from gradprobe.prove.optimizers import as_factory
from gradprobe.record.branches import BRANCH_NAMES

EXPECTED = (
    "expected `model` or `build_model()` in it, or a single torch.nn.Module subclass without required arguments; "
    "name another with TARGET:attr"
)


@dataclass(frozen=True)
class Target:
    """A model and all that is needed to train it.

    Attributes:
        name: As it was asked for.
        model: The network.
        build: Builds another one with new initial weights, or None where the target is an instance.
        batches: Where its batches come from.
        loss_fn: ``(output, target) -> scalar``.
        branch: A kind of branch, or a function that builds them: see `gradprobe.supervise`.
        branch_loss: The same of what a branch returns, or None: see `gradprobe.DeepSupervisionLoss`.
        optimizer: ``model -> Optimizer``, or None for the default.
        held_out: Batches to measure the main output on, or None.
        data: Where the data come from, in words.
        synthetic: Whether the data are made up.
        metric: What is measured on the held-out batches: see `gradprobe.compare`.
        remarks: What the file defines and nothing uses, a sentence each.
    """

    name: str
    model: nn.Module
    build: Callable[[], nn.Module] | None
    batches: Source
    loss_fn: LossFunction
    optimizer: OptimizerFactory | None
    held_out: Source | None
    data: str
    synthetic: bool = False
    metric: str | MetricFunction | None = None
    branch: str | BranchFactory = "auto"
    branch_loss: LossFunction | None = None
    remarks: tuple[str, ...] = ()


def load_target(spec: str, options: Options) -> Target:
    """Import a target and find its model, data, loss and optimizer.

    Raises:
        click.UsageError: If it cannot be used as it is; the message says what was expected and what to do.
        TargetError: If its own code raised.
    """
    where, attribute = split_target(spec)
    script = training_script(where) if where.endswith(".py") else None
    if script is not None and script.when_imported is not None and not options.quiet:
        say(f"{script.advice}; to scan it, it is imported, and trains first (line {script.when_imported})")
    try:
        return _loaded(spec, where, attribute, options)
    except click.UsageError as error:
        if script is not None:
            raise click.UsageError(f"{script.advice}. As a TARGET: {error.message}") from error
        raise
    except TargetError as error:
        if script is not None and isinstance(error.__cause__, SystemExit):
            raise TargetError(f"{error}. {script.advice}") from error.__cause__
        raise


def _loaded(spec: str, where: str, attribute: str | None, options: Options) -> Target:
    module = import_module(where)
    name = attribute or _find_model(module, where)
    value = getattr(module, name, None)
    if value is None:
        problem = f"`{name}` is None: {EXPECTED}"
        missing = no_such_name("attribute", name, public_names(module))
        raise click.UsageError(f"{where}: {problem if hasattr(module, name) else missing}")
    build = None if isinstance(value, nn.Module) else _factory(value, name, where)
    model = build() if build else value
    data = find_data(module, model, options, where)
    loss, branch_loss = _loss(module, "loss", where), _loss(module, "branch_loss", where)
    _, metric = find_part(module, "metric")
    given = ["batches"] * (options.data is not None or options.input_size is not None)
    given += ["optimizer"] * (options.lr is not None) + ["metric"] * (options.metric is not None)
    return Target(
        name=spec,
        model=model,
        build=build,
        batches=data.batches,
        loss_fn=loss or DefaultLoss(),
        optimizer=_optimizer(module, build or model, loss, where),
        held_out=data.held_out,
        data=data.source,
        synthetic=data.synthetic,
        metric=_metric(options.metric or metric, where),
        branch=_branch(options.branch, {where: module}),
        branch_loss=branch_loss,
        remarks=tuple(unused(module, value, where, given)),
    )


def _loss(module: ModuleType, part: str, where: str) -> LossFunction | None:
    name, loss = find_part(module, part)
    if loss is not None and not callable(loss):
        expected = f"expected `{name}` to be a function (output, target) -> scalar"
        raise click.UsageError(f"{where}: {expected}, got {_name(type(loss))}")
    checked: LossFunction | None = loss
    return checked


def _branch(kind: str, loaded: Mapping[str, ModuleType]) -> str | BranchFactory:
    """The kind of branch that ``--branch`` names: the name itself, or the function."""
    if kind in BRANCH_NAMES:
        return kind
    expected = f"{', '.join(BRANCH_NAMES)} or module:callable"
    _, build = named_value("--branch", kind, loaded, expected)
    if not callable(build):
        raise click.UsageError(
            f"--branch {kind}: expected a function (point_shape, output_shape) -> torch.nn.Module, "
            f"got {_name(type(build))}"
        )
    factory: BranchFactory = build
    return factory


def _optimizer(module: ModuleType, model: Any, loss: Any, where: str) -> OptimizerFactory | None:
    """The target's optimizer as a function that builds it for a model."""
    _, optimizer = find_part(module, "optimizer")
    if optimizer is not None and not callable(optimizer) and not isinstance(optimizer, torch.optim.Optimizer):
        expected = (
            "expected `optimizer` to be a function model -> torch.optim.Optimizer, or an optimizer of the model"
        )
        raise click.UsageError(f"{where}: {expected}, got {_name(type(optimizer))}")
    try:
        return as_factory(optimizer, model, loss)
    except ValueError as error:
        raise click.UsageError(f"{where}: `optimizer`: {error}") from error


def _metric(metric: Any, where: str) -> str | MetricFunction | None:
    try:
        check_metric(metric)
    except (TypeError, ValueError) as error:
        raise click.UsageError(f"{where}: {error}") from error
    checked: str | MetricFunction | None = metric
    return checked


class DefaultLoss:
    """The loss for a target that defines none: the model's own, cross entropy, or mean squared error.

    Where a batch is a dict, its ``labels`` are the target of a branch.

    Example:
        >>> import torch
        >>> loss = DefaultLoss()
        >>> loss(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
        >>> loss.__name__, loss.reduction
        ('cross entropy', 'mean')
    """

    def __init__(self) -> None:
        self.__name__ = "default"
        self.reduction: str | None = None

    def __call__(self, output: Any, target: Any) -> Tensor:
        """The loss, by what the output and the target look like."""
        own = getattr(output, "loss", None)
        if isinstance(own, Tensor):
            self.__name__, self.reduction = "the model's own", None
            return own
        scores = output if isinstance(output, Tensor) else main_tensor(output)
        target = labels_in(target)
        if scores is not None and is_classified(scores, target):
            self.__name__, self.reduction = "cross entropy", "mean"
            return _cross_entropy(scores, target)
        if scores is not None and isinstance(target, Tensor) and scores.shape == target.shape:
            self.__name__, self.reduction = "mean squared error", "mean"
            return nn.functional.mse_loss(scores, target.to(scores.dtype))
        return _no_default(scores, target)


def _cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    try:
        return nn.functional.cross_entropy(scores, target)
    except IndexError as error:
        why = next(label_mismatch(scores, target), "")
        raise ValueError(
            f"{str(error).rstrip('.')}: {why} (for synthetic data: --classes {scores.shape[1]})"
        ) from error


def _no_default(scores: Tensor | None, target: Any) -> NoReturn:
    shapes = [
        tuple(value.shape) if isinstance(value, Tensor) else _name(type(value)) for value in (scores, target)
    ]
    raise TypeError(
        f"no default loss fits an output {shapes[0]} and a target {shapes[1]}: "
        "define `loss(output, target)` in the target"
    )


def _find_model(module: ModuleType, where: str) -> str:
    """Name of the one thing in the module that is or builds the model."""
    for name in ("model", "build_model"):
        if hasattr(module, name):
            return name
    names = public_names(module)
    instances = {
        name: value for name, value in names.items() if isinstance(value, nn.Module) and not is_loss(name, value)
    }
    classes = {
        name: value
        for name, value in names.items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
    ready = {name: value for name, value in classes.items() if not _required(value)}
    for candidates in (instances, ready):
        if len(candidates) == 1:
            return next(iter(candidates))
        if candidates:
            choices = ", ".join(f"{where}:{name}" for name in candidates)
            raise click.UsageError(f"{where} has several models: name one of {choices}")
    if classes:
        needs = "; ".join(f"{name} needs {', '.join(_required(value))}" for name, value in classes.items())
        raise click.UsageError(f"{where}: {needs}. {_building(*next(iter(classes.items())))}")
    raise click.UsageError(f"{where} has no model: {EXPECTED}")


def _building(name: str, call: Any) -> str:
    """The lines that make a model of a class or function with arguments."""
    arguments = ", ".join(f"{argument}=..." for argument in _required(call))
    return f"Define `build_model()` in it that passes them: `def build_model(): return {name}({arguments})`"


def _required(call: Any) -> list[str]:
    """Names of the arguments without a default."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _factory(value: Any, name: str, where: str) -> Callable[[], nn.Module]:
    if not callable(value):
        weights = isinstance(value, Mapping) and any(isinstance(one, Tensor) for one in value.values())
        hint = ", weights without their model: build it, and call its load_state_dict" if weights else ""
        raise click.UsageError(f"{where}: `{name}` is no model: {EXPECTED}, got {_name(type(value))}{hint}")
    required = _required(value)
    if required:
        raise click.UsageError(f"{where}: `{name}` needs {', '.join(required)}. {_building(_name(value), value)}")
    return lambda: _build(value, name, where)


def _build(build: Callable[[], Any], name: str, where: str) -> nn.Module:
    model = run_user(build, f"{where}: `{name}` failed while the model was built")
    if not isinstance(model, nn.Module):
        raise click.UsageError(
            f"{where}: expected `{name}()` to return a torch.nn.Module, got {_name(type(model))}"
        )
    return model


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", type(value).__name__))
