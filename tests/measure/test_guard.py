"""Nothing of ours raises in a user's code: a failure in any function ends the record, and the training goes on."""

import ast
import contextlib
import functools
import sys
import traceback
from pathlib import Path

import pytest
import torch
from support.planted import PACKAGE, called, planted
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradprobe.measure.probe import GradientProbe
from gradprobe.network.hooks import GuardedHook

STEPS, WINDOW = 4, 3
# The guard itself and those that it tells of an error; and functions in the place of a method or a closure of the
# user's, which call it. Nothing can be planted in the first line of these.
GUARD = {"__call__", "_guarded", "_tell", "_fail", "_failed", "failed", "failure"}
PASSAGES = {"_backward", "multiplied", "divided", "step", "call", "__torch_function__"}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.nothing = nn.Parameter(torch.zeros(0))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.norm(torch.tanh(self.embed(x / 2))) * self.scale + self.nothing.sum()
        return self.head(hidden)


class Sequential(Block):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 3, batch_first=True)

    def forward(self, x):
        return super().forward(self.rnn(x)[0][:, -1])


def batches():
    drawn = torch.Generator().manual_seed(1)
    return [(torch.randn(5, 3, generator=drawn), torch.randint(2, (5,), generator=drawn)) for _ in range(STEPS)]


def plain(net, optimizers):
    for x, y in batches():
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        yield loss


def accumulated(net, optimizers):
    for x, y in batches():
        optimizers[0].zero_grad()
        for half in (slice(0, 2), slice(2, None)):
            loss = functional.cross_entropy(net(x[half]), y[half])
            loss.backward(retain_graph=True)
            (0.1 * loss).backward()
        optimizers[0].step()
        yield loss


def scaled(net, optimizers):
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for x, y in batches():
        optimizers[0].zero_grad()
        loss = functional.cross_entropy(net(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizers[0])
        scaler.step(optimizers[0])
        scaler.update()
        yield loss


def penalised(net, optimizers):
    for x, y in batches():
        optimizers[0].zero_grad()
        x = x.requires_grad_()
        loss = functional.cross_entropy(net(x), y)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + slope.square().sum()).backward()
        optimizers[0].step()
        yield loss


def by_hand(net, optimizers):
    for x, y in batches():
        loss = functional.cross_entropy(net(x), y)
        parameters = list(net.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizers[0].step()
        yield loss


def with_closure(net, optimizers):
    for x, y in batches():

        def closure(x=x, y=y):
            optimizers[0].zero_grad()
            loss = functional.cross_entropy(net(x), y)
            loss.backward()
            return loss

        yield optimizers[0].step(closure)


def checkpointed(net, optimizers):
    for x, y in batches():
        optimizers[0].zero_grad()
        loss = functional.cross_entropy(checkpoint(net, x.requires_grad_(), use_reentrant=True), y)
        loss.backward()
        optimizers[0].step()
        yield loss


def recurrent(net, optimizers):
    for x, y in batches():
        optimizers[0].zero_grad()
        loss = functional.cross_entropy(net(x[:, None].repeat(1, 4, 1)), y)
        loss.backward()
        optimizers[0].step()
        yield loss


def one(net):
    return [torch.optim.Adam(net.parameters(), 0.01)]


def two(net):
    return [torch.optim.SGD(net.head.parameters(), 0.1), torch.optim.Adam(net.embed.parameters(), 0.01)]


def lbfgs(net):
    return [torch.optim.LBFGS(net.parameters(), 0.1, max_iter=3)]


LOOPS = {
    "plain": (plain, one),
    "two optimizers": (plain, two),
    "accumulated": (accumulated, one),
    "scaled": (scaled, one),
    "penalised": (penalised, one),
    "by hand": (by_hand, one),
    "closure": (with_closure, lbfgs),
    "checkpointed": (checkpointed, one),
    "recurrent": (recurrent, one),
}


def trained(loop, make, inside=contextlib.nullcontext, probed=True):
    """Losses and parameters to the bit, and the probe; ``inside`` is on while the user's code runs."""
    torch.manual_seed(0)
    net = Sequential() if loop is recurrent else Block()
    optimizers = make(net)
    probe = GradientProbe(net, optimizer=optimizers, iterations=WINDOW) if probed else contextlib.nullcontext()
    with probe, inside() as seen:
        losses = [loss.detach().clone() for loss in loop(net, optimizers)]
    numbers = [tensor.numpy().tobytes() for tensor in (*losses, *(one.detach() for one in net.parameters()))]
    return numbers, probe, seen


def reasons(history):
    return " ".join(map(str, (history.layers, history.conditions)))


def complaint(loop, make, place, number, expected, frame):
    """What is wrong with a training in which one call of one function failed; None if nothing is."""
    try:
        numbers, probe, _ = trained(loop, make, lambda: planted(place, number))
    except Exception:
        return traceback.format_exc(limit=-3)
    if numbers != expected:
        return "the training differs"
    history = probe.history
    if "gradprobe failed here (PlantedError" not in reasons(history) and not history.frame.equals(frame):
        return "the record does not say why"
    hooks = [hook for module in probe.model.modules() for hook in module._forward_hooks.values()]
    return "hooks are left" if any(isinstance(hook, GuardedHook) for hook in hooks) else None


@functools.cache
def calls_in(name):
    """How often each function of ours is called while a loop runs."""
    return trained(*LOOPS[name], called)[2]


def complaints(name, places, number):
    loop, make = LOOPS[name]
    expected, _, _ = trained(loop, make, probed=False)
    numbers, probe, _ = trained(loop, make)
    assert numbers == expected
    places = [place for place in places if place[2] not in GUARD | PASSAGES and calls_in(name)[place] >= number]
    assert places
    frame = probe.history.frame
    found = {place: complaint(loop, make, place, number, expected, frame) for place in places}
    return {place: what for place, what in found.items() if what is not None}


@pytest.mark.limit(
    "an error inside gradprobe",
    "missing with the reason; the training goes on",
    "missing with the reason; the training goes on",
)
@pytest.mark.parametrize("name", LOOPS)
def test_a_failure_in_any_function_changes_no_training_and_is_said(name):
    known = {} if name == "plain" else calls_in("plain")
    assert not complaints(name, [place for place in calls_in(name) if place not in known], 1)


def test_so_does_a_failure_later_in_the_window():
    assert not complaints("plain", [place for place in calls_in("plain") if place[0].startswith("measure")], 3)


@pytest.mark.parametrize("name", ["scaled", "closure"])
def test_so_does_a_failure_around_an_optimizer_s_step(name):
    files = {f"measure/{file}.py" for file in ("probe", "amp", "window", "ranks")}
    assert not complaints(name, [place for place in calls_in(name) if place[0] in files], 1)


def test_the_modes_of_torch_are_as_before_after_a_failure_in_ours():
    before = torch._C._len_torch_function_stack()
    for place in calls_in("plain"):
        if place[0] == "network/input_tracker.py" and place[2] not in GUARD | PASSAGES:
            trained(plain, one, lambda place=place: planted(place, 1))
            assert torch._C._len_torch_function_stack() == before


REGISTRATIONS = [
    (nn.Module, "register_forward_hook"),
    (nn.Module, "register_forward_pre_hook"),
    (nn.Module, "register_full_backward_hook"),
    (nn.Module, "register_full_backward_pre_hook"),
    (torch.Tensor, "register_hook"),
    (torch.Tensor, "register_post_accumulate_grad_hook"),
    (torch.optim.Optimizer, "register_step_pre_hook"),
    (torch.optim.Optimizer, "register_step_post_hook"),
]


def sites(folders):
    """Where the package registers a hook with torch: file and lines."""
    names = {name for _, name in REGISTRATIONS}
    for folder in folders:
        for path in Path(PACKAGE, folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in names:
                    yield path.name, range(node.lineno, node.end_lineno + 1)


def test_every_hook_is_guarded_wherever_one_is_registered(monkeypatch):
    seen = {}

    def spied(original):
        def register(this, hook, *args, **kwargs):
            caller = sys._getframe(1)
            # what a mode passes on is the user's
            if caller.f_code.co_filename.startswith(PACKAGE) and caller.f_code.co_name != "__torch_function__":
                seen.setdefault((Path(caller.f_code.co_filename).name, caller.f_lineno), []).append(hook)
            return original(this, hook, *args, **kwargs)

        return register

    for owner, name in REGISTRATIONS:
        monkeypatch.setattr(owner, name, spied(getattr(owner, name)))
    for loop, make in LOOPS.values():
        trained(loop, make)
    for file, lines in sites(["measure", "network", "integrations"]):
        assert any(site[0] == file and site[1] in lines for site in seen), f"{file}:{lines.start} was not reached"
    unguarded = {site for site, hooks in seen.items() if not all(isinstance(hook, GuardedHook) for hook in hooks)}
    assert not unguarded
