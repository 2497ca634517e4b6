import math

import numpy as np
import pytest
import torch
from support.awkward import threads
from torch._subclasses.fake_tensor import FakeTensorMode

from gradprobe.measure.accumulator import Accumulator
from gradprobe.measure.reduction import Reducer, native
from gradprobe.measure.reduction.values import local_part
from gradprobe.measure.window import Iteration, joined_by_device, statistics, table
from gradprobe.record.history import MEASURES
from gradprobe.record.quantities import QUANTITIES, STATISTICS, label


@pytest.fixture(autouse=True, params=["native", "torch"])
def engine(request, monkeypatch):
    """Every number is the same by the compiled code and by torch's own kernels."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("not compiled: pip install gradprobe again where there is a C compiler")
    return request.param


def measured(*gradients, every=True):
    accumulator = Accumulator(Reducer(every=every), {})
    key = ("layer", "weight")
    for gradient in gradients:
        accumulator.add(key, gradient)
    (sums,) = table([Iteration(tuple(joined_by_device(accumulator.take())), {})], [key])[0].tolist()
    return dict(zip(MEASURES, statistics(sums), strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-13, 1e-7, 1.0, 1e4, 1e15])
@pytest.mark.parametrize("shape", [(3,), (200, 317), (5, 4096), (1_000_003,)])
def test_every_statistic_agrees_with_float64(scale, shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale
    exact = gradient.double().numpy()
    found = measured(gradient)
    assert found["mean_abs"] == pytest.approx(np.abs(exact).mean(), rel=1e-6)
    assert found["rms"] == pytest.approx(np.sqrt((exact**2).mean()), rel=1e-6)
    assert found["max_abs"] == pytest.approx(np.abs(exact).max(), rel=1e-6)
    assert (found["zero_fraction"], found["nonfinite"]) == (0, 0)


def test_rows_of_zeros_and_of_tiny_values_beside_large_ones_keep_their_norm():
    gradient = torch.zeros(4, 4096 * 20)
    gradient[1] = 1e-30
    gradient[2] = 1e-12
    found = measured(*gradient)
    assert found["rms"] == pytest.approx(1e-12 / 2, rel=1e-6)
    assert found["zero_fraction"] == 0.5
    assert measured(gradient[1])["rms"] == pytest.approx(1e-30, rel=1e-6)


def test_a_transposed_and_a_channels_last_gradient_are_read_as_they_lie():
    gradient = torch.arange(24.0).view(2, 3, 2, 2)
    for other in (gradient.permute(3, 0, 2, 1), gradient.to(memory_format=torch.channels_last)):
        assert measured(other) == measured(gradient)


def test_an_expanded_gradient_counts_every_element():
    assert measured(torch.full((1, 1), 2.0).expand(5, 3))["mean_abs"] == 2


def test_the_two_engines_agree_on_gradients_of_any_size(monkeypatch):
    drawn = torch.Generator().manual_seed(1)
    gradients = [torch.randn(size, generator=drawn).relu_() for size in (1, 7, 4095, 4097, 65_537, 700_000)]
    for every in (True, False):
        one = [Reducer(every=every).one(gradient) for gradient in gradients]
        with monkeypatch.context() as patch:
            patch.setattr(native, "library", lambda: None)
            other = [Reducer(every=every).one(gradient) for gradient in gradients]
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def awkward_gradients():
    """Together worth several threads: two large ones, and each kind of value that has a way of its own."""
    drawn = torch.Generator().manual_seed(2)
    large, rectified, spoiled, infinite = (torch.randn(n, generator=drawn) for n in (700_001, 400_000, 65_537, 9))
    rectified.relu_()
    spoiled[[0, -1]] = math.nan
    infinite[3] = -math.inf
    tiny = torch.full((70_000,), 1e-30)
    tiny[::2] = 0
    mixed = torch.full((3 * 65_536,), 1e-30)
    mixed[-5:] = 2.0  # in the last of its parts
    return [large, rectified, spoiled, infinite, tiny, mixed, torch.zeros(40_000)]


@pytest.mark.parametrize("engine", ["native"], indirect=True)
@pytest.mark.parametrize("every", [True, False])
def test_several_threads_come_to_the_float64_values_and_to_what_one_does(every):
    gradients = awkward_gradients()
    rows, again = (torch.empty(len(gradients), 5 if every else 1) for _ in range(2))
    for count, into in ((2, rows), (1, again)):
        with threads(count):
            native.sums(gradients, into=into)
    assert rows.numpy().tobytes() == again.numpy().tobytes()
    for gradient, row in zip(gradients, rows, strict=True):
        sizes = np.abs(gradient.double().numpy())
        peak = np.nan if np.isnan(sizes).any() else sizes.max()
        exact = [sizes.sum(), np.sqrt((sizes**2).sum()), peak, (sizes == 0).sum(), (~np.isfinite(sizes)).sum()]
        # a block of 4,096 is added up in float32, and of equal numbers each rounding may have the same sign
        assert row.tolist() == pytest.approx(exact[: len(row)], rel=1e-5, abs=0, nan_ok=True)


def test_half_precision_is_summed_in_float32():
    # an fp16 sum of these would overflow at 65504
    assert measured(torch.full((100_000,), 100.0, dtype=torch.float16))["mean_abs"] == pytest.approx(100)
    assert measured(torch.full((10,), 6e-8, dtype=torch.float16))["mean_abs"] == pytest.approx(5.96e-8, rel=1e-3)


def test_several_calls_are_one_mean_over_all_elements():
    parts = [torch.tensor([1.0, -3.0]), torch.tensor([[0.0, 2.0, 2.0, 2.0]])]
    found = measured(*parts)
    assert found["mean_abs"] == pytest.approx(10 / 6)
    assert found["rms"] == pytest.approx(math.sqrt(22 / 6))
    assert found["max_abs"] == 3
    assert found["zero_fraction"] == pytest.approx(1 / 6)


def test_rms_of_tiny_values_over_several_calls():
    found = measured(torch.full((3,), 3e-30), torch.full((3,), 4e-30))
    assert found["rms"] == pytest.approx(math.sqrt(12.5) * 1e-30, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_values_are_counted_and_kept(bad):
    found = measured(torch.tensor([1.0, bad, 0.0, bad]))
    assert found["nonfinite"] == 2
    assert not math.isfinite(found["mean_abs"])
    assert not math.isfinite(found["max_abs"])
    assert found["zero_fraction"] == 0.25


def test_exact_zeros_are_zero_not_missing():
    found = measured(torch.zeros(5))
    assert found == {"mean_abs": 0, "rms": 0, "max_abs": 0, "zero_fraction": 1, "nonfinite": 0}


def test_sparse_gradients_count_their_implicit_zeros():
    sparse = torch.sparse_coo_tensor([[1, 1]], [[2.0, -2.0], [2.0, 0.0]], (4, 2), check_invariants=True)
    found = measured(sparse)
    dense = measured(sparse.to_dense())
    assert found == dense
    assert found["zero_fraction"] == 6 / 8


def test_complex_gradients_have_their_modulus():
    assert measured(torch.tensor([3 + 4j, 0j]))["mean_abs"] == 2.5


def test_an_empty_gradient_has_no_statistics():
    assert measured(torch.zeros(0, 3))["mean_abs"] is None


def test_mean_only_leaves_the_rest_missing():
    found = measured(torch.tensor([1.0, -3.0]), torch.tensor([2.0]), every=False)
    assert found["mean_abs"] == 2
    assert math.isnan(found["rms"])


def test_every_statistic_has_its_names():
    assert tuple(STATISTICS) == MEASURES
    for of in QUANTITIES:
        for statistic in STATISTICS:
            assert of in label(of, statistic)
            assert of in label(of, statistic, printed=True)


def row(gradient):
    """What theory says of few numbers, in float64."""
    sizes = np.abs(np.asarray(gradient, dtype=np.complex128))
    return [sizes.sum(), math.sqrt((sizes**2).sum()), sizes.max(initial=0), (sizes == 0).sum(), 0]


NUMBERS = [3.0, -4.0, 0.0, 2.0]
DTYPES = [
    "float32",
    "float64",
    "bfloat16",
    "float16",
    "float8_e4m3fn",
    "float8_e5m2",
    "complex64",
    "complex128",
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_data_type_is_measured(dtype):
    gradient = torch.tensor(NUMBERS).to(getattr(torch, dtype))
    assert Reducer().one(gradient)[0].tolist() == pytest.approx(row(NUMBERS))
    assert Reducer(every=False).one(gradient)[0].tolist() == pytest.approx(row(NUMBERS)[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 2)])
@pytest.mark.parametrize("every", [True, False])
def test_a_gradient_without_elements_adds_nothing(dtype, shape, every):
    nothing = torch.zeros(shape, dtype=dtype)
    width = 5 if every else 1
    assert Reducer(every=every).one(nothing).tolist() == [[0] * width]
    assert Reducer(every=every).same([nothing, nothing]).tolist() == [[0] * width] * 2
    assert Reducer(every=every).one(nothing.to_sparse()).tolist() == [[0] * width]


def test_a_gradient_without_dimensions_has_one_element():
    assert Reducer().one(torch.tensor(-2.0)).tolist() == [[2, 2, 2, 0, 0]]
    assert Reducer().same([torch.tensor(-2.0), torch.tensor(3.0)]).tolist() == [[2, 2, 2, 0, 0], [3, 3, 3, 0, 0]]


def nested(layout):
    return torch.nested.nested_tensor([torch.tensor([[3.0, -4.0]]), torch.tensor([[0.0, 2.0]] * 2)], layout=layout)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_a_nested_gradient_has_its_real_elements(layout):
    expected = row([3, -4, 0, 2, 0, 2])
    assert Reducer().one(nested(layout))[0].tolist() == pytest.approx(expected)
    assert local_part(nested(layout)).numel() == 6


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_lies_between_the_parts_of_a_nested_gradient_is_not_of_it():
    padded = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]])
    ragged = torch.nested.narrow(padded, 1, torch.tensor([0, 0]), torch.tensor([2, 1]), layout=torch.jagged)
    assert Reducer().one(ragged)[0].tolist() == pytest.approx(row([1, 2, 3]))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_every_sparse_layout_counts_its_implicit_zeros(layout):
    gradient = torch.tensor([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0]]).to_sparse(layout=layout)
    assert Reducer().one(gradient)[0].tolist() == pytest.approx(row([3, -4, 0, 0, 0, 0]))


class Logged(torch.Tensor):
    calls = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Logged.calls += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_subclass_is_read_without_its_own_code():
    gradient = torch.tensor(NUMBERS).as_subclass(Logged)
    Logged.calls = 0
    reduced = Reducer().one(gradient)
    assert type(reduced) is torch.Tensor
    assert reduced[0].tolist() == pytest.approx(row(NUMBERS))
    assert Logged.calls <= 1  # what its type and layout are, is asked of the subclass


def freed():
    gradient = torch.ones(5)
    gradient.untyped_storage().resize_(0)
    return gradient


@pytest.mark.parametrize(
    ("gradient", "reason"),
    [
        (lambda: torch.ones(2, device="meta"), "meta device"),
        (lambda: FakeTensorMode().from_tensor(torch.ones(2)), "FakeTensor"),
        (freed, "memory of its gradient was given back"),
    ],
)
def test_what_has_no_values_is_refused_with_the_reason(gradient, reason):
    with pytest.raises(RuntimeError, match=reason):
        Reducer().one(gradient())


def test_a_gradient_of_zeros_that_have_no_memory_is_zero():
    assert Reducer().one(torch._efficientzerotensor(3)).tolist() == [[0, 0, 0, 3, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torch_s_default_data_type_changes_nothing(dtype):
    gradients = [torch.tensor([3.0, -4.0, 0.0]), torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)]
    torch.set_default_dtype(dtype)
    try:
        rows = [Reducer().one(gradient).tolist() for gradient in gradients]
    finally:
        torch.set_default_dtype(torch.float32)
    assert rows == [[[7, 5, 4, 1, 0]]] * 2


def test_torch_s_default_device_changes_nothing():
    gradient = torch.tensor([3.0, -4.0, 0.0])
    with torch.device("meta"):
        reduced = Reducer().one(gradient)
    assert reduced.tolist() == [[7, 5, 4, 1, 0]]
