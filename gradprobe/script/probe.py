"""A probe in a script whose optimizers come and go."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradprobe.measure.probe import GradientProbe
from gradprobe.measure.weight_gradients import parameter_ids
from gradprobe.network.hooks import GuardedHook
from gradprobe.network.layers import unwrap


class FollowingProbe(GradientProbe):
    """A probe whose optimizers may be added and replaced while it is attached.

    Example:
        >>> import torch
        >>> net = nn.Linear(1, 1)
        >>> with FollowingProbe(net) as probe:
        ...     for optimizer in (torch.optim.SGD(net.parameters()), torch.optim.Adam(net.parameters())):
        ...         probe.follow(optimizer)
        ...         net(torch.ones(1, 1)).sum().backward()
        ...         optimizer.step()
        >>> probe.recorded
        2
    """

    def __init__(self, model: nn.Module, iterations: int = 50) -> None:
        super().__init__(model, iterations=iterations)
        self.called = False
        self._followed: list[Optimizer] = []

    def _attach(self) -> None:
        super()._attach()
        root = unwrap(self.model)
        self._hooks.add(root.register_forward_pre_hook(GuardedHook(self._call, self._failed)))

    def _call(self, *_: Any) -> None:
        self.called = True

    @property
    def attached(self) -> bool:
        """Whether the window is open."""
        return self._attached

    def follow(self, optimizer: Optimizer) -> None:
        """From now on this optimizer's steps end the iterations, not those of others of the same parameters."""
        if not self._attached or any(optimizer is own for own in self.optimizers):
            return
        parameters = parameter_ids(optimizer)
        self.optimizers = (*(own for own in self.optimizers if not parameters & parameter_ids(own)), optimizer)
        self._ownership.add(optimizer)
        self._stepped &= set(map(id, self.optimizers))
        if all(optimizer is not known for known in self._followed):
            self._followed.append(optimizer)
            self._hooks.add(optimizer.register_step_pre_hook(GuardedHook(self._before_step, self._failed)))
            self._hooks.add(optimizer.register_step_post_hook(GuardedHook(self._after_step, self._failed)))

    def leave(self, optimizer: Optimizer) -> None:
        """The steps of this optimizer end no iterations any more."""
        self.optimizers = tuple(own for own in self.optimizers if own is not optimizer)

    def _step_of(self, optimizer: Optimizer, skipped: bool = False) -> None:
        if any(optimizer is own for own in self.optimizers):  # one that was followed earlier still has its hook
            super()._step_of(optimizer, skipped)
