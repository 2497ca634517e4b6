"""A network's evidence is of the backward passes of its own threads."""

import threading

import pytest
import torch
from torch import nn

import gradprobe as gp


class InBackward(torch.autograd.Function):
    """Calls a function in the middle of a backward pass."""

    @staticmethod
    def forward(ctx, x, call):
        ctx.call = call
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.call()
        return gradient, None


def passes_elsewhere(call):
    """Begin a backward pass through another network in a thread of its own; call a function in its middle."""
    loss = InBackward.apply(nn.Linear(3, 1)(torch.full((2, 3), 1e3)), call).sum()
    thread = threading.Thread(target=loss.backward)
    thread.start()
    return thread


def losses_of(backward):
    """The losses of three iterations, and those that were recorded; ``backward`` takes a network and its batch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    with gp.GradientProbe(net, optimizer=optimizer, iterations=3) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            losses.append(backward(net, torch.ones(2, 3)).item())
            optimizer.step()
    return losses, probe.history.evidence.network["losses"]


def test_a_pass_of_another_network_in_another_thread_is_no_part_of_it():
    def both_at_once(net, x):
        begun, go_on = threading.Event(), threading.Event()

        def meanwhile():
            begun.set()
            assert go_on.wait(60)

        thread = passes_elsewhere(meanwhile)
        assert begun.wait(60)
        loss = net(x).square().mean()
        loss.backward()
        go_on.set()
        thread.join()
        return loss

    losses, recorded = losses_of(both_at_once)
    assert recorded == pytest.approx(losses, rel=1e-5)


def test_the_backward_pass_may_be_in_another_thread_than_the_forward_pass():
    def elsewhere(net, x):
        loss = net(x).square().mean()
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
        return loss

    losses, recorded = losses_of(elsewhere)
    assert recorded == pytest.approx(losses, rel=1e-5)


def test_a_pass_of_another_thread_may_begin_at_a_node_and_not_at_a_loss():
    def at_a_node(net, x):
        loss = net(x).square().mean()
        loss.backward()
        other = nn.Linear(3, 1)(x).sum()
        edge = torch.autograd.graph.get_gradient_edge(other)
        thread = threading.Thread(target=torch.autograd.backward, args=([edge], [torch.ones(())]))
        thread.start()
        thread.join()
        return loss

    losses, recorded = losses_of(at_a_node)
    assert recorded == pytest.approx(losses, rel=1e-5)
