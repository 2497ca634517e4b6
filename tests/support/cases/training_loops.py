"""Cases: training loops with accumulation, several losses, penalties and probes that come and go."""

from __future__ import annotations

import contextlib
import copy
import io

import torch
from torch import nn
from torch.optim import Adam

from support.cases.loop import Made, case, data, mlp, sgd, squared, variants

# --- other loops -----------------------------------------------------------------------------------------------


@case
def two_probes_on_one_model(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as first_record, loop.recording(net[0]) as second_record:
        for x in data(6, 4):
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            first_record.read()
            second_record.read()
            optimizer.step()


@case
def one_probe_after_the_other(loop):
    net = mlp(4, 5, 2)
    for inputs in data(3, 6, 4, count=2):
        loop.fit(net, inputs)


@case
def left_by_an_exception(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with contextlib.suppress(ZeroDivisionError), loop.recording(net, optimizer) as record:
        for iteration, x in enumerate(data(6, 4, count=5)):
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            if iteration == 3:
                raise ZeroDivisionError
            record.read()
            optimizer.step()


@case
def batch_that_failed_and_was_skipped(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        with contextlib.suppress(RuntimeError):
            net[0](x)
            net(x[:, :3])
        loop.backward(squared(net(x)))


@case
def saved_in_the_run(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            torch.save(net, io.BytesIO())
            torch.save([net.state_dict(), optimizer.state_dict()], io.BytesIO())
            copy.deepcopy(optimizer)
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            record.read()
            optimizer.step()


@case
def accumulation(loop):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
    for x in loop.steps(net, data(3, 6, 4), Adam(net.parameters(), 0.01)):
        for part in x:
            loop.backward(squared(net(part)) / 3)


@case
def gradients_never_cleared(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net, 0.001)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            loop.backward(squared(net(x)))
            record.read(cleared=False)
            optimizer.step()


@case
def gradients_cleared_to_zero(loop):
    net = mlp(4, 5, 2)
    net.aside = nn.Linear(4, 2).double()
    optimizer = sgd(net)
    net[0].weight.grad = torch.ones(5, 4).double()
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            optimizer.zero_grad(set_to_none=False)
            loop.backward(squared(net[2](net[0](x))))
            record.read()
            optimizer.step()


def one_by_one(first, second):
    first.backward(retain_graph=True)
    second.backward()


def cancelling(first, second):
    first.backward(retain_graph=True)
    (-first).backward(retain_graph=True)
    second.backward()


@variants(
    losses_added=lambda first, second: (first + second).backward(),
    losses_backward_one_by_one=one_by_one,
    losses_that_cancel=cancelling,
    losses_backward_together=lambda first, second: torch.autograd.backward([first, second]),
)
def several_losses(loop, backward):
    net = Made(lambda s, x: s.body(x), body=mlp(4, 5, 5), one=nn.Linear(5, 2), two=nn.Linear(5, 3))
    for x in loop.steps(net, data(6, 4)):
        hidden = net(x)
        backward(squared(net.one(hidden)), -2 * squared(net.two(hidden)))
        loop.note(hidden.sum())


@case
def backward_into_some_parameters_only(loop):
    net = mlp(4, 5, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        loop.backward(squared(net(x)), inputs=[net[2].weight, net[4].weight])


@case
def gradient_penalty(loop):
    net = mlp(4, 5, 1)
    for x in loop.steps(net, data(6, 4)):
        y = net(x.requires_grad_())
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        loop.backward(y.mean() + (slope.norm(dim=1) - 1).square().mean())


@case
def gradient_penalty_on_another_forward(loop):
    net = mlp(4, 5, 1)
    for x in loop.steps(net, data(6, 4)):
        mixed = (x + torch.randn_like(x)).requires_grad_()
        (slope,) = torch.autograd.grad(net(mixed).sum(), mixed, create_graph=True)
        loop.backward(net(x).mean() + (slope.norm(dim=1) - 1).square().mean())


@case
def trained_by_autograd_grad(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            loss = squared(net(x))
            parameters = list(net.parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            record.read()
            optimizer.step()
            loop.note(loss)


@case
def trained_by_autograd_grad_one_loss_at_a_time(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            y = net(x)
            parameters = list(net.parameters())
            one = torch.autograd.grad(y[:, 0].square().mean(), parameters, retain_graph=True)
            two = torch.autograd.grad(y.mean(), parameters)
            for parameter, a, b in zip(parameters, one, two, strict=True):
                parameter.grad = a - (a * b).sum() / b.square().sum().clamp_min(1e-9) * b
            record.read()
            optimizer.step()
            loop.note(y.sum())
