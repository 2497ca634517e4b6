"""Training with and without branches: both arms have the same conditions."""

import numpy as np
import pytest
import torch
from support.trainings import deep, small
from torch import nn

import gradprobe as gp
from gradprobe.zoo import digits, plain_mlp


def test_both_arms_see_the_same_weights_batches_and_random_numbers():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 10))
    batches, _ = small()
    seen = []

    def loss(output, target):
        seen.append(float(nn.functional.cross_entropy(output.detach(), target)))
        return nn.functional.cross_entropy(output, target)

    placement = gp.Placement(
        "by hand", ("0",), gp.points(trunk, batches[0][0])[:1], "to see", output_shape=(128, 10)
    )
    # branches of weight 0 and with draws of their own: the trunk must train as if they were not there
    comparison = gp.compare(
        trunk,
        batches,
        loss,
        placement=placement,
        iterations=6,
        weight=0.0,
        branch=lambda point, output: nn.Sequential(nn.Dropout(0.5), nn.Linear(point[1], output[1])),
    )
    curves = {arm: rows["loss"].tolist() for arm, rows in comparison.frame.groupby("arm")}
    assert curves["plain"] == curves["supervised"]
    assert comparison.plain.frame.equals(comparison.supervised.frame)


@pytest.mark.parametrize("source", ["loader", "numpy"])
def test_data_with_a_generator_of_its_own(source):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
    batches, _ = small()
    kept = batches[0][0].clone()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    rng = np.random.default_rng(0)

    def drawn():
        for _ in range(4):
            chosen = rng.permutation(len(x))[:16]
            yield x[chosen], y[chosen]

    dataset = torch.utils.data.TensorDataset(x, y)
    own = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(dataset, 16, shuffle=True, generator=own)
    placement = gp.Placement("by hand", ("1",), gp.points(trunk, x[:16])[:1], "to see", output_shape=(16, 10))
    comparison = gp.compare(
        trunk,
        loader if source == "loader" else drawn,
        nn.functional.cross_entropy,
        placement=placement,
        iterations=6,
        weight=0.0,
        branch="pooled",
    )
    curves = {arm: rows["loss"].tolist() for arm, rows in comparison.frame.groupby("arm")}
    assert torch.equal(batches[0][0], kept)
    if source == "loader":  # its generator is put back
        assert curves["plain"] == curves["supervised"]
    else:  # what it draws from cannot be known: no verdict, and the reason
        assert comparison.verdict == "cannot tell"
        assert "did not see the same batches" in str(comparison)


def test_seeds_that_share_their_weights_are_marked():
    batches, held_out = small()
    net = deep()
    comparison = gp.compare(
        net, batches, nn.functional.cross_entropy, iterations=12, seeds=(0, 1), held_out=held_out
    )
    assert not comparison.conditions["own_weights"]


def test_the_model_is_as_it_was():
    trunk = deep()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    batches, held_out = small()
    comparison = gp.compare(trunk, batches, nn.functional.cross_entropy, iterations=4, held_out=held_out)
    assert comparison.supervised is not None
    assert all(torch.equal(before[name], value) for name, value in trunk.state_dict().items())
    assert not any(module._forward_hooks for module in trunk.modules())


def test_the_gradient_comes_back_where_a_branch_is_placed():
    torch.manual_seed(0)
    batches, _ = small()
    comparison = gp.compare(deep(), batches, nn.functional.cross_entropy, iterations=4)
    assert comparison.placement.points
    assert (comparison.gradient["ratio"] >= 10).all()
    still = comparison.conditions["still_flagged"]
    assert set(still) < set(comparison.placement.flagged)
    assert ("would still be flagged" in str(comparison)) == bool(still)


def test_a_factory_gives_every_seed_its_own_weights():
    batches, held_out = small()
    comparison = gp.compare(
        deep,
        batches,
        nn.functional.cross_entropy,
        iterations=3,
        seeds=(0, 1),
        held_out=held_out,
    )
    frame = comparison.frame
    assert set(frame["seed"]) == {0, 1}
    assert len(frame) == 2 * 2 * 3
    first = frame[frame["iteration"] == 0].set_index(["seed", "arm"])["loss"]
    assert first[0, "plain"] == first[0, "supervised"] != first[1, "plain"]


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (
            {"loss_fn": []},
            r"loss_fn to be a function \(output, target\) -> scalar, got list: pass \(model, batches,",
        ),
        ({"model": 3}, "a torch.nn.Module or a function that builds one, got int"),
        ({"model": lambda: 3}, "a torch.nn.Module, got int"),
        ({"loss_fn": nn.CrossEntropyLoss}, r"got the class CrossEntropyLoss: pass CrossEntropyLoss\(\)"),
        ({"model": nn.Linear(64, 10), "held_out": 3}, "expected held_out= to be an iterable"),
        ({"optimizer": torch.optim.Adam}, "got the class Adam"),
        ({"seeds": 3}, r"seeds= to be a sequence of whole numbers, such as range\(3\), got 3"),
        ({"seeds": ()}, r"one or more, got \(\)"),
        ({"iterations": 0}, "iterations= to be a whole number of at least 1, got 0"),
        ({"window": 2.5}, "window= to be a whole number of at least 1, got 2.5"),
        ({"placement": "0"}, "placement= to be what gp.place returns, got str"),
        ({"policy": "relativ"}, "no policy is called 'relativ'; policies are"),
        ({"branch": "big"}, "branch= out of .* or a function, got 'big'"),
        ({"schedule": "exp"}, "schedule= out of"),
        ({"weight": -1}, "a weight of at least 0, got -1"),
    ],
)
def test_what_cannot_be_compared_is_refused_first(argument, sentence):
    def never(*_):
        raise AssertionError("it trained")

    arguments = {"model": nn.Linear(64, 10), "batches": small()[0], "loss_fn": never, "iterations": 3, **argument}
    with pytest.raises((TypeError, ValueError), match=sentence):
        gp.compare(arguments.pop("model"), arguments.pop("batches"), arguments.pop("loss_fn"), **arguments)


def test_an_error_in_the_held_out_batches_says_where_it_is():
    batches, _ = small()
    with pytest.raises(RuntimeError) as raised:
        gp.compare(
            nn.Linear(64, 10),
            batches,
            nn.functional.cross_entropy,
            iterations=1,
            held_out=[(torch.ones(4, 9), torch.zeros(4, dtype=torch.int64))],
        )
    assert raised.value.__notes__ == [
        "held-out batch, inputs of shape (4, 9)",
        "Linear takes 64 features and got (4, 9): build it with 9",
    ]


def test_no_branch_is_nothing_to_compare():
    batches, _ = small()
    comparison = gp.compare(plain_mlp(depth=2), batches, nn.functional.cross_entropy, iterations=2)
    assert comparison.verdict == "nothing to compare"
    assert "None needed" in comparison.placement.reason


@pytest.mark.slow
def test_a_deep_plain_net_is_rescued_and_the_verdict_says_so():
    # plain 24-layer ReLU net, default initialisation, digits, Adam: .08 without
    data = digits((64,), batch_size=64)
    comparison = gp.compare(
        lambda: plain_mlp(depth=24),
        data.batches,
        nn.functional.cross_entropy,
        optimizer=lambda net: torch.optim.Adam(net.parameters(), lr=1e-3),
        held_out=data.held_out,
        iterations=300,
    )
    print(comparison)
    assert comparison.placement.points
    assert comparison.verdict == "helped"


def regression(seed=0):
    """Batches of a sum of four numbers, and held-out ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(160, 4, generator=generator)
    pairs = list(zip(x.split(32), x.sum(1, keepdim=True).split(32), strict=True))
    return pairs[:4], pairs[4:]


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def test_where_nothing_is_placed_the_training_ends_with_the_window():
    batches, held_out = regression()
    done = []
    comparison = gp.compare(
        chain,
        batches,
        nn.functional.mse_loss,
        iterations=40,
        window=5,
        seeds=range(3),
        held_out=held_out,
        on_iteration=lambda progress: done.append(progress.seed),
    )
    assert done == [0] * 5
    assert comparison.plain.iterations == 5
    assert comparison.verdict == "nothing to compare"
    assert "The training ended after 5 iterations." in str(comparison)
    assert str(comparison).endswith("gp.compare_arms(model, batches, loss_fn)")
    scanned = gp.scan(chain(), batches, nn.functional.mse_loss, 5, seed=0)
    assert [layer.name for layer in comparison.plain.layers] == [layer.name for layer in scanned.layers]


def test_the_held_out_loss_is_that_of_the_trained_network():
    batches, held_out = regression()
    seen = {}

    def kept(model):
        seen[len(seen)] = model
        return torch.optim.SGD(model.parameters(), lr=0.05)

    comparison = gp.compare(
        chain(),
        batches,
        nn.functional.mse_loss,
        policy=gp.EveryLayerPolicy(),
        optimizer=kept,
        iterations=10,
        held_out=held_out,
    )
    assert comparison.conditions["metric"] == {
        "name": "loss",
        "higher_is_better": False,
        "start": {"0": pytest.approx(nn.functional.mse_loss(chain()(held_out[0][0]), held_out[0][1]).item())},
    }
    # the plain arm by hand
    net, (x, y) = chain(), held_out[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    by_hand = []
    for iteration in range(10):
        inputs, target = batches[iteration % 4]
        optimizer.zero_grad()
        nn.functional.mse_loss(net(inputs), target).backward()
        optimizer.step()
        by_hand.append(nn.functional.mse_loss(net(x), y).item())
    frame = comparison.frame
    assert frame[frame["arm"] == "plain"]["metric"].tolist() == pytest.approx(by_hand)
    assert frame["accuracy"].isna().all()
    assert "the held-out loss of the main output is" in str(comparison)


@pytest.mark.parametrize("higher", [True, False])
def test_a_metric_is_kept_with_its_name_and_direction_and_read_back(higher, tmp_path):
    def score(output, target):
        error = (output - target).abs().mean()
        return -error if higher else error

    score.higher_is_better = higher
    batches, held_out = regression()
    setting = {"iterations": 20, "window": 5, "held_out": held_out, "metric": score}
    comparison = gp.compare(chain, batches, nn.functional.mse_loss, policy=gp.EveryLayerPolicy(), **setting)
    arms = gp.compare_arms(chain, batches, nn.functional.mse_loss, ["every"], seeds=[0], **setting)
    folder = gp.save(
        tmp_path / "run", comparison.plain, comparison.placement, comparison, arms=arms, figures=False
    )
    again = gp.load(folder)
    assert again.comparison == comparison
    assert again.arms == arms
    for one in (again.comparison, again.arms):
        assert (one.metric.name, one.metric.higher_is_better) == ("score", higher)
        assert "held-out score" in str(one)
        assert ("(lower is better)" in str(one)) != higher
        assert set(one.conditions["metric"]["start"]) == {"0"}
    curve = arms.frame[arms.frame["arm"] == "none"]["metric"].dropna()
    assert (curve.iloc[-1] > curve.iloc[0]) == higher, "it learns"
    assert arms.choice.verdict != "harmed"


def test_the_accuracy_stays_where_it_was():
    batches, held_out = small()
    comparison = gp.compare(deep(), batches, nn.functional.cross_entropy, iterations=4, held_out=held_out)
    assert comparison.frame["accuracy"].equals(comparison.frame["metric"])
    assert comparison.conditions["metric"]["name"] == "accuracy"
    targets = torch.cat([target for _, target in held_out])
    assert comparison.conditions["held_out"] == len(targets)
    assert comparison.conditions["chance"] == targets.bincount().max().item() / len(targets)
