"""Deep supervision put on any network, and taken off, without a change of the network."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from gradprobe.insert.branches import BranchFactory, build_branch
from gradprobe.insert.loss import SupervisedOutput
from gradprobe.insert.point_outputs import (
    WITH_KWARGS,
    PointOutput,
    hook_registries,
    keep_output,
    predict,
    version_of,
)
from gradprobe.network.hooks import Attached, Hook
from gradprobe.network.layers import no_such_name, unwrap
from gradprobe.network.survey import survey
from gradprobe.network.tensors import main_output
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point, is_input, module_of

ForwardHook = Callable[[nn.Module, Any, Any], None]
_HOOK_ID = -1  # torch counts its own up from 0


class SupervisedModel(nn.Module):
    """A trunk, unchanged, and the branches at its points.

    In ``train()`` it returns ``SupervisedOutput(output, auxiliary)``. In ``eval()`` it returns exactly what the
    trunk returns, computed by the trunk alone. The trunk has hooks only during a training forward, so
    ``net.trunk`` has the state dict, class, pickle and export that it had. ``load_state_dict`` takes a plain
    checkpoint of the trunk as well, also if this network is a part of a larger one; ``net.trunk.state_dict()`` is
    such a checkpoint.

    What it does not have itself it hands on: ``net.config``, ``net.generate(...)`` are the trunk's. Its own names
    come first (``trunk``, ``branches``, ``points``, ``remove``, and those of every module), and names that begin
    with an underscore are not handed on, since torch and libraries keep their marks of a module under such. A
    method of the trunk sees the trunk alone: an optimizer that one builds does not hold the branches. What is set
    goes to ``net`` and not to the trunk: change a layer as ``net.trunk.fc = ...``.

    Args:
        trunk: The user's network.
        branches: For each point's name: the branch.
        tensors: For points of modules with several tensors: which of them, where it is not the first.

    Attributes:
        points: The names of the points, in forward order.
        branches: A ``ModuleDict`` with a branch for each; its keys are ``at_`` and the name, with ``/`` for dots.

    Example:
        >>> import torch
        >>> trunk = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net = SupervisedModel(trunk, {"1": nn.Linear(8, 2)})
        >>> prediction = net(torch.zeros(5, 4))
        >>> prediction.output.shape, len(prediction.auxiliary)
        (torch.Size([5, 2]), 1)
        >>> net.eval()(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, trunk: nn.Module, branches: Mapping[str, nn.Module], tensors: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        modules = dict(trunk.named_modules())
        for name in map(module_of, branches):
            if name not in modules:
                raise ValueError(no_such_name("module", name, modules))
        self.trunk = trunk
        self.branches = nn.ModuleDict({_key(name): branches[name] for name in branches})
        self.points = tuple(branches)
        self.training = trunk.training
        self._changed_in_place: dict[str, bool] = {}  # for each point whose forward pass was seen
        self._tensors = dict(tensors or {})
        self._hook_registries = {name: hook_registries(modules[module_of(name)], name) for name in branches}
        self.register_load_state_dict_pre_hook(_take_plain_checkpoint)  # type: ignore[no-untyped-call]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The trunk's output, and in training the predictions of the branches with it."""
        if not self.training:
            return self.trunk(*args, **kwargs)
        outputs: dict[str, PointOutput] = {}
        hooks = {
            name: partial(
                keep_output, outputs, name, self._tensors.get(name, 0), self._changed_in_place.get(name, True)
            )
            for name in self.points
        }
        if torch.compiler.is_compiling():
            output = self._run_compiled(hooks, args, kwargs)
        else:
            output = self._run(hooks, args, kwargs)
        missing = [name for name in self.points if name not in outputs]
        if missing:
            raise RuntimeError(
                f"nothing at the supervision point {missing[0]!r} in this forward pass: it was not called, or "
                f"there was no tensor (take its branch off with net.remove({missing[0]!r})), or the trunk was "
                "compiled before (compile the supervised network instead)"
            )
        if not torch.compiler.is_compiling():
            self._note_changes(outputs)
        like = main_output(output)
        predictions = (predict(self.branches[_key(name)], outputs[name].kept, like) for name in self.points)
        return SupervisedOutput(output, tuple(predictions))

    def __getattr__(self, name: str) -> Any:
        """What the module has, else what the trunk has: while it is copied or unpickled there is none yet."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            trunk = self.__dict__.get("_modules", {}).get("trunk")
            if trunk is None or name.startswith("_"):
                raise
        return getattr(trunk, name)

    def _run(self, hooks: Mapping[str, ForwardHook], args: Any, kwargs: Any) -> Any:
        attached = Attached()
        try:
            for name, hook in hooks.items():
                module = self.trunk.get_submodule(module_of(name))
                self._hook_registries[name] = hook_registries(module, name)
                if is_input(name):
                    attached.add(module.register_forward_pre_hook(Hook(hook), with_kwargs=True))
                else:
                    attached.add(module.register_forward_hook(Hook(hook)))
            return self.trunk(*args, **kwargs)
        finally:
            attached.remove()

    def _run_compiled(self, hooks: Mapping[str, ForwardHook], args: Any, kwargs: Any) -> Any:
        # torch.compile can neither register a hook nor change a registry of hooks, but it can replace a registry,
        # and put the old one back if that is held somewhere else than on the module
        modules = {name: self.trunk.get_submodule(module_of(name)) for name in hooks}
        try:
            for name, module in modules.items():
                for registry, before in self._hook_registries[name].items():
                    value: Any = True if registry == WITH_KWARGS else hooks[name]
                    setattr(module, registry, OrderedDict({**before, _HOOK_ID: value}))
            return self.trunk(*args, **kwargs)
        finally:
            for name, module in modules.items():
                for registry, before in self._hook_registries[name].items():
                    setattr(module, registry, before)

    def remove(self, *names: str) -> None:
        """Take branches off: those at these points, or all of them.

        This may be done in the middle of training. Optimizers that hold the branches' parameters go on: these have
        no gradient any more. Under ``DistributedDataParallel``, which counts its parameters once, set the
        weight to 0 instead (``DeepSupervisionLoss(drop_after=...)``), or wrap again.

        Args:
            names: Names out of ``net.points``.

        Raises:
            ValueError: If there is no branch at such a point.

        Example:
            >>> import torch
            >>> trunk = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            >>> net = SupervisedModel(trunk, {"0": nn.Linear(8, 2), "1": nn.Linear(8, 2)})
            >>> net.remove("0")
            >>> net.points
            ('1',)
            >>> net.remove()
            >>> net(torch.zeros(5, 4)).auxiliary
            ()
        """
        for name in names or self.points:
            if name not in self.points:
                raise ValueError(no_such_name("supervision point", name, self.points))
            branch = self.branches.pop(_key(name))
            self.points = tuple(point for point in self.points if point != name)
            self._hook_registries.pop(name, None)
            for parameter in branch.parameters():
                parameter.grad = None

    def _note_changes(self, outputs: Mapping[str, PointOutput]) -> None:
        """An in-place operation may follow a point; only there is a copy needed (docs/facts.md, 7)."""
        for name, output in outputs.items():
            changed = version_of(output.original) != output.version
            if changed and output.kept is output.original:
                warnings.warn(
                    f"the output of {name!r} was changed in place in this forward pass, but not in those "
                    "before: this time its branch got the changed values",
                    stacklevel=3,
                )
            if output.version is not None:
                self._changed_in_place[name] = self._changed_in_place.get(name, False) or changed


def supervise(
    model: nn.Module,
    placement: Placement | Sequence[str],
    *,
    inputs: Any = None,
    branch: str | BranchFactory = "auto",
) -> SupervisedModel:
    """Put auxiliary classifiers on a network.

    Build the optimizer afterwards, over ``net.parameters()``, and use `gradprobe.DeepSupervisionLoss`. Wrap in
    ``DistributedDataParallel``, ``fully_shard`` or ``torch.compile`` afterwards too.

    Args:
        model: The network; it becomes ``net.trunk`` and is not changed.
        placement: A placement (its points and shapes are used), or names of modules: any that is called once and
            returns what a branch can take, whether `gradprobe.points` would choose it or not.
        inputs: With names: a batch of inputs, from which the shapes are found. A tensor, a tuple of positional or
            a dict of keyword arguments.
        branch: ``"auto"``, a name out of `gradprobe.BRANCHES`, or a function
            ``(point_shape, output_shape) -> nn.Module``; shapes have the batch dimension first.

    Raises:
        TypeError: If ``placement`` is neither a placement nor a list of names.
        ValueError: If a name is not in the model or cannot be a point, no branch suits the shapes, or the network
            is wrapped or compiled already.

    Example:
        >>> import torch
        >>> trunk = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net = supervise(trunk, ["1"], inputs=torch.zeros(3, 4))
        >>> net.branches
        ModuleDict(
          (at_1): PooledBranch(
            (fc): Linear(in_features=8, out_features=2, bias=True)
          )
        )
    """
    if unwrap(model) is not model:
        raise ValueError(
            f"expected the network itself, got it inside {type(model).__name__}: supervise the network, and wrap "
            "or compile what comes back"
        )
    if not isinstance(placement, Placement):
        placement = _placement_by_hand(model, placement, inputs)
    tensors = {point.name: point.tensor for point in placement.points}
    net = SupervisedModel(model, _build_branches(model, placement, branch), tensors)
    net.branches.train(net.training)
    return net


def _build_branches(model: nn.Module, placement: Placement, branch: str | BranchFactory) -> dict[str, nn.Module]:
    if placement.points and not placement.output_shape:
        raise ValueError(
            "the network returns no prediction that a branch could make as well (its loss, or something else for "
            "each sample): supervise a part of it, by a loss of your own on what its branches predict "
            "(branch_loss=; see the recipe on detectors)"
        )
    modules = dict(model.named_modules())
    branches: dict[str, nn.Module] = {}
    for point in placement.points:
        try:
            built = build_branch(
                branch,
                point.shape,
                placement.output_shape or (),
                channels=point.channels,
                output_channels=placement.output_channels,
                batch=point.batch,
                head=None if placement.head is None else modules.get(placement.head),
                activation=placement.activation,
            )
        except ValueError as error:
            raise ValueError(f"at {point.name!r}: {error}") from error
        branches[point.name] = built
        nearby = next(_parameters_near(point, modules), None)
        if nearby is not None:
            built.to(nearby.device, nearby.dtype)
    return branches


def _placement_by_hand(model: nn.Module, names: Any, inputs: Any) -> Placement:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"expected a Placement or a list of module names, got {type(names).__name__}")
    if inputs is None:
        raise ValueError("names need inputs= as well, a batch of inputs to find the shapes with")
    topology = survey(model, inputs)
    modules = dict(model.named_modules())
    for name in names:
        if module_of(name) not in modules:
            raise ValueError(no_such_name("module", name, modules))
        if name not in topology.points_by_hand or name in topology.output_layers:
            no_call = "it is not called exactly once, or with no tensor (N, C, ...) that requires a gradient"
            raise ValueError(f"no branch can be put at {name!r}: {topology.points.unserved.get(name, no_call)}")
    points = tuple(point for name, point in topology.points_by_hand.items() if name in names)
    return Placement(
        "by hand",
        (),
        points,
        "given by name",
        output_shape=topology.output_shape,
        output_channels=topology.output_channels,
        head=topology.head,
        activation=topology.activation,
    )


def _parameters_near(point: Point, modules: Mapping[str, nn.Module]) -> Iterator[nn.Parameter]:
    """Parameters whose device and dtype a branch follows: those of the layers served, or any of the network."""
    for name in (*reversed(point.layers), point.module, ""):
        if name in modules:
            yield from (p for p in modules[name].parameters() if p.is_floating_point())


def _key(name: str) -> str:
    # a module's name may have a dot in it or be empty or be "keys", none of which ModuleDict accepts
    return f"at_{name.replace('.', '/')}"


def _take_plain_checkpoint(net: SupervisedModel, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a checkpoint of the bare trunk load: its keys get this network's names, the branches stay."""
    keys = [key for key in state if key.startswith(prefix)]
    plain = {f"{prefix}{key}" for key in net.trunk.state_dict()}
    own = {f"{prefix}{key}" for key in net.state_dict()}
    if len(plain.intersection(keys)) > len(own.intersection(keys)):
        for key in keys:
            state[f"{prefix}trunk.{key[len(prefix) :]}"] = state.pop(key)
        for key, value in net.branches.state_dict(keep_vars=True).items():
            state[f"{prefix}branches.{key}"] = value
