"""Statistics of samples of outputs, by torch and by the kernel in Triton's interpreter, against float64."""

import contextlib
import math

import numpy as np
import pytest
import torch
from support.accelerator import CPU, imitated

from gradprobe.measure.evidence.signal import Signal
from gradprobe.measure.reduction import on_device
from gradprobe.measure.reduction.samples import STATISTICS, described


@pytest.fixture(params=["torch", "Triton"])
def by(request):
    with imitated() if request.param == "Triton" else contextlib.nullcontext():
        yield request.param


def exact(sample):
    """The statistics in float64; what is not finite spoils the spread and the RMS."""
    values = sample.double().numpy()
    sizes = np.abs(values)
    with np.errstate(all="ignore"):
        rms = np.sqrt((values**2).mean()) if np.isfinite(values).all() else np.nan
        spread = np.sqrt(values.var(0, ddof=1).mean()) / rms if len(values) > 1 else np.nan
        shares = [(sizes == 0).mean(), (sizes > 3).mean(), (sizes > 5).mean(), (~np.isfinite(sizes)).mean()]
    return [spread, rms, *shares]


def drawn(*shape, scale=1.0, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def assert_described(samples):
    rows, ranges = described(samples)
    at = 0
    for sample, row, units in zip(samples, rows.tolist(), ranges.units, strict=True):
        assert row == pytest.approx(exact(sample), rel=2e-6, nan_ok=True), dict(zip(STATISTICS, row, strict=True))
        assert units == sample.shape[1]
        if sample.isfinite().all():
            highest, nearest = (found[at : at + units] for found in (ranges.highest, ranges.nearest))
            assert torch.equal(highest, sample.amax((0, 2)))
            assert torch.equal(nearest, sample.abs().amin((0, 2)))
        at += units


@pytest.mark.parametrize("shape", [(16, 17, 9), (2, 1, 1), (16, 256, 1), (3, 129, 1), (5, 128, 2), (1, 7, 3)])
def test_samples_of_one_shape(by, shape):
    assert_described([drawn(*shape, seed=seed).mul(3).relu() for seed in range(3)])


def test_samples_of_all_shapes_in_one_launch():
    with imitated():
        launches = []
        with pytest.MonkeyPatch.context() as patch:
            true = on_device.launch
            patch.setattr(on_device, "launch", lambda *args, **how: (launches.append(1), true(*args, **how)))
            assert_described([drawn(16, 17, 9), drawn(2, 3, 1), drawn(1, 200, 1), drawn(4, 130, 2)])
        assert len(launches) == 1


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-20, 1e20, 1e30])
def test_squares_neither_vanish_nor_overflow(by, scale):
    rows, _ = described([drawn(4, 5, 6, scale=scale)])
    expected = exact(drawn(4, 5, 6, scale=scale))
    assert rows[0, :2].tolist() == pytest.approx(expected[:2], rel=1e-2 if scale < 1e-38 else 2e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_own_row_and_makes_no_unit_silent(by, bad):
    spoiled = -drawn(4, 6, 2).abs()
    spoiled[1, 2, 0] = bad
    rows, ranges = described([spoiled, -drawn(4, 6, 2, seed=1).abs()])
    assert rows[0].tolist() == pytest.approx(exact(spoiled), nan_ok=True)
    assert rows[1].isfinite().all()
    spoils = 0 if bad < 0 else 1  # that a unit is below zero throughout is not known any longer
    assert [never for never, _ in ranges.shares()] == [pytest.approx(1 - spoils / 6), 1]


def test_zeros_have_no_spread(by):
    rows, ranges = described([torch.zeros(4, 3, 2)])
    assert rows[0].tolist() == pytest.approx([math.nan, 0, 1, 0, 0, 0], nan_ok=True)
    assert ranges.shares() == [(1, 0)]


def test_ranges_of_several_iterations_are_joined(by):
    first, second = (described([drawn(4, 5, 2, seed=seed)])[1] for seed in (0, 1))
    both = torch.cat([drawn(4, 5, 2, seed=0), drawn(4, 5, 2, seed=1)])
    joined = first.joined(second)
    assert torch.equal(joined.highest, both.amax((0, 2)))
    assert torch.equal(joined.nearest, both.abs().amin((0, 2)))
    other = described([drawn(4, 6, 2)])[1]
    assert first.joined(other) is other


def test_a_kernel_that_fails_later_leaves_no_gap():
    def fails(*_, **__):
        raise ValueError("not compiled for this")

    with imitated(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_device, "launch", fails)
        assert_described([drawn(4, 5, 2), drawn(3, 2, 1)])
        assert not on_device.works(CPU)


def test_layers_of_all_shapes_keep_their_own_numbers(by):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(48, 5)
    )
    layers = {"conv": net[0], "fc": net[3]}
    signal = Signal(layers, lambda name, output: None)
    handles = [layer.register_forward_hook(signal.hook(name, print)) for name, layer in layers.items()]
    signal.is_on = True
    images = drawn(8, 1, 6, 6)
    net(images)
    table = {name: row for names, rows in signal.end() for name, row in zip(names, rows, strict=True)}
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        conv = net[0](images)
        fc = net[3](conv.relu().flatten(1))
    assert table["fc"].tolist() == pytest.approx(exact(fc[..., None]), rel=1e-5)
    assert table["conv"][5] == 0
    shares = signal.unit_shares()
    assert shares["fc"]["sampled_units"] == 5
    assert shares["fc"]["never_positive"] == pytest.approx((fc.amax(0) <= 0).double().mean().item())
