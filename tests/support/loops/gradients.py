"""What people do to ``.grad`` by hand: clear it, clip it, put it back."""

from __future__ import annotations

import torch
from torch import nn


def clip(held, kind, noise):
    """Change gradients before a step.

    Args:
        held: Parameters with gradients.
        kind: None, or one of `support.loops.program.CLIPS`.
        noise: Makes a random tensor of a shape.
    """
    if not held:
        return
    if kind == "norm":
        nn.utils.clip_grad_norm_(held, 0.5)
    elif kind == "value":
        nn.utils.clip_grad_value_(held, 0.1)
    for parameter in held if kind else ():
        if kind == "p.grad.mul_":
            parameter.grad.mul_(0.5)
        elif kind == "p.grad = p.grad * .5":
            parameter.grad = parameter.grad * 0.5
        elif kind == "noise added":
            parameter.grad.add_(noise(*parameter.shape), alpha=0.01)


def zero_by_hand(held, means):
    """Clear gradients without a ``zero_grad``."""
    held = [parameter for parameter in held if parameter.grad is not None]
    if means == "_foreach_zero_":
        if held:
            torch._foreach_zero_([parameter.grad for parameter in held])
        return
    for parameter in held:
        ZEROED[means](parameter)


def put(parameter, gradient, then):
    """Put a gradient where the optimizer finds it."""
    if then == "copied" and parameter.grad is not None:
        parameter.grad.copy_(gradient)
    elif then == "added" and parameter.grad is not None:
        parameter.grad.add_(gradient)
    else:
        parameter.grad = gradient.clone() if then == "copied" else gradient


def combination(gradients, kind):
    """What is put back for one parameter."""
    one, two = gradients
    if kind == "projected" and (dot := (one * two).sum()) < 0:
        one, two = one - dot / two.square().sum() * two, two - dot / one.square().sum() * one
    return (one + two) / (2 if kind == "average" else 1)


def none(parameter):
    parameter.grad = None


def delete(parameter):
    del parameter.grad


def zeros(parameter):
    parameter.grad = torch.zeros_like(parameter)


def times_zero(parameter):
    parameter.grad *= 0


def in_all_places(parameter):
    parameter.grad[:] = 0


ZEROED = {
    "p.grad = None": none,
    "p.grad.zero_": lambda p: p.grad.zero_(),
    "p.grad.detach().zero_": lambda p: p.grad.detach().zero_(),
    "p.grad.data.zero_": lambda p: p.grad.data.zero_(),
    "p.grad.fill_(0)": lambda p: p.grad.fill_(0),
    "p.grad *= 0": times_zero,
    "p.grad[:] = 0": in_all_places,
    "p.grad = zeros": zeros,
    "del p.grad": delete,
}
