"""Cases: derivatives in the loss, passes that are thrown away or only look, and models that are not trained."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from support.loops.account import ITERATIONS, case, mlp, normal, sgd


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.policy, self.value = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x):
        h = torch.tanh(self.shared(x))
        return self.policy(h), self.value(h)


@case
def acting_and_then_many_small_batches(loop):
    """PPO: the acting is under no_grad, the old policy is a copy, and a step follows each small batch."""
    torch.manual_seed(0)
    model = ActorCritic().double()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with loop.recording((model, optimizer)):
        with torch.no_grad():
            states = normal(12, 4)
            old = model(states)[0].log_softmax(1)[:, 0]
            model(states[0])
        for part in range(ITERATIONS):
            some = slice(4 * part, 4 * part + 4)
            scores, value = model(states[some])
            ratio = (scores.log_softmax(1)[:, 0] - old[some]).exp()
            loop.kind("loss")
            optimizer.zero_grad()
            loop.backward(-ratio.clamp(0.8, 1.2).mean() + 30 * (value - 1).square().mean())
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            loop.used(model, "loss")
            optimizer.step()


@case
def adapting_in_an_inner_loop(loop):
    """MAML: steps on a copy of the weights by autograd.grad, whose graph the outer pass goes through."""
    model = mlp(3, 6, 1)
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            x, y = normal(4, 3), normal(4, 1)
            values = dict(model.named_parameters())
            loop.kind("inner")
            inner = 30 * (model(x) - y).square().mean()
            gradients = torch.autograd.grad(inner, list(values.values()), create_graph=True)
            moved = {name: p - 0.01 * g for (name, p), g in zip(values.items(), gradients, strict=True)}
            loop.kind("outer")
            loop.backward((torch.func.functional_call(model, moved, (normal(4, 3),)) - 1).square().mean())
            loop.used(model, "outer")
            optimizer.step()


@case
def sharpness_aware_minimization(loop):
    """SAM: the first pass moves the weights, is cleared, and the second pass is the one that is used."""
    model = mlp(4, 6, 2)
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            x = normal(5, 4)
            loop.kind("first")
            loop.backward(model(x).square().mean())
            kept = {p: p.detach().clone() for p in model.parameters()}
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(p.grad, alpha=0.5)
            optimizer.zero_grad()
            loop.kind("second")
            loop.backward(model(x).square().mean())
            with torch.no_grad():
                for p, value in kept.items():
                    p.copy_(value)
            loop.used(model, "second")
            optimizer.step()
            optimizer.zero_grad()


@case
def physics_by_a_forward_derivative(loop):
    """A residual by torch.func.jvp, and the boundary by an ordinary call."""
    model = mlp(2, 8, 1)
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            x = normal(6, 2)
            with loop.aside():
                slope = torch.func.jvp(model, (x,), (torch.ones_like(x),))[1]
            loop.kind("loss")
            loop.backward((slope - 1).square().mean() + 30 * model(normal(3, 2)).square().mean())
            loop.used(model, "loss")
            optimizer.step()


def physics_in_two_passes(loop, set_to_none):
    model = mlp(2, 8, 1)
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            x = normal(6, 2)
            with loop.aside():
                slope = torch.func.jvp(model, (x,), (torch.ones_like(x),))[1]
            loop.kind("residual")
            loop.backward((slope - 1).square().mean())
            loop.kind("boundary")
            loop.backward(30 * model(normal(3, 2)).square().mean())
            loop.used(model, "residual", "boundary")
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)


@case
def a_residual_by_itself(loop):
    """A residual by torch.func.jvp in a pass of its own, which comes to no output; then the boundary."""
    physics_in_two_passes(loop, True)


@case
def a_residual_by_itself_cleared_in_place(loop):
    """The same, with gradients that are set to zeros."""
    physics_in_two_passes(loop, False)


@case
def physics_by_autograd(loop):
    """A residual by autograd.grad, twice, with L-BFGS' closure."""
    model = mlp(1, 8, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=2)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            x, is_first = normal(6, 1).requires_grad_(), True

            def closure(x=x):
                nonlocal is_first
                optimizer.zero_grad()
                loop.kind("derivative")
                slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
                curve = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
                loss = (curve + 1).square().mean()
                loop.kind("first" if is_first else "later")
                loop.backward(loss)
                if is_first:
                    loop.used(model, "first")
                is_first = False
                return loss

            optimizer.step(closure)


class Nested(nn.Module):
    def __init__(self, loop, reentrant):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.inner = lambda x: loop.checkpoint(lambda y: torch.tanh(self.two(y)), x, reentrant)
        self.outer = lambda x: loop.checkpoint(lambda y: self.inner(self.one(y)), x, reentrant)

    def forward(self, x):
        return self.three(self.outer(x))


def checkpoint_in_a_checkpoint(loop, reentrant):
    torch.manual_seed(0)
    model = Nested(loop, reentrant).double()
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            for factor in (1, 30):
                loop.kind("loss")
                loop.backward(factor * model(normal(5, 4).requires_grad_()).square().mean())
            loop.used(model, "loss")
            optimizer.step()


@case
def a_reentrant_checkpoint_in_another(loop):
    checkpoint_in_a_checkpoint(loop, True)


@case
def a_checkpoint_in_another(loop):
    checkpoint_in_a_checkpoint(loop, False)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(3, 5), nn.Linear(5, 2)

    def forward(self, x, state):
        state = self.cell(x, state)
        return self.head(state), state


@case
def truncated_through_time(loop):
    """The state is detached after each piece, and a loss of each moment goes back through what is kept."""
    torch.manual_seed(0)
    model = Recurrent().double()
    optimizer = sgd(model)
    state = torch.zeros(4, 5, dtype=torch.float64)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            state = state.detach()
            for moment in range(3):
                y, state = model(normal(4, 3), state)
                loop.kind("loss")
                loop.backward((moment + 1) * y.square().mean(), retain_graph=moment < 2)
            loop.used(model, "loss")
            optimizer.step()


@case
def contrastive_with_cached_gradients(loop):
    """GradCache: embeddings under no_grad, the loss' gradient on them, and a surrogate for each part."""
    model = mlp(4, 6, 3)
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            parts = [normal(4, 4), normal(4, 4)]
            with torch.no_grad():
                cached = [model(part).requires_grad_() for part in parts]
            scores = cached[0] @ cached[1].T
            loop.kind("cached")
            loop.backward(F.cross_entropy(scores, torch.arange(4)))
            for part, embedding in zip(parts, cached, strict=True):
                loop.kind("surrogate")
                loop.backward((model(part) * embedding.grad).sum())
            loop.used(model, "surrogate")
            optimizer.step()


class Adapted(nn.Module):
    """A frozen layer and what is learnt beside it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@case
def adapters_beside_a_frozen_base(loop):
    """The frozen layers' outputs have the gradient of the passes that the adapters are trained by."""
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(), nn.Tanh(), Adapted()).double()
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            loop.kind("thrown away")
            loop.backward(30 * model(normal(5, 4)).square().mean())
            for p in model.parameters():
                p.grad = None
            loop.kind("loss")
            loop.backward((model(normal(5, 4)) - 1).square().mean())
            loop.used(model, "loss")
            optimizer.step()


def with_a_second_model(loop, other_call):
    """Another model, which is not trained, has a part in the loss."""
    model = mlp(4, 6, 3)
    other = copy.deepcopy(model)
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            x = normal(5, 4)
            optimizer.zero_grad()
            loop.kind("loss")
            loop.backward(other_call(model, other, x))
            loop.used(model, "loss")
            optimizer.step()


@case
def preferences_over_a_reference_model(loop):
    """DPO: chosen and rejected by the policy, and by the reference under no_grad."""

    def loss(model, other, x):
        with torch.no_grad():
            base = other(x).log_softmax(1) - other(x + 1).log_softmax(1)
        gap = model(x).log_softmax(1) - model(x + 1).log_softmax(1) - base
        return -F.logsigmoid(gap[:, 0]).mean()

    with_a_second_model(loop, loss)


@case
def distillation(loop):
    def loss(model, other, x):
        return F.kl_div(model(x).log_softmax(1), other(x).detach().softmax(1) ** 2, reduction="batchmean")

    with_a_second_model(loop, loss)
