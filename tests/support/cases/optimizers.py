"""Cases: several optimizers, closures, clipping, and graphs that outlive an iteration."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import LBFGS, SGD, Adam

from support.cases.loop import Made, case, data, mlp, plain, sgd, squared, variants


@variants(two_optimizers=False, two_optimizers_both_told=True)
def stepped_together(loop, told):
    net = mlp(4, 5, 2)
    optimizers = [SGD(net[0].parameters(), 0.1), Adam(net[2].parameters(), 0.01)]
    with loop.recording(net, optimizers if told else None) as record:
        for x in data(6, 4):
            net.zero_grad()
            loop.backward(squared(net(x)))
            record.read()
            for optimizer in optimizers:
                optimizer.step()


@case
def two_optimizers_both_told_in_turn(loop):
    net = Made(lambda s, x: s.judge(s.maker(x)), maker=mlp(3, 5, 4), judge=mlp(4, 5, 1))
    make, judge = Adam(net.maker.parameters(), 0.01), Adam(net.judge.parameters(), 0.01)
    with loop.recording(net, [make, judge]) as record:
        for x, noise in zip(data(6, 4), data(6, 3), strict=True):
            judge.zero_grad()
            loop.backward(net.judge(x).square().mean() - net.judge(net.maker(noise).detach()).mean())
            record.read(only=net.judge.parameters(), last=False)
            judge.step()
            make.zero_grad()
            loop.backward(net(noise).mean())
            record.read(only=net.maker.parameters())
            make.step()


@case
def adversaries_in_turn(loop):
    maker, judge = mlp(3, 5, 4), mlp(4, 5, 1)
    make, judged = Adam(maker.parameters(), 0.01), Adam(judge.parameters(), 0.01)
    with loop.recording(maker, make) as maker_record, loop.recording(judge, judged) as judge_record:
        for x, noise in zip(data(6, 4), data(6, 3), strict=True):
            judged.zero_grad()
            judge_record.forget()
            loop.backward(F.softplus(judge(maker(noise).detach())).mean() + F.softplus(-judge(x)).mean())
            judge_record.read()
            judged.step()
            make.zero_grad()
            loop.backward(F.softplus(-judge(maker(noise))).mean())
            maker_record.read()
            make.step()


@case
def adversary_frozen_in_the_turn_of_the_other(loop):
    maker, judge = mlp(3, 5, 4), mlp(4, 5, 1)
    make, judged = Adam(maker.parameters(), 0.01), Adam(judge.parameters(), 0.01)
    with loop.recording(maker, make) as maker_record, loop.recording(judge, judged) as judge_record:
        for x, noise in zip(data(6, 4), data(6, 3), strict=True):
            judge.requires_grad_(False)
            make.zero_grad()
            loop.backward(F.softplus(-judge(maker(noise))).mean())
            maker_record.read()
            make.step()
            judge.requires_grad_(True)
            judged.zero_grad()
            judge_record.forget()
            loop.backward(F.softplus(judge(maker(noise).detach())).mean() + F.softplus(-judge(x)).mean())
            judge_record.read()
            judged.step()


@case
def trained_on_adversarial_examples(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(squared(net(x)), x)
        loop.backward(squared(net((x + 0.1 * slope.sign()).detach())))


@case
def actor_and_critic_in_one_model(loop):
    net = Made(lambda s, x: (s.actor(x), s.critic(x)), actor=mlp(4, 5, 2), critic=mlp(4, 5, 1))
    actor, critic = SGD(net.actor.parameters(), 0.1), SGD(net.critic.parameters(), 0.1)
    with loop.recording(net, actor) as record:
        for x in data(6, 4):
            critic.zero_grad()
            loop.backward((net(x)[1] - x.sum()).square().mean())
            critic.step()
            critic.zero_grad()
            actor.zero_grad()
            action, value = net(x)
            loop.backward((action.log_softmax(1).mean(1, keepdim=True) * value.detach()).mean())
            record.read(only=net.actor.parameters())
            actor.step()


@variants(
    sgd_with_a_closure=lambda parameters: SGD(parameters, 0.1),
    lbfgs_of_one_evaluation=lambda parameters: LBFGS(parameters, lr=0.1, max_iter=1),
    lbfgs_of_many_evaluations=lambda parameters: LBFGS(parameters, 0.1, max_iter=4, line_search_fn="strong_wolfe"),
)
def closures(loop, make):
    net = mlp(4, 5, 2)
    optimizer = make(net.parameters())
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            calls = []

            def closure(x=x, calls=calls):
                optimizer.zero_grad()
                loss = loop.backward(squared(net(x)))
                if not calls:  # the gradients that the optimizer begins with
                    record.read()
                calls.append(loss)
                return loss

            optimizer.step(closure)
            record.forget()


@case
def clipped_by_norm(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        loop.backward(squared(net(x)))
        clip_grad_norm_(net.parameters(), 1e-3)


@case
def clipped_by_value_and_decayed(loop):
    net = mlp(4, 5, 2)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            clip_grad_value_(net.parameters(), 1e-2)
            record.read()
            optimizer.step()
            schedule.step()


@plain
def parameter_hooks_that_change_gradients():
    net = mlp(4, 5, 2)
    net[0].weight.register_hook(lambda gradient: gradient * 3)
    return net, data(6, 4)


@case
def optimizer_in_the_backward_pass(loop):
    net = mlp(4, 5, 2)
    steps = {parameter: SGD([parameter], 0.1) for parameter in net.parameters()}

    def now(parameter):
        steps[parameter].step()
        steps[parameter].zero_grad()

    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(now)
    with loop.recording(net) as record:
        for x in data(6, 4):
            loop.backward(squared(net(x)))
            record.read()


@case
def sharpness_aware(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            optimizer.zero_grad()
            squared(net(x)).backward()
            moves = [0.05 * parameter.grad for parameter in net.parameters()]
            with torch.no_grad():
                for parameter, move in zip(net.parameters(), moves, strict=True):
                    parameter.add_(move)
            optimizer.zero_grad()
            record.forget()
            loop.backward(squared(net(x)))
            with torch.no_grad():
                for parameter, move in zip(net.parameters(), moves, strict=True):
                    parameter.sub_(move)
            record.read()
            optimizer.step()


@case
def backpropagation_through_time_truncated(loop):
    net = Made(None, rnn=nn.LSTM(3, 4), head=nn.Linear(4, 1))
    state = None
    for x in loop.steps(net, data(4, 2, 3, count=4)):
        y, state = net.rnn(x, state)
        loop.backward(squared(net.head(y)))
        state = tuple(part.detach() for part in state)


@case
def graph_kept_over_two_iterations(loop):
    net = mlp(4, 5, 2)
    optimizer = SGD(net.parameters(), 0.0)
    before = None
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4, count=4):
            optimizer.zero_grad()
            y = net(x)
            loop.backward(squared(y) + (0 if before is None else (y * before).mean()), retain_graph=True)
            before = y
            record.read()
            # lr 0 would still count as an in-place change of what the kept graph needs
            optimizer.param_groups[0]["params"] = []
            optimizer.step()
            optimizer.param_groups[0]["params"] = list(net.parameters())


@case
def forward_in_one_iteration_backward_in_the_next(loop):
    net = Made(lambda s, x: s.b(s.a(x).tanh()), a=nn.Linear(4, 4), b=nn.Linear(4, 2))
    extra = nn.Parameter(torch.ones(1).double())
    optimizer = SGD([extra], 0.1)
    waiting = None
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4, count=4):
            optimizer.zero_grad()
            net.zero_grad()
            y = net(x)
            if waiting is not None:
                (squared(waiting) * extra).sum().backward()
            waiting = y
            record.read()
            optimizer.step()
            loop.note(extra)
