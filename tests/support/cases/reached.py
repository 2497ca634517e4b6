"""Cases: parts that are not always reached, and other ways to call a model."""

from __future__ import annotations

import contextlib
import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from support.cases.loop import Made, case, data, mlp, plain, sgd, squared, variants

# --- parts that are not always reached -------------------------------------------------------------------------


@plain
def experts_unreached_in_some_iterations():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
            self.turn = -1

        def forward(self, x):
            self.turn += 1
            return x + self.experts[self.turn % 3](x)

    return nn.Sequential(nn.Linear(4, 4), Mixture(), nn.Linear(4, 2)).double(), data(6, 4, count=5)


@plain
def router_sends_no_token():
    def routed(net, x):
        where = torch.arange(len(x)) % 2 if net.calls else torch.zeros(len(x), dtype=torch.long)
        net.calls += 1
        y = torch.zeros_like(x)
        for index, expert in enumerate(net.experts):
            y = y.index_add(0, (where == index).nonzero()[:, 0], expert(x[where == index]))
        return y

    net = Made(routed, experts=nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
    net.calls = 0
    return net, data(6, 4)


@plain
def layer_never_called():
    return Made(lambda s, x: s.a(x), a=nn.Linear(4, 2), never=nn.Linear(3, 3)), data(6, 4)


@plain
def layer_without_a_path_to_the_loss():
    return Made(lambda s, x: (s.a(x), s.aside(x))[0], a=nn.Linear(4, 2), aside=nn.Linear(4, 3)), data(6, 4)


@plain
def detached_branch():
    net = Made(lambda s, x: s.c(s.a(x) + s.b(x).detach()), a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 1))
    return net, data(6, 4)


@plain
def stochastic_depth():
    def skipped(net, x):
        for block in net.blocks:
            x = x + torch.tanh(block(x)) if torch.rand(()) > 0.5 else x
        return net.head(x)

    blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    return Made(skipped, blocks=blocks, head=nn.Linear(4, 1)), data(6, 4, count=5)


@case
def average_by_deepcopy_in_the_run(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        target = copy.deepcopy(net)
        for x in data(6, 4, count=4):
            optimizer.zero_grad()
            with torch.no_grad():
                wanted = target(x)
            loop.backward((net(x) - wanted - 1).square().mean())
            record.read()
            optimizer.step()
            with torch.no_grad():
                for mean, new in zip(target.parameters(), net.parameters(), strict=True):
                    mean.lerp_(new, 0.5)


@case
def copy_trained_beside_the_original(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        twin = copy.deepcopy(net)
        for x in data(6, 4):
            squared(twin(10 * x)).backward()
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            record.read()
            optimizer.step()


@plain
def teacher_inside_the_model():
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.online, self.target = mlp(4, 5, 2), mlp(4, 5, 2).requires_grad_(False)

        def forward(self, x):
            return self.online(x) - self.target(x).detach()

    return Student(), data(6, 4)


@plain
def frozen_layers():
    net = mlp(4, 5, 5, 2)
    net[0].requires_grad_(False)
    net[2].requires_grad_(False)
    return net, data(6, 4)


@case
def frozen_in_the_run(loop):
    net = mlp(4, 5, 5, 2)
    for iteration in loop.changes(net, data(6, 4, count=4)):
        net[2].requires_grad_(iteration < 2)


@case
def frozen_in_the_run_with_old_gradients_left(loop):
    net = mlp(4, 5, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        for iteration, x in enumerate(data(6, 4, count=4)):
            optimizer.zero_grad(set_to_none=False)
            net[2].requires_grad_(iteration < 2)
            loop.backward(squared(net(x)))
            record.read()
            optimizer.step()


@case
def unfrozen_in_the_run(loop):
    net = mlp(4, 5, 5, 2)
    net[0].requires_grad_(False)
    for iteration in loop.changes(net, data(6, 4, count=4)):
        net[0].requires_grad_(iteration >= 2)


@case
def module_added_in_the_run(loop):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    for iteration in loop.changes(net, data(6, 4, count=4)):
        if iteration == 2:
            net.append(nn.Linear(4, 2).double())


@case
def head_replaced_in_the_run(loop):
    net = Made(lambda s, x: s.head(s.body(x)), body=nn.Linear(4, 4), head=nn.Linear(4, 2))
    for iteration in loop.changes(net, data(6, 4, count=4)):
        if iteration == 2:
            net.head = nn.Linear(4, 3).double()


@case
def parameter_replaced_in_the_run(loop):
    net = mlp(4, 5, 2)
    for iteration in loop.changes(net, data(6, 4, count=4)):
        if iteration == 2:
            net[0].weight = nn.Parameter(torch.randn(5, 4).double())


# --- other ways to call a model --------------------------------------------------------------------------------


@case
def functional_call(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        scaled = {name: parameter * 2 for name, parameter in net.named_parameters()}
        loop.backward(squared(torch.func.functional_call(net, scaled, (x,))))


@case
def inner_step_of_meta_learning(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        named = dict(net.named_parameters())
        inner = torch.autograd.grad(squared(net(x)), list(named.values()), create_graph=True)
        fast = {name: p - 0.1 * g for (name, p), g in zip(named.items(), inner, strict=True)}
        loop.backward(squared(torch.func.functional_call(net, fast, (x,))))


@variants(frozen_batchnorm=True, frozen_batchnorm_without_gradients=False)
def batchnorm_in_eval(loop, gradients):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double()
    net[1].eval().requires_grad_(gradients)
    loop.fit(net, data(6, 4))


@variants(
    no_grad_passes_between=torch.no_grad,
    inference_mode_passes_between=torch.inference_mode,
    validation_pass_with_a_graph_never_used=contextlib.nullcontext,
)
def with_a_pass_between(loop, context):
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.2), nn.Linear(5, 2)).double()
    for x in loop.steps(net, data(6, 4)):
        with context():
            net.eval()
            squared(net(3 * x))
            net.train()
        loop.backward(squared(net(x)))
        with context():
            net(x[:2])


@plain
def keywords_only():
    class Keyed(nn.Linear):
        def forward(self, *, inputs, scale=2.0):
            return super().forward(inputs) * scale

    return Made(lambda s, x: s.b(inputs=s.a(inputs=x)), a=Keyed(4, 5), b=Keyed(5, 2)), data(6, 4)


@plain
def forward_bypassed():
    net = Made(lambda s, x: s.b(F.linear(x, s.a.weight, s.a.bias).relu()), a=nn.Linear(4, 5), b=nn.Linear(5, 2))
    return net, data(6, 4)


@plain
def own_autograd_function():
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.view_as(x)

        @staticmethod
        def backward(context, gradient):
            return -0.5 * gradient

    net = Made(lambda s, x: s.b(Reversed.apply(s.a(x))), a=nn.Linear(4, 5), b=nn.Linear(5, 2))
    return net, data(6, 4)


@variants(checkpointed_reentrant=True, checkpointed_not_reentrant=False)
def checkpointed(loop, reentrant):
    def forward(net, x):
        return net.b(checkpoint(net.block, net.a(x), use_reentrant=reentrant))

    loop.fit(Made(forward, a=nn.Linear(4, 4), block=mlp(4, 6, 4), b=nn.Linear(4, 2)), data(6, 4))


@case
def checkpointed_with_dropout_and_accumulation(loop):
    block = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 4))
    net = Made(lambda s, x: checkpoint(s.block, s.a(x), use_reentrant=True), a=nn.Linear(4, 4), block=block)
    for x in loop.steps(net, data(2, 6, 4)):
        for part in x:
            loop.backward(squared(net(part)))
