"""Supervised training is that of branches written out by hand: steps, larger modules, modes, odd beginnings."""

import copy

import pytest
import support.distributed_supervised as setups
import torch
from support.supervised import (
    POINTS,
    WEIGHT,
    ByHand,
    Changing,
    Residual,
    assert_same,
    assert_same_gradients,
    classes,
    criterion,
    flat,
    gradients,
    hand_step,
    images,
    joint,
    supervised,
)
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

import gradprobe as gp

pytestmark = pytest.mark.usefixtures("no_hook_of_a_branch_stays")


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
    for part, target in zip(x.chunk(4), y.chunk(4), strict=True):
        (criterion()(net(part), target) / 4).backward()
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


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 4)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.out = nn.ConvTranspose2d(4, 1, 2, stride=2)

    def forward(self, z):
        return torch.tanh(self.out(self.act(self.up(z))))


def noise():
    return torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(4))


class GAN(nn.Module):
    """A larger module whose two parts can be supervised."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.generator = Generator()
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 3, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(75, 1)
        )

    def loss_of(self, image, real):
        return binary_cross_entropy_with_logits(self.discriminator(image), torch.full((2, 1), real))


def gan_with_supervised_generator():
    gan = GAN()
    gan.generator = gp.supervise(gan.generator, ["up", "act"], inputs=noise())
    return gan


def test_a_gans_generator():
    gan = gan_with_supervised_generator()
    hand = copy.deepcopy(gan)
    criterion(lambda image, real: gan.loss_of(image, real))(gan.generator(noise()), 1.0).backward()

    trunk, branches = hand.generator.trunk, list(hand.generator.branches.values())
    up = trunk.up(noise())
    act = nn.functional.leaky_relu(up, 0.1)
    output = torch.tanh(trunk.out(act))
    auxiliary = branches[0](up, like=output), branches[1](act, like=output)
    joint(gp.SupervisedOutput(output, auxiliary), 1.0, hand.loss_of).backward()
    assert_same_gradients(gan, hand)


def test_a_discriminator_on_real_and_fake():
    gan = GAN()
    real = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    gan.discriminator = gp.supervise(gan.discriminator, ["0"], inputs=real, branch="pooled")
    hand = copy.deepcopy(gan)
    loss = criterion(lambda scores, real: binary_cross_entropy_with_logits(scores, torch.full((2, 1), real)))
    (loss(gan.discriminator(real), 1.0) + loss(gan.discriminator(gan.generator(noise())), 0.0)).backward()

    total = torch.zeros(())
    for image, label in ((real, 1.0), (hand.generator(noise()), 0.0)):
        trunk, target = hand.discriminator.trunk, torch.full((2, 1), label)
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
    assert_same_gradients(net, hand_step(net))


def test_points_inside_reentrant_checkpointing_are_refused():
    unserved = gp.points(Residual(reentrant=True), images(torch.float32)).unserved
    assert "inside reentrant checkpointing" in unserved["block.conv"]
    with pytest.raises(
        ValueError, match=r"no branch can be put at 'block\.conv': .*inside reentrant checkpointing"
    ):
        supervised(["block.conv"], reentrant=True)


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
    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    for index in range(len(x)):
        net.zero_grad()
        criterion()(net(x[index : index + 1]), y[index : index + 1]).backward()
        assert_same({name: values[index] for name, values in per_sample.items()}, gradients(net))


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
