"""The number that the optimizer is about to use, in every set-up of one process, against a plain float64 loop."""

import copy
import math
import warnings

import pytest
import torch
from support.accelerator import PACKAGE, NoTransfers, imitated
from support.oracle import assert_agrees, layer_means, record
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradprobe import GradientProbe
from gradprobe.measure.window import Window


@pytest.fixture(autouse=True, params=["host", "accelerator"])
def device(request):
    """Every set-up on the code path of an accelerator as well, where nothing in the window may wait for it."""
    if request.param == "host":
        yield request.param
        return
    if "compile" in request.node.name:
        pytest.skip("compiled code is another one in a mode")
    with imitated(), NoTransfers() as transfers:
        yield request.param
    assert not transfers.found


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def data(count=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(5, 6, generator=generator).double(), torch.randint(3, (5,), generator=generator))
        for _ in range(count)
    ]


def sgd(model, lr=0.01):
    return torch.optim.SGD(model.parameters(), lr=lr)


def expected(iterations=4, **arguments):
    return record(net(), data(), nn.functional.cross_entropy, iterations, **arguments)


@pytest.mark.limit("`GradScaler`, with or without `unscale_`", "exact, unscaled", "exact, unscaled")
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_gradient_scaler_is_taken_out(unscale, by_hand):
    model = net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=2)
    with GradientProbe(model, optimizer=None if by_hand else optimizer) as probe:
        for x, y in data():
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            if by_hand:
                probe.step()
            scaler.step(optimizer)
            scaler.update()
    assert_agrees(probe.history, expected())
    assert probe.history.conditions["amp_scale"] == 2.0**16
    assert torch.amp.GradScaler.step.__qualname__ == "GradScaler.step"  # nothing stays wrapped


def two_weights():
    """``y = 3 (2 x)`` at ``x = 1``: dy/dw is 3 for the first weight and 2 for the second."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].weight.fill_(3.0)
    return model


def assert_the_scale_is_out(history):
    assert [layer_means(history, "weight", name) for name in "01"] == [[3.0], [2.0]]
    assert [layer_means(history, "output", name) for name in "01"] == [[3.0], [1.0]]


@pytest.mark.limit(
    "`GradScaler` and several optimizers, some unscaled or fused", "exact, unscaled", "exact, unscaled"
)
@pytest.mark.parametrize("unscaled", [(), (0,), (1,), (0, 1)])
def test_a_scaler_that_unscaled_some_of_several_optimizers_before_a_step_by_hand(unscaled):
    model = two_weights()
    optimizers = [sgd(layer) for layer in model]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with GradientProbe(model) as probe:
        scaler.scale(model(torch.ones(1, 1)).sum()).backward()
        for index in unscaled:
            scaler.unscale_(optimizers[index])
        probe.step()
        seen = probe.glimpse(torch.tensor(0.0), "weight").magnitudes
        for optimizer in optimizers:
            scaler.step(optimizer)
    assert_the_scale_is_out(probe.history)
    assert seen == {"0": 3.0, "1": 2.0}


@pytest.mark.limit("`GradScaler` and several optimizers, some unscaled or fused")
@pytest.mark.parametrize("fused", [(False, True), (True, False), (True, True)])
def test_a_scaler_with_optimizers_of_which_some_unscale_in_their_kernel(fused):
    model = two_weights()
    optimizers = [
        torch.optim.SGD(layer.parameters(), 0.01, fused=own) for layer, own in zip(model, fused, strict=True)
    ]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with GradientProbe(model, optimizer=optimizers) as probe:
        scaler.scale(model(torch.ones(1, 1)).sum()).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
    assert_the_scale_is_out(probe.history)


def test_a_scaler_with_an_optimizer_that_the_probe_was_not_given():
    model = two_weights()
    first, second = map(sgd, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with GradientProbe(model, optimizer=first) as probe:
        scaler.scale(model(torch.ones(1, 1)).sum()).backward()
        scaler.step(first)
        scaler.step(second)
    assert layer_means(probe.history, "weight", "0") == [3.0]
    assert probe.history.layers[1].unreached_code["weight"] == "not_held"
    assert probe.history.conditions["amp_scale"] == 2.0**10


@pytest.mark.limit("a step skipped for overflow", "recorded, listed in `conditions['skipped']`", "the same")
@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_is_recorded_as_skipped(fused):
    torch.manual_seed(0)
    model = net().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with GradientProbe(model, optimizer=optimizer) as probe:
        for index, (x, y) in enumerate(data()):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x.float()), y)
            scaler.scale(loss * (float("inf") if index == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
    history = probe.history
    assert history.iterations == 4
    assert history.conditions["skipped"] == [1]
    frame = history.frame
    assert (frame[frame["iteration"] == 1]["nonfinite"] > 0).any()
    assert (frame[frame["iteration"] != 1]["nonfinite"] == 0).all()


@pytest.mark.limit("`GradScaler` and several optimizers, some unscaled or fused")
def test_a_fused_optimizer_that_unscales_in_its_kernel():
    model = net().float()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    with GradientProbe(model, optimizer=optimizer) as probe:
        for x, y in data():
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x.float()), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    batches = [(x.float(), y) for x, y in data()]
    adam = lambda m: torch.optim.Adam(m.parameters(), lr=1e-3)  # noqa: E731
    assert_agrees(probe.history, record(net().float(), batches, nn.functional.cross_entropy, 4, adam), rel=2e-5)


@pytest.mark.limit(
    "float16 and bfloat16, autocast", "exact to the format's rounding", "exact to the format's rounding"
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_agrees_to_the_formats_own_rounding(dtype):
    model = net().float()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=dtype == torch.float16)
    with GradientProbe(model, optimizer=optimizer) as probe:
        for x, y in data():
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                loss = nn.functional.cross_entropy(model(x.float()), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert_agrees(probe.history, expected(), rel=8e-2 if dtype == torch.bfloat16 else 1e-2)


@pytest.mark.limit(
    "`clip_grad_norm_` before the step", "unclipped", "clipped; `probe.step()` before clipping has the raw ones"
)
def test_clipped_gradients_are_what_the_optimizer_sees_and_raw_ones_what_step_by_hand_sees():
    model = net()
    optimizer = sgd(model)
    x, y = data()[0]
    with GradientProbe(model, optimizer=optimizer) as seen, GradientProbe(model) as raw:
        (1e3 * nn.functional.cross_entropy(model(x), y)).backward()
        raw.step()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
    ratio = seen.history.aggregate("weight") / raw.history.aggregate("weight")
    assert ratio.tolist() == pytest.approx([1 / norm] * 3, rel=1e-5)
    assert seen.history.aggregate("output").tolist() == raw.history.aggregate("output").tolist()


@pytest.mark.limit("accumulation", "mean over the micro-batches' elements", "exact")
@pytest.mark.parametrize("to_none", [True, False])
def test_accumulation_is_one_iteration(to_none):
    model = net()
    optimizer = sgd(model, lr=0.0)
    with GradientProbe(model, optimizer=optimizer) as probe:
        for pair in (data()[:2], data()[2:]):
            optimizer.zero_grad(set_to_none=to_none)
            for x, y in pair:
                (nn.functional.cross_entropy(model(x), y) / 2).backward()
            optimizer.step()
    whole = copy.deepcopy(model)
    whole.zero_grad()
    x, y = (torch.cat(parts) for parts in zip(*data()[:2], strict=True))
    outputs = []
    hooks = [
        layer.register_forward_hook(lambda m, a, o: (o.retain_grad(), outputs.append(o))[1]) for layer in whole
    ]
    nn.functional.cross_entropy(whole(x), y).backward()
    for hook in hooks:
        hook.remove()
    assert layer_means(probe.history, "weight", "0")[0] == pytest.approx(whole[0].weight.grad.abs().mean().item())
    assert layer_means(probe.history, "output", "0")[0] == pytest.approx(outputs[0].grad.abs().mean().item())
    assert probe.history.conditions["micro_batches"] == 2


@pytest.mark.limit("several `backward()` through one forward", "exact, added up", "exact")
def test_two_backward_passes_through_one_forward_add_up():
    model = net()
    batches = data()

    def two_losses(output, target):
        return nn.functional.cross_entropy(output, target) + output.square().mean()

    optimizer = sgd(model)
    with GradientProbe(model, optimizer=optimizer) as probe:
        for x, y in batches:
            optimizer.zero_grad()
            output = model(x)
            nn.functional.cross_entropy(output, y).backward(retain_graph=True)
            output.square().mean().backward()
            optimizer.step()
    assert_agrees(probe.history, record(net(), batches, two_losses, 4))


@pytest.mark.limit("gradient penalty (`autograd.grad` and `backward`)", "that of the loss", "exact")
def test_a_gradient_penalty_is_part_of_the_loss_and_no_gradient_of_it():
    model = net()
    x, y = data()[0]
    x.requires_grad_()
    with GradientProbe(model) as probe:
        output = model(x)
        (inner,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        outputs = []
        hooks = [m.register_forward_hook(lambda m, a, o: (o.retain_grad(), outputs.append(o))[1]) for m in model]
        again = model(x)
        for hook in hooks:
            hook.remove()
        (nn.functional.cross_entropy(again, y) + inner.square().sum()).backward()
        probe.step()
    # the first forward is reached through the penalty's double backward, the second through the loss
    assert outputs[0].grad is not None
    assert probe.history.iterations == 1
    assert layer_means(probe.history, "weight", "0")[0] == pytest.approx(model[0].weight.grad.abs().mean().item())
    assert probe.history.conditions["micro_batches"] == 1


@pytest.mark.limit("training by `autograd.grad`", "exact", "exact")
def test_training_by_autograd_grad():
    model = net()
    optimizer = sgd(model)
    with GradientProbe(model, optimizer=optimizer) as probe:
        for x, y in data():
            loss = nn.functional.cross_entropy(model(x), y)
            for parameter, gradient in zip(
                model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
            ):
                parameter.grad = gradient
            optimizer.step()
    assert_agrees(probe.history, expected())


def lbfgs(model):
    return torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4, history_size=3)


@pytest.mark.limit("a closure (LBFGS)", "the closure's first call", "the closure's first call")
@pytest.mark.parametrize("make", [sgd, lbfgs])
def test_a_closure_counts_with_its_first_call(make):
    probed, plain = net(), net()
    first_gradients = []

    def train(model, optimizer, note):
        for x, y in data():
            calls = []

            def closure(x=x, y=y, calls=calls):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                calls.append(loss)
                if note and len(calls) == 1:
                    first_gradients.append(model[0].weight.grad.abs().mean().item())
                return loss

            optimizer.step(closure)

    optimizer = make(probed)
    with GradientProbe(probed, optimizer=optimizer) as probe:
        train(probed, optimizer, note=False)
    train(plain, make(plain), note=True)
    assert layer_means(probe.history, "weight", "0") == pytest.approx(first_gradients)
    assert all(torch.equal(a, b) for a, b in zip(probed.parameters(), plain.parameters(), strict=True))


@pytest.mark.limit("several optimizers: `optimizer=[...]`", "exact", "exact")
def test_several_optimizers_are_one_round():
    model = net()
    optimizers = [
        torch.optim.SGD(model[0].parameters(), lr=0.01),
        torch.optim.SGD([*model[2].parameters(), *model[4].parameters()], lr=0.01),
    ]
    with GradientProbe(model, optimizer=optimizers) as probe:
        for x, y in data():
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert_agrees(probe.history, expected())


@pytest.mark.limit("several optimizers: `optimizer=[...]`")
@pytest.mark.parametrize("scaled", [True, False])
def test_outputs_are_those_of_the_steps_of_their_own_optimizer(scaled):
    model = net()
    often = torch.optim.SGD(model[0].parameters(), lr=0.01)
    seldom = torch.optim.SGD([*model[2].parameters(), *model[4].parameters()], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    exact = {}
    with GradientProbe(model, optimizer=[often, seldom]) as probe:
        for index, (x, y) in enumerate(data(6)):
            model.zero_grad()
            output = model(x)
            output.retain_grad()
            scaler.scale(nn.functional.cross_entropy(output, y)).backward()
            exact[index] = (output.grad / scaler.get_scale()).abs().mean().item()
            scaler.step(often)
            if index % 2:
                scaler.step(seldom)
            scaler.update()
    # every step of the first one is an iteration: the second one steps in every second, and uses what is its own
    expected = [exact[index] if index % 2 else math.nan for index in exact]
    assert layer_means(probe.history, "output", "4") == pytest.approx(expected, nan_ok=True)
    assert not any(map(math.isnan, layer_means(probe.history, "output", "0")))


@pytest.mark.parametrize("scaled", [True, False])
def test_a_window_that_fills_among_the_hooks_of_others(scaled):
    model = net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    calls = []
    with GradientProbe(model, optimizer=optimizer, iterations=2) as probe:
        optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
        optimizer.register_step_post_hook(lambda *_: calls.append("after"))
        for x, y in data():
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        assert not probe.model[0]._forward_hooks
        assert len(optimizer._optimizer_step_pre_hooks) == 1
    assert len(optimizer._optimizer_step_post_hooks) == 1
    assert calls == ["before", "after"] * len(data())
    assert_agrees(probe.history, expected(2))


@pytest.mark.limit("an optimizer in the backward pass", "exact", "exact")
def test_an_optimizer_in_the_backward_pass():
    model = net()
    optimizers = {parameter: torch.optim.SGD([parameter], lr=0.01) for parameter in model.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        parameter.grad = None

    hooks = [parameter.register_post_accumulate_grad_hook(step) for parameter in model.parameters()]
    with GradientProbe(model, optimizer=list(optimizers.values())) as probe:
        for x, y in data():
            nn.functional.cross_entropy(model(x), y).backward()
    for hook in hooks:
        hook.remove()
    assert_agrees(probe.history, expected())


class Checkpointed(nn.Module):
    def __init__(self, inner, reentrant):
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x):
        x = self.inner[0](x)
        x = checkpoint(self.inner[1:4], x, use_reentrant=self.reentrant)
        return self.inner[4](x)


@pytest.mark.limit("activation checkpointing, reentrant or not", "exact", "exact")
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant):
    model = Checkpointed(net(), reentrant)
    optimizer = sgd(model)
    with GradientProbe(model, optimizer=optimizer) as probe:
        for x, y in data():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert_agrees(probe.history, {(i, f"inner.{n}", of): v for (i, n, of), v in expected().items()})


class Whole(nn.Module):
    """A forward of its own: Module.compile(fullgraph=True) does not find one in a plain Sequential."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.limit(
    "`torch.compile`, before or after the first call, whole or in part",
    "exact; compiled code runs eagerly in the window",
    "exact",
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["whole", "called before", "submodule", "in place", "a function"])
@pytest.mark.parametrize("fullgraph", [True, False])
def test_compiled_models_have_the_true_values(what, backend, fullgraph):
    torch._dynamo.reset()
    model = Whole(net())
    options = {"backend": backend, "fullgraph": fullgraph}
    run = model
    if what in ("whole", "called before"):
        run = torch.compile(model, **options)
    elif what == "submodule":
        model.inner[2] = torch.compile(model.inner[2], **options)
    elif what == "in place":
        model.compile(**options)
    else:
        run = torch.compile(lambda x: model(x), **options)
    if what == "called before":
        run(data()[0][0]).sum().backward()
    optimizer = sgd(model)
    probed = run if isinstance(run, nn.Module) else model
    with GradientProbe(probed, optimizer=optimizer, iterations=3) as probe:
        for x, y in data():
            optimizer.zero_grad()
            nn.functional.cross_entropy(run(x), y).backward()
            optimizer.step()
    assert_agrees(probe.history, {(i, f"inner.{n}", of): v for (i, n, of), v in expected(3).items()})
    # that a function around the model was compiled cannot be seen from the model
    eagerly = None if what == "a function" else "ran eagerly during the window"
    assert probe.history.conditions["compile"] == eagerly
    assert torch._dynamo.eval_frame._stance.stance == "default"
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_probes_that_end_in_any_order_leave_compiled_code_as_it_was():
    model = torch.compile(Whole(net()), backend="aot_eager")
    first, second = GradientProbe(model), GradientProbe(model)
    first.__enter__()
    second.__enter__()
    first.detach()
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    second.detach()
    assert torch._dynamo.eval_frame._stance.stance == "default"
    torch._dynamo.reset()


def test_a_model_that_gets_its_memory_after_the_probe():
    with torch.device("meta"):
        model = net()
    with GradientProbe(model) as probe:
        model.to_empty(device="cpu")
        model.load_state_dict(net().state_dict())
        optimizer = sgd(model)
        for x, y in data():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            probe.step()
            optimizer.step()
    assert_agrees(probe.history, expected())


@pytest.mark.parametrize("retain", [True, False])
def test_a_graph_that_outlives_the_window_is_not_measured(retain):
    model = net()
    with GradientProbe(model, iterations=1) as probe:
        x, y = data()[0]
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward(retain_graph=True)
        probe.step()
    before = probe.history
    loss.backward(retain_graph=retain)
    assert not probe._outputs.contents.passes
    assert probe.history == before


@pytest.mark.limit("scripted modules", "refused", "refused")
def test_scripted_modules_are_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    script = pytest.importorskip("torch.jit").script
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.append(script(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="takes no hooks"):
        GradientProbe(model)


@pytest.mark.limit("DataParallel on several devices", "refused", "refused")
def test_data_parallel_is_refused():
    model = nn.DataParallel(net())
    model.device_ids = [0, 1]
    with pytest.raises(ValueError, match=r"probe model\.module"):
        GradientProbe(model)


def test_an_optimizer_that_is_none_says_what_to_do():
    with pytest.raises(TypeError, match=r"call probe\.step"):
        GradientProbe(net(), optimizer=[object()])


@pytest.mark.parametrize("device", ["host"], indirect=True)
@pytest.mark.parametrize(
    "wait", [".sum().item()", ".tolist()", "[rows > 0]", '.to("cpu")', ".cpu()", ".any() and 1"]
)
def test_a_planted_transfer_is_seen(monkeypatch, wait):
    model, close = net(), Window.close
    optimizer = sgd(model)
    planted = compile(f"def waits(rows): rows{wait}", str(PACKAGE / "planted.py"), "exec")
    exec(planted, place := {})

    def close_and_wait(window, averaged):
        place["waits"](window._reduced[0].rows)
        close(window, averaged)

    monkeypatch.setattr(Window, "close", close_and_wait)
    with imitated(), NoTransfers() as transfers, GradientProbe(model, optimizer=optimizer):
        nn.functional.cross_entropy(model(data()[0][0]), data()[0][1]).backward()
        optimizer.step()
    assert [where for _, where in transfers.found] == ["planted.py:1"]
