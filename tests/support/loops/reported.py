"""Cases: loops whose numbers somebody was told wrongly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from support.loops.account import ITERATIONS, case, mlp, normal, sgd


class TwoTasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk1, self.trunk2 = nn.Linear(10, 32), nn.Linear(32, 32)
        self.cls, self.reg = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x):
        h = torch.relu(self.trunk2(torch.relu(self.trunk1(x))))
        return self.cls(h), self.reg(h)


def two_tasks(loop, body, make=lambda model: torch.optim.Adam(model.parameters(), 1e-3)):
    """Two losses, of very different sizes; ``body(losses, model, optimizer)`` leaves the gradients."""
    torch.manual_seed(0)
    model = TwoTasks().double()
    optimizer = make(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            x, y, z = normal(16, 10), torch.randint(4, (16,)), 100 * normal(16, 1)
            a, b = model(x)
            losses = [F.mse_loss(b, z), F.cross_entropy(a, y)]
            loop.losses += [loss.detach() for loss in losses]
            loop.kind("task")
            body(losses, model, optimizer)
            loop.used(model, "task")
            optimizer.step()


def flat(gradients, parameters):
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def put_back(total, parameters):
    for p, part in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p).clone()


def projected(tasks):
    total = torch.zeros_like(tasks[0])
    for i, gradient in enumerate(tasks):
        changed = gradient.clone()
        for j, other in enumerate(tasks):
            if j != i and (dot := changed @ other) < 0:
                changed -= dot / other.dot(other) * other
        total += changed
    return total


@case
def gradient_surgery(loop):
    def body(losses, model, optimizer):
        parameters, tasks = list(model.parameters()), []
        for loss in losses:
            optimizer.zero_grad(set_to_none=True)
            loss.backward(retain_graph=True)
            tasks.append(flat([p.grad for p in parameters], parameters))
        put_back(projected(tasks), parameters)

    two_tasks(loop, body)


def gan():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8)).double()
    critic = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)).double()
    return generator, critic, *(torch.optim.Adam(model.parameters(), 2e-4) for model in (generator, critic))


def judged(scores, truth):
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, truth))


@case
def a_scaler_for_each_loss(loop):
    generator, critic, opt_g, opt_d = gan()
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for scale in (65536.0, 256.0)]
    if loop.is_reference:
        scalers = [torch.amp.GradScaler("cpu", enabled=False)] * 2
    with loop.recording((generator, opt_g), (critic, opt_d)):
        for _ in range(ITERATIONS):
            real, z = normal(8, 8), normal(8, 4)
            opt_g.zero_grad()
            opt_d.zero_grad()
            critic.requires_grad_(False)
            fake = generator(z)
            loss = judged(critic(fake), 1.0)
            loop.kind("generator")
            scalers[0].scale(loss).backward()
            critic.requires_grad_(True)
            loop.kind("critic")
            second = judged(critic(real), 1.0) + judged(critic(fake.detach()), 0.0)
            scalers[1].scale(second).backward()
            loop.losses += [loss.detach(), second.detach()]
            loop.used(generator, "generator")
            loop.used(critic, "critic")
            for scaler, optimizer in zip(scalers, (opt_g, opt_d), strict=True):
                scaler.step(optimizer)
                scaler.update()


@case
def a_critic_that_is_frozen_in_the_generators_turn(loop):
    generator, critic, opt_g, opt_d = gan()
    with loop.recording((generator, opt_g), (critic, opt_d)):
        for _ in range(ITERATIONS):
            real, z = normal(8, 8), normal(8, 4)
            opt_g.zero_grad()
            opt_d.zero_grad()
            fake = generator(z)
            critic.requires_grad_(False)
            loop.kind("generator")
            loop.backward(100 * judged(critic(fake), 1.0))
            loop.used(generator, "generator")
            opt_g.step()
            critic.requires_grad_(True)
            loop.kind("critic")
            loop.backward(judged(critic(real), 1.0) + judged(critic(fake.detach()), 0.0))
            loop.used(critic, "critic")
            opt_d.step()


@case
def a_critic_that_is_cleared_at_the_start_of_its_turn(loop):
    generator, critic, opt_g, opt_d = gan()
    with loop.recording((generator, opt_g), (critic, opt_d)):
        for _ in range(ITERATIONS):
            made = generator(normal(8, 4))
            for p in critic.parameters():
                p.grad = None
            loop.kind("critic")
            loop.backward(judged(critic(normal(8, 8)), 1.0) + judged(critic(made.detach()), 0.0))
            loop.used(critic, "critic")
            opt_d.step()
            opt_g.zero_grad()
            loop.kind("generator")
            loop.backward(30 * judged(critic(made), 1.0))
            loop.used(generator, "generator")
            opt_g.step()


class Recomputed(torch.autograd.Function):
    """Keeps no activations: its backward computes the block again, and its parameters' gradients by itself."""

    @staticmethod
    def forward(ctx, block, x, *parameters):
        ctx.block = block
        ctx.save_for_backward(x)
        with torch.no_grad():
            return block(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        parameters = list(ctx.block.parameters())
        with torch.enable_grad():
            y = ctx.block(x)
        return None, *torch.autograd.grad(y, [x, *parameters], gradient)


class Ode(nn.Module):
    """Euler steps of a field, with its gradients by an adjoint pass or not."""

    def __init__(self, loop):
        super().__init__()
        self.encode, self.one, self.two, self.decode = (nn.Linear(*s) for s in ((4, 6), (6, 16), (16, 6), (6, 2)))
        self.field = nn.Sequential(self.one, nn.Tanh(), self.two)
        self.is_reference = loop.is_reference

    def forward(self, x):
        y = self.encode(x)
        for _ in range(4):
            if self.is_reference:
                y = y + 0.25 * self.field(y)
            else:
                y = y + 0.25 * Recomputed.apply(self.field, y, *self.field.parameters())
        return self.decode(y)


@case
def gradients_by_an_adjoint_pass(loop):
    torch.manual_seed(0)
    model = Ode(loop).double()
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            loop.kind("loss")
            loop.backward((model(normal(8, 4)) - normal(8, 2)).square().mean())
            loop.used(model, "loss")
            optimizer.step()


class Equilibrium(nn.Module):
    """A fixed point; its gradient is solved for in a tensor hook, by products with the last call's Jacobian."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8)
        with torch.no_grad():
            self.inner.weight.mul_(0.3)

    def cell(self, z, x):
        return torch.tanh(self.inner(z) + self.outer(x))

    def forward(self, x):
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(30):
                z = self.cell(z, x)
        z = self.cell(z, x)
        z0 = z.detach().clone().requires_grad_()
        again = self.cell(z0, x)

        def implicit(gradient):
            solved = gradient
            for _ in range(30):
                solved = torch.autograd.grad(again, z0, solved, retain_graph=True)[0] + gradient
            return solved

        z.register_hook(implicit)
        return z


@case
def a_solver_in_a_tensor_hook(loop):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Equilibrium(), nn.Linear(8, 2)).double()
    optimizer = sgd(model)
    inner = model[1].cell
    if loop.is_reference:  # the calls that only the solver differentiates do not count

        def cell(z, x):
            if not z.is_leaf or not z.requires_grad:
                return inner(z, x)
            with loop.aside():
                return inner(z, x)

        model[1].cell = cell
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            loop.kind("loss")
            loop.backward((model(normal(16, 4)) - normal(16, 2)).square().mean())
            loop.used(model, "loss")
            optimizer.step()


class Checkpointed(nn.Module):
    def __init__(self, loop, reentrant):
        super().__init__()
        self.a, self.inner, self.b = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.call = lambda x: loop.checkpoint(self.inner, x, reentrant)

    def forward(self, x):
        return self.b(self.call(self.a(x)))


def twice_through_one_forward(loop, reentrant):
    torch.manual_seed(0)
    model = Checkpointed(loop, reentrant).double()
    optimizer = sgd(model, 0.1)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            loss = model(normal(3, 4)).mean()
            loop.kind("loss")
            loop.backward(loss, retain_graph=True)
            loop.backward(loss)
            loop.used(model, "loss")
            optimizer.step()


@case
def two_passes_through_a_reentrant_checkpoint(loop):
    twice_through_one_forward(loop, True)


@case
def two_passes_through_a_checkpoint(loop):
    twice_through_one_forward(loop, False)


@case
def a_parameter_without_elements(loop):
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.nothing = nn.Linear(4, 2), nn.Parameter(torch.zeros(0))

        def forward(self, x):
            return self.layer(x) + self.nothing.sum()

    torch.manual_seed(0)
    model = Empty().double()
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            loop.kind("loss")
            loop.backward(model(normal(3, 4)).square().mean())
            loop.used(model, "loss")
            optimizer.step()


@case
def a_derivative_by_torch_func_in_the_loss(loop):
    model = mlp(2, 8, 8, 1)
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            x = normal(6, 2)
            with loop.aside():
                slope = torch.func.vmap(torch.func.grad(lambda u: model(u[None]).sum()))(x)
            loop.kind("loss")
            loop.backward(30 * (model(x) - 1).square().mean() + slope.square().mean())
            loop.used(model, "loss")
            optimizer.step()
