import copy
import io

import pytest
import torch
from support.supervised import classes, images
from torch import nn

import gradprobe as gp
from gradprobe.zoo import plain_mlp


class Residual(nn.Module):
    """In-place operations follow the layers that feed the branches."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        y = self.body(x)
        y += x
        y.relu_()
        return self.fc(self.dropout(y.mean((2, 3))))


def inputs():
    return images(torch.float32)


def supervised(**arguments):
    torch.manual_seed(0)
    trunk = Residual()
    return trunk, gp.supervise(trunk, ["act", "body"], inputs=inputs(), **arguments)


def test_points_extend_over_normalisation_and_activation():
    points = {point.name: point for point in gp.points(Residual(), inputs())}
    assert points["act"].layers == ("stem", "norm")
    assert points["act"].shape == (6, 4, 5, 5)
    assert points["dropout"].layers == ("body",)  # the root adds x after it, and no other module returns the sum
    assert gp.points(Residual(), inputs()).unserved == {"fc": "it makes the network's output"}


def test_training_returns_both_and_evaluation_exactly_the_trunk():
    trunk, net = supervised()
    prediction = net(inputs())
    assert isinstance(prediction, gp.SupervisedOutput)
    assert [tuple(output.shape) for output in prediction.auxiliary] == [(6, 3), (6, 3)]
    net.eval()
    assert torch.equal(net(inputs()), trunk(inputs()))


def test_the_trunk_computes_the_same_with_branches_in_training():
    trunk, net = supervised()
    plain = copy.deepcopy(trunk)
    torch.manual_seed(5)
    expected = plain(inputs())
    torch.manual_seed(5)
    assert torch.equal(net(inputs()).output, expected)
    assert torch.equal(trunk.norm.running_mean, plain.norm.running_mean)


def test_gradients_are_those_of_branches_written_by_hand():
    _, net = supervised()
    net.double()
    x = inputs().double()
    hand = copy.deepcopy(net)
    criterion = gp.DeepSupervisionLoss(nn.functional.cross_entropy, weight=0.7, schedule="constant")
    torch.manual_seed(1)
    criterion(net(x), classes()).backward()

    torch.manual_seed(1)
    t = hand.trunk
    first = torch.relu(t.norm(t.stem(x)))
    body = t.body(first)
    output = t.fc(t.dropout(torch.relu(body + first).mean((2, 3))))
    losses = [
        nn.functional.cross_entropy(branch(z), classes())
        for branch, z in zip(hand.branches.values(), (first, body), strict=True)
    ]
    (nn.functional.cross_entropy(output, classes()) + 0.7 * losses[0] + 0.7 * losses[1]).backward()
    for (name, mine), (_, theirs) in zip(net.named_parameters(), hand.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_the_trunk_is_the_users_own_object_unchanged():
    torch.manual_seed(0)
    trunk = Residual()
    keys, kind = list(trunk.state_dict()), type(trunk)
    attributes = {name: set(vars(module)) for name, module in trunk.named_modules()}
    net = gp.supervise(trunk, ["act"], inputs=inputs())
    net(inputs())
    assert net.trunk is trunk
    assert (list(trunk.state_dict()), type(trunk)) == (keys, kind)
    assert {name: set(vars(module)) for name, module in trunk.named_modules()} == attributes
    assert not any(module._forward_hooks for module in trunk.modules())
    file = io.BytesIO()
    torch.save(trunk, file)
    assert b"gradprobe" not in file.getvalue()


def test_supervising_by_hand_leaves_batch_norm_statistics_alone():
    trunk, _ = supervised()
    assert torch.equal(trunk.norm.running_mean, torch.zeros(4))
    assert trunk.norm.num_batches_tracked == 0


def test_plain_checkpoints_load_with_branches_and_back():
    _, net = supervised()
    plain = Residual()
    net.load_state_dict(plain.state_dict())
    assert torch.equal(net.trunk.stem.weight, plain.stem.weight)
    other = Residual()
    other.load_state_dict(net.trunk.state_dict())
    assert torch.equal(other.stem.weight, plain.stem.weight)
    again = supervised()[1]
    again.load_state_dict(net.state_dict())
    for (name, mine), (_, theirs) in zip(net.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(mine, theirs), name
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict({name: value for name, value in plain.state_dict().items() if "fc" not in name})


def test_hooks_are_off_after_an_error_in_the_trunk():
    trunk, net = supervised()
    with pytest.raises(RuntimeError):
        net(torch.zeros(2, 3, 5, 5))
    assert not any(module._forward_hooks for module in trunk.modules())


def test_a_placement_goes_straight_in(tmp_path):
    torch.manual_seed(0)
    trunk = plain_mlp(depth=30, width=16)
    batches = [(torch.randn(8, 64), torch.randint(10, (8,)))]
    history = gp.scan(trunk, batches, nn.functional.cross_entropy, iterations=2)
    placement = gp.place(history)
    gp.save(tmp_path / "run", history, placement, figures=False)
    net = gp.supervise(trunk, gp.load(tmp_path / "run").placement)
    assert len(net(batches[0][0]).auxiliary) == len(placement.points) == 1


def test_an_empty_placement_is_a_trunk_without_branches():
    net = gp.supervise(nn.Linear(2, 1), gp.Placement("none", (), (), "none needed"))
    assert net(torch.ones(3, 2)).auxiliary == ()


def test_layer_names_of_every_kind_can_carry_a_branch():
    trunk = nn.Sequential()
    for name in ("keys", "0", "nan", "a b"):
        trunk.add_module(name, nn.Linear(4, 4))
    trunk.add_module("out", nn.Linear(4, 2))
    net = gp.supervise(trunk, ["keys", "0", "nan", "a b"], inputs=torch.ones(3, 4))
    assert len(net(torch.ones(3, 4)).auxiliary) == 4


def test_branches_follow_the_trunk_in_dtype_and_mode():
    trunk = plain_mlp(depth=3).double().eval()
    net = gp.supervise(trunk, ["fc1"], inputs=torch.ones(2, 64).double())
    assert not net.training
    assert not net.branches.training
    net.train()
    assert net(torch.ones(2, 64).double()).auxiliary[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("names", "arguments", "error", "message"),
    [
        (["atc"], {"inputs": 1}, ValueError, "no module is called 'atc'; did you mean 'act'"),
        (["fc"], {"inputs": 1}, ValueError, "it makes the network's output"),
        (["act"], {}, ValueError, "names need inputs="),
        ("act", {"inputs": 1}, TypeError, "a Placement or a list of module names, got str"),
        (3, {"inputs": 1}, TypeError, "a Placement or a list of module names, got int"),
    ],
)
def test_wrong_names_are_refused(names, arguments, error, message):
    with pytest.raises(error, match=message):
        gp.supervise(Residual(), names, **({"inputs": inputs()} if arguments else {}))


def test_layers_that_cannot_be_points_say_why():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.gone, self.last = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x):
            return self.last(self.shared(self.shared(x)))

    history = gp.scan(Reused(), [(torch.ones(2, 2), None)], lambda y, _: y.sum(), iterations=1)
    reasons = {layer.name: layer.unserved for layer in history.layers}
    assert reasons == {
        "shared": "reused: called 2 times in one forward",
        "gone": "never called as a module",
        "last": "it makes the network's output",
    }


@pytest.mark.parametrize(
    ("last", "loss_fn", "target", "holds"),
    [
        (nn.LogSoftmax(1), nn.NLLLoss(), torch.tensor([0, 1, 2]), lambda y: y.exp().sum(1)),
        (nn.Softmax(-1), nn.MSELoss(), torch.eye(3), lambda y: y.sum(1)),
    ],
)
def test_a_branch_ends_in_what_the_output_ends_in(last, loss_fn, target, holds):
    """A loss for log-probabilities would fall without end on plain scores."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3), last)
    net = gp.supervise(trunk, ["1"], inputs=torch.randn(3, 4))
    prediction = net(torch.randn(3, 4))
    torch.testing.assert_close(holds(prediction.auxiliary[0]), torch.ones(3))
    assert gp.DeepSupervisionLoss(loss_fn, schedule="constant")(prediction, target) > 0


def test_a_branch_of_probabilities_suits_their_loss():
    trunk = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1), nn.Sigmoid(), nn.Flatten(0)
    )
    x, y = torch.randn(6, 1, 6, 6), torch.tensor([0.0, 1, 0, 1, 0, 1])
    history = gp.scan(trunk, [(x, y)], nn.functional.binary_cross_entropy, iterations=1)
    assert (history.activation, history.output_shape) == ("sigmoid", (6,))
    net = gp.supervise(trunk, gp.place(history, gp.EveryLayerPolicy()))
    prediction = net(x)
    assert prediction.auxiliary[0].shape == (6,)
    assert 0 < prediction.auxiliary[0].min() <= prediction.auxiliary[0].max() < 1
    gp.DeepSupervisionLoss(nn.functional.binary_cross_entropy, schedule="constant")(prediction, y).backward()


def test_scores_of_a_support_vector_machine_stay_scores():
    trunk = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(1))
    net = gp.supervise(trunk, ["1"], inputs=torch.randn(3, 4), branch="svm")
    x = torch.randn(3, 4)
    scores = trunk[1](trunk[0](x)) @ net.branches["at_1"].fc.weight.T + net.branches["at_1"].fc.bias
    torch.testing.assert_close(net(x).auxiliary[0], scores)


def test_a_model_that_registers_hooks_in_its_forward_keeps_them():
    """transformers installs hooks that collect hidden states in the first forward, and remembers that it did."""

    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.collected, self.ready = nn.Linear(3, 4), nn.Linear(4, 2), [], False

        def forward(self, x):
            if not self.ready:
                self.body.register_forward_hook(lambda module, args, output: self.collected.append(output.shape))
                self.ready = True
            return self.head(self.body(x).relu())

    trunk = Lazy()
    net = gp.supervise(trunk, ["body"], inputs=torch.ones(2, 3))
    assert (trunk.ready, len(trunk.body._forward_hooks), trunk.collected) == (False, 0, [])  # the survey's forward
    net(torch.ones(2, 3))
    net(torch.ones(2, 3))
    assert (trunk.ready, len(trunk.body._forward_hooks), len(trunk.collected)) == (True, 1, 2)
