"""Remedies for the size of steps: a learning rate by what steps move, and clipping. They change an optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradprobe.decide.step_size import learning_rate_factor
from gradprobe.record.history import GradientHistory

MAX_NORM = 1.0  # of the gradient of all weights; Pascanu et al. 2013 find that its exact size matters little


def learning_rate(optimizer: Optimizer, history: GradientHistory) -> float:
    """Multiply the learning rate so that a step moves a layer's weights by 3e-3 of their size, in the median.

    A step is proportional to the rate, so one window tells the factor, upwards at most tenfold: see
    `gradprobe.decide.step_size.learning_rate_factor`. You et al. 2017 (LARS, arXiv 1708.03888) train at 1e-3 to
    1e-2. A history that does not tell it changes nothing.

    Args:
        optimizer: Changed in place, before a scheduler is built from it.
        history: A record of this training.

    Returns:
        The factor.

    Example:
        >>> import torch
        >>> from gradprobe.record.history import tidy
        >>> optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
        >>> learning_rate(optimizer, GradientHistory(tidy([]), {}, (), (), None)), optimizer.param_groups[0]["lr"]
        (1.0, 0.1)
    """
    factor = learning_rate_factor(history)
    for group in optimizer.param_groups:
        for key in ("lr", "initial_lr"):
            if key in group:
                group[key] = group[key] * factor
    return factor


def clipping(optimizer: Optimizer, history: GradientHistory | None = None, max_norm: float = MAX_NORM) -> None:
    """Clip the norm of the gradient of all weights before each step (Pascanu et al. 2013, algorithm 1).

    Args:
        optimizer: Gets a hook before its steps.
        history: Not used.
        max_norm: The norm to clip at.

    Example:
        >>> import torch
        >>> weight = torch.zeros(4, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> clipping(optimizer)
        >>> weight.grad = torch.full((4,), 50.0)  # of norm 100
        >>> optimizer.step()
        >>> weight.tolist()
        [-0.5, -0.5, -0.5, -0.5]
    """

    def clip(stepping: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [one for group in stepping.param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(parameters, max_norm)

    optimizer.register_step_pre_hook(clip)
