"""Losses that are not what was meant, clamped gradients and units that start alike: each beside its sound twin."""

import pytest
import torch
from support.small_trainings import mlp, trained
from torch import nn
from torch.nn import functional


def with_loss(loss, last=()):
    """A training by a loss of the output, the inputs and the labels."""

    def make(model, optimizer):
        def step(a, b):
            optimizer.zero_grad()
            loss(model(a), a, b).backward()
            optimizer.step()

        return step

    return lambda **options: trained(mlp(*last), make, **options)


def entropy_by_hand(output, target):
    return -(target * output.log() + (1 - target) * (1 - output).log()).mean()


def is_first(b):
    return (b == 0).float()


def first_column(output, a, b):
    return entropy_by_hand(output[:, :1] * 0.98 + 0.01, is_first(b))


def first_of_each(output, a, b):
    return entropy_by_hand(output[:, 0] * 0.98 + 0.01, is_first(b))


def likely(output, b):
    return functional.one_hot(b, 4) * 0.9 + 0.025


def ctc(output, a, b):
    symbols = output.unflatten(0, (8, 4))  # 8 steps, 4 sequences
    lengths = torch.full((4,), 8), torch.full((4,), 2)
    return functional.ctc_loss(symbols, 1 + b[:8].view(4, 2) % 3, *lengths)


def advantage(output, a, b):
    """REINFORCE: the logarithm of what was chosen, times what it brought."""
    return -(output.log_softmax(1).gather(1, b[:, None]) * a[:, 0]).mean()


WRONG = {
    "entropy written by hand, over all pairs": ("loss_broadcast", with_loss(first_column, [nn.Sigmoid()])),
    "policy gradient over all pairs": ("loss_broadcast", with_loss(advantage)),
    "softmax over the examples": (
        "loss_wrong",
        with_loss(lambda y, a, b: functional.nll_loss(y.log_softmax(0), b)),
    ),
    "divergence of probabilities": (
        "loss_wrong",
        with_loss(lambda y, a, b: functional.kl_div(y.softmax(1), likely(y, b), reduction="batchmean")),
    ),
    "CTC of probabilities": ("loss_wrong", with_loss(lambda y, a, b: ctc(y.softmax(1), a, b))),
    "CTC of logits": ("loss_wrong", with_loss(ctc)),
    "a minus that should not be there": (
        "loss_wrong",
        with_loss(lambda y, a, b: -functional.cross_entropy(y, b)),
    ),
    "times minus 1": ("loss_wrong", with_loss(lambda y, a, b: functional.mse_loss(y, a[:, :4]) * -1.0)),
    "log-probabilities without their minus": (
        "loss_wrong",
        with_loss(lambda y, a, b: y.log_softmax(1).gather(1, b[:, None]).mean()),
    ),
    "the same by a table": (
        "loss_wrong",
        with_loss(lambda y, a, b: (y.log_softmax(1) * functional.one_hot(b, 4)).sum(1).mean()),
    ),
    "softplus and targets below 0": (
        "output_activation",
        with_loss(lambda y, a, b: functional.mse_loss(y, a[:, :4]), [nn.Softplus()]),
    ),
}
SOUND = {
    "entropy written by hand": with_loss(first_of_each, [nn.Sigmoid()]),
    "softmax over the classes": with_loss(lambda y, a, b: functional.nll_loss(y.log_softmax(1), b)),
    "divergence of logarithms": with_loss(
        lambda y, a, b: functional.kl_div(y.log_softmax(1), likely(y, b), reduction="batchmean")
    ),
    "CTC of logarithms": with_loss(lambda y, a, b: ctc(y.log_softmax(1), a, b)),
    "log-probabilities with their minus": with_loss(
        lambda y, a, b: -y.log_softmax(1).gather(1, b[:, None]).mean()
    ),
    "twice a minus": with_loss(lambda y, a, b: -1.0 * -functional.cross_entropy(y, b)),
    "rewards of both signs": with_loss(lambda y, a, b: (y.log_softmax(1).gather(1, b[:, None]) * a[:, :1]).mean()),
    "a term that is taken off": with_loss(
        lambda y, a, b: functional.cross_entropy(y, b) + 0.1 * (y.softmax(1) * y.log_softmax(1)).sum(1).mean()
    ),
    "softplus and targets above 0": with_loss(
        lambda y, a, b: functional.mse_loss(y, a[:, :4].abs()), [nn.Softplus()]
    ),
    "both directions of a contrastive loss": with_loss(
        lambda y, a, b: sum(
            functional.cross_entropy(one, torch.arange(32)) for one in (y @ a[:, :4].t(), (y @ a[:, :4].t()).t())
        )
    ),
    "each output with what belongs to it": with_loss(
        lambda y, a, b: (y[:, :1] * torch.eye(32)).sum(1).sub(a[:, 0]).square().mean()
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_loss_that_is_not_what_was_meant_is_named(case):
    cause, training = WRONG[case]
    assert [one.cause for one in training().findings] == [cause]


@pytest.mark.parametrize("case", SOUND)
def test_its_sound_twin_is_not(case):
    assert not {one.cause for one in SOUND[case]().findings} & {
        "loss_broadcast",
        "loss_wrong",
        "output_activation",
    }


@pytest.mark.parametrize(("limit", "found"), [(1e-6, True), (10.0, False)])
def test_gradients_that_hooks_clamp_are_clipped(limit, found):
    model = mlp()
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-limit, limit))
    diagnosis = trained(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert ("clipped" in [one.cause for one in diagnosis.findings]) == found


class Sequence(nn.Module):
    """A recurrent layer over four numbers, twice, with a last layer or without."""

    def __init__(self, layer, last=None):
        super().__init__()
        self.layer, self.last = layer, last or nn.Identity()

    def forward(self, x):
        return self.last(self.layer(x.view(-1, 2, 4))[0][:, -1])


def regression(model, scale):
    def make(model, optimizer):
        def step(a, b):
            optimizer.zero_grad()
            functional.mse_loss(model(a), scale * a[:, :4]).backward()
            optimizer.step()

        return step

    return [one.cause for one in trained(model, make).findings]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_state_of_a_recurrent_layer_is_between_minus_1_and_1(kind):
    torch.manual_seed(0)
    assert regression(Sequence(kind(4, 4, batch_first=True)), 1.0) == ["output_activation"]
    assert "output_activation" not in regression(Sequence(kind(4, 4, batch_first=True)), 0.2)
    assert "output_activation" not in regression(Sequence(kind(4, 8, batch_first=True), nn.Linear(8, 4)), 1.0)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_state_is_as_large_as_its_weights():
    torch.manual_seed(0)
    assert "output_activation" not in regression(Sequence(nn.LSTM(4, 8, batch_first=True, proj_size=4)), 1.0)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_units_of_a_recurrent_layer_that_start_alike_are_symmetry(kind):
    torch.manual_seed(0)
    model = Sequence(kind(4, 8, batch_first=True), nn.Linear(8, 4))
    assert "symmetry" not in regression(model, 1.0)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    assert "symmetry" in regression(model, 1.0)


class Factors(nn.Module):
    """The product of two embeddings, as recommenders have it."""

    def __init__(self, start):
        super().__init__()
        self.users, self.items = nn.Embedding(40, 4), nn.Embedding(4, 4)
        for one in (self.users, self.items):
            start(one.weight)

    def forward(self, x):
        user = x[:, 0].mul(5).round().long().clamp(-20, 19) + 20
        return self.users(user) @ self.items.weight.t()


def test_factors_that_start_alike_are_symmetry():
    torch.manual_seed(0)
    assert "symmetry" in regression(Factors(lambda weight: nn.init.constant_(weight, 0.3)), 1.0)
    assert "symmetry" not in regression(Factors(lambda weight: nn.init.normal_(weight, std=0.3)), 1.0)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_of_one_unit_is_no_symmetry(kind):
    torch.manual_seed(0)
    assert "symmetry" not in regression(Sequence(kind(4, 1, batch_first=True), nn.Linear(1, 4)), 1.0)


@pytest.mark.parametrize("start", [nn.init.normal_, nn.init.zeros_])
def test_a_table_of_biases_is_no_symmetry(start):
    """It has one unit, as that of a recommender has for each user."""

    class Biased(Factors):
        def __init__(self):
            super().__init__(nn.init.normal_)
            self.bias = nn.Embedding(40, 1)
            start(self.bias.weight)

        def forward(self, x):
            user = x[:, 0].mul(5).round().long().clamp(-20, 19) + 20
            return super().forward(x) + self.bias(user)

    torch.manual_seed(0)
    assert "symmetry" not in regression(Biased(), 1.0)


def test_a_normalisation_over_one_number_loses_the_signal_at_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (8, 1)), nn.LayerNorm(1), nn.Flatten(), *mlp())
    assert [one.cause for one in trained(model).findings] == ["signal_collapse"]


def test_weights_that_are_too_wide_for_a_tanh_saturate_it():
    torch.manual_seed(0)
    layers = [part for _ in range(4) for part in (nn.Linear(64, 64), nn.Tanh())]
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), *layers, nn.Linear(64, 4))
    for layer in model[::2]:
        nn.init.normal_(layer.weight)
    assert "saturated" in [
        one.cause for one in trained(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01)).findings
    ]


def test_a_mask_in_the_loss_changes_what_a_constant_answer_costs():
    """Half of the terms are left out: the loss is half that of a constant answer, and nothing has been learned."""

    def masked(output, a, b):
        return (functional.cross_entropy(output, b, reduction="none") * (torch.arange(32) % 2)).mean()

    assert [one.cause for one in with_loss(masked)(lr=1e-7).findings] == ["lr_low"]


def test_what_is_left_of_a_training_that_became_nan_is_left_over():
    def never_cleared(model, optimizer):
        def step(a, b):
            (functional.cross_entropy(model(a), b) * next(factors)).backward()
            optimizer.step()

        return step

    factors = iter([1.0] * 3 + [torch.nan] * 27)
    assert "zero_grad_missing" in [one.cause for one in trained(mlp(), never_cleared).findings]


def test_what_is_learned_slowly_is_no_wrong_label():
    """The gradients of a network that is clipped at every step agree with each other, as those of noise do not."""

    def clipped(model, optimizer):
        def step(a, b):
            optimizer.zero_grad()
            functional.cross_entropy(model(a), b).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()

        return step

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    diagnosis = trained(model, clipped, optimizer=optimizer, steps=50)
    assert "labels_wrong" not in [one.cause for one in diagnosis.findings]


@pytest.mark.parametrize("maximize", [True, False])
def test_an_optimizer_that_maximises_a_loss(maximize):
    model = mlp()
    diagnosis = trained(model, optimizer=torch.optim.Adam(model.parameters(), lr=0.01, maximize=maximize))
    assert ("loss_wrong" in [one.cause for one in diagnosis.findings]) == maximize


def test_a_critic_that_a_generator_makes_wrong_in_its_turn_is_sound():
    """The generator's loss is that of the critic with a minus (Goodfellow et al. 2014, the minimax game)."""
    torch.manual_seed(0)
    generator = nn.Linear(8, 8)
    of_generator = torch.optim.SGD(generator.parameters(), lr=0.1)

    def play(model, optimizer):
        def step(a, b):
            of_generator.zero_grad()
            (-functional.cross_entropy(model(generator(a)), b)).backward()
            of_generator.step()
            optimizer.zero_grad()
            functional.cross_entropy(model(a), b).backward()
            optimizer.step()

        return step

    assert "loss_wrong" not in [one.cause for one in trained(mlp(), play).findings]
