"""Nothing is learned, and no usual cause is there: each kind beside its sound twin."""

import pytest
import torch
from support.small_trainings import mlp, recorded, trained
from torch import nn
from torch.nn import functional

from gradprobe.decide.auto import open_remedies
from gradprobe.decide.diagnosis import diagnose, what_to_compare
from gradprobe.script.advice.remedies import mend
from gradprobe.script.advice.site import Site
from gradprobe.script.advice.source import SourceLine


def by(loss):
    """A training by a loss of the output and the labels."""

    def make(model, optimizer):
        def step(a, b):
            optimizer.zero_grad()
            loss(model(a), b).backward()
            optimizer.step()

        return step

    return lambda **options: trained(mlp(), make, steps=50, **options)


def causes(diagnosis):
    return [finding.cause for finding in diagnosis.findings]


def one_hot(b):
    return functional.one_hot(b, 4).float()


ROUNDED = {
    "round": lambda output, b: functional.mse_loss(output.softmax(1).round(), one_hot(b)),
    "comparison": lambda output, b: functional.mse_loss((output > 0).float() + 0 * output, one_hot(b)),
    "clamp at its bound": lambda output, b: functional.mse_loss(output.clamp(50, 60), one_hot(b)),
}


@pytest.mark.parametrize("loss", ROUNDED.values(), ids=list(ROUNDED))
def test_a_loss_without_a_derivative_is_cut_off_and_no_small_step(loss):
    diagnosis = by(loss)()
    assert causes(diagnosis) == ["detached"]
    assert "exactly zero" in diagnosis.sentence


def test_the_same_with_a_derivative_is_healthy():
    assert by(lambda output, b: functional.mse_loss(output.softmax(1), one_hot(b)))().verdict == "healthy"


def masked(bound):
    def loss(output, b):
        return (functional.cross_entropy(output, b, reduction="none") * (b < bound)).mean()

    return loss


def test_an_empty_mask_asks_nothing_and_one_that_is_not_empty_does():
    diagnosis = by(masked(0))()
    assert causes(diagnosis) == ["loss_wrong"]
    assert "exactly 0" in diagnosis.sentence
    assert by(masked(3))().verdict == "healthy"


def by_whole_numbers(by):
    """Inputs between 0 and 40: of these, divided by 255 as whole numbers, nothing is left."""

    def make(model, optimizer):
        def step(a, b):
            optimizer.zero_grad()
            functional.cross_entropy(model((10 * a).abs().div(by, rounding_mode="floor") + 0.5), b).backward()
            optimizer.step()

        return step

    return trained(mlp(), make, steps=50)


def test_inputs_that_are_all_the_same_are_told():
    assert causes(by_whole_numbers(255)) == ["input_scale"]
    assert by_whole_numbers(10).verdict == "healthy"


def clamped(bound):
    def make(model, optimizer):
        def step(a, b):
            optimizer.zero_grad()
            functional.cross_entropy(model(a), b).backward()
            optimizer.step()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.clamp_(-bound, bound)

        return step

    return recorded(mlp(), make, steps=50, lr=0.001)


def test_weights_that_are_kept_small_by_hand_and_no_initialisation_mends_them():
    history = clamped(0.01)
    diagnosis = diagnose(history)
    assert causes(diagnosis) == ["signal_collapse"]
    assert "takes them back" in diagnosis.sentence
    assert open_remedies(history) == ()
    assert what_to_compare(history) == ""
    said = mend(diagnosis, Site("model"), open_remedies(history))
    assert said.startswith("What to change, which no line to add can state: Look for what changes weights by hand")
    assert diagnose(clamped(1.0)).verdict == "healthy"


def test_weight_decay_that_is_stronger_than_the_loss():
    def by(decay):
        model = mlp()
        return trained(model, optimizer=torch.optim.Adam(model.parameters(), 3e-3, weight_decay=decay), steps=50)

    diagnosis = by(10.0)
    assert causes(diagnosis) == ["signal_collapse"]
    assert "weight_decay=10 pulls them to zero" in diagnosis.sentence
    site = Site("model", optimizer=SourceLine("train.py", 4, "sgd = SGD(...)"), optimizer_name="sgd")
    assert mend(diagnosis, site) == (
        "What to change (no file was changed):\n"
        "  after line 4 of train.py, `sgd = SGD(...)`:\n"
        "    for group in sgd.param_groups:\n"
        '        group["weight_decay"] = 0.0001'
    )
    assert by(1e-4).verdict == "healthy"


def test_what_learns_with_strong_decay_is_healthy():
    model = nn.Sequential(*mlp())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1.0)
    assert trained(model, optimizer=optimizer, steps=50).verdict == "healthy"
