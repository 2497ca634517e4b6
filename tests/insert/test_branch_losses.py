"""What the loss of a branch counts: the terms that depend on its prediction, whatever the trunk returns."""

import copy
import dataclasses
import types
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from support.losses import constant
from torch import nn
from transformers.utils import ModelOutput

import gradprobe as gp
from gradprobe import SupervisedOutput

LABELS = torch.tensor([0, 2, 1, 2])
BOXES = torch.linspace(0, 1, 16, dtype=torch.float64).reshape(4, 4)


class Net(nn.Module):
    """A trunk with two hidden layers; what it returns is up to `wrap`."""

    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 5)
        self.classes, self.boxes, self.early = nn.Linear(5, 3), nn.Linear(5, 4), nn.Linear(5, 3)
        self.double()
        self.wrap = wrap

    def forward(self, x):
        early = self.first(x).tanh()
        late = self.second(early).tanh()
        return self.wrap(self.classes(late), self.boxes(late), self.early(early), late)


class Named(NamedTuple):
    scores: Any
    boxes: Any


@dataclasses.dataclass
class Held:
    scores: Any
    boxes: Any
    note: str = "kept"


@dataclasses.dataclass
class Output(ModelOutput):
    scores: Any = None
    boxes: Any = None
    hidden: Any = None


def ce(scores):
    return F.cross_entropy(scores, LABELS)


def l1(boxes):
    return 5 * F.l1_loss(boxes, BOXES)


def per_sample(out, target):
    ces = F.cross_entropy(out["scores"], LABELS, reduction="none")
    penalty = out["boxes"].square().sum(1)
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    return (weights * (ces + 0.1 * penalty)).sum() / weights.sum()


def per_sample_by_hand(scores):
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    return (weights * F.cross_entropy(scores, LABELS, reduction="none")).sum() / weights.sum()


def added_in_place(out, target):
    loss = 0
    loss += ce(out["scores"])
    loss += l1(out["boxes"])
    for aux in out["aux"]:
        loss += 0.4 * ce(aux)
    return loss


def all_scales(out, target):
    """The trunk's own deep supervision, over a tuple of predictions, averaged."""
    return sum(weight * ce(scores) for weight, scores in zip((1, 0.5), out, strict=True)) / 1.5


# the trunk's output, the loss, and by hand the loss of a branch
SETUPS = {
    "dict": (lambda c, b, e, h: {"scores": c, "boxes": b}, lambda o, y: ce(o["scores"]) + l1(o["boxes"]), ce),
    "tuple": (lambda c, b, e, h: (c, b), lambda o, y: l1(o[1]) + ce(o[0]), ce),
    "NamedTuple": (lambda c, b, e, h: Named(c, b), lambda o, y: ce(o.scores) + l1(o.boxes), ce),
    "dataclass": (lambda c, b, e, h: Held(c, b), lambda o, y: ce(o.scores) + l1(o.boxes), ce),
    "ModelOutput": (lambda c, b, e, h: Output(c, b), lambda o, y: ce(o.scores) + l1(o["boxes"]), ce),
    "nested": (
        lambda c, b, e, h: {"head": {"scores": c}, "rest": [b, {"aux": e}]},
        lambda o, y: torch.stack([ce(o["head"]["scores"]), l1(o["rest"][0]), ce(o["rest"][1]["aux"])]).sum(),
        ce,
    ),
    "a list of heads of its own": (
        lambda c, b, e, h: {"scores": c, "boxes": b, "aux": [e, e]},
        added_in_place,
        ce,
    ),
    "several predictions in a tuple": (lambda c, b, e, h: (c, e), all_scales, lambda scores: ce(scores) / 1.5),
    "a mean of terms": (
        lambda c, b, e, h: (c, b),
        lambda o, y: torch.stack([ce(o[0]), l1(o[1])]).mean(),
        lambda scores: ce(scores) / 2,
    ),
    "a dict of losses and weights": (
        lambda c, b, e, h: (c, b),
        lambda o, y: sum(v * {"a": 2, "b": 3}[k] for k, v in {"a": ce(o[0]), "b": l1(o[1])}.items()),
        lambda scores: 2 * ce(scores),
    ),
    "a difference": (lambda c, b, e, h: (c, b), lambda o, y: -(l1(o[1]) - ce(o[0])), ce),
    "one minus a score": (
        lambda c, b, e, h: (c, b),
        lambda o, y: (1 - o[0].softmax(1)[:, 0].mean()) + (1 - o[1].mean()),
        lambda scores: 1 - scores.softmax(1)[:, 0].mean(),
    ),
    "weights of samples": (lambda c, b, e, h: {"scores": c, "boxes": b}, per_sample, per_sample_by_hand),
    "a term twice": (
        lambda c, b, e, h: (c, b),
        lambda o, y: (lambda loss: loss + loss**2 + l1(o[1]))(ce(o[0])),
        lambda scores: ce(scores) + ce(scores) ** 2,
    ),
    "a loss of the model's own beside": (
        lambda c, b, e, h: {"loss": 0.1 * b.square().mean(), "scores": c},
        lambda o, y: ce(o["scores"]) + o["loss"],
        ce,
    ),
    "hidden states": (
        lambda c, b, e, h: Output(c, b, (h, c)),
        lambda o, y: ce(o.scores) + 0.01 * o.hidden[0].square().sum(),
        ce,
    ),
    "a part that needs no gradient": (
        lambda c, b, e, h: {"scores": c, "mask": torch.tensor([1.0, 0, 1, 1], dtype=torch.float64)},
        lambda o, y: (o["mask"] * F.cross_entropy(o["scores"], LABELS, reduction="none")).mean(),
        lambda scores: F.cross_entropy(scores[[0, 2, 3]], LABELS[[0, 2, 3]], reduction="sum") / 4,
    ),
}


def supervised(wrap):
    net = gp.supervise(Net(wrap), ["first", "second"], inputs=inputs())
    return net, copy.deepcopy(net)


def inputs():
    return torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)


def assert_same_gradients(net, by_hand):
    for (name, parameter), (_, expected) in zip(net.named_parameters(), by_hand.named_parameters(), strict=True):
        if expected.grad is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("setup", SETUPS)
def test_a_branch_counts_what_it_predicts(setup):
    wrap, loss_fn, of_branch = SETUPS[setup]
    net, by_hand = supervised(wrap)
    criterion = constant(loss_fn, weight=0.5)
    made = by_hand(inputs())
    expected = loss_fn(made.output, None) + 0.5 * sum(map(of_branch, made.auxiliary))
    expected.backward()
    for _ in range(2):
        net.zero_grad()
        loss = criterion(net(inputs()), None)
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        assert_same_gradients(net, by_hand)
    with torch.no_grad():
        torch.testing.assert_close(criterion(net(inputs()), None), expected, rtol=1e-12, atol=0)


def test_what_was_left_out_is_said():
    net, _ = supervised(SETUPS["a list of heads of its own"][0])
    criterion = constant(added_in_place)
    assert criterion.branches_have == ""
    criterion(net(inputs()), None)
    assert "without the terms of output['aux'][0], output['aux'][1], output['boxes']" in criterion.branches_have
    assert criterion.branches_have in str(criterion)
    assert "without" in criterion.__name__
    whole = constant(lambda out, y: ce(out["scores"]))
    whole(net(inputs()), None)
    assert whole.branches_have == "loss_fn"


def test_a_penalty_on_weights_or_of_experts_counts_once():
    net, by_hand = supervised(lambda c, b, e, h: c)

    def loss_of(net):
        trunk = net.trunk
        return lambda out, y: (
            ce(out) + 0.1 * trunk.second.weight.square().sum() + 0.2 * trunk.first.bias.exp().mean()
        )

    criterion = constant(loss_of(net), weight=0.5)
    criterion(net(inputs()), None).backward()
    made = by_hand(inputs())
    (loss_of(by_hand)(made.output, None) + 0.5 * sum(map(ce, made.auxiliary))).backward()
    assert_same_gradients(net, by_hand)
    assert "something outside the output" in criterion.branches_have


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda o, y: F.cross_entropy(o["scores"] * o["boxes"][:, :1], LABELS),
        lambda o, y: (ce(o["scores"]) + l1(o["boxes"])).sqrt(),
        lambda o, y: ce(torch.cat([o["scores"][:2], o["boxes"][2:, :3]])),
    ],
    ids=["a product", "a root", "one batch"],
)
def test_a_term_that_needs_what_no_branch_predicts_is_refused(loss_fn):
    net, _ = supervised(SETUPS["dict"][0])
    with pytest.raises(ValueError, match=r"output\['boxes'\].*branch_loss=.*branch="):
        constant(loss_fn)(net(inputs()), None)
    # the way out
    loss = constant(loss_fn, weight=0.5, branch_loss=lambda scores, y: ce(scores))(made := net(inputs()), None)
    expected = loss_fn(made.output, None) + 0.5 * sum(map(ce, made.auxiliary))
    torch.testing.assert_close(loss, expected)
    # and at weight 0 nothing is refused
    assert constant(loss_fn, weight=0.0)(made, None) == loss_fn(made.output, None)


def test_a_loss_that_does_not_need_what_the_branches_predict_is_refused():
    net, _ = supervised(lambda c, b, e, h: {"features": h, "scores": c})
    with pytest.raises(ValueError, match="does not depend on what the branches predict"):
        constant(lambda o, y: ce(o["scores"]))(net(inputs()), None)


class Heads(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.heads = (net.classes, net.boxes)

    def forward(self, h):
        return {"scores": self.heads[0](h), "boxes": self.heads[1](h)}


@pytest.mark.parametrize("kind", ["dict", "dataclass", "ModelOutput"])
def test_a_branch_that_predicts_every_part_has_the_whole_loss(kind):
    wrap, loss_fn, _ = SETUPS[kind]
    trunk = Net(wrap)
    net = gp.supervise(trunk, ["first", "second"], inputs=inputs(), branch=lambda point, out: Heads(trunk))
    by_hand = copy.deepcopy(net)
    constant(loss_fn, weight=0.5)(net(inputs()), None).backward()
    made = by_hand(inputs())
    branches = sum(ce(each["scores"]) + l1(each["boxes"]) for each in made.auxiliary)
    (loss_fn(made.output, None) + 0.5 * branches).backward()
    assert_same_gradients(net, by_hand)


def test_a_branch_that_predicts_some_parts_has_their_terms():
    wrap = SETUPS["a list of heads of its own"][0]
    made = {"scores": torch.randn(4, 3, requires_grad=True), "boxes": torch.randn(4, 4, requires_grad=True)}
    output = wrap(*(torch.randn(4, k, requires_grad=True) for k in (3, 4, 3, 5)))

    def loss_fn(o, y):
        return ce(o["scores"]) + o["boxes"].square().mean() + sum(map(ce, o["aux"]))

    _, (term,) = constant(loss_fn).terms(SupervisedOutput(output, (made,)), None)
    torch.testing.assert_close(term, ce(made["scores"]) + made["boxes"].square().mean())


# a loss function with a running state


class Harmonised(nn.Module):
    """Weights each example by one over the running number of examples as hard as it (GHM)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(5))

    def forward(self, scores, target):
        p = scores.detach().softmax(1).gather(1, target[:, None])[:, 0]
        at = ((1 - p) * 5).long().clamp(max=4)
        self.count.mul_(0.75).add_(0.25 * torch.bincount(at, minlength=5))
        weights = 1 / self.count[at].clamp(min=0.1)
        return (weights / weights.sum() * F.cross_entropy(scores, target, reduction="none")).sum()


class Centred:
    """A centre loss whose centres are a plain attribute that is replaced."""

    def __init__(self):
        self.centres = None

    def __call__(self, scores, target):
        if self.centres is None:
            self.centres = torch.zeros(3, scores.shape[1])
        sums = torch.zeros_like(self.centres).index_add_(0, target, scores.detach())
        self.centres = 0.9 * self.centres + 0.1 * sums
        return F.cross_entropy(scores, target) + (scores - self.centres[target]).square().mean()


class Bank:
    """A memory bank in a list, and a number of calls."""

    def __init__(self):
        self.memory, self.calls = [], 0

    def loss(self, scores, target):
        self.calls += 1
        near = sum((scores - old).square().mean() for old in self.memory) if self.memory else 0
        self.memory.append(scores.detach())
        del self.memory[:-3]
        return F.cross_entropy(scores, target) * self.calls + near


def closure():
    mean = torch.zeros(())
    steps = 0

    def loss_fn(scores, target):
        nonlocal mean, steps
        steps += 1
        loss = F.cross_entropy(scores, target)
        mean = 0.9 * mean + 0.1 * loss.detach()
        return loss / (mean + 0.1) + steps

    return loss_fn


def with_bank(bank, scores, target, *, seen):
    seen["n"] += len(scores)
    bank.lerp_(scores.detach().mean(0), 0.1)
    return F.cross_entropy(scores - bank, target) * seen["n"]


def of_defaults():
    def loss_fn(scores, target, history=[]):  # noqa: B006 (so it is done)
        history.append(F.cross_entropy(scores, target))
        return history[-1] / sum(loss.detach() for loss in history)

    return loss_fn


def of_a_global():
    names = types.ModuleType("of_the_user")
    code = (
        "def loss_fn(scores, target):\n    global step\n    step += 1\n    return criterion(scores, target) * step"
    )
    vars(names).update(criterion=Harmonised(), step=0)
    exec(code, vars(names))
    return names.loss_fn


def over_a_module():
    module = Harmonised()
    return lambda scores, target: module(scores, target) + 0.1


STATEFUL = {
    "a module's buffer": Harmonised,
    "a plain attribute": Centred,
    "a method's object": lambda: Bank().loss,
    "a closure": closure,
    "a partial": lambda: partial(with_bank, torch.zeros(3), seen={"n": 0}),
    "a default value": of_defaults,
    "globals": of_a_global,
    "a lambda over a module": over_a_module,
}


def train(net, loss_of, steps=6):
    """Losses of a small training; the batches are the same every time."""
    losses, generator = [], torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(steps):
        x = torch.randn(8, 6, generator=generator)
        y = torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def trunk():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("kind", STATEFUL)
def test_each_branch_has_a_running_state_of_its_own(kind):
    net = gp.supervise(trunk(), ["1", "3"], inputs=torch.zeros(2, 6))
    by_hand = copy.deepcopy(net)
    main, first, second = (STATEFUL[kind]() for _ in range(3))

    def loss_by_hand(made, y):
        return main(made.output, y) + 0.5 * (first(made.auxiliary[0], y) + second(made.auxiliary[1], y))

    assert train(net, constant(STATEFUL[kind](), weight=0.5)) == pytest.approx(
        train(by_hand, loss_by_hand), rel=1e-6
    )


@pytest.mark.parametrize("kind", STATEFUL)
def test_at_weight_0_the_training_is_the_plain_one_bit_for_bit(kind):
    net = gp.supervise(trunk(), ["1", "3"], inputs=torch.zeros(2, 6))
    assert train(net, constant(STATEFUL[kind](), weight=0.0)) == train(trunk(), STATEFUL[kind]())


def test_at_weight_0_the_loss_is_not_called_for_a_branch():
    shapes = []

    def loss_fn(output, target):
        shapes.append(tuple(output.shape))
        return output.mean()

    made = SupervisedOutput(torch.ones(2, requires_grad=True), (torch.ones(3), torch.ones(4)))
    constant(loss_fn, weight=0.0)(made, None)
    assert shapes == [(2,)]
    constant(loss_fn, weights=[0.0, 1.0])(made, None)
    assert shapes == [(2,), (2,), (4,)]


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_scan_leaves_the_loss_as_it_was(kind):
    loss_fn = STATEFUL[kind]()
    batches = [(torch.randn(8, 6), torch.randint(3, (8,))) for _ in range(3)]
    records = [gp.scan(trunk(), batches, loss_fn, iterations=3, seed=0) for _ in range(2)]
    assert records[0].conditions["losses"] == records[1].conditions["losses"]
    assert records[0].frame.equals(records[1].frame)
    # as if it had never been called
    assert train(trunk(), loss_fn) == train(trunk(), STATEFUL[kind]())


@pytest.mark.parametrize("kind", ["a module's buffer", "a closure", "a method's object"])
def test_a_comparison_at_weight_0_is_equal_to_the_bit(kind):
    loss_fn = STATEFUL[kind]()
    batches = [(torch.randn(8, 6), torch.randint(3, (8,))) for _ in range(3)]
    net = trunk()
    placement = gp.place(gp.scan(net, batches, loss_fn, iterations=2), gp.EveryLayerPolicy())
    result = gp.compare(net, batches, loss_fn, iterations=6, placement=placement, weight=0.0, schedule="constant")
    losses = result.frame.pivot(index="iteration", columns="arm", values="loss")
    assert losses.iloc[:, 0].tolist() == losses.iloc[:, 1].tolist()


def test_a_number_that_the_user_changes_reaches_the_branches():
    class Annealed(Harmonised):
        factor = 1.0

        def forward(self, scores, target):
            return self.factor * super().forward(scores, target)

    loss_fn = Annealed()
    criterion = constant(loss_fn)
    made = SupervisedOutput(torch.randn(4, 3), (torch.randn(4, 3, requires_grad=True),))
    criterion.terms(made, LABELS)
    loss_fn.factor = 0.0
    assert [float(term.detach()) for term in criterion.terms(made, LABELS)[1]] == [0.0]


def test_a_log_that_a_loss_writes_is_left_to_its_reader():
    log = []

    def loss_fn(output, target):
        log.append(tuple(output.shape))
        return F.cross_entropy(output, target)

    gp.scan(trunk(), [(torch.randn(8, 6), torch.randint(3, (8,)))], loss_fn, iterations=3)
    assert log == [(8, 3)] * 3


# a loss function with parameters


class Uncertain(nn.Module):
    """A weight that is learned with the loss (Kendall et al. 2018)."""

    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(()))

    def forward(self, scores, target):
        return F.cross_entropy(scores, target) * (-self.log_var).exp() + self.log_var


PARAMETRISED = {
    "a module": lambda module: module,
    "a lambda": lambda module: lambda scores, target: module(scores, target),
    "a method": lambda module: module.forward,
    "a partial": lambda module: partial(module),
    "a list in a closure": lambda module: (lambda held: lambda scores, y: held[0](scores, y))([module]),
}


@pytest.mark.parametrize("kind", PARAMETRISED)
def test_a_loss_with_parameters_of_its_own_is_refused_with_the_way_out(kind):
    module = Uncertain()
    net = gp.supervise(trunk(), ["1", "3"], inputs=torch.zeros(2, 6))
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    with pytest.raises(ValueError, match=r"trainable parameters of its own.*branch_loss="):
        constant(PARAMETRISED[kind](module))(net(x), y)
    each = [Uncertain(), Uncertain()]
    criterion = constant(PARAMETRISED[kind](module), weight=0.5, branch_loss=each)
    assert {id(own.log_var) for own in each} <= {id(parameter) for parameter in criterion.parameters()}
    criterion(net(x), y).backward()
    made = net(x)
    grads = [(1 - F.cross_entropy(scores, y)).item() for scores in (made.output, *made.auxiliary)]
    assert module.log_var.grad.item() == pytest.approx(grads[0], rel=1e-5)
    assert [own.log_var.grad.item() for own in each] == pytest.approx([0.5 * grad for grad in grads[1:]], rel=1e-5)
    # one for all, by the same argument
    assert constant(module, weight=0.5, branch_loss=module)(net(x), y).requires_grad


def test_a_loss_for_each_branch_is_one_for_each():
    made = SupervisedOutput(torch.ones(2), (torch.ones(2), torch.ones(2)))
    with pytest.raises(ValueError, match="a loss for each branch, got 1"):
        constant(branch_loss=[F.mse_loss])(made, torch.zeros(2))
    with pytest.raises(TypeError, match="branch_loss to be callable, got str"):
        constant(branch_loss="mse")


def test_a_scan_trains_a_losss_parameters_and_puts_them_back():
    module, seen = Uncertain(), []
    batches = [(torch.randn(8, 6), torch.randint(3, (8,)))]

    def optimizer(net):
        return torch.optim.SGD([*net.parameters(), *module.parameters()], 0.1)

    def note(progress):
        seen.append(module.log_var.item())

    gp.scan(trunk(), batches, module, iterations=3, optimizer=optimizer, on_iteration=note)
    assert len(set(seen)) == 3
    assert module.log_var.item() == 0
    assert module.log_var.grad is None


def test_a_network_in_a_loss_is_no_parameter_of_it():
    critic = nn.Linear(3, 1)
    net = gp.supervise(trunk(), ["1"], inputs=torch.zeros(2, 6))
    criterion = constant(lambda scores, y: -critic(scores).mean(), weight=0.5)
    made = net(torch.randn(8, 6))
    expected = -critic(made.output).mean() - 0.5 * critic(made.auxiliary[0]).mean()
    torch.testing.assert_close(criterion(made, None), expected)


# targets that are empty at a branch's resolution


def strokes():
    labels = torch.full((2, 16, 16), 255)
    labels[:, 8, 3:9] = 1
    return labels


@pytest.mark.parametrize("loss", ["ignored", "masked"])
def test_a_branch_whose_target_is_empty_adds_nothing(loss):
    torch.manual_seed(0)
    labels = strokes()
    ignored = nn.CrossEntropyLoss(ignore_index=255)

    def masked(scores, target):
        mask = target != 255
        losses = F.cross_entropy(scores, target.where(mask, 0), reduction="none")
        return (losses * mask).sum() / mask.sum()

    loss_fn = {"ignored": ignored, "masked": masked}[loss]
    main, small, large = (torch.randn(2, 3, size, size, requires_grad=True) for size in (16, 2, 16))
    criterion = constant(loss_fn, weight=0.5)
    with pytest.warns(UserWarning, match="branch of index 0.*no label left.*adds nothing"):
        joint = criterion(SupervisedOutput(main, (small, large)), labels)
    torch.testing.assert_close(joint, ignored(main, labels) + 0.5 * ignored(large, labels))
    joint.backward()
    assert small.grad is None
    assert main.grad.isfinite().all()
    criterion(SupervisedOutput(main, (small, large)), labels)  # said once
    assert "empty: {0: 2}" in str(criterion)


def test_a_branch_that_diverged_is_not_empty():
    labels = torch.tensor([0, 1])
    bad = torch.full((2, 3), float("nan"), requires_grad=True)
    assert constant(F.cross_entropy)(SupervisedOutput(torch.randn(2, 3), (bad,)), labels).isnan()


def test_without_waiting_for_a_device_an_empty_target_sends_no_gradient():
    small = torch.randn(2, 3, 2, 2, requires_grad=True)
    losses = constant(None)._branches
    mask = torch.zeros(2, 2, 2)
    loss = losses._unless_empty_on_device(
        1, small, torch.ones(()), lambda made: (made.square().sum(1) * mask).sum() / mask.sum()
    )
    assert loss.item() == 0
    loss.backward()
    assert small.grad.abs().sum() == 0
    with pytest.warns(UserWarning, match="branch of index 1"):
        losses.tell_empty()


class Scribbled(nn.Module):
    def __init__(self):
        super().__init__()
        self.e1 = nn.Sequential(nn.Conv2d(1, 6, 3, 2, padding=1), nn.ReLU())
        self.e2 = nn.Sequential(nn.Conv2d(6, 6, 3, 4, padding=1), nn.ReLU())
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return F.interpolate(self.head(self.e2(self.e1(x))), size=x.shape[2:], mode="bilinear")


def test_a_comparison_goes_on_where_a_target_is_empty():
    torch.manual_seed(0)
    net, batches = Scribbled(), [(torch.randn(2, 1, 16, 16), strokes())]
    loss_fn = nn.CrossEntropyLoss(ignore_index=255)
    placement = gp.place(gp.scan(net, batches, loss_fn, iterations=2), gp.EveryLayerPolicy())
    with pytest.warns(UserWarning, match="no label left"):
        result = gp.compare(net, batches, loss_fn, iterations=4, placement=placement, branch="native")
    assert result.frame["loss"].notna().all()


def test_a_comparison_takes_a_loss_for_the_branches():
    wrap, _, _ = SETUPS["dict"]
    net = Net(wrap)

    def loss_fn(output, target):
        return ce(output["scores"]) * (1 + output["boxes"].square().mean())

    class Counting:
        calls = 0

        def __call__(self, scores, target):
            self.calls += 1
            seen.append(self.calls)
            return ce(scores)

    batches, seen, branch_loss = [(inputs(), LABELS)], [], Counting()
    placement = gp.place(gp.scan(net, batches, loss_fn, iterations=2), gp.EveryLayerPolicy())
    result = gp.compare(net, batches, loss_fn, iterations=3, placement=placement, branch_loss=branch_loss)
    assert seen == [1] * len(placement.points) + [2] * len(placement.points) + [3] * len(placement.points)
    assert branch_loss.calls == 0
    assert result.supervised.conditions["loss"] == "loss_fn + 0.3 x branches (by branch_loss)"
