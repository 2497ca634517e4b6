"""The diagnosis: causes and not their consequences, from trainings whose fault is known by construction."""

import json

import pytest
import torch
from support.small_trainings import data, mlp, trained
from torch import nn

import gradprobe as gp
from gradprobe.decide.causes.finding import CAUSES, Finding
from gradprobe.decide.diagnosis import EXPLAINS, diagnose, layers_by_code, without_consequences
from gradprobe.record.history import GradientHistory


def never_cleared(model, optimizer):
    def step(a, b):
        nn.functional.cross_entropy(model(a), b).backward()
        optimizer.step()

    return step


def cleared_too_late(model, optimizer):
    def step(a, b):
        nn.functional.cross_entropy(model(a), b).backward()
        optimizer.zero_grad()
        optimizer.step()

    return step


def clipped(model, optimizer):
    def step(a, b):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(a), b).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
        optimizer.step()

    return step


def of_one_output(model, optimizer):
    def step(a, b):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(a)[:, :1], b.float()).backward()
        optimizer.step()

    return step


def constant(model):
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    return model


def dead(model):
    nn.init.constant_(model[2].bias, -50.0)
    return model


def deep_sigmoid():
    torch.manual_seed(0)
    layers = [part for _ in range(9) for part in (nn.Linear(32, 32), nn.Sigmoid())]
    return nn.Sequential(nn.Linear(8, 32), nn.Sigmoid(), *layers, nn.Linear(32, 4))


FAULTS = {
    "zero_grad_missing": lambda: trained(mlp(), never_cleared),
    "grad_zeroed": lambda: trained(mlp(), cleared_too_late),
    "clipped": lambda: trained(m := mlp(), clipped, optimizer=torch.optim.SGD(m.parameters(), lr=0.1)),
    "loss_broadcast": lambda: trained(mlp(), of_one_output),
    "double_softmax": lambda: trained(mlp(nn.Softmax(1))),
    "output_activation": lambda: trained(mlp(nn.Sigmoid())),
    "lr_low": lambda: trained(mlp(), lr=1e-7),
    "lr_high": lambda: trained(m := mlp(), optimizer=torch.optim.SGD(m.parameters(), lr=50.0)),
    "symmetry": lambda: trained(constant(mlp())),
    "dead_units": lambda: trained(dead(mlp())),
    "signal_collapse": lambda: trained(deep_sigmoid(), lr=1e-3),
    "no_activation": lambda: trained(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))),
    "eval_mode": lambda: trained(
        nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).eval()
    ),
    "not_in_optimizer": lambda: trained(m := mlp(), optimizer=torch.optim.Adam(m[4].parameters(), lr=0.01)),
    "frozen": lambda: trained(m := _frozen(mlp(width=64)), optimizer=torch.optim.Adam(m[4].parameters(), lr=0.01)),
    "input_scale": lambda: trained(m := mlp(), scale=500.0, optimizer=torch.optim.SGD(m.parameters(), lr=0.1)),
}


def _frozen(model):
    model[:4].requires_grad_(False)
    return model


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("cause", FAULTS)
def test_the_cause_is_named_and_nothing_else(cause):
    diagnosis = FAULTS[cause]()
    assert diagnosis.verdict == "sick"
    assert [finding.cause for finding in diagnosis.findings] == [cause]
    finding = diagnosis.findings[0]
    assert all((finding.sentence, finding.remedy, finding.source, finding.evidence))
    assert str(diagnosis).startswith(f"Sick. {finding.sentence}\n{finding.remedy}")
    json.dumps(diagnosis.to_dict())


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_healthy_network_is_healthy_whatever_the_scale_of_the_loss(steps, scale):
    def scaled(model, optimizer):
        def step(a, b):
            optimizer.zero_grad()
            (scale * nn.functional.cross_entropy(model(a), b)).backward()
            optimizer.step()

        return step

    assert trained(mlp(), scaled, steps=steps).verdict == "healthy"


def test_every_cause_that_explains_or_is_explained_has_a_name():
    named = {*EXPLAINS, *(cause for explained in EXPLAINS.values() for cause in explained)}
    assert named <= set(CAUSES)


def test_consequences_of_a_cause_are_not_named():
    found = [Finding(cause, ()) for cause in ("lr_low", "signal_collapse", "detached", "double_softmax")]
    assert [one.cause for one in without_consequences(found)] == ["detached", "double_softmax"]


def test_of_gradients_alone_nothing_is_claimed():
    history = GradientHistory.from_dict(*_without_evidence())
    assert diagnose(history).verdict == "unclear"


def _without_evidence():
    model = mlp()
    with gp.GradientProbe(model, stats="mean") as probe:
        nn.functional.cross_entropy(model(data()[0]), data()[1]).backward()
        probe.step()
    return probe.history.frame, probe.history.to_dict()


def test_a_script_can_fail_on_a_cause():
    model = mlp(nn.Softmax(1))
    with gp.GradientProbe(model) as probe:
        nn.functional.cross_entropy(model(data()[0]), data()[1]).backward()
        probe.step()
    assert layers_by_code(probe.history, gp.place(probe.history))["double_softmax"] == ["4"]


class WithPosition(nn.Module):
    """A network that owns a parameter itself, as transformers do, so that it is a layer as a whole."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.position = nn.Parameter(torch.zeros(8))
        self.body, self.last = mlp(), last

    def forward(self, x):
        return self.last(self.body(x + self.position))


def with_loss(loss):
    """A step whose loss is a function of output, inputs and labels."""

    def step(model, optimizer):
        def call(a, b):
            optimizer.zero_grad()
            loss(model(a), a, b).backward()
            optimizer.step()

        return call

    return step


def several_labels(output, a, b):
    return nn.functional.mse_loss(output, (a[:, :4] > 0).float())


def logarithms(output, a, b):
    return nn.functional.mse_loss(output, nn.functional.one_hot(b, 4).float())


def of_the_action(output, a, b):
    return nn.functional.smooth_l1_loss(output.gather(1, b[:, None]), a.sum(1))  # (N, 1) against (N,)


def of_another_network(model, optimizer):
    copy = mlp()

    def step(a, b):
        optimizer.zero_grad()
        nn.functional.cross_entropy(copy(a), b).backward()
        optimizer.step()

    return step


def embedding(weight):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding.from_pretrained(weight)  # frozen by default
            self.body = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, x):
            return self.body(self.table((x.abs() * 10).long().clamp(max=39)).mean(1))

    torch.manual_seed(0)
    return Bag()


def recurrent(std):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 4)
            for parameter in self.rnn.parameters():
                nn.init.normal_(parameter, std=std)

        def forward(self, x):
            return self.head(self.rnn(x[..., None])[1][0])

    torch.manual_seed(0)
    return Last()


MORE = {
    "double_softmax": lambda: trained(WithPosition(nn.Softmax(1))),
    "output_activation": lambda: trained(mlp(nn.Softmax(1)), with_loss(several_labels)),
    "output_activation of logarithms": lambda: trained(mlp(nn.LogSoftmax(1)), with_loss(logarithms)),
    "loss_broadcast": lambda: trained(mlp(), with_loss(of_the_action)),
    "not_in_optimizer": lambda: trained(mlp(), of_another_network),
    "frozen": lambda: trained(embedding(torch.randn(40, 32, generator=torch.Generator().manual_seed(0)))),
    "saturated": lambda: trained(recurrent(10.0)),
    "input_scale": lambda: trained(mlp(), scale=1e-4, lr=1e-3),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("case", MORE)
def test_it_is_named_also_where_it_is_harder_to_see(case):
    diagnosis = MORE[case]()
    assert [finding.cause for finding in diagnosis.findings] == [case.split()[0]]


SOUND = {
    "a linear autoencoder": lambda: trained(
        nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8)), with_loss(lambda y, a, b: ((y - a) ** 2).mean()), lr=0.02
    ),
    "frozen vectors that were learned": lambda: trained(
        embedding(torch.arange(40.0)[:, None] / 40 + torch.eye(40, 32))
    ),
    "logits of a network that owns a parameter": lambda: trained(WithPosition(nn.Identity())),
    "a value of each action": lambda: trained(
        mlp(), with_loss(lambda y, a, b: nn.functional.mse_loss(y.gather(1, b[:, None])[:, 0], a.sum(1)))
    ),
}


@pytest.mark.parametrize("case", SOUND)
def test_what_only_looks_like_a_fault_is_none(case):
    assert SOUND[case]().verdict == "healthy"


def test_where_all_inputs_are_equal_no_signal_can_be_lost():
    def step(model, optimizer):
        def call(a, b):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(a[:1].expand(32, -1)), b).backward()
            optimizer.step()

        return call

    assert "signal_collapse" not in [one.cause for one in trained(mlp(), step).findings]


def test_a_loss_that_stands_still_without_a_cause_is_unclear():
    generator = torch.Generator().manual_seed(1)

    def step(model, optimizer):
        def call(a, b):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(a), torch.randint(4, (32,), generator=generator)).backward()
            optimizer.step()

        return call

    model = mlp()
    diagnosis = trained(model, step, steps=60, optimizer=torch.optim.SGD(model.parameters(), lr=0.02))
    assert (diagnosis.verdict, diagnosis.findings) == ("unclear", ())
    assert diagnosis.sentence.startswith("No cause was found, but after 60 iterations the loss")
    assert diagnosis.step.startswith("Record more iterations")
