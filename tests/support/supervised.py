"""Supervised networks, what they compute written out without hooks, and comparisons of the two."""

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import gradprobe as gp
from gradprobe.network.tensors import main_tensor

POINTS = ["norm", "act", "block"]
WEIGHT = 0.7


class Block(nn.Module):
    """A residual block, optionally with a checkpoint around its first half."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.conv, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.reentrant = reentrant

    def first_half(self, x):
        return torch.relu(self.conv(x))

    def forward(self, x):
        if self.reentrant is None:
            y = self.first_half(x)
        else:
            y = checkpoint(self.first_half, x, use_reentrant=self.reentrant)
        y = self.second(y)
        y += x
        return y


class Residual(nn.Module):
    """In-place operations after every point, batch norm, a residual block, dropout."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.block = Block(reentrant)
        self.dropout = nn.Dropout(0.0)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.block(self.act(self.norm(self.stem(x))))
        return self.fc(self.dropout(x.relu_().mean((2, 3))))


class ByHand(nn.Module):
    """What a supervised `Residual` computes, written out: no hooks, nothing in place."""

    def __init__(self, net):
        super().__init__()
        self.trunk, self.branches = copy.deepcopy((net.trunk, net.branches))

    def forward(self, x):
        t = self.trunk
        points = {"norm": t.norm(t.stem(x))}
        points["act"] = torch.relu(points["norm"])
        points["block"] = t.block.second(torch.relu(t.block.conv(points["act"]))) + points["act"]
        output = t.fc(t.dropout(torch.relu(points["block"]).mean((2, 3))))
        predictions = (branch(points[key.removeprefix("at_")]) for key, branch in self.branches.items())
        return gp.SupervisedOutput(output, tuple(predictions))


def images(dtype=torch.float64, seed=2):
    return torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def classes():
    return torch.tensor([0, 1, 2, 0, 1, 2])


def supervised(names=POINTS, dtype=torch.float64, branch="pooled", reentrant=None):
    torch.manual_seed(0)
    trunk = Residual(reentrant).to(dtype)
    return gp.supervise(trunk, names, inputs=images(dtype), branch=branch)


def criterion(loss_fn=cross_entropy, **arguments):
    return gp.DeepSupervisionLoss(loss_fn, weight=WEIGHT, schedule="constant", **arguments)


def joint(prediction, target, loss_fn=cross_entropy):
    """The joint loss of a written-out network, written out."""
    return loss_fn(prediction.output, target) + WEIGHT * sum(loss_fn(z, target) for z in prediction.auxiliary)


def flat(prediction):
    return main_tensor(prediction.output), *prediction.auxiliary


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(mine, theirs, **tolerances):
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        torch.testing.assert_close(
            value, theirs[name], msg=lambda text, name=name: f"{name}: {text}", **tolerances
        )


def assert_same_gradients(mine, theirs, every=True, **tolerances):
    assert not every or len(gradients(mine)) == len(list(mine.parameters()))
    assert_same(gradients(mine), gradients(theirs), **tolerances)


def hand_step(net):
    hand = ByHand(net)
    joint(hand(images()), classes()).backward()
    return hand


# In-place operations after a point


class Changing(nn.Module):
    """A point, and after it a change of its output that may be in place, by the number of the forward pass."""

    def __init__(self, changes):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
        self.changes, self.passes = changes, 0

    def forward(self, x):
        self.passes += 1
        return self.last(self.changes(self.first(x), self.passes))


class Operators(TorchDispatchMode):
    """The operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))
