"""The matrix: deep supervision on every architecture of the zoo, one row for each.

    python benchmarks/architectures.py [NAME ...] [--out benchmarks/results/architectures.md]

A NAME is a part of an architecture's name. Every check is made from outside, by the library's public names only.
The exit code is 1 if one of them fails. Needs transformers, monai and einops; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from report import Report
from torch import Tensor, nn
from zoo import ZOO, Architecture

import gradprobe as gp

PACKAGES = ("torch", "transformers", "monai", "einops", "gradprobe")
HEADINGS = (
    "architecture", "from", "layers", "points", "find, s", "supervise, s", "3 steps", "gradient changed",
    "cuts", "peeled", "places", "eval equal", "checkpoint", "removed", "row, s", "first points",
)  # fmt: skip


@dataclass
class Row:
    """What was found for one architecture: a word for each column, a sentence for each thing that is wrong."""

    architecture: Architecture
    cells: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def check(self, column: str, test: Callable[[], str]) -> None:
        """Put the test's word into the column; if it raises, ``NO`` and the last line of the error."""
        try:
            self.cells[column] = test()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.cells[column] = "NO"
            self.problems.append(f"{column}: {type(error).__name__}: {lines[-1]}")

    def all_cells(self) -> list[str]:
        """A word for every column, a dash where nothing was found."""
        return [self.cells.get(heading, "-") for heading in HEADINGS]


@dataclass
class Subject:
    """An architecture under examination, with its points and those chosen to be supervised."""

    architecture: Architecture
    points: Sequence[Any] = ()
    chosen: Sequence[Any] = ()

    def build(self, seed: int = 0) -> nn.Module:
        """A new model, in training mode; the same weights for the same seed."""
        torch.manual_seed(seed)
        return self.architecture.build().train()

    def call(self, model: nn.Module, inputs: Any = None) -> Any:
        """The model's output on the batch, with the random numbers of dropout the same each time."""
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
        """The model with branches at the chosen points."""
        names = [point.name for point in self.chosen]
        return gp.supervise(model, names, inputs=self.architecture.inputs(), branch=self.architecture.branch)


# ------------------------------------------------------------------------------------------------------- columns


def found(subject: Subject, row: Row) -> str:
    """Find the points; how many there are."""
    model = subject.build()
    row.cells["layers"] = str(sum(1 for module in model.modules() if module._parameters))
    inputs = subject.architecture.inputs()
    subject.points = gp.points(model, inputs)
    subject.chosen = spread(subject.points, 3)
    row.cells["first points"] = ", ".join(f"`{point.name}`" for point in spread(subject.points, 4))
    plain = fastest(lambda: subject.call(model))
    row.cells["find, s"] = f"{max(0.0, fastest(lambda: gp.points(model, inputs)) - plain):.3f}"
    assert subject.points, "no points"
    return str(len(subject.points))


def supervised(subject: Subject) -> str:
    """Seconds to put the branches on."""
    model = subject.build()
    start = time.perf_counter()
    net = subject.supervise(model)
    seconds = time.perf_counter() - start
    assert len(net.branches) == len(subject.chosen), (
        f"{len(net.branches)} branches for {len(subject.chosen)} points"
    )
    return f"{seconds:.3f}"


def trained(subject: Subject) -> str:
    """Three steps; the loss and every branch's gradients are finite."""
    net = subject.supervise(subject.build())
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        loss = subject.joint_loss(subject.call(net))
        loss.backward()
        assert torch.isfinite(loss), f"the loss is {loss.item()}"
        for name, parameter in net.branches.named_parameters():
            assert parameter.grad is not None, f"no gradient at the branch's {name}"
            assert parameter.grad.isfinite().all(), f"a gradient that is not finite at the branch's {name}"
        optimizer.step()
    return "yes"


def changed(subject: Subject) -> str:
    """At each supervised point a layer's gradient differs from the plain model's, and the output does not."""
    plain, net = subject.build(), subject.supervise(subject.build())
    output, prediction = subject.call(plain), subject.call(net)
    same(output, prediction.output, "the output in training")
    assert len(prediction.auxiliary) == len(subject.chosen)
    subject.loss(output).backward()
    subject.joint_loss(prediction).backward()
    for point in subject.chosen:
        differs = [layer for layer in point.layers if gradient_differs(plain, net.trunk, layer)]
        assert differs, f"no gradient changed at the layers of {point.name}"
    return "yes"


def cuts(subject: Subject, row: Row) -> str:
    """How many of the points lie on every path from the input to the loss; the others are in their own column."""
    examined = list(subject.points) if len(subject.points) <= 24 else spread(subject.points, 12)
    assert reaches(subject, None), "the input gets no gradient: the test says nothing"
    peeled = [point.name for point in examined if reaches(subject, point.name)]
    row.cells["peeled"] = str(len(peeled))
    allowed = subject.architecture.long_skips
    assert allowed or not peeled, f"inside a bypassed branch: {', '.join(peeled[:6])}"
    return f"{len(examined) - len(peeled)} of {len(examined)}"


def placed(subject: Subject) -> str:
    """The points that the architecture has to have are there, those that it must not have are not."""
    names = [point.name for point in subject.points]
    missing = [
        want for want in subject.architecture.expected if not any(re.fullmatch(want, name) for name in names)
    ]
    wrong = [name for name in names if any(re.fullmatch(no, name) for no in subject.architecture.forbidden)]
    assert not [*missing, *wrong], f"missing: {missing or 'none'}; must not be points: {wrong or 'none'}"
    return "yes"


def equal_in_eval(subject: Subject) -> str:
    """In evaluation the output is bit-equal to the plain model's."""
    with torch.no_grad():
        plain = subject.call(subject.build().eval())
        same(plain, subject.call(subject.supervise(subject.build()).eval()), "the output in eval")
    return "yes"


def checkpointed(subject: Subject) -> str:
    """A plain checkpoint loads into the network, its trunk's into a plain model, and its own into another."""
    other, back = subject.build(1).eval(), subject.build(2).eval()
    net, twin = (subject.supervise(subject.build(seed)) for seed in (3, 4))
    net.load_state_dict(other.state_dict())
    back.load_state_dict(net.trunk.state_dict())
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        output = subject.call(other)
        for model in (net.eval(), back, twin.eval()):
            same(output, subject.call(model), "the output after the round trip")
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), f"{name} did not travel"
    return "yes"


def removed(subject: Subject) -> str:
    """After a step and `remove` the trunk is as before: keys, class, hooks, the bytes of its pickle."""
    trunk = subject.build()
    weights = copy.deepcopy(trunk.state_dict())
    twice = []
    for _ in range(2):  # what the model itself leaves behind in a step, and differently in each, is none of ours
        subject.loss(subject.call(trunk)).backward()
        restore(trunk, weights)
        twice.append(traits(trunk))
    net = subject.supervise(trunk)
    subject.joint_loss(subject.call(net)).backward()
    net.remove()
    restore(trunk, weights)
    assert net.trunk is trunk, "another trunk"
    first, before, after = *twice, traits(trunk)
    stable = [name for name in before if before[name] == first[name]]
    differing = [name for name in stable if before[name] != after[name]]
    assert not differing, f"not as before: {', '.join(differing)}"
    return "yes" if before["pickle"] and "pickle" in stable else "yes (no pickle)"


# --------------------------------------------------------------------------------------------------- instruments


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Up to ``count`` of the items, evenly over their order."""
    number = min(count, len(items))
    return [items[(2 * index + 1) * len(items) // (2 * number)] for index in range(number)]


def fastest(run: Callable[[], Any]) -> float:
    """The least seconds of up to three runs, of one if it is slow."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < 0.5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def same(expected: Any, actual: Any, what: str) -> None:
    """Raise unless both are of one class and hold bit-equal tensors."""
    assert type(expected) is type(actual), f"{what}: {type(actual).__name__}, not {type(expected).__name__}"
    pairs = list(zip(tensors(expected), tensors(actual), strict=True))
    assert pairs, f"{what}: no tensors"
    assert all(torch.equal(one, other) for one, other in pairs), f"{what} differs"


def gradient_differs(plain: nn.Module, other: nn.Module, layer: str) -> bool:
    """Whether a gradient of the layer's own parameters differs by more than rounding."""
    pairs = zip(parameters_of(plain, layer), parameters_of(other, layer), strict=True)
    return any(differ(one.grad, two.grad) for one, two in pairs)


def parameters_of(model: nn.Module, layer: str) -> Iterator[nn.Parameter]:
    """The layer's own parameters, those of its parametrizations included."""
    module = model.get_submodule(layer)
    yield from module.parameters(recurse=False)
    yield from dict(module.named_children()).get("parametrizations", nn.Module()).parameters()


def differ(one: Tensor | None, two: Tensor | None) -> bool:
    """Whether two gradients differ by more than rounding; None is a gradient like no other."""
    if one is None or two is None:
        return one is not two
    return bool((one - two).norm() > 1e-5 * two.norm())


def reaches(subject: Subject, cut: str | None) -> bool:
    """Whether the loss has a gradient at the input when the outputs of the module ``cut`` are constants.

    The loss is scaled up: at random weights some gradients are below what single precision can hold.
    """
    model = subject.build().eval()
    source: list[Tensor] = []
    inputs = with_gradient(subject.architecture.inputs(), source)
    if not source:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(lambda _, __, output: first_gradient(output, source))
    if cut is not None:
        model.get_submodule(cut).register_forward_hook(lambda _, __, output: constant(output))
    loss = subject.loss(subject.call(model, inputs)) * 2.0**60
    if not loss.requires_grad:
        return False
    gradient = torch.autograd.grad(loss, source[0], allow_unused=True)[0]
    return gradient is not None and bool(gradient.any())


def with_gradient(inputs: Any, source: list[Tensor]) -> Any:
    """The inputs with the first floating one asking for a gradient; it is appended to ``source``."""
    if isinstance(inputs, Tensor):
        return first_gradient(inputs, source) if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {key: value if key == "labels" else with_gradient(value, source) for key, value in inputs.items()}
    return tuple(with_gradient(value, source) for value in inputs)


def first_gradient(tensor: Tensor, source: list[Tensor]) -> Tensor:
    """The tensor, or at the first call a leaf of the same values that asks for a gradient, noted in ``source``."""
    if source:
        return tensor
    source.append(tensor.detach().clone().requires_grad_())
    return source[0] * 1  # a network may begin with an in-place operation, which a leaf does not allow


def constant(output: Any) -> Any:
    """The output with all its floating tensors detached, in containers of the same kinds."""
    if isinstance(output, Tensor):
        return output.detach().clone() if output.is_floating_point() else output
    if isinstance(output, Mapping):
        return type(output)(**{key: constant(value) for key, value in output.items()})
    if isinstance(output, (tuple, list)):
        made = [constant(value) for value in output]
        return type(output)(*made) if hasattr(output, "_fields") else type(output)(made)
    return output


def restore(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """The weights and buffers as they were, no gradients."""
    model.load_state_dict(weights)
    model.zero_grad(set_to_none=True)


def traits(model: nn.Module) -> dict[str, Any]:
    """What can be told of a model from outside; no bytes for one that cannot be pickled as it comes."""
    hooks = [
        (name, kind, len(value))
        for name, module in model.named_modules()
        for kind, value in vars(module).items()
        if kind.endswith("_hooks") and value
    ]
    parameters = [name for name, parameter in model.named_parameters() if parameter._backward_hooks]
    try:
        pickled = pickle.dumps(model)
    except Exception:
        pickled = b""
    return {
        "class": type(model),
        "keys": list(model.state_dict()),
        "hooks": hooks,
        "hooks on parameters": parameters,
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "pickle": pickled,
    }


# ---------------------------------------------------------------------------------------------------------- rows


def examine(architecture: Architecture) -> Row:
    """All columns of one architecture."""
    row, subject = Row(architecture), Subject(architecture)
    start = time.perf_counter()
    row.cells |= {"architecture": architecture.name, "from": architecture.library}
    row.check("points", lambda: found(subject, row))
    if subject.chosen:
        row.check("places", lambda: placed(subject))
        row.check("cuts", lambda: cuts(subject, row))
        row.check("supervise, s", lambda: supervised(subject))
    if row.cells.get("supervise, s", "NO") != "NO":
        row.check("3 steps", lambda: trained(subject))
        row.check("gradient changed", lambda: changed(subject))
        row.check("eval equal", lambda: equal_in_eval(subject))
        row.check("checkpoint", lambda: checkpointed(subject))
        row.check("removed", lambda: removed(subject))
    row.cells["row, s"] = f"{time.perf_counter() - start:.1f}"
    return row


LEGEND = """\
Random weights, tiny sizes. A row fails where a check says NO; the errors stand below the table.

- *find*: seconds to find the points beyond a plain forward pass, the fastest of up to three.
- *3 steps*: of SGD on the joint loss; losses and all the branches' gradients are finite.
- *gradient changed*: at each of up to three supervised points against the plain model, on the same batch and with
  the same random numbers, while the trunk's own output is bit-equal.
- *cuts*: points without which no gradient reaches the input (their module's output is detached); *peeled*: the
  others, right only where long bypasses cross the network. All points, or 12 spread ones of more than 24.
- *places*: the points that the architecture must have are there and those that it must not have are not, as
  `benchmarks/zoo.py` says.
- *checkpoint*: a plain one into the network, its trunk's into a plain model, its own into another.
- *removed*: class, keys, hooks, attributes and the bytes of the trunk's pickle are as before; "no pickle" where
  the model cannot be pickled, or is pickled differently after each step of its own.
"""


def summary(rows: Sequence[Row]) -> list[str]:
    """How many rows fail, and why."""
    failing = [row for row in rows if row.problems]
    problems = [f"- **{row.architecture.name}** {problem}" for row in failing for problem in row.problems]
    return ["", f"{len(rows)} architectures, {len(failing)} failing.", *problems]


def chosen(names: Sequence[str]) -> list[Architecture]:
    """The architectures whose name contains one of the names; all without names."""
    wanted = [a for a in ZOO.values() if not names or any(name.lower() in a.name.lower() for name in names)]
    if not wanted:
        raise SystemExit(f"no architecture's name contains {' or '.join(names)}; there are {', '.join(ZOO)}")
    return wanted


def main(arguments: Sequence[str]) -> int:
    """Print the matrix, write it where asked; 1 if a row fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    report, rows = Report("Deep supervision on many architectures", LEGEND, packages=PACKAGES), []
    report.columns(*HEADINGS)
    for architecture in chosen(options.names):
        rows.append(examine(architecture))
        report.row(*rows[-1].all_cells())
    report.add(*summary(rows))
    report.write(options.out)
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
