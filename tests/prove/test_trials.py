import math
from functools import cache

import pytest
import torch
from torch import nn

from gradprobe.decide.policies import place
from gradprobe.measure.scan import scan
from gradprobe.prove.remedies import REMEDIES
from gradprobe.prove.trials import COMPARED, Trial, place_by_trials
from gradprobe.record.placement import Placement
from gradprobe.zoo import digits, plain_mlp

WINDOW = 50
cross_entropy = nn.functional.cross_entropy


def trial(*losses):
    return Trial("tried", (), tuple(losses))


def adam(net):
    return torch.optim.Adam(net.parameters(), lr=2e-3)


def built(depth, **options):
    torch.manual_seed(0)
    return plain_mlp(depth, 32, **options)


def test_what_is_lower_beyond_the_noise_and_by_a_fiftieth_beats():
    plain = trial(*[2.0, 2.2] * COMPARED)
    assert trial(*[1.9, 2.0] * COMPARED).beats(plain)
    assert not trial(*[1.97, 2.17] * COMPARED).beats(plain)  # by 1.4 %
    assert not plain.beats(plain)


def test_a_difference_within_the_noise_beats_nothing():
    plain = trial(*[2.0] * COMPARED)
    # differences 1.5 and -1 in turn: their mean is .25, an eighth, and its standard error 1.28 / sqrt(20) = .29
    assert not trial(*[0.5, 3.0] * (COMPARED // 2)).beats(plain)


def test_the_loss_times_a_thousand_makes_no_difference():
    plain, better = [2.0, 2.2] * COMPARED, [1.9, 2.0] * COMPARED
    scaled_plain, scaled_better = (trial(*[1000 * loss for loss in losses]) for losses in (plain, better))
    assert scaled_better.beats(scaled_plain) == trial(*better).beats(trial(*plain))


def test_trials_of_unequal_length_are_compared_where_both_were():
    short, long = trial(*[1.5] * 50), trial(*[2.0] * 50, *[0.1] * 100)
    assert short.beats(long)
    assert not long.beats(short)


def test_a_loss_that_is_not_finite_beats_nothing_and_is_beaten():
    bad, good = trial(*[2.0] * 30, math.nan), trial(*[3.0] * 31)
    assert good.beats(bad)
    assert not bad.beats(good)
    assert not bad.beats(bad)


def test_the_model_the_generators_and_a_loaders_own_generator_are_as_they_were():
    net = nn.Sequential(nn.Linear(64, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    x, y = digits((64,)).batches[0]
    own = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 16, shuffle=True, generator=own)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    states = torch.get_rng_state(), own.get_state()
    place_by_trials(net, loader, cross_entropy, 4, optimizer=adam)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(own.get_state(), states[1])


def sigmoid():
    return built(9, activation=nn.Sigmoid)


def spent(net, window=WINDOW, **options):
    """What is decided, and how many iterations each trial took."""
    done = {}

    def count(name, iterations, total):
        assert iterations <= total
        done[name] = iterations

    placement = place_by_trials(
        net, digits((64,), 32).batches, cross_entropy, window, optimizer=adam, on_iteration=count, **options
    )
    return placement, done


def test_a_healthy_network_costs_the_window_that_is_measured_and_gets_nothing():
    placement, done = spent(built(3))
    assert done == {"no branch": WINDOW}
    assert (placement.points, placement.remedy, placement.rule) == ((), None, "auto")
    assert "Nothing is wrong" in placement.reason


def test_a_cause_with_one_remedy_needs_no_trial():
    placement, done = spent(sigmoid())
    assert done == {"no branch": WINDOW}
    assert placement.remedy == "normalised"
    assert placement.rule == "auto"


def test_between_remedies_that_are_left_open_a_window_of_each_decides():
    placement, done = spent(built(16))
    assert done == {"no branch": WINDOW, "lsuv": WINDOW, "normalised": WINDOW}
    assert placement.remedy in ("lsuv", "normalised")
    assert not placement.points
    assert placement.rule == "trials"
    assert "Change the network before anything is placed" in str(placement)


def test_a_record_that_was_taken_is_not_taken_again():
    data = digits((64,), 32)
    torch.manual_seed(0)
    history = scan(built(16), data.batches, cross_entropy, WINDOW, optimizer=adam, seed=0)
    assert set(spent(built(16), history=history)[1]) == {"lsuv", "normalised"}


def test_a_remedy_that_the_network_refuses_is_left_out():
    def refuses(model, inputs):
        raise ValueError("no")

    placement, _ = spent(built(3), 4, remedies={"refuses": refuses})
    assert placement.remedy is None
    assert "No remedy can be applied" in placement.reason


def test_remedies_of_ones_own_are_tried_whatever_the_diagnosis_says():
    own = {"kaiming": REMEDIES["kaiming"]}
    assert spent(built(3), 4, remedies=own)[1] == {"no branch": 4, "kaiming": 4}


def test_branches_alone_cost_ten_windows_at_most_and_none_of_a_healthy_network():
    assert spent(built(3), remedies={})[1] == {"no branch": WINDOW}
    _, done = spent(built(16), 4, remedies={})
    assert done["no branch"] == done["every second point"]
    assert 4 + sum(done.values()) <= 10 * 4


def test_a_net_without_points_gets_no_branch():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    placement = place_by_trials(net, digits((64,), 32).batches, cross_entropy, 4, remedies={})
    assert not placement.points
    assert "no supervision point" in placement.reason


@pytest.mark.slow
def test_where_the_initial_weights_are_given_branches_are_placed():
    placement, _ = spent(built(16), remedies={})
    assert placement.points
    assert placement.remedy is None
    assert "Branches help" in placement.reason


def test_the_advice_is_kept_in_the_record():
    placement = Placement("auto", (), (), "change them", remedy="lsuv")
    assert Placement.from_dict(placement.to_dict()) == placement
    assert Placement.from_dict({k: v for k, v in placement.to_dict().items() if k != "remedy"}).remedy is None


def decided(*, scale=1.0, reduction="mean", batch_size=32, dtype=torch.float32):
    """What is decided on a plain net of 16 layers, under conditions that a magnitude depends on."""
    net = built(16).to(dtype)
    batches = [(x.to(dtype), y) for x, y in digits((64,), batch_size).batches]
    placement = place_by_trials(
        net,
        batches,
        lambda output, target: scale * cross_entropy(output, target, reduction=reduction),
        WINDOW,
        optimizer=adam,
    )
    # which of two remedies is ahead by a little may change: normalisation likes large batches
    return [point.name for point in placement.points], placement.remedy is not None


@cache
def decided_as_it_is():
    return decided()


CONDITIONS = {
    "the loss x 1000": {"scale": 1000.0},
    "a sum in place of a mean": {"reduction": "sum"},
    "batches of 128": {"batch_size": 128},
    "batches of 512": {"batch_size": 512},
    "bfloat16": {"dtype": torch.bfloat16},
}


def test_the_rule_of_1e_7_does_depend_on_them():
    net, batches = built(16), digits((64,), 32).batches
    flagged = [
        place(scan(net, batches, lambda output, y, scale=scale: scale * cross_entropy(output, y), 10)).flagged
        for scale in (1.0, 1000.0)
    ]
    assert len(flagged[0]) > len(flagged[1])


@pytest.mark.slow
@pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS)
def test_the_decision_does_not_depend_on_the_scale_of_the_loss_the_batch_or_the_precision(conditions):
    assert decided(**conditions) == decided_as_it_is()
