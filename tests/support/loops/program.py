"""A training loop as data, and in words.

A loop is a list of operations, executed in each of a few turns. A slot is what a forward pass returned: slots are
counted from the newest, 0, modulo the number of those that can still be used. An operation that makes no sense
where it stands (a slot that is used up, a scaler that has seen nothing) does nothing, so that every list of
operations is a loop and a failing one can be made shorter by leaving operations out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

CLEARS = (
    "optimizer.zero_grad",
    "optimizer.zero_grad(set_to_none=False)",
    "model.zero_grad",
    "model.zero_grad(set_to_none=False)",
    "p.grad = None",
    "p.grad.zero_",
    "_foreach_zero_",
    "p.grad.detach().zero_",
    "p.grad.data.zero_",
    "p.grad.fill_(0)",
    "p.grad *= 0",
    "p.grad[:] = 0",
    "p.grad = zeros",
    "del p.grad",
)
PENALTIES = ("input gradient", "parameter gradient", "func.grad", "func.jvp", "func.vmap", "func.jacrev")
PUT_BACK = ("p.grad = g", "p.grad.copy_(g)", "p.grad += saved")
COMBINED = ("sum", "average", "projected")
CLIPS = ("norm", "value", "p.grad.mul_", "p.grad = p.grad * .5", "noise added")


@dataclass(frozen=True)
class Operation:
    """One line of a loop; executed in every turn, or in each ``every``-th only."""

    def __str__(self):
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        shown = [f"{name}={value!r}" for name, value in values if value not in (None, (), False) or name == "slot"]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True)
class Clear(Operation):
    """Gradients are cleared.

    Attributes:
        means: One of `CLEARS`.
        target: Number of an optimizer (of a model, where the means is the model's).
        part: ``"all"``, the ``"trunk"`` or the ``"heads"``, where the means is one for single parameters.
    """

    means: str
    target: int = 0
    part: str = "all"


@dataclass(frozen=True)
class Freeze(Operation):
    """``requires_grad_`` of a model's trained parameters, or those of a part of it."""

    target: int
    flag: bool
    part: str = "all"


@dataclass(frozen=True)
class Forward(Operation):
    """A forward pass, which makes a slot.

    Attributes:
        chain: Numbers of the models, one after the other.
        source: None for a fresh batch, else the slot whose output is the input.
        detached: Whether that input is detached.
        checkpointing: None, or ``use_reentrant``.
        leaf: Whether the input requires a gradient of its own.
        mode: ``"train"``, ``"eval"`` or ``"no_grad"``; without gradients there is no slot.
    """

    chain: tuple[int, ...]
    source: int | None = None
    detached: bool = False
    checkpointing: bool | None = None
    leaf: bool = False
    mode: str = "train"


@dataclass(frozen=True)
class Backward(Operation):
    """A backward pass.

    Attributes:
        slot: Which output; ``second``, where not None, is another that is added to the same loss.
        terms: Which of the losses 0 and 1 are added up.
        penalty: None, or one of `PENALTIES`.
        retain: Whether the graph is kept.
        scaler: Which scaler, where there is one.
        inputs: None, or the number of the optimizer whose parameters alone get gradients.
        means: ``"loss.backward"``, ``"autograd.backward"`` or ``"with gradient"`` (a weight of two on the output).
        overflows: Whether the loss is infinite; only with a scaler, which then skips the step.
    """

    slot: int = 0
    second: int | None = None
    terms: tuple[int, ...] = (0, 1)
    penalty: str | None = None
    retain: bool = False
    scaler: int = 0
    inputs: int | None = None
    means: str = "loss.backward"
    overflows: bool = False


@dataclass(frozen=True)
class Take(Operation):
    """``torch.autograd.grad`` for an optimizer's parameters.

    Attributes:
        then: ``"looked at"``, or how the gradients come into ``.grad``: ``"set"``, ``"added"``, ``"copied"``.
    """

    slot: int = 0
    terms: tuple[int, ...] = (0, 1)
    target: int = 0
    then: str = "looked at"
    retain: bool = True


@dataclass(frozen=True)
class PerTask(Operation):
    """Each loss' gradient by itself, and then a combination of them put back by hand.

    Attributes:
        how: ``"backward"`` with clearing between them, or ``"autograd.grad"``.
        combined: One of `COMBINED`.
        put: One of `PUT_BACK`.
        means: How gradients are cleared between.
        second: The slot of the second loss; None: that of the first.
    """

    slot: int = 0
    target: int = 0
    how: str = "backward"
    combined: str = "sum"
    put: str = "p.grad = g"
    means: str = "optimizer.zero_grad"
    scaler: int = 0
    second: int | None = None


@dataclass(frozen=True)
class Functional(Operation):
    """The gradients of one model by ``torch.func.grad`` over its parameters, set by hand."""

    target: int = 0
    terms: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Perturb(Operation):
    """Weights are moved along their gradient, or put back (sharpness-aware minimization)."""

    target: int
    back: bool = False


@dataclass(frozen=True)
class Step(Operation):
    """An optimizer steps.

    Attributes:
        clip: None or one of `CLIPS`.
        unscale: Whether a scaler's ``unscale_`` is called before.
        closure: Whether a closure clears, computes and goes back; an LBFGS always has one.
    """

    target: int = 0
    clip: str | None = None
    unscale: bool = False
    closure: bool = False


@dataclass(frozen=True)
class Program:
    """A training loop.

    Attributes:
        nets: The blocks of each model.
        optimizers: For each: its kind, and what it holds: ``(model, part)``.
        scalers: Initial scales of gradient scalers; loss ``i`` has scaler ``i`` modulo their number.
        growing: Whether scales double at each update.
        body: The operations, each with the turns that it is executed in: all, or every second one.
        turns: How often the body is executed.
        window: Length of the record.
        stats: ``"all"`` or ``"mean"``.
        seed: Of weights and data.
    """

    nets: tuple[tuple[str, ...], ...]
    optimizers: tuple[tuple[str, int, str], ...]
    body: tuple[tuple[Operation, int], ...]
    scalers: tuple[float, ...] = ()
    growing: bool = False
    turns: int = 3
    window: int = 3
    stats: str = "all"
    seed: int = 0

    def __str__(self):
        lines = [
            f"model {i}: stem, {', '.join(net) or 'no trunk'}, heads a and b" for i, net in enumerate(self.nets)
        ]
        lines += [
            f"optimizer {i}: {kind} of {part} of model {model}"
            for i, (kind, model, part) in enumerate(self.optimizers)
        ]
        if self.scalers:
            lines.append(f"scalers: {self.scalers}{', growing' if self.growing else ''}")
        lines.append(f"window {self.window}, stats {self.stats}, seed {self.seed}")
        lines.append(f"{self.turns} times:")
        lines += [f"    {op}" + ("" if every == 1 else f"  # every {every}nd turn") for op, every in self.body]
        return "\n".join(lines)

    def tags(self):
        """What is in it, for counting."""
        found = {f"net: {block}" for net in self.nets for block in net}
        found |= {f"optimizer: {kind}" for kind, _, _ in self.optimizers}
        found |= {
            f"optimizers: {len(self.optimizers)}",
            f"models: {len(self.nets)}",
            f"scalers: {len(self.scalers)}",
        }
        for op, _ in self.body:
            found |= {f"{type(op).__name__}", *_details(op)}
        return sorted(found)


DETAILS = ("means", "penalty", "then", "how", "clip", "checkpointing", "retain", "closure", "inputs", "mode")
DETAILS += ("overflows",)


def _details(op):
    name = type(op).__name__
    for field in (
        "means",
        "penalty",
        "then",
        "how",
        "clip",
        "checkpointing",
        "retain",
        "closure",
        "inputs",
        "mode",
    ):
        value = getattr(op, field, None)
        if value not in (None, False) or (field == "checkpointing" and value is not None):
            yield f"{name}.{field}: {value if field != 'inputs' else 'some'}"
