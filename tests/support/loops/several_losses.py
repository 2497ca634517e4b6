"""Cases: several losses on the same weights, and models that train against each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from support.loops.account import ITERATIONS, case, mlp, normal, sgd
from support.loops.reported import flat, gan, judged, put_back, two_tasks


@case
def weights_of_losses_from_the_norms_of_their_gradients(loop):
    """GradNorm: autograd.grad of each loss looks at the shared layer, then the weighted sum goes back."""
    weights = torch.ones(2, dtype=torch.float64, requires_grad=True)
    rate = torch.optim.SGD([weights], 0.01)

    def body(losses, model, optimizer):
        loop.kind("looked at")
        shared = model.trunk2.weight
        norms = [torch.autograd.grad(loss, shared, retain_graph=True)[0].norm() for loss in losses]
        optimizer.zero_grad()
        loop.kind("task")
        loop.backward(sum(weight * loss for weight, loss in zip(weights.detach(), losses, strict=True)))
        gap = sum((weight * norm - sum(norms) / 2).abs() for weight, norm in zip(weights, norms, strict=True))
        weights.grad = torch.autograd.grad(gap, weights)[0]
        rate.step()

    two_tasks(loop, body)


@case
def the_smallest_combination_of_gradients(loop):
    """MGDA and CAGrad: autograd.grad of each task, and a combination set by hand."""

    def body(losses, model, optimizer):
        parameters = list(model.parameters())
        tasks = [
            flat(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True), parameters)
            for loss in losses
        ]
        apart = tasks[1] - tasks[0]
        share = (apart @ tasks[1] / apart.square().sum()).clamp(0.1, 0.9)
        optimizer.zero_grad()
        put_back(share * tasks[0] + (1 - share) * tasks[1], parameters)

    two_tasks(loop, body)


@case
def each_task_steps_by_itself(loop):
    """One optimizer, a step for each loss: two iterations a batch."""
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    optimizer = sgd(model)
    with loop.recording((model, optimizer)):
        for turn in range(ITERATIONS):
            optimizer.zero_grad()
            loop.kind("one" if turn % 2 else "two")
            loop.backward((30 if turn % 2 else 1) * model(normal(5, 4)).square().mean())
            loop.used(model, "one", "two")
            optimizer.step()


def wasserstein(loop, is_frozen):
    """WGAN-GP: a penalty by create_graph, two turns of the critic to one of the generator."""
    generator, critic, opt_g, opt_d = gan()
    with loop.recording((generator, opt_g), (critic, opt_d)):
        for turn in range(2 * ITERATIONS):
            real, fake = normal(8, 8), generator(normal(8, 4))
            opt_d.zero_grad()
            between = (real + fake.detach()).div(2).requires_grad_()
            loop.kind("penalty")
            slope = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
            penalty = (slope.norm(dim=1) - 1).square().mean()
            loop.kind("critic")
            loop.backward(critic(fake.detach()).mean() - critic(real).mean() + 10 * penalty)
            loop.used(critic, "critic")
            opt_d.step()
            if turn % 2:
                critic.requires_grad_(not is_frozen)
                opt_g.zero_grad()
                loop.kind("generator")
                loop.backward(-30 * critic(fake).mean())
                loop.used(generator, "generator")
                opt_g.step()
                critic.requires_grad_(True)


@case
def a_gradient_penalty_and_a_frozen_critic(loop):
    wasserstein(loop, True)


@case
def a_gradient_penalty_and_a_critic_that_is_cleared_later(loop):
    wasserstein(loop, False)


@case
def two_generators_in_a_circle(loop):
    """CycleGAN: one optimizer for both generators, which are called twice."""
    there, back = mlp(4, 6, 4), mlp(4, 6, 4, seed=1)
    critic = mlp(4, 6, 1, seed=2)
    both = torch.optim.Adam([*there.parameters(), *back.parameters()], 1e-3)
    opt_d = torch.optim.Adam(critic.parameters(), 1e-3)
    with loop.recording((there, both), (back, both), (critic, opt_d)):
        for _ in range(ITERATIONS):
            a, b = normal(5, 4), normal(5, 4)
            critic.requires_grad_(False)
            both.zero_grad()
            made = there(a)
            loop.kind("generators")
            circle = F.l1_loss(back(made), a) + F.l1_loss(there(back(b)), b)
            loop.backward(judged(critic(made), 1.0) + 10 * circle)
            loop.used(there, "generators")
            loop.used(back, "generators")
            both.step()
            critic.requires_grad_(True)
            opt_d.zero_grad()
            loop.kind("critic")
            loop.backward(judged(critic(b), 1.0))
            loop.backward(judged(critic(made.detach()), 0.0))
            loop.used(critic, "critic")
            opt_d.step()
