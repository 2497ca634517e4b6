"""What the benchmarks of the diagnosis count and train, by values worked out by hand."""

import pytest
import torch
from torch import nn

pytest.importorskip("benchmarks.diagnosis", reason="a source distribution has no benchmarks/")

import gradprobe as gp
from benchmarks.diagnosis import data, invariance, tasks
from benchmarks.diagnosis.invariance_cases import CASES
from benchmarks.diagnosis.networks import accuracy, explained
from benchmarks.diagnosis.trainings import Setting, training
from benchmarks.diagnosis.windows import Window
from gradprobe.decide.causes.finding import CAUSES

LSTM = Setting("LSTM", 4, "SGD", "fp32")


def judged(task, seed, accuracy, verdict):
    return tasks.Judged(task, seed, accuracy, Window(None, gp.Diagnosis(verdict)))


def test_a_failed_training_is_to_be_sick_and_one_that_learned_is_not():
    pairs = [(0.5, "sick"), (0.5, "healthy"), (0.8, "sick"), (0.8, "healthy"), (0.65, "sick"), (0.65, "healthy")]
    every = [judged("a", 0, *pair) for pair in pairs]
    assert [one.wrong for one in every] == [False, True, True, False, False, False]
    assert tasks.counts(every) == [2, "1 (50%)", 2, 1, 2]


def test_a_task_has_its_first_seeds_window_and_the_mean_of_all_accuracies():
    every = [judged("a", 1, 0.9, "healthy"), judged("b", 0, 0.2, "sick"), judged("a", 0, 0.5, "sick")]
    found = {one.task: (one.seed, one.accuracy, one.window.sick) for one in tasks.by_task(every)}
    assert found == {"a": (0, pytest.approx(0.7), True), "b": (0, 0.2, True)}


def test_the_score_of_a_constant_answer_is_0_and_of_the_right_one_1():
    labels = torch.tensor([0, 0, 0, 1])
    constant = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    assert accuracy(nn.Identity(), (constant, labels)) == 0
    assert accuracy(nn.Identity(), (nn.functional.one_hot(labels).float(), labels)) == 1
    images = torch.randn(8, 3)
    assert explained(lambda x: (x.mean(0).expand_as(x),), (images, None)) == pytest.approx(0, abs=1e-6)
    assert explained(lambda x: (x,), (images, None)) == 1


def test_a_sum_is_the_mean_times_the_factor_that_divides_the_rate():
    for case in CASES.values():
        if case.name != "ViT":  # which takes transformers a while to import
            torch.manual_seed(0)
            x, y = case.batch(8)
            output = case.build()(x)
            mean, total = (case.loss(output, y, reduction=how) for how in ("mean", "sum"))
            torch.testing.assert_close(total, y.numel() * mean, rtol=1e-4, atol=1e-5)


def test_every_cause_that_is_put_in_is_one_of_the_vocabulary():
    causes = [case.cause for case in CASES.values() if case.cause]
    assert set(causes) <= set(CAUSES)
    assert len(causes) >= 6
    assert len(CASES) - len(causes) >= 4


def test_windows_of_one_training_are_those_of_trainings_of_their_own():
    # not of a recurrent layer: of several probes only the last one sees its gradient over time, the others say so
    setting = Setting("VAE", 4, "SGD", "fp32")
    together = training(setting).record((3, 6))
    assert {key: training(setting).record(key[1:])[key] for key in together} == together


def test_scoring_changes_nothing_of_the_training():
    scored = training(LSTM)
    scored.run(2)
    scored.score()
    scored.run(2)
    left = training(LSTM)
    left.run(4)
    for a, b in zip(scored.parts[""][0].parameters(), left.parts[""][0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_mask_marks_the_bright_quarter():
    torch.manual_seed(0)
    x, y = data.masks(16, channels=1)
    assert set(y.sum((1, 2)).tolist()) <= {0, 64}
    bright = x[:, 0][y == 1]
    assert bright.mean().item() == pytest.approx(1, abs=5 * 0.3 / len(bright) ** 0.5)  # noise of .3


def test_a_larger_loss_and_a_smaller_rate_are_the_same_training():
    case = CASES["MLP"]
    base, changed = (invariance.record(case, "SGD", change) for change in invariance.CHANGES[:2])
    assert changed.evidence.network["losses"] == pytest.approx(
        [1000 * loss for loss in base.evidence.network["losses"]], rel=1e-3
    )
