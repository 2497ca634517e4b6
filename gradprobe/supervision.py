"""Trunk and branches: deep supervision put on any module, and taken off, without touching it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from gradprobe.branches import BranchFactory, build_branch
from gradprobe.history import Point
from gradprobe.hooks import Attached, Hook
from gradprobe.layers import first_tensor, unknown
from gradprobe.loss import SupervisedOutput
from gradprobe.policies import Placement
from gradprobe.topology import survey


class SupervisedModel(nn.Module):
    """A trunk, unchanged, and the branches at its points.

    In ``train()`` it returns ``SupervisedOutput(output, auxiliary)``. In ``eval()`` it returns exactly what the
    trunk returns, computed by the trunk alone. Hooks are on the trunk only during a training forward, so
    ``net.trunk`` has the state dict, class, pickle and export that it had. ``load_state_dict`` takes a plain
    checkpoint of the trunk as well; for one to give away use ``net.trunk.state_dict()``.

    Args:
        trunk: The user's network.
        branches: For each point's module name: the branch.

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

    def __init__(self, trunk: nn.Module, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        modules = dict(trunk.named_modules())
        for name in branches:
            if name not in modules:
                raise ValueError(unknown("module", name, modules))
        self.trunk = trunk
        # a module's name may hold a dot or be empty or be "keys", none of which ModuleDict takes
        self.branches = nn.ModuleDict({f"at_{name.replace('.', '/')}": branches[name] for name in branches})
        self.points = tuple(branches)
        self.training = trunk.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The trunk's output, and in training the branches' with it."""
        if not self.training:
            return self.trunk(*args, **kwargs)
        taken: dict[str, Tensor] = {}
        hooks = Attached()
        try:
            for name in self.points:
                module = self.trunk.get_submodule(name)
                hooks.add(module.register_forward_hook(Hook(partial(_take, taken, name))))
            output = self.trunk(*args, **kwargs)
        finally:
            hooks.remove()
        missing = [name for name in self.points if name not in taken]
        if missing:
            raise RuntimeError(f"no output of the supervision point {missing[0]!r} in this forward pass")
        branches = zip(self.points, self.branches.values(), strict=True)
        return SupervisedOutput(output, tuple(branch(taken[name]) for name, branch in branches))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint of this network, or a plain one of its trunk (the branches stay as they are)."""
        keys = set(state_dict)
        if len(keys & set(self.trunk.state_dict())) > len(keys & set(self.state_dict())):
            return self.trunk.load_state_dict(state_dict, strict=strict, assign=assign)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def supervise(
    model: nn.Module,
    placement: Placement | Sequence[str],
    *,
    inputs: Any = None,
    branch: str | BranchFactory = "auto",
) -> SupervisedModel:
    """Put auxiliary classifiers on a network.

    Build the optimizer afterwards, over ``net.parameters()``, and use `gradprobe.DeepSupervisionLoss`.

    Args:
        model: The network; it becomes ``net.trunk`` and is not changed.
        placement: A placement (its points and shapes are used), or the names of modules.
        inputs: With names: a batch of inputs, from which the shapes are found.
        branch: ``"auto"``, ``"cnds"``, ``"pooled"``, ``"dense"``, ``"token"``, or a function
            ``(point_shape, output_shape) -> nn.Module``; shapes have the batch dimension first.

    Raises:
        TypeError: No placement and no names.
        ValueError: A name that is not in the model or cannot be a point, or shapes that no branch suits.

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
    if isinstance(placement, Placement):
        points, output_shape = placement.points, placement.output_shape
    else:
        points, output_shape = _by_hand(model, placement, inputs)
    if points and output_shape is None:
        raise ValueError("the network's output is no tensor, so no branch can be built for it")
    branches = {point.name: build_branch(branch, point.shape, output_shape or ()) for point in points}
    reference = next(model.parameters(), None)
    if reference is not None:
        for built in branches.values():
            built.to(reference.device, reference.dtype if reference.is_floating_point() else None)
    net = SupervisedModel(model, branches)
    net.branches.train(net.training)
    return net


def _by_hand(model: nn.Module, names: Any, inputs: Any) -> tuple[tuple[Point, ...], tuple[int, ...] | None]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"expected a Placement or a list of module names, got {type(names).__name__}")
    if inputs is None:
        raise ValueError("names need inputs= as well, a batch of inputs to find the shapes with")
    topology = survey(model, inputs)
    by_name = {name: point for point in topology.points for name in (point.name, *point.layers)}
    for name in names:
        if name not in by_name:
            raise ValueError(topology.unserved.get(name) or unknown("supervision point", name, by_name))
    chosen = {by_name[name].name: by_name[name] for name in names}
    return tuple(sorted(chosen.values(), key=lambda point: point.depth)), topology.output_shape


def _take(taken: dict[str, Tensor], name: str, module: nn.Module, args: Any, output: Any) -> None:
    tensor = first_tensor(output)
    if tensor is not None:
        # an in-place operation may follow: the branch has to get the value as it is here (design, fact 7)
        taken[name] = tensor.clone()
