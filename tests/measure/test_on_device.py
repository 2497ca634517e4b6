"""The kernels of an accelerator, in Triton's interpreter, against float64."""

import math
import os

import numpy as np
import pytest
import torch
from support.accelerator import CPU, compiled, imitated

from gradprobe.measure.accumulator import Accumulator
from gradprobe.measure.reduction import Reducer, native, on_device
from gradprobe.measure.reduction.prepare import prepare

EVERY = int(os.environ.get("GRADPROBE_KERNEL_EXAMPLES", "1"))
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
PIECE = on_device.PIECE


@pytest.fixture(autouse=True)
def accelerator():
    with imitated():
        yield


def exact(gradient):
    """The row in float64; NaN spoils all but the counts."""
    sizes = np.abs(gradient.double().numpy().ravel())
    with np.errstate(invalid="ignore", over="ignore"):
        peak = np.nan if np.isnan(sizes).any() else sizes.max(initial=0)
        norm = np.sqrt((sizes**2).sum())
    return [sizes.sum(), norm, peak, (sizes == 0).sum(), (~np.isfinite(sizes)).sum()]


def assert_rows(gradients, every=True, rel=2e-6):
    rows = on_device.OnDevice(every=every).rows(gradients)
    assert rows is not None
    for gradient, row in zip(gradients, rows.tolist(), strict=True):
        assert row == pytest.approx(exact(gradient)[: len(row)], rel=rel, abs=0, nan_ok=True)


def drawn(*shape, dtype=torch.float32, scale=1.0, seed=0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("every", [True, False])
def test_gradients_of_every_size_in_one_launch_and_each_by_itself(dtype, every):
    sizes = [1, 3, 1023, 1024, 1025, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5, 0]
    gradients = [drawn(size, dtype=dtype, seed=size).relu_() for size in sizes]
    assert_rows(gradients, every)
    for gradient in gradients:
        assert_rows([gradient], every)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-20, 1e-13, 1e-7, 1e4, 1e15, 1e30])
def test_squares_neither_vanish_nor_overflow(scale):
    exponent = 1e-3 if scale < 1e-40 else 2e-6  # a number below 1e-38 has few digits
    assert_rows([drawn(2 * PIECE + 7, scale=scale)], rel=exponent)


def test_what_is_small_counts_beside_what_is_large():
    small, middle, large = (torch.full((PIECE,), value) for value in (3e-15, 4e-15, 1e15))
    # of each range, at the bounds between them, and all together
    for gradient in (torch.cat([small, middle]), torch.cat([middle, large]), torch.cat([small, large, small])):
        assert_rows([gradient])
    bounds = torch.tensor([2.0**-48, 2.0**48, 2.0**-49, 2.0**49, 2.0**-120, 2.0**124])
    for one in bounds:
        assert_rows([one.repeat(5)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_and_stays_in_its_own_row(dtype, bad):
    spoiled = drawn(PIECE + 100, dtype=dtype)
    spoiled[[0, 7, PIECE + 50]] = bad
    both = spoiled.clone()
    both[3], both[4] = math.nan, math.inf
    assert_rows([drawn(5, dtype=dtype), spoiled, both, drawn(70, dtype=dtype)])
    assert_rows([spoiled[:9]])


def test_negative_zero_is_zero_and_the_smallest_number_is_not():
    smallest = torch.tensor([-0.0, 0.0, 2.0**-149, -(2.0**-149)])
    assert on_device.OnDevice(every=True).rows([smallest]).tolist() == [
        [2.0**-148, pytest.approx(2.0**-149 * math.sqrt(2), rel=0.5), 2.0**-149, 2, 0]
    ]
    halves = torch.tensor([-0.0, 2.0**-24], dtype=torch.float16)
    assert on_device.OnDevice(every=True).rows([halves]).tolist() == [[2.0**-24, 2.0**-24, 2.0**-24, 1, 0]]


def test_elements_are_read_in_whatever_order_they_lie():
    gradient = drawn(4, 5, 6, 7)
    dense = [
        gradient.permute(3, 0, 2, 1),
        gradient.to(memory_format=torch.channels_last),
        gradient.transpose(0, 1),
    ]
    assert_rows([gradient[1:].flatten()[3:], *dense])
    assert_rows([drawn(3 * PIECE + 1, dtype=torch.bfloat16)[1:]])  # no multiple of 16 bytes


@pytest.mark.parametrize("gradient", [drawn(40)[::2], drawn(1).expand(30), drawn(30).double(), drawn(3) * 1j])
def test_what_is_not_taken_is_measured_by_torch(gradient):
    assert not on_device.takes(gradient)
    assert on_device.OnDevice(every=True).rows([drawn(3), gradient]) is None
    sizes = gradient.abs().double()
    row = [sizes.sum(), sizes.norm(), sizes.amax(), 0, 0]
    assert Reducer().one(gradient)[0].tolist() == pytest.approx([float(one) for one in row], rel=1e-6)


def test_the_memory_of_a_gradient_that_was_given_back_is_not_read():
    freed = torch.ones(5)
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="memory of its gradient was given back"):
        Reducer().one(freed)


def test_zeros_without_memory_are_zeros():
    assert Reducer().one(torch._efficientzerotensor(3)).tolist() == [[0, 0, 0, 3, 0]]


def test_many_pieces_are_no_more_than_an_accelerator_needs():
    elements = on_device.MOST * PIECE * 5
    number, size = on_device._pieces_of(elements)
    assert number <= on_device.MOST
    assert (number - 1) * size < elements <= number * size


@pytest.mark.parametrize("every", [True, False])
def test_the_pieces_of_several_gradients_are_joined_together(every):
    gradients = [drawn(3 * PIECE + 5), drawn(9, dtype=torch.float16), drawn(2 * PIECE, dtype=torch.bfloat16)]
    gradients[2][7] = math.nan
    kernels = on_device.OnDevice(every=every)
    rows = kernels.joined([kernels.parts(gradient) for gradient in gradients])
    for gradient, row in zip(gradients, rows.tolist(), strict=True):
        assert row == pytest.approx(exact(gradient)[: len(row)], rel=2e-6, abs=0, nan_ok=True)


@pytest.mark.parametrize("seed", range(3 * EVERY))
def test_any_mixture_of_gradients(seed):
    rng = np.random.default_rng(seed)
    dtype = DTYPES[seed % 3]
    gradients = []
    for _ in range(rng.integers(2, 12)):
        one = drawn(int(rng.choice([1, 8, 500, 2000, PIECE, 20_000])), seed=int(rng.integers(2**31)))
        if rng.random() < 0.3:
            one = one * torch.from_numpy(10.0 ** rng.uniform(-30, 30, len(one)))
        one = torch.where(torch.rand(one.shape) < rng.choice([0, 0.5]), 0, one).to(dtype)
        if rng.random() < 0.3:
            one[rng.integers(len(one))] = rng.choice([np.nan, np.inf, -np.inf])
        gradients.append(one)
    assert_rows(gradients)


def test_what_two_streams_made_is_not_read_in_one_launch(monkeypatch):
    launched, current, true = [], [1], on_device.launch

    def launch(*arguments, **constants):
        launched.append(current[0])
        true(*arguments, **constants)

    monkeypatch.setattr(on_device, "launch", launch)
    monkeypatch.setattr(on_device, "stream", lambda device: current[0])
    accumulator = Accumulator(Reducer(), {})
    monkeypatch.setattr(Reducer, "capacity", lambda self, device: 100)
    for current[0], size in ((1, 10), (2, 11), (1, 9), (2, 12)):
        accumulator.add(("fc", "output"), torch.ones(size))
    # so much waits by now that what this stream made is read in the middle of the pass
    for _ in range(5):
        accumulator.add(("fc", "output"), torch.ones(12))
    assert launched == [2]
    assert sorted(part.counts for part in accumulator.take()) == [(10, 9), (11, 12, 12, 12, 12, 12, 12)]


# whether the kernels are used


@pytest.fixture
def untried(monkeypatch):
    monkeypatch.setattr(on_device, "_works", {})
    monkeypatch.setattr(on_device, "PIECE", 16)


@pytest.mark.usefixtures("untried")
def test_they_are_used_once_they_are_tried():
    assert not on_device.takes(torch.ones(2))
    prepare([CPU])
    assert on_device.takes(torch.ones(2))


@pytest.mark.usefixtures("untried")
def test_the_switch_turns_them_off(monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")
    prepare([CPU])
    assert not on_device.works(CPU)
    assert on_device.in_use(CPU) == "torch"


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("of", ["pieces", "fold", "describe"])
def test_kernels_that_are_wrong_are_not_used(monkeypatch, of):
    true = on_device.launch

    def launch(kernel, programs, *arguments, **constants):
        true(kernel, programs, *arguments, **constants)
        into = next(one for one in reversed(arguments) if isinstance(one, torch.Tensor))
        if kernel.__name__ == of:
            into.mul_(1.001)

    monkeypatch.setattr(on_device, "launch", launch)
    prepare([CPU])
    assert not on_device.works(CPU)
    assert on_device.in_use(CPU) == "torch"
    assert Reducer().one(torch.ones(3))[0, 0] == 3


@pytest.mark.usefixtures("untried")
def test_kernels_that_do_not_compile_are_not_used(monkeypatch):
    def launch(*_, **__):
        raise OSError("no compiler")

    monkeypatch.setattr(on_device, "launch", launch)
    prepare([CPU])
    assert not on_device.works(CPU)
    assert on_device.in_use(CPU) == "torch"


def test_kernels_that_fail_later_are_given_up_without_a_gap(monkeypatch):
    def launch(*_, **__):
        raise ValueError("not compiled for this")

    monkeypatch.setattr(on_device, "launch", launch)
    assert Reducer().one(torch.tensor([3.0, -4.0])).tolist() == [[7, 5, 4, 0, 0]]
    assert not on_device.works(CPU)


@pytest.mark.parametrize("target", ["sm90", "sm80", "gfx942"][: max(1, EVERY // 10)])
def test_they_compile_for_accelerators(target):
    """Without one: the interpreter takes more than the compiler does."""
    instructions = compiled(target)
    # several elements are read at once
    assert target == "gfx942" or all("ld.global.v4.b32" in text for text in instructions)
