"""What each of several arms does, and what is trained for it."""

import pandas as pd
import pytest
import torch
from support.awkward import threads
from support.trainings import LOSS, deep, small

import gradprobe as gp
from gradprobe.prove import remedies
from gradprobe.verdict.arm import REMEDIES
from gradprobe.verdict.judge import judge_pair
from gradprobe.zoo import plain_mlp


def test_every_remedy_has_a_name_in_words():
    assert set(REMEDIES) == {*remedies.REMEDIES, *remedies.STEP_REMEDIES}
    assert {name for name, text in REMEDIES.items() if text.on_optimizer} == set(remedies.STEP_REMEDIES)


@threads(1)
def test_the_arms_of_a_comparison_are_those_of_compare():
    batches, held_out = small()
    options = {"iterations": 4, "seeds": (0, 1), "held_out": held_out}
    two = gp.compare(deep, batches, LOSS, **options)
    arms = gp.compare_arms(deep, batches, LOSS, ["cnds"], **options)
    renamed = two.frame.replace({"arm": {"plain": "none", "supervised": "cnds"}})
    key = ["arm", "seed", "iteration"]
    assert two.placement == arms.arms[1].placement
    pd.testing.assert_frame_equal(
        renamed.sort_values(key).reset_index(drop=True), arms.frame.sort_values(key).reset_index(drop=True)
    )
    assert arms.plain == two.plain
    # of two arms there is one pair, and its verdict is that of compare
    found = judge_pair(arms.frame, arms.conditions, "none", "cnds")
    assert (found.verdict, found.difference, found.error) == (
        two.verdict,
        two.outcome.difference,
        two.outcome.error,
    )


def test_a_remedy_begins_from_the_same_weights_and_sees_the_same_batches():
    trunk = plain_mlp(depth=3, width=8)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    seen = {}

    def optimizer(net):
        seen[len(seen)] = net.fc3.weight.detach().clone()
        return torch.optim.SGD(net.parameters(), lr=0.0)

    batches, _ = small()
    result = gp.compare_arms(trunk, batches, LOSS, ["kaiming"], iterations=2, seeds=[5], optimizer=optimizer)
    torch.manual_seed(5)
    remedies.kaiming(trunk)
    assert torch.equal(seen[0], before["fc3.weight"])
    assert torch.equal(seen[1], trunk.fc3.weight)
    assert result.conditions["same_batches"]


def test_an_arm_without_a_branch_is_not_trained_again():
    batches, _ = small()
    calls = []
    result = gp.compare_arms(
        plain_mlp(depth=2),
        batches,
        LOSS,
        ["cnds", "relative", "lsuv"],
        iterations=2,
        seeds=(0, 1),
        on_training=lambda *what: calls.append(what),
    )
    assert {arm.name: arm.like for arm in result.arms} == {
        "none": None,
        "cnds": "none",
        "relative": "none",
        "lsuv": None,
    }
    assert set(result.frame["arm"]) == {"none", "lsuv"}
    assert "no branch: same as none" in str(result)
    assert [done for what, done, _ in calls if "seed" in what] == [1, 2, 3, 4]


def test_what_auto_advises_is_what_it_trains_with(monkeypatch):
    advice = gp.Placement("auto", (), (), "because", remedy="lsuv")
    monkeypatch.setattr(
        "gradprobe.prove.compare_arms.decide_by_trials", lambda *_, on_iteration: on_iteration() or advice
    )
    batches, _ = small()
    alone, both = (
        gp.compare_arms(plain_mlp(depth=3), batches, LOSS, arms, iterations=4, window=2, seeds=[0])
        for arms in (["auto"], ["auto", "lsuv"])
    )
    # what is trained, and so what a verdict can name, is the remedy
    assert [arm.name for arm in alone.arms] == ["none", "lsuv", "auto"]
    assert [arm.name for arm in both.arms] == ["none", "auto", "lsuv"]
    for result, auto in ((alone, alone.arms[2]), (both, both.arms[1])):
        assert auto.did == "advises lsuv: same as lsuv"
        assert auto.windows == 0.5  # one iteration of a window of two
        assert set(result.frame["arm"]) == {"none", "lsuv"}
    curves = [one.frame[one.frame["arm"] == "lsuv"]["loss"].tolist() for one in (alone, both)]
    assert curves[0] == curves[1]


def vanished():
    torch.manual_seed(0)
    return plain_mlp(depth=12, width=16, activation=torch.nn.Sigmoid)


def test_without_arms_the_remedy_of_the_diagnosis_and_the_usual_branches_are_compared():
    batches, _ = small()
    options = {
        "iterations": 30,
        "window": 30,
        "seeds": [0],
        "optimizer": lambda n: torch.optim.Adam(n.parameters()),
    }
    sick = gp.compare_arms(vanished, batches, LOSS, **options)
    assert [arm.name for arm in sick.arms] == ["none", "normalised", "branches"]
    assert sick.arms[1].remedy == "normalised"
    assert "auto" not in str(sick)
    healthy = gp.compare_arms(lambda: plain_mlp(depth=2), batches, LOSS, **options)
    assert [arm.did for arm in healthy.arms[1:]] == ["no remedy: same as none", "no branch: same as none"]
    assert healthy.choice.sentences[0].startswith("Use the network as it is: no arm changes it.")


def test_remedies_that_go_by_the_record_are_arms_as_well():
    batches, _ = small()
    rates = []

    def optimizer(net):
        made = torch.optim.SGD(net.parameters(), lr=1e-6)
        rates.append(made)
        return made

    arms = ["learning_rate", "clipping"]
    result = gp.compare_arms(
        lambda: plain_mlp(depth=2), batches, LOSS, arms, iterations=3, optimizer=optimizer, seeds=[0]
    )
    assert [arm.name for arm in result.arms] == ["none", *arms]
    assert [one.param_groups[0]["lr"] for one in rates] == pytest.approx([1e-6, 1e-5, 1e-6])
    assert set(result.frame["arm"]) == {"none", *arms}


def test_policies_that_train_count_what_it_costs():
    batches, _ = small()
    result = gp.compare_arms(deep, batches, LOSS, ["repeated", "auto"], iterations=4, window=2, seeds=[0])
    windows = {arm.name: arm.windows for arm in result.arms}
    assert windows["none"] == 0
    assert windows["repeated"] >= 1  # at least one round with the branch in place
    assert windows["auto"] in (0, 2, 3)  # a window for each remedy that is left open


def test_data_that_draws_from_a_state_of_its_own_is_not_judged():
    generator = torch.Generator().manual_seed(0)

    def drawn():
        yield torch.randn(8, 64, generator=generator), torch.randint(10, (8,), generator=generator)

    result = gp.compare_arms(plain_mlp(depth=2), drawn, LOSS, ["kaiming"], iterations=4, seeds=[0])
    assert not result.conditions["same_batches"]
    assert (result.best, result.choice.verdict) == ("none", "cannot tell")
    assert "did not see the same batches" in str(result)


def test_what_cannot_be_compared_is_refused_before_anything_is_trained():
    batches, _ = small()
    net = plain_mlp(depth=2)
    for options, error, message in (
        ({"seeds": []}, ValueError, "one or more"),
        ({"engine": "threads"}, ValueError, "engine out of"),
        ({"jobs": 2}, ValueError, "one thing after the other"),
        ({"jobs": 0, "engine": "processes"}, ValueError, "at least 1"),
    ):
        with pytest.raises(error, match=message):
            gp.compare_arms(net, batches, LOSS, ["cnds"], **options)
    with pytest.raises(TypeError, match="loss_fn"):
        gp.compare_arms(net, LOSS, batches, ["cnds"])


def test_an_arm_that_raises_is_reported_and_the_others_stand():
    def raising(net):
        if not net.fc1.bias.any():
            raise ValueError("no biases")
        return torch.optim.SGD(net.parameters(), lr=0.01)

    batches, _ = small()
    result = gp.compare_arms(
        plain_mlp(depth=2), batches, LOSS, ["kaiming"], iterations=2, seeds=[0], optimizer=raising
    )
    assert result.failures == [f"kaiming failed (seed 0): {result.arms[1].failed['seed 0']}"]


def test_without_the_plain_training_there_is_nothing_to_compare_to():
    batches, _ = small()
    with pytest.raises(
        RuntimeError, match=r"nothing to compare to: ZeroDivisionError: .* \(test_compare_arms.py, line"
    ):
        gp.compare_arms(plain_mlp(depth=2), batches, lambda *_: 1 / 0, ["kaiming"], iterations=2, seeds=[0])


def test_ctrl_c_here_is_ctrl_c():
    def interrupt(net):
        raise KeyboardInterrupt

    batches, _ = small()
    with pytest.raises(KeyboardInterrupt) as caught:
        gp.compare_arms(plain_mlp(depth=2), batches, LOSS, ["kaiming"], iterations=2, optimizer=interrupt)
    assert not hasattr(caught.value, "history")
