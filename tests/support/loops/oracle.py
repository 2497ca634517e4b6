"""The account of a loop in float64: which passes are in the ``.grad`` of which parameter, what outputs they reach.

An output's gradient is that of the backward passes whose gradient is in the ``.grad`` of the layer's weights when
the layer's optimizer steps. Which those are follows from the operations, one after the other: a pass adds itself,
a clear takes all away, a gradient that is put by hand brings its passes. What each pass gives is asked of
autograd, apart from the pass itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import torch

from support.loops.machine import Machine
from support.loops.nets import layers_of


@dataclass(frozen=True)
class Expected:
    """What a row of the table has to be.

    Attributes:
        value: The statistics, or None where no gradient is to be shown.
        others: Statistics that are another reading of the same loop, by the name of the reading.
    """

    value: tuple[float, ...] | None
    others: dict[str, tuple[float, ...] | None]


@dataclass(frozen=True)
class Counting:
    """The passes that count for a layer: by the definition, and by another reading of it."""

    strict: frozenset[int]
    all_since: frozenset[int]  # all since the last step that went into the weights: a hand has been at them
    uncleared: frozenset[int]  # with those whose clearing does not show: they had come to zero, or noise followed


class Oracle(Machine):
    """Executes a loop by autograd alone.

    Attributes:
        iterations: For each model the iterations, each ``{(layer, of): Expected}``.
    """

    def __init__(self, program):
        super().__init__(program)
        self.quiet = False
        self.taps, self.passes = [], []
        self.inside, self.since = defaultdict(set), defaultdict(set)  # by parameter
        self.by_hand = set()
        self.zeros = set()  # passes and parameters that they made a gradient of zeros for
        self.uncleared, self.cleared_last = defaultdict(set), defaultdict(set)
        self.last_step = [0 for _ in self.optimizers]
        self.weights, self.counting, self.has_stepped = {}, {}, [set() for _ in self.models]
        self.iterations = [[] for _ in self.models]
        for number, model in enumerate(self.models):
            for name, module in layers_of(model).items():
                module.register_forward_hook(self.tapping(number, name))
                self.weights[number, name] = [
                    p for local, p in module.named_parameters(recurse=False) if "bias" not in local
                ]

    # --- the gradients of a pass -------------------------------------------------------------------------------

    def tapping(self, number, name):
        def hook(module, args, output):
            if self.quiet or not output.requires_grad:
                return None
            tap = output.clone()
            self.taps.append((number, name, tap))
            return tap.clone()  # what is done in place behind the layer is not done to the tap

        return hook

    def checkpointing(self, operation):
        return None

    def differentiating(self, function, *args):
        self.quiet = True
        try:
            return function(*args)
        finally:
            self.quiet = False

    def passing(self, loss, parameters=None, scale=1.0):
        wanted = [p for model in self.models for p in model.parameters()] if parameters is None else parameters
        wanted = [p for p in wanted if p.requires_grad]
        tensors = [tap for _, _, tap in self.taps]
        found = torch.autograd.grad(loss, tensors + wanted, retain_graph=True, allow_unused=True)
        outputs, weights = found[: len(tensors)], found[len(tensors) :]
        number = len(self.passes)
        arrived = {i: (g / scale).detach() for i, g in enumerate(outputs) if g is not None}
        if parameters is not None:
            arrived = {i: g for i, g in arrived.items() if self.leads_to(tensors[i], wanted)}
        self.passes.append(arrived)
        for parameter, gradient in zip(wanted, weights, strict=True):
            if gradient is not None:
                self.since[parameter].add(number)
                if not gradient.any():
                    self.zeros.add((number, parameter))
        return number

    def leads_to(self, tap, parameters):
        """Whether a pass for these parameters alone goes through an output: it computes no more than it needs."""
        if not tap.requires_grad:
            return False
        found = torch.autograd.grad(tap.sum(), parameters, retain_graph=True, allow_unused=True)
        return any(gradient is not None for gradient in found)

    def by_torch_func(self, loss, values):
        # the same derivative by autograd: its outputs can be tapped
        result = loss(dict(values))
        number = self.passing(result)
        gradients = torch.autograd.grad(result, list(values.values()), allow_unused=True)
        self.losses.append(result.detach())
        shaped = [torch.zeros_like(p) if g is None else g for p, g in zip(values.values(), gradients, strict=True)]
        return number, dict(zip(values, shaped, strict=True))

    # --- what is in .grad --------------------------------------------------------------------------------------

    def accumulated(self, number, parameters=None):
        chosen = None if parameters is None else {id(p) for p in parameters}
        for parameter, numbers in self.since.items():
            if number in numbers and (chosen is None or id(parameter) in chosen):
                self.inside[parameter].add(number)

    def cleared(self, parameters):
        for parameter in parameters:
            if stood := self.inside[parameter]:
                self.cleared_last[parameter] = stood | self.uncleared[parameter]
                does_not_show = parameter.grad is not None and all((n, parameter) in self.zeros for n in stood)
                self.uncleared[parameter] = set(stood) if does_not_show else set()
            self.inside[parameter] = set()
            self.by_hand.discard(parameter)

    def put_by_hand(self, parameter, numbers, adding=False):
        came = {number for number in numbers if number in self.since[parameter]}
        self.inside[parameter] = self.inside[parameter] | came if adding else came
        self.by_hand.add(parameter)

    def clip(self, held, kind):
        super().clip(held, kind)
        for parameter in held if kind == "noise added" else ():
            if not self.inside[parameter]:
                self.uncleared[parameter] |= self.cleared_last[parameter]
        if kind in ("p.grad = p.grad * .5", "noise added"):
            self.by_hand.update(held)

    # --- steps -------------------------------------------------------------------------------------------------

    def scaler_steps(self, scaler, target, is_scaled):
        if is_scaled:
            scaler.unscale_(self.optimizers[target])
        self.read(target)
        super().scaler_steps(scaler, target, False)

    def read(self, number):
        model = self.program.optimizers[number][1]
        if number in self.has_stepped[model]:
            self.close(model)
        self.has_stepped[model].add(number)
        held = {id(p) for p in self.held[number]}
        for name, module in layers_of(self.models[model]).items():
            own = [p for p in module.parameters(recurse=False) if id(p) in held and self.is_trained(model, p)]
            if own:
                self.read_layer(model, name, number, own)
        if self.has_stepped[model] == set(self.optimizers_of(model)):
            self.close(model)

    def is_trained(self, model, parameter):
        return any(parameter is other for other in self.models[model].trained)

    def read_layer(self, model, name, number, own):
        weights = self.weights[model, name]
        main = [p for p in own if any(p is weight for weight in weights)] or own
        begun = self.last_step[number]
        inside = frozenset().union(*(self.inside[p] for p in main))
        touched = any(p in self.by_hand for p in main)
        since = frozenset().union(*(self.since[p] for p in main)) if touched else inside
        after = lambda numbers: frozenset(n for n in numbers if n >= begun)  # noqa: E731
        is_used = any(p.requires_grad for p in main) and any(self.since[p] for p in main)
        is_idle = not is_used and not inside
        gradients = [p.grad for p in weights if p.grad is not None and any(p is other for other in own)]
        value = statistics(gradients) if gradients else None
        mixed = {frozenset(self.inside[p]) for p in own}
        self.counting[model, name] = (
            Counting(inside, after(since), inside.union(*(self.uncleared[p] for p in main))),
            value,
            is_idle,
            [] if len(mixed) == 1 else sorted(mixed, key=sorted),
        )

    def stepped(self, number):
        self.last_step[number] = len(self.passes)
        for parameter in self.held[number]:
            self.since[parameter] = set()

    def close(self, model):
        rows = {}
        read = {name: counted for (of, name), counted in self.counting.items() if of == model}
        counts = [counted[0] for counted in read.values()]
        union = Counting(*(frozenset().union(*(getattr(c, way) for c in counts)) for way in WAYS))
        holding = {id(p) for i in self.optimizers_of(model) for p in self.held[i]}
        for name, module in layers_of(self.models[model]).items():
            trained = [
                p for p in module.parameters(recurse=False) if id(p) in holding and self.is_trained(model, p)
            ]
            counting, value, is_idle, mixed = read.get(name, (Counting(*[frozenset()] * 3), None, False, []))
            rows[name, "output"] = self.row(
                model, name, counting if trained else union, union if is_idle else None, mixed
            )
            if trained or not self.is_unheld(model, module, holding):
                rows[name, "weight"] = Expected(value, {})
        self.iterations[model].append(rows)
        self.counting = {key: counted for key, counted in self.counting.items() if key[0] != model}
        self.has_stepped[model] = set()

    def is_unheld(self, model, module, holding):
        """Gets gradients, and no optimizer uses them."""
        return any(self.is_trained(model, p) and id(p) not in holding for p in module.parameters(recurse=False))

    def row(self, model, name, counting, union, mixed):
        strict = self.output(model, name, counting.strict)
        others = {way: self.output(model, name, getattr(counting, way)) for way in WAYS[1:]}
        if union is not None:
            others["frozen in its turn"] = self.output(model, name, union.strict)
            others["frozen in its turn, uncleared"] = self.output(model, name, union.uncleared)
        for numbers in mixed:
            others[f"mixed {sorted(numbers)}"] = self.output(model, name, numbers)
        return Expected(strict, {way: value for way, value in others.items() if not same(value, strict)})

    def output(self, model, name, numbers):
        """Statistics over all elements of all calls that these passes reached."""
        gradients = []
        for i, (of, layer, _) in enumerate(self.taps):
            if (of, layer) == (model, name):
                came = [self.passes[number][i] for number in sorted(numbers) if i in self.passes[number]]
                gradients += [sum(came[1:], came[0])] if came else []
        return statistics(gradients) if gradients else None


WAYS = ("strict", "all_since", "uncleared")


def statistics(gradients):
    """The mean absolute value, root mean square, largest value, share of zeros, and number of non-finite ones."""
    sizes = torch.cat([gradient.detach().abs().flatten() for gradient in gradients])
    found = sizes.mean(), sizes.square().mean().sqrt(), sizes.max(), (sizes == 0).double().mean()
    return *(value.item() for value in found), int((~sizes.isfinite()).sum())


def same(one, other, floor=0.0):
    """Whether two rows are equal, to float32's rounding; ``floor`` is what rounding may leave of a sum to zero.

    Magnitudes are defined in float32. A training that explodes may hold a pass of less than that beside others.
    """
    if one is None or other is None:
        return one is other
    if not all(map(math.isfinite, one[:3] + other[:3])):  # a sum has one, whichever of them it is
        return one[4:] == other[4:] and not math.isfinite(one[0]) and not math.isfinite(other[0])
    return all(abs(a - b) <= 2.0**-24 * abs(b) + floor for a, b in zip(one[:3], other[:3], strict=True))
