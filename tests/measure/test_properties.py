"""Random networks, optimizers and loops: training is the same bit for bit, and the numbers are autograd's."""

import copy
import os

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from support.account import Account
from support.awkward import Recorder, bits, threads
from torch import nn

from gradprobe import GradientProbe

settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile(
    "more", max_examples=int(os.environ.get("GRADPROBE_EXAMPLES", "0")) or 1, deadline=None, database=None
)
CHOSEN = settings.get_profile("more" if os.environ.get("GRADPROBE_EXAMPLES") else "ci")
ITERATIONS = 5


class Residual(nn.Module):
    """A body and its input, added in place or not."""

    def __init__(self, body, in_place):
        super().__init__()
        self.body, self.in_place = body, in_place

    def forward(self, x):
        y = self.body(x)
        if self.in_place:
            y += x
            return y
        return x + y


class Merged(nn.Module):
    """Branches whose outputs are added or multiplied; one may be detached."""

    def __init__(self, branches, product, detached):
        super().__init__()
        self.branches, self.product, self.detached = nn.ModuleList(branches), product, detached

    def forward(self, x):
        outputs = [branch(x) for branch in self.branches]
        if self.detached:
            outputs[-1] = outputs[-1].detach()
        result = outputs[0]
        for output in outputs[1:]:
            result = result * output.sigmoid() if self.product else result + output
        return result


class Repeated(nn.Module):
    """One module called several times."""

    def __init__(self, body, times):
        super().__init__()
        self.body, self.times = body, times

    def forward(self, x):
        for _ in range(self.times):
            x = torch.tanh(self.body(x))
        return x


class Contained(nn.Module):
    """Hands its output on in a container, and takes it out again."""

    def __init__(self, body, kind):
        super().__init__()
        self.body = InContainer(body, kind)

    def forward(self, x):
        output = self.body(x)
        return output["y"] if isinstance(output, dict) else output[0]


class InContainer(nn.Module):
    def __init__(self, body, kind):
        super().__init__()
        self.body, self.kind = body, kind
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        y = self.body(x) * self.scale
        return {"y": y, "z": None} if self.kind == "dict" else (y, x.detach())


def leaves(width, images):
    """Parts that keep the width: a vector's, or the channels of an image."""
    weighted = nn.Conv2d if images else nn.Linear
    sizes = (width, width, 3) if images else (width, width)
    norm = nn.BatchNorm2d if images else nn.BatchNorm1d
    return st.one_of(
        st.booleans().map(lambda bias: weighted(*sizes, bias=bias, **({"padding": 1} if images else {}))),
        st.just(None).map(lambda _: norm(width)),
        st.just(None).map(lambda _: nn.GroupNorm(1, width)),
        st.booleans().map(lambda in_place: nn.ReLU(inplace=in_place)),
        st.booleans().map(lambda in_place: nn.Dropout(0.3, inplace=in_place)),
        st.just(None).map(lambda _: nn.Tanh()),
        st.just(None).map(lambda _: weighted(*sizes, **({"padding": 1} if images else {})).requires_grad_(False)),
    )


def parts(width, images):
    def bigger(inner):
        chain = st.lists(inner, min_size=1, max_size=4).map(lambda modules: nn.Sequential(*modules))
        return st.one_of(
            chain,
            st.builds(Residual, chain.map(lambda body: nn.Sequential(body, nn.Tanh())), st.booleans()),
            st.builds(Merged, st.lists(chain, min_size=2, max_size=3), st.booleans(), st.booleans()),
            st.builds(Repeated, chain, st.integers(2, 3)),
            st.builds(Contained, chain, st.sampled_from(["dict", "tuple"])),
        )

    return st.recursive(leaves(width, images), bigger, max_leaves=8)


@st.composite
def networks(draw):
    width, images = draw(st.integers(2, 4)), draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 1000)))
    first = nn.Conv2d(1, width, 3, padding=1) if images else nn.Linear(3, width)
    body = draw(st.lists(parts(width, images), min_size=1, max_size=3))
    last = [nn.Flatten(), nn.Linear(16 * width, 2)] if images else [nn.Linear(width, 2)]
    net = nn.Sequential(first, *body, *last)  # what is in place must not change the network's input
    return net.to(draw(st.sampled_from([torch.float32, torch.float64]))), images


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.05),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.02, momentum=0.9, nesterov=True),
    "Adam": lambda parameters: torch.optim.Adam(parameters, 0.01),
    "foreach": lambda parameters: torch.optim.AdamW(parameters, 0.01, foreach=True),
}


@threads(1)
def train(net, images, optimizer, accumulation, manual, clear, attach=None):
    """Five iterations from one seed: the losses and the state of the generator afterwards."""
    torch.manual_seed(7)
    dtype = next(net.parameters()).dtype
    steps = OPTIMIZERS[optimizer]([p for p in net.parameters() if p.requires_grad])
    recording = attach(net, None if manual else steps) if attach else None
    losses = []
    with recording or torch.enable_grad():
        for _ in range(ITERATIONS):
            steps.zero_grad(set_to_none=clear)
            for _ in range(accumulation):
                x = torch.randn(*((4, 1, 4, 4) if images else (4, 3)), dtype=dtype)
                loss = (net(x) - x.flatten(1)[:, :2]).square().mean() / accumulation
                loss.backward()
                losses.append(loss.detach())
            if isinstance(recording, Recorder):
                recording.read()
            elif recording and manual:
                recording.step()
            steps.step()
    return losses, torch.get_rng_state(), recording


def attached(net, optimizer):
    return GradientProbe(net, optimizer=optimizer)


@pytest.mark.limit("random networks", "exact", "exact")
@pytest.mark.limit("random networks", signal="exact")
@pytest.mark.slow
@settings(
    CHOSEN, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
)
@given(
    network=networks(),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    accumulation=st.integers(1, 3),
    manual=st.booleans(),
    clear=st.booleans(),
)
def test_a_random_network_trains_the_same_and_its_numbers_are_autograds(
    network, optimizer, accumulation, manual, clear
):
    net, images = network
    how = (images, optimizer, accumulation, manual, clear)
    plain, probed, recorded = (copy.deepcopy(net) for _ in range(3))
    try:
        losses, state, _ = train(plain, *how)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        reject()  # torch itself cannot train this one
    accounts = []

    def accounted(net, optimizer):
        probe = attached(net, optimizer)
        # before the probe is attached: it reads the number of the iteration before the probe ends it
        accounts.append(Account(probe, net, [] if optimizer is None else [optimizer]))
        return probe

    losses_probed, state_probed, probe = train(probed, *how, accounted)
    accounts[0].close()
    assert not accounts[0].differences(probe.history)
    assert [bits(loss) for loss in losses] == [bits(loss) for loss in losses_probed]
    assert torch.equal(state, state_probed)
    before, after = plain.state_dict(), probed.state_dict()
    assert all(bits(before[key]) == bits(after[key]) for key in before)

    recorder = train(recorded, *how, Recorder)[2]
    rows = probe.history.frame[probe.history.frame["nonfinite"].notna()]
    found = {(row.iteration, row.layer, row.of): row for row in rows.itertuples()}
    assert found.keys() == recorder.found.keys()
    for key, (mean, rms, peak, zeros, nonfinite) in recorder.found.items():
        row = found[key]
        assert row.nonfinite == nonfinite == 0
        assert row.mean_abs == pytest.approx(mean, rel=1e-5, abs=1e-40), key
        assert row.rms == pytest.approx(rms, rel=1e-5, abs=1e-40), key
        assert row.max_abs == pytest.approx(peak, rel=1e-5, abs=1e-40), key
        assert row.zero_fraction == pytest.approx(zeros, abs=1e-6), key
