"""The checks of one architecture, one for each column of the matrix: each returns its word, or raises."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import gradprobe as gp
from benchmarks.architectures.instruments import (
    assert_same,
    fastest_of_three,
    gradient_differs,
    gradient_reaches_input,
    restore,
    spread,
    traits,
)
from benchmarks.architectures.zoo import Architecture


@dataclass
class Subject:
    """An architecture that is examined, with its points and those that are supervised."""

    architecture: Architecture
    points: Sequence[Any] = ()
    supervised: Sequence[Any] = ()

    def build(self, seed: int = 0) -> nn.Module:
        """A new model, in training mode; the same weights for the same seed."""
        torch.manual_seed(seed)
        return self.architecture.build().train()

    def call(self, model: nn.Module, inputs: Any = None) -> Any:
        """The model's output on the batch, with the same random numbers in dropout each time."""
        inputs = self.architecture.inputs() if inputs is None else inputs
        torch.manual_seed(5)
        if isinstance(inputs, dict):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)

    def loss(self, output: Any) -> Tensor:
        """The plain loss of a plain output."""
        return self.architecture.loss(output, self.architecture.target())

    def joint_loss(self, prediction: Any) -> Tensor:
        """The loss of trunk and branches."""
        criterion = gp.DeepSupervisionLoss(self.architecture.loss, weight=0.3, schedule="constant")
        joint: Tensor = criterion(prediction, self.architecture.target())
        return joint

    def supervise(self, model: nn.Module) -> Any:
        """The model with branches at the points to be supervised."""
        names = [point.name for point in self.supervised]
        return gp.supervise(model, names, inputs=self.architecture.inputs(), branch=self.architecture.branch)


def find_points(subject: Subject, cells: dict[str, str]) -> str:
    """Find the points; how many there are."""
    model = subject.build()
    cells["layers"] = str(sum(1 for module in model.modules() if module._parameters))
    inputs = subject.architecture.inputs()
    subject.points = gp.points(model, inputs)
    subject.supervised = spread(subject.points, 3)
    cells["first points"] = ", ".join(f"`{point.name}`" for point in spread(subject.points, 4))
    plain = fastest_of_three(lambda: subject.call(model))
    cells["find, s"] = f"{max(0.0, fastest_of_three(lambda: gp.points(model, inputs)) - plain):.3f}"
    assert subject.points, "no points"
    return str(len(subject.points))


def add_branches(subject: Subject) -> str:
    """Seconds to add the branches."""
    model = subject.build()
    start = time.perf_counter()
    net = subject.supervise(model)
    seconds = time.perf_counter() - start
    assert len(net.branches) == len(subject.supervised), (
        f"{len(net.branches)} branches for {len(subject.supervised)} points"
    )
    return f"{seconds:.3f}"


def train_three_steps(subject: Subject) -> str:
    """In three steps the loss and the gradients of every branch are finite."""
    net = subject.supervise(subject.build())
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        loss = subject.joint_loss(subject.call(net))
        loss.backward()
        assert torch.isfinite(loss), f"the loss is {loss.item()}"
        for name, parameter in net.branches.named_parameters():
            assert parameter.grad is not None, f"no gradient at the branch's {name}"
            assert parameter.grad.isfinite().all(), f"a gradient at the branch's {name} is not finite"
        optimizer.step()
    return "yes"


def gradient_changed(subject: Subject) -> str:
    """At each supervised point a layer's gradient differs from the plain model's; the output is the same."""
    plain, net = subject.build(), subject.supervise(subject.build())
    output, prediction = subject.call(plain), subject.call(net)
    assert_same(output, prediction.output, "the output in training")
    assert len(prediction.auxiliary) == len(subject.supervised)
    subject.loss(output).backward()
    subject.joint_loss(prediction).backward()
    for point in subject.supervised:
        changed = any(gradient_differs(plain, net.trunk, layer) for layer in point.layers)
        assert changed, f"no gradient changed at the layers of {point.name}"
    return "yes"


def cuts(subject: Subject, cells: dict[str, str]) -> str:
    """How many of the points lie on every path from the input to the loss; the others are counted as peeled."""
    examined = list(subject.points) if len(subject.points) <= 24 else spread(subject.points, 12)
    assert reaches(subject, None), "the input gets no gradient even without a cut, so nothing is tested"
    peeled = [point.name for point in examined if reaches(subject, point.name)]
    cells["peeled"] = str(len(peeled))
    allowed = subject.architecture.long_skips
    assert allowed or not peeled, f"inside a bypassed branch: {', '.join(peeled[:6])}"
    return f"{len(examined) - len(peeled)} of {len(examined)}"


def places(subject: Subject) -> str:
    """The points that the architecture has to have are there, and none that it must not have."""
    names = [point.name for point in subject.points]
    expected, forbidden = subject.architecture.expected, subject.architecture.forbidden
    missing = [pattern for pattern in expected if not any(re.fullmatch(pattern, name) for name in names)]
    wrong = [name for name in names if any(re.fullmatch(pattern, name) for pattern in forbidden)]
    assert not [*missing, *wrong], f"missing: {missing or 'none'}; must not be points: {wrong or 'none'}"
    return "yes"


def equal_in_eval(subject: Subject) -> str:
    """In eval mode the output is bit-equal to the plain model's."""
    with torch.no_grad():
        plain = subject.call(subject.build().eval())
        assert_same(plain, subject.call(subject.supervise(subject.build()).eval()), "the output in eval")
    return "yes"


def checkpoint(subject: Subject) -> str:
    """A plain checkpoint loads into the network, its trunk's into a plain model, and its own into another one."""
    other, back = subject.build(1).eval(), subject.build(2).eval()
    net, twin = (subject.supervise(subject.build(seed)) for seed in (3, 4))
    net.load_state_dict(other.state_dict())
    back.load_state_dict(net.trunk.state_dict())
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        output = subject.call(other)
        for model in (net.eval(), back, twin.eval()):
            assert_same(output, subject.call(model), "the output after the round trip")
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), f"{name} was not restored"
    return "yes"


def removed(subject: Subject) -> str:
    """After a step and `remove` the trunk is as before: keys, class, hooks, the bytes of its pickle."""
    trunk = subject.build()
    weights = copy.deepcopy(trunk.state_dict())
    twice = []
    for _ in range(2):  # a model may itself change something in each step: that is not compared
        subject.loss(subject.call(trunk)).backward()
        restore(trunk, weights)
        twice.append(traits(trunk))
    net = subject.supervise(trunk)
    subject.joint_loss(subject.call(net)).backward()
    net.remove()
    restore(trunk, weights)
    assert net.trunk is trunk, "another trunk"
    (first, before), after = twice, traits(trunk)
    stable = [name for name in before if before[name] == first[name]]
    differing = [name for name in stable if before[name] != after[name]]
    assert not differing, f"not as before: {', '.join(differing)}"
    return "yes" if before["pickle"] and "pickle" in stable else "yes (no pickle)"


def reaches(subject: Subject, cut: str | None) -> bool:
    """Whether the loss has a gradient at the input when the outputs of the module ``cut`` are constants."""
    return gradient_reaches_input(
        subject.build().eval(),
        subject.architecture.inputs(),
        lambda model, inputs: subject.loss(subject.call(model, inputs)),
        cut,
    )
