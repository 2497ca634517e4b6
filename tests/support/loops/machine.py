"""Executes a `Program`, as a person would have written it; the methods without a body are for an account of it."""

from __future__ import annotations

import torch

from support.loops.gradients import clip, combination, put, zero_by_hand
from support.loops.nets import WIDTH, Net
from support.loops.slots import Losses, Slot

ROWS = 3
OPTIMIZERS = {
    "SGD": lambda held: torch.optim.SGD(held, 0.05),
    "momentum": lambda held: torch.optim.SGD(held, 0.02, momentum=0.9),
    "Adam": lambda held: torch.optim.Adam(held, 0.01),
    "foreach": lambda held: torch.optim.AdamW(held, 0.01, foreach=True),
    "LBFGS": lambda held: torch.optim.LBFGS(held, 0.05, max_iter=3),
}


def part_of(model, part):
    """The parameters of a part; all of them, or those of the part that are trained."""
    if part == "all":
        return list(model.parameters())
    modules = {"trunk": (model.stem, model.trunk), "heads": (model.a, model.b), "head a": (model.a,)}[part]
    trained = {id(parameter) for parameter in model.trained}
    return [p for module in modules for p in module.parameters() if id(p) in trained]


class Machine(Losses):
    """A loop with its state.

    Attributes:
        losses: Of all backward passes.
    """

    def __init__(self, program):
        self.program = program
        self.models = [Net(blocks, program.seed + i) for i, blocks in enumerate(program.nets)]
        self.random = torch.Generator().manual_seed(program.seed)
        self.held = [part_of(self.models[model], part) for _, model, part in program.optimizers]
        self.optimizers = [
            OPTIMIZERS[kind](held) for (kind, _, _), held in zip(program.optimizers, self.held, strict=True)
        ]
        growth = {"growth_interval": 1 if program.growing else 1000}
        self.scalers = [torch.amp.GradScaler("cpu", init_scale=scale, **growth) for scale in program.scalers]
        self.used_scalers, self.slots, self.losses, self.moved = set(), [], [], {}

    def optimizers_of(self, model):
        """The numbers of the optimizers that hold parameters of a model."""
        return [i for i, (_, of, _) in enumerate(self.program.optimizers) if of == model]

    def run(self):
        for turn in range(self.program.turns):
            for operation, every in self.program.body:
                if turn % every == 0:
                    getattr(self, type(operation).__name__.lower())(operation)

    # --- for an account of the loop ---------------------------------------------------------------------------

    def passing(self, loss, parameters=None, scale=1.0):
        """A pass is about to be made: for these parameters, or all; returns its number, if passes have numbers."""

    def accumulated(self, number, parameters=None):
        """What the pass came to has been added to ``.grad``."""

    def cleared(self, parameters):
        """These hold no gradient any longer."""

    def put_by_hand(self, parameter, numbers, adding=False):
        """What these passes came to for it has been put into ``.grad``, in place of what was there or added."""

    def read(self, number):
        """This optimizer is about to use the gradients."""

    def stepped(self, number):
        """This optimizer has stepped."""

    def differentiating(self, function, *args):
        """A derivative by torch.func."""
        return function(*args)

    def checkpointing(self, operation):
        return operation.checkpointing

    # --- forward -----------------------------------------------------------------------------------------------

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def forward(self, op):
        source = self.slot(op.source)
        x = self.normal(ROWS, WIDTH) if source is None else source.y
        if op.detached:
            x = x.detach()
        if (op.leaf or op.checkpointing) and not x.requires_grad:
            x.requires_grad_()  # a reentrant checkpoint without it has no gradient inside
        goal, label = self.normal(ROWS, 2), torch.randint(2, (ROWS,), generator=self.random)
        if op.mode != "train":
            return self.look(op, x)
        y = self.call(op.chain, x, self.checkpointing(op))
        slot = Slot(x, y, op.chain, goal, label, checkpointing=op.checkpointing)
        slot.family = source.family if source is not None and not op.detached else slot.family
        slot.family.append(slot)
        self.slots.append(slot)
        return None

    def look(self, op, x):
        """A forward pass that nothing is trained by."""
        if op.mode == "eval":
            for number in op.chain:
                self.models[number].eval()
            self.call(op.chain, x.detach())
            for number in op.chain:
                self.models[number].train()
        else:
            with torch.no_grad():
                self.call(op.chain, x.detach())

    # --- backward -------------------------------------------------------------------------------------------

    def scaled(self, loss, number):
        """The loss times the scale of its scaler, and the scale."""
        if not self.scalers:
            return loss, 1.0
        number %= len(self.scalers)
        self.used_scalers.add(number)
        scaled = self.scalers[number].scale(loss)
        return scaled, self.scalers[number].get_scale()

    def trained(self, target):
        return [p for p in self.held[target] if p.requires_grad]

    def backward(self, op):
        loss, slots = self.loss(op)
        inputs = None if op.inputs is None else self.trained(op.inputs % len(self.optimizers))
        if loss is None or inputs == [] or (inputs and any(slot.is_reentrant() for slot in slots)):
            return
        self.losses.append(loss.detach())
        if op.overflows and self.scalers:
            loss = loss * float("inf")
        loss, scale = self.scaled(loss, op.scaler)
        weight = torch.tensor(2.0 if op.means == "with gradient" else 1.0, dtype=torch.float64)
        number = self.passing(loss * weight, inputs, scale)
        how = {"retain_graph": op.retain, "inputs": inputs}
        if op.means == "autograd.backward":
            torch.autograd.backward(loss, **how)
        elif op.means == "with gradient":
            loss.backward(weight, **how)
        else:
            loss.backward(**how)
        self.accumulated(number, inputs)
        if not op.retain:
            for slot in slots:
                slot.kill()

    def taken(self, slot, terms, target, scaler, retain):
        """The gradients of an optimizer's parameters by autograd.grad, and the number of the pass."""
        parameters = self.trained(target)
        loss = slot.loss(terms)
        self.losses.append(loss.detach())
        loss, scale = self.scaled(loss, scaler)
        number = self.passing(loss, parameters, scale)
        gradients = torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True)
        return dict(zip(parameters, gradients, strict=True)), number

    def take(self, op):
        slot, target = self.slot(op.slot), op.target % len(self.optimizers)
        if slot is None or slot.is_reentrant() or not self.trained(target):
            return
        gradients, number = self.taken(slot, op.terms, target, 0, op.retain)
        if not op.retain:
            slot.kill()
        if op.then == "looked at":
            self.losses += [gradient.norm() for gradient in gradients.values() if gradient is not None]
            return
        for parameter, gradient in gradients.items():
            if gradient is not None:
                put(parameter, gradient, op.then)
                self.put_by_hand(parameter, [number], adding=op.then == "added")

    def pertask(self, op):
        slot, target = self.slot(op.slot), op.target % len(self.optimizers)
        slots = [slot, self.slot(op.second) or slot]
        if slot is None or not self.trained(target):
            return
        if op.how != "backward" and any(slot.is_reentrant() for slot in slots):
            return
        parameters, tasks, numbers = self.trained(target), [], []
        for term, slot in enumerate(slots):
            if op.how == "backward":
                self.empty(op.means, target)
                loss, scale = self.scaled(slot.loss((term,)), op.scaler)
                self.losses.append(loss.detach())
                numbers.append(self.passing(loss, None, scale))
                loss.backward(retain_graph=True)
                self.accumulated(numbers[-1])
                tasks.append({p: None if p.grad is None else p.grad.clone() for p in parameters})
            else:
                gradients, number = self.taken(slot, (term,), target, op.scaler, True)
                tasks.append(gradients)
                numbers.append(number)
        for slot in slots:
            slot.kill()
        for parameter in parameters:
            gradients = [
                torch.zeros_like(parameter) if task[parameter] is None else task[parameter] for task in tasks
            ]
            if op.how == "backward" and op.put == "p.grad += saved" and parameter.grad is not None:
                parameter.grad.add_(gradients[0])
            else:
                put(parameter, combination(gradients, op.combined), "copied" if "copy_" in op.put else "set")
            self.put_by_hand(parameter, numbers)

    def functional(self, op):
        """All gradients of a model by torch.func, set by hand."""
        model = self.models[op.target % len(self.models)]
        x, goal = self.normal(ROWS, WIDTH), self.normal(ROWS, 2)
        label = torch.randint(2, (ROWS,), generator=self.random)
        values = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not values:
            return

        def loss(values):
            y = torch.func.functional_call(model, values, (x,))
            return Slot(x, y, (), goal, label).loss(op.terms)

        number, gradients = self.by_torch_func(loss, values)
        for name, parameter in values.items():
            put(parameter, gradients[name], "set")
            self.put_by_hand(parameter, [number])

    def by_torch_func(self, loss, values):
        gradients, value = torch.func.grad_and_value(loss)({name: p.detach() for name, p in values.items()})
        self.losses.append(value)
        return None, gradients

    # --- the rest of a loop ------------------------------------------------------------------------------------

    def freeze(self, op):
        model = self.models[op.target % len(self.models)]
        chosen = {id(p) for p in part_of(model, op.part)}
        for parameter in model.trained:
            if id(parameter) in chosen:
                parameter.requires_grad_(op.flag)
        for slot in self.slots:
            if slot.checkpointing is not None:  # recomputed, it would be another graph
                slot.kill()

    def clear(self, op):
        self.empty(op.means, op.target, op.part)

    def empty(self, means, target, part="all"):
        if means.startswith("model"):
            model = self.models[target % len(self.models)]
            model.zero_grad(set_to_none="False" not in means)
            return self.cleared(list(model.parameters()))
        optimizer, held = self.optimizers[target % len(self.optimizers)], self.held[target % len(self.optimizers)]
        if means.startswith("optimizer"):
            optimizer.zero_grad(set_to_none="False" not in means)
            return self.cleared(held)
        model = self.models[self.program.optimizers[target % len(self.optimizers)][1]]
        chosen = {id(p) for p in part_of(model, part)}
        held = [p for p in held if id(p) in chosen]
        zero_by_hand(held, means)
        # what is multiplied by zero is not cleared where it was infinite: NaN stays
        return self.cleared([p for p in held if p.grad is None or p.grad.isfinite().all()])

    def perturb(self, op):
        target = op.target % len(self.optimizers)
        with torch.no_grad():
            if op.back:
                for parameter, value in self.moved.pop(target, {}).items():
                    parameter.copy_(value)
            elif target not in self.moved:
                self.moved[target] = {p: p.detach().clone() for p in self.held[target]}
                for parameter in self.held[target]:
                    if parameter.grad is not None:
                        parameter.add_(parameter.grad / (1 + parameter.grad.norm()), alpha=0.01)
        self.use_up(target)

    def use_up(self, target):
        """The weights of an optimizer have changed: graphs through them are of no use any more."""
        model = self.program.optimizers[target][1]
        for slot in self.slots:
            if model in slot.chain:
                slot.kill()

    def step(self, op):
        target = op.target % len(self.optimizers)
        optimizer, held = self.optimizers[target], [p for p in self.held[target] if p.grad is not None]
        if op.closure or isinstance(optimizer, torch.optim.LBFGS):
            if not self.scalers:
                optimizer.step(self.closure(target))
                self.stepped(target)
        elif self.scalers:
            scaler = self.scalers[target % len(self.scalers)]
            if not held or target % len(self.scalers) not in self.used_scalers:
                return
            if op.unscale or op.clip:
                scaler.unscale_(optimizer)
                self.clip(held, op.clip)
            self.scaler_steps(scaler, target, not (op.unscale or op.clip))
            scaler.update()
            self.stepped(target)
        else:
            self.clip(held, op.clip)
            self.read(target)
            optimizer.step()
            self.stepped(target)
        self.use_up(target)

    def scaler_steps(self, scaler, target, is_scaled):
        scaler.step(self.optimizers[target])

    def closure(self, target):
        model = self.program.optimizers[target][1]
        x, goal = self.normal(ROWS, WIDTH), self.normal(ROWS, 2)
        label = torch.randint(2, (ROWS,), generator=self.random)
        calls = []

        def call():
            self.empty("optimizer.zero_grad", target)
            loss = Slot(x, self.call((model,), x), (model,), goal, label).loss((0, 1))
            if loss.requires_grad:
                number = self.passing(loss)
                loss.backward()
                self.accumulated(number)
            if not calls:
                self.read(target)
            calls.append(loss.detach())
            self.losses.append(loss.detach())
            return loss

        return call

    def clip(self, held, kind):
        clip(held, kind, self.normal)
