"""Supervised training in every set-up, against the same networks with the branches written into them by hand."""

import copy
import functools
import io
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import support.distributed_supervised as setups
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import gradprobe as gp
from gradprobe.network.tensors import main_tensor

POINTS = ["norm", "act", "block"]
WEIGHT = 0.7


@pytest.fixture(autouse=True)
def no_hook_of_a_branch_stays(monkeypatch):
    """Fail a test that leaves a hook, or a stand-in for a module's registry of hooks, on a supervised network."""
    registries = []
    original = gp.SupervisedModel.__init__

    def noting(self, *args):
        original(self, *args)
        registries.extend(
            (module, module._forward_hooks, dict(module._forward_hooks)) for module in self.modules()
        )

    monkeypatch.setattr(gp.SupervisedModel, "__init__", noting)
    yield
    for module, registry, hooks in registries:
        assert module._forward_hooks is registry
        assert dict(registry) == hooks
    torch._dynamo.reset()


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
    """In-place operations behind every point, batch norm, a residual block, dropout."""

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
        taken = (points[key.removeprefix("at_")] for key in self.branches)
        made = (branch(point) for branch, point in zip(self.branches.values(), taken, strict=True))
        return gp.SupervisedOutput(output, tuple(made))


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


# Steps: AMP, accumulation, several calls


def plain_step(model, loss, optimizer, scaler):
    loss(model(images()), classes()).backward()
    optimizer.step()


def bfloat16_step(model, loss, optimizer, scaler):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(model(images(torch.float32)), classes())
    value.backward()
    optimizer.step()


def scaled_step(model, loss, optimizer, scaler):
    with torch.autocast("cpu", dtype=torch.float16):
        value = loss(model(images(torch.float32)), classes())
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()


def accumulated_step(model, loss, optimizer, scaler):
    for x, y in zip(images().chunk(2), classes().chunk(2), strict=True):
        (loss(model(x), y) / 2).backward()
    optimizer.step()


def closure_step(model, loss, optimizer, scaler):
    def closure():
        optimizer.zero_grad()
        value = loss(model(images()), classes())
        value.backward()
        return value

    optimizer.step(closure)


@pytest.mark.parametrize("step", [plain_step, bfloat16_step, scaled_step, accumulated_step, closure_step])
def test_training_is_that_of_branches_written_by_hand(step):
    half = step in (bfloat16_step, scaled_step)  # a point's gradients are rounded, and added up in another order
    net = supervised(dtype=torch.float32 if half else torch.float64)
    hand = ByHand(net)
    before = copy.deepcopy(net.state_dict())
    for model, loss in ((net, criterion()), (hand, joint)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for _ in range(4):
            optimizer.zero_grad()
            step(model, loss, optimizer, scaler)
    rounding = {"atol": 2e-3, "rtol": 0} if half else {}
    assert_same(net.state_dict(), hand.state_dict(), **rounding)
    moved = {name: (p - before[name]).abs().max() for name, p in net.named_parameters()}
    assert all(distance > 1e-2 for name, distance in moved.items() if name != "trunk.stem.bias"), moved


def test_accumulation_sums_to_the_whole_batch():
    net = setups.build()
    whole = copy.deepcopy(net)
    x, y = setups.batches()[0]
    for part, goal in zip(x.chunk(4), y.chunk(4), strict=True):
        (criterion()(net(part), goal) / 4).backward()
    criterion()(whole(x), y).backward()
    assert_same_gradients(net, whole)


def test_both_sides_of_a_siamese_network():
    def distance(first, second):
        return (first - second).square().sum(1).sqrt().mean()

    net = supervised()
    hand = ByHand(net)
    one, other = net(images()), net(images(seed=3))  # the second call before the first is used
    pairs = zip(one.auxiliary, other.auxiliary, strict=True)
    (distance(one.output, other.output) + sum(distance(*pair) for pair in pairs)).backward()
    one, other = hand(images()), hand(images(seed=3))
    pairs = zip(one.auxiliary, other.auxiliary, strict=True)
    (distance(one.output, other.output) + sum(distance(*pair) for pair in pairs)).backward()
    assert_same_gradients(net, hand)


# Part of a larger module


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 4)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.out = nn.ConvTranspose2d(4, 1, 2, stride=2)

    def forward(self, z):
        return torch.tanh(self.out(self.act(self.up(z))))


class GAN(nn.Module):
    """A larger module whose two parts can be supervised."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.generator = Generator()
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 3, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(75, 1)
        )

    def judged(self, image, real):
        return binary_cross_entropy_with_logits(self.discriminator(image), torch.full((2, 1), real))


def noise():
    return torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(4))


def gan_with_supervised_generator():
    gan = GAN()
    gan.generator = gp.supervise(gan.generator, ["up", "act"], inputs=noise())
    return gan


def test_a_gans_generator():
    gan = gan_with_supervised_generator()
    hand = copy.deepcopy(gan)
    criterion(lambda image, real: gan.judged(image, real))(gan.generator(noise()), 1.0).backward()

    trunk, branches = hand.generator.trunk, list(hand.generator.branches.values())
    up = trunk.up(noise())
    act = nn.functional.leaky_relu(up, 0.1)
    output = torch.tanh(trunk.out(act))
    auxiliary = branches[0](up, like=output), branches[1](act, like=output)
    joint(gp.SupervisedOutput(output, auxiliary), 1.0, hand.judged).backward()
    assert_same_gradients(gan, hand)


def test_a_discriminator_on_real_and_fake():
    gan = GAN()
    real = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    gan.discriminator = gp.supervise(gan.discriminator, ["0"], inputs=real, branch="pooled")
    hand = copy.deepcopy(gan)
    loss = criterion(lambda scores, real: binary_cross_entropy_with_logits(scores, torch.full((2, 1), real)))
    (loss(gan.discriminator(real), 1.0) + loss(gan.discriminator(gan.generator(noise())), 0.0)).backward()

    total = torch.zeros(())
    for image, goal in ((real, 1.0), (hand.generator(noise()), 0.0)):
        trunk, target = hand.discriminator.trunk, torch.full((2, 1), goal)
        maps = trunk[0](image)
        scores = trunk[3](torch.relu(maps).flatten(1)), hand.discriminator.branches["at_0"](maps)
        total = total + binary_cross_entropy_with_logits(scores[0], target)
        total = total + WEIGHT * binary_cross_entropy_with_logits(scores[1], target)
    total.backward()
    assert_same_gradients(gan, hand)


def test_the_larger_modules_mode_is_the_networks():
    gan, plain = gan_with_supervised_generator(), GAN()
    assert isinstance(gan.generator(noise()), gp.SupervisedOutput)
    gan.eval()
    assert torch.equal(gan.generator(noise()), plain.generator(noise()))
    gan.train()
    assert isinstance(gan.generator(noise()), gp.SupervisedOutput)


@pytest.mark.parametrize("assign", [False, True])
def test_a_plain_checkpoint_of_the_larger_module(assign):
    gan, plain = gan_with_supervised_generator(), GAN()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(1.0)
    branches = copy.deepcopy(gan.generator.branches.state_dict())
    gan.load_state_dict(plain.state_dict(), assign=assign)
    assert_same(gan.generator.trunk.state_dict(), plain.generator.state_dict())
    assert_same(gan.discriminator.state_dict(), plain.discriminator.state_dict())
    assert_same(gan.generator.branches.state_dict(), branches)


# torch.compile


def compiled_and_eager(net, backend):
    eager = copy.deepcopy(net)
    return torch.compile(net, backend=backend, fullgraph=True), eager


def assert_equal_steps(compiled, eager, *args, loss=joint, target=None, **kwargs):
    target = classes() if target is None else target
    for model in (compiled, eager):
        model.zero_grad()
    mine, theirs = compiled(*args, **kwargs), eager(*args, **kwargs)
    torch.testing.assert_close(flat(mine), flat(theirs))
    for prediction in (mine, theirs):
        loss(prediction, target).backward()
    assert_same_gradients(getattr(compiled, "_orig_mod", compiled), eager, every=False)
    assert gradients(eager)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("before", ["compiled first", "called eagerly before"])
def test_compiled_training_is_eager_training(backend, before):
    net = supervised()
    if before == "called eagerly before":
        net(images())
        net(images())
    compiled, eager = compiled_and_eager(net, backend)
    for _ in range(2):
        assert_equal_steps(compiled, eager, images())
    assert_same(net.trunk.state_dict(), eager.trunk.state_dict())  # running statistics
    compiled.eval()
    torch.testing.assert_close(compiled(images()), eager.eval()(images()))
    compiled.train()
    assert_equal_steps(compiled, eager.train(), images())
    assert_same_gradients(net, hand_step(eager))


def hand_step(net):
    hand = ByHand(net)
    joint(hand(images()), classes()).backward()
    return hand


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("again", [True, False])
def test_removed_between_compiled_steps(again):
    compiled, eager = compiled_and_eager(supervised(), "aot_eager")
    assert_equal_steps(compiled, eager, images())
    for net in (compiled._orig_mod, eager):
        net.remove("act")
    if again:
        compiled = torch.compile(compiled._orig_mod, backend="aot_eager", fullgraph=True)
    assert_equal_steps(compiled, eager, images())
    assert list(compiled._orig_mod.points) == ["norm", "block"]


class Broken(Block):
    """A block that no graph goes through."""

    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x)


def compiled_network(net):
    return torch.compile(net, backend="aot_eager")


def compiled_with_graph_break(net):
    net.trunk.block.__class__ = Broken
    return compiled_network(net)


def compiled_function(net):
    return torch.compile(lambda x: net(x), backend="aot_eager", fullgraph=True)


def compiled_in_place(net):
    net.compile(backend="aot_eager", fullgraph=True)
    return net


def compiled_trunk(net):
    net.trunk.compile(backend="aot_eager", fullgraph=True)
    return net


def compiled_regions(net):
    for region in (net.trunk.norm, net.trunk.block, net.branches["at_act"]):
        region.compile(backend="aot_eager", fullgraph=True)
    return net


COMPILERS = [
    compiled_network,
    compiled_with_graph_break,
    compiled_function,
    compiled_in_place,
    compiled_trunk,
    compiled_regions,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_whatever_is_compiled(compiler):
    """Over several steps, a removal, and another batch size, since compiled code keeps what it saw at first."""
    net = supervised()
    eager = copy.deepcopy(net)
    run = compiler(net)
    for rows in (6, 6, 6, 4):
        if rows == 4:
            net.remove("act")
            eager.remove("act")
        net.zero_grad()
        criterion()(run(images()[:rows]), classes()[:rows]).backward()
        hand = ByHand(eager)
        joint(hand(images()[:rows]), classes()[:rows]).backward()
        assert_same_gradients(net, hand)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_or_wrapped_network_is_refused():
    with pytest.raises(
        ValueError, match="expected the network itself, got it inside OptimizedModule: supervise the"
    ):
        gp.supervise(torch.compile(Residual()), POINTS, inputs=images(torch.float32))


@pytest.mark.filterwarnings("ignore")
def test_a_trunk_in_which_compiled_code_takes_no_hooks_says_so():
    trunk = Residual()
    trunk.compile(backend="aot_eager")
    trunk(images(torch.float32))
    net = gp.supervise(trunk, POINTS, inputs=images(torch.float32))
    with pytest.raises(RuntimeError, match=r"'norm' .*compile the supervised network instead"):
        net(images(torch.float32))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiling", [False, True])
def test_a_users_hook_on_a_point(compiling):
    net = supervised(["norm"])
    doubled = copy.deepcopy(net)
    with torch.no_grad():  # the same by hand: y = 2 (w x + b)
        doubled.trunk.norm.weight.mul_(2)
        doubled.trunk.norm.bias.mul_(2)
    seen = []
    handle = net.trunk.norm.register_forward_hook(lambda module, args, output: (seen.append(1), output * 2)[1])
    run = torch.compile(net, backend="aot_eager", fullgraph=True) if compiling else net
    for count in (1, 2):
        torch.testing.assert_close(tuple(run(images())), tuple(doubled(images())))
        assert len(seen) == count
    handle.remove()
    plain = supervised(["norm"])
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(tuple(net(images())), tuple(plain(images())))
    assert len(seen) == 2
    assert not net.trunk.norm._forward_hooks


def tiny(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if name == "gpt2":
        sizes = {"n_embd": 8, "n_layer": 3, "n_head": 2, "n_positions": 16, "vocab_size": 32}
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout, use_cache=False))
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": 32}
    config = transformers.BertConfig(**sizes, **dropout, max_position_embeddings=16, num_labels=3)
    return transformers.BertForSequenceClassification(config)


LAYERS = {"gpt2": "transformer.h.{}", "bert": "bert.encoder.layer.{}"}


def tokens():
    return torch.randint(32, (4, 7), generator=torch.Generator().manual_seed(6))


def supervised_transformer(name, branch="auto"):
    names = [LAYERS[name].format(index) for index in (0, 1)]
    return gp.supervise(tiny(name).train(), names, inputs={"input_ids": tokens()}, branch=branch)


def transformer_loss(prediction, target):
    scores = (prediction.output.logits, *prediction.auxiliary)
    losses = [cross_entropy(each.flatten(0, -2), target.flatten()) for each in scores]
    return losses[0] + WEIGHT * sum(losses[1:])


def goal_of(name):
    return tokens() if name == "gpt2" else torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(("name", "branch"), [("bert", "auto"), ("gpt2", "auto"), ("gpt2", "shared")])
def test_transformers_are_as_with_their_own_hidden_states(name, branch):
    net = supervised_transformer(name, branch)
    hand = copy.deepcopy(net)
    transformer_loss(net(input_ids=tokens()), goal_of(name)).backward()
    output = hand.trunk(input_ids=tokens(), output_hidden_states=True)
    layers = zip(hand.branches.values(), output.hidden_states[1:3], strict=True)
    auxiliary = tuple(branch(hidden) for branch, hidden in layers)
    transformer_loss(gp.SupervisedOutput(output, auxiliary), goal_of(name)).backward()
    assert_same_gradients(net, hand, every=False)
    assert len(gradients(net)) >= len(list(net.parameters())) - 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "branch"), [("bert", "auto"), ("gpt2", "shared")])
def test_compiled_transformers(name, branch):
    compiled, eager = compiled_and_eager(supervised_transformer(name, branch), "aot_eager")
    for _ in range(2):
        assert_equal_steps(compiled, eager, input_ids=tokens(), loss=transformer_loss, target=goal_of(name))


# Activation checkpointing


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_with_checkpointing():
    net = supervised(reentrant=False)
    run = torch.compile(net, backend="aot_eager", fullgraph=True)
    criterion()(run(images()), classes()).backward()
    assert_same_gradients(net, hand_step(net))


@pytest.mark.parametrize("names", [["norm", "block"], ["block.conv"]])
def test_non_reentrant_checkpointing(names):
    net = supervised(names, reentrant=False)
    same = supervised(names)
    for model in (net, same):
        for _ in range(3):
            model.zero_grad()
            criterion()(model(images()), classes()).backward()
    assert_same_gradients(net, same)


def test_points_outside_reentrant_checkpointing():
    net = supervised(reentrant=True)
    criterion()(net(images()), classes()).backward()
    hand = ByHand(net)
    joint(hand(images()), classes()).backward()
    assert_same_gradients(net, hand)


def test_points_inside_reentrant_checkpointing_are_refused():
    unserved = gp.points(Residual(reentrant=True), images(torch.float32)).unserved
    assert "inside reentrant checkpointing" in unserved["block.conv"]
    with pytest.raises(
        ValueError, match=r"no branch can be put at 'block\.conv': .*inside reentrant checkpointing"
    ):
        supervised(["block.conv"], reentrant=True)


# Several processes


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    """Runs all set-ups once, in a process for each rank."""

    @functools.cache
    def run():
        folder = tmp_path_factory.mktemp("ranks")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        worker = Path(__file__).parents[1] / "support" / "distributed_supervised.py"
        done = subprocess.run(
            [*launch, str(worker), str(folder)], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return run


def blocks_by_hand(net, x):
    """What a supervised `Blocks` computes, written out."""
    t = net.trunk
    first = t.blocks[0](t.stem(x))
    second = t.blocks[1](2 * first)
    branches = net.branches["at_blocks/0"], net.branches["at_blocks/1"]
    return gp.SupervisedOutput(t.head(second), (branches[0](first), branches[1](second)))


def written_out(weights, branch):
    """One process, whole batches: gradients of the first step and parameters after the last."""
    net = setups.build(branch=branch)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first = None
    for step, (x, y) in enumerate(setups.batches()):
        optimizer.zero_grad()
        prediction = blocks_by_hand(net, x)
        loss = cross_entropy(prediction.output, y)
        for weight, auxiliary in zip(weights(step), prediction.auxiliary, strict=True):
            loss = loss + weight * cross_entropy(auxiliary, y) if weight else loss
        loss.backward()
        first = first or gradients(net)
        optimizer.step()
    return {"gradients": first, "parameters": dict(net.named_parameters())}


def both(step):
    return 0.5, 0.5


RANKED = {
    "ddp": both,
    "ddp static graph": both,
    "ddp bucket views": both,
    "ddp shared": both,
    "ddp weight 0": lambda step: (0.0, 0.0),
    "ddp drop_after": lambda step: (0.5, 0.5) if step < 2 else (0.0, 0.0),
    "ddp weights with a 0": lambda step: (0.0, 0.5),
    "fsdp2": both,
    "fsdp2 not resharded": both,
    "fsdp2 shared": both,
    "fsdp2 weight 0": lambda step: (0.0, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RANKED)
def test_two_ranks_are_one_process_with_the_whole_batch(name, on_two_ranks):
    expected = written_out(RANKED[name], "shared" if "shared" in name else "pooled")
    for rank in range(2):
        found = torch.load(on_two_ranks() / f"{name}-{rank}.pt")
        unreached = found["gradients"].keys() - expected["gradients"].keys()
        assert all("branches" in key and not found["gradients"][key].any() for key in unreached)
        assert_same({key: found["gradients"][key] for key in expected["gradients"]}, expected["gradients"])
        assert_same(found["parameters"], expected["parameters"])


@pytest.mark.slow
def test_mixed_precision_of_two_shards(on_two_ranks):
    net = setups.build(torch.float32).bfloat16()
    x, y = setups.batches(torch.float32)[0]
    sums = {}
    for rows in (slice(0, 4), slice(4, 8)):  # each rank's in bfloat16, their mean in float32
        net.zero_grad()
        prediction = blocks_by_hand(net, x[rows].bfloat16())
        losses = [cross_entropy(z, y[rows]) for z in (prediction.output, *prediction.auxiliary)]
        (losses[0] + 0.5 * losses[1] + 0.5 * losses[2]).backward()
        for key, value in gradients(net).items():
            sums[key] = sums.get(key, 0) + value.float() / 2
    assert_same(torch.load(on_two_ranks() / "fsdp2 mixed-0.pt")["gradients"], sums)


# In-place operations behind a point


class Changing(nn.Module):
    """A point, and behind it a change of its output that may be in place, by the number of the forward pass."""

    def __init__(self, changes):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
        self.changes, self.passes = changes, 0

    def forward(self, x):
        self.passes += 1
        return self.last(self.changes(self.first(x), self.passes))


def zero_column_(x):
    x[:, 0] = 0
    return x


def relu_of_view_(x):
    x.view(-1).relu_()
    return x


MASK = torch.tensor([0.0, 1, 1, 1, 1], dtype=torch.float64)
CHANGES = {  # in place, written out, copies of the point in later forward passes
    "nothing": (torch.relu, torch.relu, 0),
    "relu": (torch.relu_, torch.relu, 1),
    "added to": (lambda x: x.mul_(2).add_(1), lambda x: 2 * x + 1, 1),
    "a column": (zero_column_, lambda x: MASK * x, 1),
    "a view": (relu_of_view_, torch.relu, 1),
    "a copy": (lambda x: x.clone().relu_(), torch.relu, 1),  # the network's own copy
}


def changing(changes):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(7)).double()
    torch.manual_seed(0)
    return gp.supervise(Changing(changes), ["first"], inputs=x), x


def changing_by_hand(net, x, change):
    hand = copy.deepcopy(net)
    hand.zero_grad()
    point = hand.trunk.first(x)
    prediction = gp.SupervisedOutput(hand.trunk.last(change(point)), (hand.branches["at_first"](point),))
    joint(prediction, classes()).backward()
    return hand


class Operators(TorchDispatchMode):
    """The operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("change", CHANGES)
def test_in_place_changes_of_a_point(change):
    in_place, written, copies = CHANGES[change]
    net, x = changing(lambda x, _: in_place(x))
    for number in range(3):
        net.zero_grad()
        with Operators() as ran:
            prediction = net(x)
        criterion()(prediction, classes()).backward()
        assert_same_gradients(net, changing_by_hand(net, x, written))
        if number:
            assert ran.names.count("aten.clone.default") == copies


@pytest.mark.parametrize(
    "in_place", [lambda n: n >= 3, lambda n: n >= 3 and n % 2], ids=["from the third on", "every second"]
)
def test_a_network_that_begins_to_change_in_place_is_told_once(in_place):
    net, x = changing(lambda x, number: torch.relu_(x) if in_place(number) else torch.relu(x))
    net.trunk.passes = 0  # supervise() made one
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    told = []
    for _ in range(7):
        optimizer.zero_grad()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            criterion()(net(x), classes()).backward()
        told.append([str(warning.message) for warning in caught])
        if not told[-1]:
            assert_same_gradients(net, changing_by_hand(net, x, torch.relu))
        optimizer.step()
    assert [len(messages) for messages in told] == [0, 0, 1, 0, 0, 0, 0]
    assert "'first' was changed in place in this forward pass" in told[2][0]


# The trunk is untouched


def trained(model, dtype=torch.float64):
    criterion()(model(images(dtype)), classes()).backward()
    model.zero_grad()
    return model


def test_class_keys_and_pickle_of_the_trunk_are_those_of_a_plain_model():
    net = supervised()
    trained(net)
    torch.manual_seed(0)
    plain = trained(Residual().double())
    assert type(net.trunk) is Residual
    assert list(net.trunk.state_dict()) == list(plain.state_dict())
    assert saved(net.trunk).read() == saved(plain).read()  # torch.save: pickle itself writes addresses


def storages(model):
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: loaded(saved(net))], ids=["deepcopy", "torch.load"])
@pytest.mark.parametrize("branch", ["pooled", "shared"])
def test_copies_of_the_network_are_independent(branch, copied):
    net = trained(supervised(branch=branch))
    before = copy.deepcopy(net.state_dict())
    other = copied(net)
    assert not storages(net) & storages(other)
    assert not {id(module) for module in net.modules()} & {id(module) for module in other.modules()}
    assert_same(dict(enumerate(flat(other(images())))), dict(enumerate(flat(copy.deepcopy(net)(images())))))
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(2):
        criterion()(other(images()), classes()).backward()
        optimizer.step()
    other.remove("norm")
    other.load_state_dict(Residual().state_dict())  # a plain checkpoint goes into the copy, not the original
    assert_same(net.state_dict(), before)
    assert not gradients(net)
    assert tuple(net.points) == tuple(POINTS)
    if branch == "shared":
        assert all(each.head is other.trunk.fc for each in other.branches.values())
        assert all(each.head is net.trunk.fc for each in net.branches.values())


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return file


def loaded(file):
    return torch.load(file, weights_only=False)


def test_a_copy_of_the_trunk_knows_nothing_of_branches():
    net = trained(supervised())
    other = copy.deepcopy(net.trunk)
    assert not storages(net) & storages(other)
    trained(other)
    assert torch.equal(other.eval()(images()), trained(net).eval()(images()))


def test_an_exponential_moving_average():
    net = supervised()
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    expected = None
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        criterion()(net(images()), classes()).backward()
        optimizer.step()
        average.update_parameters(net)
        now = {name: p.detach().clone() for name, p in net.named_parameters()}
        expected = now if expected is None else {name: 0.9 * p + 0.1 * now[name] for name, p in expected.items()}
    assert_same({name: p.detach() for name, p in average.module.named_parameters()}, expected)
    average.eval()
    assert torch.equal(average(images()), average.module.trunk(images()))


def graph_of(model):
    return [
        (node.op, str(node.target), node.name)
        for node in torch.export.export(model, (images(),)).graph.nodes
        if node.op != "placeholder"  # a placeholder is called by the way to its parameter
    ]


def test_torch_export_gives_the_plain_models_graph():
    net = trained(supervised())
    plain = trained(Residual().double())
    assert graph_of(net.trunk) == graph_of(plain)
    assert graph_of(net.eval()) == graph_of(net.trunk) == graph_of(plain.eval())


def onnx_nodes(model):
    exported = torch.onnx.export(model, (images(torch.float32),), dynamo=True, verbose=False)
    graph = exported.model_proto.graph
    return [(node.op_type, *node.input, *node.output) for node in graph.node], [i.name for i in graph.initializer]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_export_gives_the_plain_models_nodes():
    net = trained(supervised(dtype=torch.float32), torch.float32)
    plain = Residual().eval()
    nodes, weights = onnx_nodes(plain)
    assert nodes
    assert onnx_nodes(net.eval().trunk) == (nodes, weights)


def operators(model):
    with Operators() as ran:
        model(images())
    return ran.names


def test_evaluation_runs_the_operators_of_the_plain_model():
    net = trained(supervised()).eval()
    plain = Residual().double().eval()
    assert operators(net) == operators(plain)
    net.remove()
    assert operators(net.train()) == operators(plain.train())


# Checkpoints, removal, optimizers


@pytest.mark.parametrize("assign", [False, True])
def test_checkpoints_go_every_way(assign):
    net, other = supervised(), supervised()
    plain = Residual().double()
    with torch.no_grad():
        for parameter in (*other.parameters(), *plain.parameters()):
            parameter.add_(torch.rand_like(parameter))
    branches = copy.deepcopy(net.branches.state_dict())
    net.load_state_dict(plain.state_dict(), assign=assign)
    assert_same(net.trunk.state_dict(), plain.state_dict())
    assert_same(net.branches.state_dict(), branches)
    net.load_state_dict(other.state_dict(), assign=assign)
    assert_same(net.state_dict(), other.state_dict())
    plain.load_state_dict(net.trunk.state_dict(), assign=assign)
    assert_same(plain.state_dict(), other.trunk.state_dict())
    assert len(list(trained(net).parameters())) == len(list(other.parameters()))
    criterion()(net(images()), classes()).backward()
    assert_same_gradients(net, hand_step(net))


@pytest.mark.parametrize(("plain", "missing"), [(True, "fc.weight"), (False, "trunk.fc.weight")])
def test_a_missing_key_is_named(plain, missing):
    net = supervised()
    state = (net.trunk if plain else net).state_dict()
    del state[missing]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "trunk\.fc\.weight"'):
        net.load_state_dict(state)


def test_a_checkpoint_with_a_branch_too_many_names_it():
    state = supervised().state_dict()
    net = supervised(["norm", "block"])
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"branches\.at_act"):
        net.load_state_dict(state)
    found = net.load_state_dict(state, strict=False)
    assert found.unexpected_keys == ["branches.at_act.fc.weight", "branches.at_act.fc.bias"]


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.01, foreach=False),
    ],
    ids=["SGD", "Adam", "AdamW"],
)
@pytest.mark.parametrize("when", ["between steps", "before the step"])
def test_an_optimizer_goes_on_after_removal(make, when):
    net = supervised()
    hand = ByHand(net)
    gone = net.branches["at_act"]
    runs = [(net, make(net.parameters()), criterion()), (hand, make(hand.parameters()), joint)]
    for number in range(5):
        for model, optimizer, loss in runs:
            if number == 2 and when == "between steps":
                remove_act(model)
            optimizer.zero_grad(set_to_none=number != 3)
            loss(model(images()), classes()).backward()
            if number == 2 and when == "before the step":
                remove_act(model)
            if number == 2 and model is net:
                kept = copy.deepcopy(gone.state_dict())
            optimizer.step()
    assert_same(gone.state_dict(), kept)
    assert_same(net.state_dict(), hand.state_dict())


def remove_act(model):
    if isinstance(model, gp.SupervisedModel):
        model.remove("act")
    else:
        for parameter in model.branches.pop("at_act").parameters():
            parameter.grad = None


def test_removing_a_shared_branch_leaves_the_heads_gradient():
    net = supervised(branch="shared")
    criterion()(net(images()), classes()).backward()
    before = net.trunk.fc.weight.grad.clone()
    net.remove("act")
    assert torch.equal(net.trunk.fc.weight.grad, before)


def test_an_unknown_name_cannot_be_removed():
    net = supervised()
    with pytest.raises(ValueError, match="no supervision point is called 'bloc'; did you mean 'block'"):
        net.remove("bloc")
    assert list(net.points) == POINTS


# Errors, modes, odd beginnings


class Failing(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError


@pytest.mark.parametrize("where", ["trunk", "branch"])
def test_no_hook_stays_after_an_error(where):
    net = supervised()
    good = copy.deepcopy(net)
    place = net.trunk if where == "trunk" else net.branches
    name = "fc" if where == "trunk" else "at_act"
    mended = getattr(place, name)
    setattr(place, name, Failing())
    with pytest.raises(ZeroDivisionError):
        net(images())
    assert not any(module._forward_hooks for module in net.modules())
    setattr(place, name, mended)
    net.load_state_dict(good.state_dict())
    assert_same(dict(enumerate(flat(net(images())))), dict(enumerate(flat(good(images())))))


def test_two_networks_around_one_trunk():
    first = supervised(["norm"])
    second = gp.supervise(first.trunk, ["norm", "block"], inputs=images(), branch="pooled")
    hands = ByHand(first), ByHand(second)
    predictions = first(images()), second(images())
    for prediction, hand in zip(predictions, hands, strict=True):
        torch.testing.assert_close(flat(prediction), flat(hand(images())))
    for hand in hands:
        hand.zero_grad()
    criterion()(predictions[0], classes()).backward()
    joint(hands[0](images()), classes()).backward()
    assert_same_gradients(first, hands[0])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_mode_without_gradients(mode):
    net = supervised()
    hand = ByHand(net)
    for _ in range(3):
        with mode():
            torch.testing.assert_close(flat(net(images())), flat(hand(images())))
    criterion()(net(images()), classes()).backward()
    joint(hand(images()), classes()).backward()
    assert_same_gradients(net, hand)


def test_a_frozen_trunk_trains_its_branches_alone():
    net = supervised()
    net.trunk.requires_grad_(False)
    hand = ByHand(net)
    for _ in range(2):
        net.zero_grad()
        criterion()(net(images()), classes()).backward()
    joint(hand(images()), classes()).backward()
    assert_same_gradients(net, hand, every=False)
    assert {name.split(".")[0] for name in gradients(net)} == {"branches"}


def test_a_gradient_penalty_through_the_branches():
    net = supervised()
    hand = ByHand(net)
    for model in (net, hand):
        x = images().requires_grad_()
        total = sum(made.sum() for made in flat(model(x)))
        (slope,) = torch.autograd.grad(total, x, create_graph=True)
        slope.square().sum().backward()
    assert_same_gradients(net, hand, every=False)
    assert len(gradients(net)) > 5


def test_gradients_of_single_samples():
    net = gp.supervise(Changing(lambda x, _: torch.relu(x)), ["first"], inputs=torch.ones(1, 4).double())
    x, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(8)).double(), classes()

    def loss(parameters, x, y):
        return criterion()(torch.func.functional_call(net, parameters, (x[None],)), y[None])

    parameters = {name: p.detach() for name, p in net.named_parameters()}
    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    for index in range(len(x)):
        net.zero_grad()
        criterion()(net(x[index : index + 1]), y[index : index + 1]).backward()
        assert_same({name: values[index] for name, values in found.items()}, gradients(net))


def test_a_trunk_without_memory():
    with torch.device("meta"):
        net = gp.supervise(Residual().double(), POINTS, inputs=images().to("meta"), branch="pooled")
    assert all(parameter.is_meta for parameter in net.parameters())
    net.to_empty(device="cpu")
    net.load_state_dict(supervised().state_dict())
    criterion()(net(images()), classes()).backward()
    assert_same_gradients(net, hand_step(net))


def test_other_sizes_than_recorded():
    net = gp.supervise(Generator(), ["up"], inputs=noise())
    for size in (1, 2):
        z = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(9))
        prediction = net(z)
        assert prediction.auxiliary[0].shape == prediction.output.shape
        mse_loss(prediction.auxiliary[0], prediction.output).backward()
