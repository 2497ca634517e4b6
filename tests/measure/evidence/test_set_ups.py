"""Signal and update in every set-up of one process, against a float64 account of the same training."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from support.account import Account
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call
from torch.nn.functional import mse_loss
from torch.utils.checkpoint import checkpoint

import gradprobe as gp

STEPS = 3


class Net(nn.Module):
    """A shared layer, a frozen one, and one with a normalisation."""

    def __init__(self, checkpointed=None):
        super().__init__()
        self.a, self.shared, self.frozen = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 3)
        self.frozen.requires_grad_(False)
        self.checkpointed = checkpointed

    def inside(self, x):
        return self.frozen(torch.relu(self.shared(self.norm(self.shared(x)))))

    def forward(self, x):
        x = torch.relu(self.a(x))
        if self.checkpointed is not None:
            return self.out(checkpoint(self.inside, x, use_reentrant=self.checkpointed))
        return self.out(self.inside(x))


def batches(count=STEPS):
    drawn = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 6, generator=drawn), torch.randn(8, 3, generator=drawn)) for _ in range(count)]


def trained(net):
    return [one for one in net.parameters() if one.requires_grad]


def sgd(net):
    return [torch.optim.SGD(trained(net), lr=0.1)]


def plain(loop):
    for x, y in batches():
        loop.clear()
        yield loop.backward(mse_loss(loop.net(x), y))
        loop.step()


def accumulated(loop):
    for x, y in batches():
        loop.clear()
        losses = [loop.backward(mse_loss(loop.net(x[half]), y[half])) for half in (slice(0, 4), slice(4, 8))]
        yield sum(losses) / 2
        loop.step()


def scaled(loop, unscale=False):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    for x, y in batches():
        loop.clear()
        loss = mse_loss(loop.net(x), y)
        scaler.scale(loss).backward()
        for optimizer in loop.optimizers:
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
        scaler.update()
        yield loss.item()


def unscaled(loop):
    yield from scaled(loop, unscale=True)


def in_bfloat16(loop):
    for x, y in batches():
        loop.clear()
        with torch.autocast("cpu", torch.bfloat16):
            loss = mse_loss(loop.net(x).float(), y)
        yield loop.backward(loss)
        loop.step()


def compiled(loop):
    torch._dynamo.reset()
    net = torch.compile(loop.net, backend="aot_eager")
    for x, y in batches():
        loop.clear()
        yield loop.backward(mse_loss(net(x), y))
        loop.step()
    torch._dynamo.reset()


def compiled_before(loop):
    for x, y in batches():
        loop.clear()
        yield loop.backward(mse_loss(loop.run(x), y))
        loop.step()
    torch._dynamo.reset()


def functional(loop):
    for x, y in batches():
        loop.clear()
        values = dict(loop.net.named_parameters())
        yield loop.backward(mse_loss(functional_call(loop.net, values, (x,)), y))
        loop.step()


def averaged(loop):
    for x, y in batches():
        loop.clear()
        loss = mse_loss(loop.net(x), y)
        ema = copy.deepcopy(loop.net)
        ema(x).sum().backward()  # the copy carries no hook of ours
        yield loop.backward(loss)
        loop.step()


def by_grad(loop):
    for x, y in batches():
        loss = mse_loss(loop.net(x), y)
        weights = trained(loop.net)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        loop.step()
        yield None  # no backward pass that could be heard


def twice(loop):
    for x, y in batches():
        loop.clear()
        loss = mse_loss(loop.net(x), y)
        yield (loop.backward(loss, retain_graph=True) + loop.backward(loss)) / 2
        loop.step()


def with_a_closure(loop):
    for x, y in batches():
        losses = []

        def closure(x=x, y=y, losses=losses):
            loop.clear()
            losses.append(loop.backward(mse_loss(loop.net(x), y)))
            return losses[-1]

        loop.optimizers[0].step(closure)
        yield losses[0]


def evaluated_between(loop):
    for x, y in batches():
        with torch.no_grad():
            loop.net(x + 1)
        loop.clear()
        yield loop.backward(mse_loss(loop.net(x), y))
        loop.step()


def penalised(loop):
    for x, y in batches():
        loop.clear()
        x.requires_grad_()
        output = loop.net(x)
        (gradient,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        yield loop.backward(mse_loss(output, y) + gradient.square().mean())
        loop.step()


def overflowing(loop):
    """The second step is skipped: by the scaler, or inside the kernel of a fused optimizer."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for index, (x, y) in enumerate(batches()):
        loop.clear()
        loss = mse_loss(loop.net(x), y)
        yield loss.item()
        scaler.scale(loss * (math.inf if index == 1 else 1.0)).backward()
        for optimizer in loop.optimizers:
            scaler.step(optimizer)
        scaler.update()


def in_turn(net):
    first, rest = trained(net.a), [one for one in trained(net) if all(one is not of for of in net.a.parameters())]
    return [torch.optim.SGD(first, lr=0.1), torch.optim.Adam(rest, lr=0.01)]


def fused(net):
    return [torch.optim.Adam(trained(net), lr=0.01, fused=True)]


def lbfgs(net):
    return [torch.optim.LBFGS(trained(net), lr=0.1, max_iter=1)]


def adam_for_each(net):
    return [torch.optim.Adam(trained(net), lr=0.01, foreach=True)]


class Loop:
    """A training with a probe and the account beside it."""

    def __init__(self, train, net, optimizers, is_compiled=False):
        self.net, self.optimizers, self.run = net, optimizers, net
        if is_compiled:
            torch._dynamo.reset()
            self.run = torch.compile(net, backend="aot_eager")
            self.run(torch.randn(8, 6))
        # the account's hooks come first: it reads the number of the iteration before the probe ends it
        self.account = Account(SimpleNamespace(recorded=0), net, optimizers)
        with gp.GradientProbe(net, optimizer=optimizers, iterations=STEPS) as probe:
            self.account.probe = probe
            self.losses = list(train(self))
        self.account.close()
        self.history = probe.history

    def clear(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()

    def backward(self, loss, **options):
        loss.backward(**options)
        return loss.item()


def ran(train, optimizers=sgd, dtype=torch.float32, is_compiled=False, **options):
    torch.manual_seed(0)
    net = Net(**options).to(dtype)
    return Loop(train, net, optimizers(net), is_compiled)


def assert_exact(loop, rel=1e-4):
    """Every number is the account's, and none is missing."""
    history, account = loop.history, loop.account
    assert not account.differences(history, rel)
    frame = history.evidence.frame.set_index(["iteration", "layer"])
    assert set(frame.index) >= set(account.found)
    for key, numbers in account.found.items():  # here nothing may be missing
        assert not frame.loc[key, [column for column, value in numbers.items() if value is not None]].isna().any()
    for layer, facts in history.evidence.layers.items():
        assert facts.get("left_over", 0.0) == 0.0, layer
        assert set(frame.xs(layer, level="layer")["left"].dropna().round(5)) <= {1.0}, layer
    expected = [one for one in loop.losses if one is not None]
    assert history.evidence.network["losses"] == pytest.approx(expected, rel=rel)


EXACT = {
    "plain": (plain, {}),
    "clipped later": (plain, {"optimizers": adam_for_each}),
    "accumulation": (accumulated, {}),
    "GradScaler": (scaled, {}),
    "GradScaler and unscale_": (unscaled, {}),
    "GradScaler and a fused optimizer": (scaled, {"optimizers": fused}),
    "checkpointing": (plain, {"checkpointed": False}),
    "reentrant checkpointing": (plain, {"checkpointed": True}),
    "torch.compile": (compiled, {}),
    "torch.compile before": (compiled_before, {"is_compiled": True}),
    "several optimizers": (plain, {"optimizers": in_turn}),
    "GradScaler and several optimizers": (scaled, {"optimizers": in_turn}),
    "fused": (plain, {"optimizers": fused}),
    "functional calls": (functional, {}),
    "a copy in the window": (averaged, {}),
    "autograd.grad": (by_grad, {}),
    "several passes": (twice, {}),
    "gradient penalty": (penalised, {}),
    "a closure": (with_a_closure, {"optimizers": lbfgs}),
    "evaluation between steps": (evaluated_between, {}),
}


@pytest.mark.limit("`GradScaler`, with or without `unscale_`", signal="exact")
@pytest.mark.limit("`GradScaler` and several optimizers, some unscaled or fused", signal="exact")
@pytest.mark.limit("accumulation", signal="signal of the first small batch, update exact")
@pytest.mark.limit("several `backward()` through one forward", signal="exact")
@pytest.mark.limit("training by `autograd.grad`", signal="exact")
@pytest.mark.limit("a closure (LBFGS)", signal="signal and update of the whole step")
@pytest.mark.limit("several optimizers: `optimizer=[...]`", signal="exact")
@pytest.mark.limit("activation checkpointing, reentrant or not", signal="exact")
@pytest.mark.limit("`torch.compile` called for the first time inside the window", signal="exact")
@pytest.mark.limit("`torch.compile`, before or after the first call, whole or in part", signal="exact")
@pytest.mark.limit(
    "shared, frozen and never called layers, changes in place, dicts",
    signal="exact; of a shared layer its first call",
)
@pytest.mark.limit("gradient penalty (`autograd.grad` and `backward`)", signal="exact")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXACT)
def test_every_number_is_that_of_float64(name):
    train, options = EXACT[name]
    assert_exact(ran(train, **options))


@pytest.mark.parametrize("train", [plain, accumulated])
def test_the_elements_are_those_of_all_calls(train):
    history = ran(train).history
    first = history.evidence.frame[history.evidence.frame["iteration"] == 0].set_index("layer")
    assert first["elements"].to_dict() == {"a": 64, "shared": 128, "frozen": 64, "norm": 64, "out": 24}


def test_what_the_weights_begin_as():
    torch.manual_seed(0)
    net = Net()
    facts = ran(plain).history.evidence.layers
    for name in ("a", "shared", "frozen", "out"):
        weight = net.get_submodule(name).weight.detach().double()
        centred = weight - weight.mean()
        assert facts[name]["std"] == pytest.approx(float(centred.square().mean().sqrt()), rel=1e-5)
        assert facts[name]["largest"] == pytest.approx(float(weight.abs().max()), rel=1e-5)
        kurtosis = centred.pow(4).mean() / centred.square().mean() ** 2
        assert facts[name]["kurtosis"] == pytest.approx(float(kurtosis), rel=1e-5)
        rows = (weight - weight.mean(0)).square().mean().sqrt() / weight.square().mean().sqrt()
        assert facts[name]["alike"] == pytest.approx(float(rows), rel=1e-5)
        assert (facts[name]["fan_out"], facts[name]["fan_in"]) == tuple(weight.shape)
        assert facts[name]["trained"] is (name != "frozen")


def test_one_layer_that_is_not_finite_leaves_the_others_their_numbers():
    def broken(loop):
        with torch.no_grad():
            loop.net.out.weight[0, 0] = math.inf
        for x, _ in batches():
            loop.clear()
            output = loop.net.a(x)
            loop.net.out(output.detach()).sum().backward()
            yield loop.backward(output.square().mean())
            loop.step()

    loop = ran(broken)
    frame = loop.history.evidence.frame
    expected = [loop.account.found[iteration, "a"]["update"] for iteration in range(STEPS)]
    assert frame[frame["layer"] == "a"]["update"].tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.limit("magnitudes from 1e-30 to 1e4", signal="exact")
@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e25])
def test_a_signal_whose_squares_leave_the_range_and_a_root_with_weights(scale):
    class Root(nn.Linear):
        def forward(self, x):
            return super().forward(x) * scale

    def mean(loop):
        for x, _ in batches():
            loop.clear()
            yield loop.backward(loop.net(x).mean() / scale)
            loop.step()

    torch.manual_seed(0)
    net = Root(6, 3)
    loop = Loop(mean, net, sgd(net))
    assert_exact(loop)
    rms = loop.history.evidence.frame["rms"].iloc[0]
    assert rms == pytest.approx(loop.account.found[0, ""]["rms"], rel=1e-4, abs=0)


def test_weights_that_another_takes_the_place_of_have_no_update():
    net = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3))
    with gp.GradientProbe(net, iterations=STEPS) as probe:
        for index, (x, _) in enumerate(batches()):
            net(x).sum().backward()
            probe.step()
            with torch.no_grad():
                net[1].weight -= 0.1 * net[1].weight.grad
            if index == 0:
                net[0].weight = nn.Parameter(torch.zeros(3, 6))
    update = probe.history.evidence.frame.set_index(["iteration", "layer"])["update"]
    assert math.isnan(update[0, "0"])
    assert update[1, "0"] != 0  # 0 / 0: no weight to compare with
    assert update[0, "1"] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.limit(
    "complex, sparse, nested, tied, float8, meta and empty parameters, subclasses of Tensor",
    signal="exact (float and tied), or missing with a reason",
)
def test_what_has_no_number_has_a_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.phases = nn.Parameter(torch.ones(3, 3, dtype=torch.complex64))

        def forward(self, x):
            return (x.to(torch.complex64) @ self.phases).abs().mean()

    net = nn.Sequential(nn.Linear(6, 3), Odd())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gp.GradientProbe(net, optimizer=optimizer, iterations=1) as probe:
        net(torch.ones(4, 6)).backward()
        optimizer.step()
    facts = probe.history.evidence.layers["1"]
    assert (facts["no_signal"], facts["no_update"]) == ("one_axis", "kind")


@pytest.mark.limit("a step skipped for overflow", signal="update 0, or missing where the optimizer is not called")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizers", [sgd, fused])
def test_a_skipped_step_moves_nothing(optimizers):
    loop = ran(overflowing, optimizers)
    update = loop.history.evidence.frame.set_index(["iteration", "layer"])["update"]
    assert not loop.account.differences(loop.history, 1e-4)
    assert not update[1, "a"] > 0
    assert update[0, "a"] > 0 < update[2, "a"]
    assert [found.cause for found in gp.diagnose(loop.history).findings] != ["step_missing"]


def test_float64_weights_are_compared_in_float64():
    def small(net):
        return [torch.optim.SGD(trained(net), lr=1e-9)]

    loop = ran(in_double, optimizers=small, dtype=torch.float64)
    assert_exact(loop)
    assert 0 < loop.account.found[0, "a"]["update"] < 1e-8


def in_double(loop):
    for x, y in batches():
        loop.clear()
        yield loop.backward(mse_loss(loop.net(x.double()), y.double()))
        loop.step()


@pytest.mark.limit("float16 and bfloat16, autocast", signal="exact in the format")
def test_autocast_is_exact_in_what_the_layers_return():
    assert_exact(ran(in_bfloat16))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [nn.parallel.DistributedDataParallel, fully_shard], ids=["DDP", "FSDP2"])
def test_one_rank_has_its_own_numbers(wrap, process_group):
    torch.manual_seed(0)
    net = Net()
    if wrap is fully_shard:
        net.frozen.requires_grad_(True)
    wrapped = wrap(net)
    loop = Loop(plain, wrapped, sgd(wrapped)) if wrap is fully_shard else None
    if loop is None:
        optimizers = sgd(net)
        account = Account(SimpleNamespace(recorded=0), net, optimizers)
        with gp.GradientProbe(wrapped, optimizer=optimizers, iterations=STEPS) as probe:
            account.probe = probe
            loop = SimpleNamespace(account=account, net=wrapped, optimizers=optimizers)
            loop.clear, loop.step = optimizers[0].zero_grad, optimizers[0].step
            loop.backward = lambda loss: (loss.backward(), loss.item())[1]
            loop.losses = list(plain(loop))
        loop.history = probe.history
        account.close()
    assert_exact(loop)
