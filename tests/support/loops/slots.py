"""What forward passes returned, and the losses that are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(eq=False)
class Slot:
    """What a forward pass returned, and whether its graph can still be used."""

    x: torch.Tensor
    y: torch.Tensor
    chain: tuple[int, ...]
    goal: torch.Tensor
    label: torch.Tensor
    family: list = field(default_factory=list)  # the slots that share a graph
    checkpointing: bool | None = None
    alive: bool = True

    def kill(self):
        for slot in self.family:
            slot.alive = False

    def is_reentrant(self):
        """autograd refuses ``autograd.grad`` through it."""
        return any(slot.checkpointing for slot in self.family)

    def loss(self, terms):
        squared = (self.y[:, :2] - self.goal).square().mean()
        crossed = 30 * nn.functional.cross_entropy(self.y[:, 2:], self.label)
        return sum((squared, crossed)[term] for term in terms)


class Losses:
    """The part of a machine that computes losses; it has ``models`` and ``slots``."""

    def call(self, chain, x, checkpointing=None):
        for number in chain:
            self.models[number].checkpointing = checkpointing
            x = self.models[number](x)
            self.models[number].checkpointing = None
        return x

    def slot(self, number):
        """A slot whose graph can still be used and leads to parameters, or None."""
        self.slots = [slot for slot in self.slots if slot.alive and slot.y.requires_grad][-6:]
        return self.slots[-1 - number % len(self.slots)] if self.slots and number is not None else None

    def loss(self, op):
        """The loss of a slot, or of two, and the slots; None where there is none or autograd refuses it."""
        slots = [slot for slot in (self.slot(op.slot), self.slot(getattr(op, "second", None))) if slot is not None]
        if not slots:
            return None, slots
        loss = sum(slot.loss(op.terms) for slot in slots)
        if getattr(op, "penalty", None):
            loss = loss + self.penalty(slots[0], op.penalty)
        return loss, slots

    def penalty(self, slot, kind):
        if kind.startswith("func."):
            return self.functional_penalty(slot, kind.removeprefix("func."))
        if slot.is_reentrant():
            return 0.0
        of = [slot.x]
        if kind == "parameter gradient":
            of = [p for number in slot.chain for p in self.models[number].parameters()]
        of = [tensor for tensor in of if tensor.requires_grad]
        if not of:
            return 0.0
        gradients = torch.autograd.grad(slot.y.square().sum(), of, create_graph=True, allow_unused=True)
        return sum((gradient - 0.5).square().sum() for gradient in gradients if gradient is not None)

    def functional_penalty(self, slot, kind):
        x = slot.x.detach()

        def value(u):
            return self.call(slot.chain, u).square().sum()

        if kind == "grad":
            derivative = self.differentiating(torch.func.grad(value), x)
        elif kind == "jvp":
            tangent = torch.ones_like(x)
            derivative = self.differentiating(
                lambda u: torch.func.jvp(lambda v: self.call(slot.chain, v), (u,), (tangent,))[1], x
            )
        elif kind == "vmap":
            derivative = self.differentiating(torch.func.vmap(torch.func.grad(lambda u: value(u[None]))), x)
        else:
            derivative = self.differentiating(torch.func.jacrev(lambda u: self.call(slot.chain, u).sum(0)), x)
        return derivative.square().mean()
