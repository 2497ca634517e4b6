"""Whether a gradient is a multiple of what it was, without waiting for its device."""

import pytest
import torch

from gradprobe.measure.shares import are_multiples

# 1 minus the squared cosine is below the rounding of its products: some CPUs called equal float64 ones different


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, -3.0, 1 / 7, 1e-6])
def test_a_multiple_is_one_at_any_length_and_place_in_memory(dtype, factor):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(1100, generator=generator, dtype=torch.float64).to(dtype)
    for length in (1, 2, 7, 48, 64, 1000):
        for start in range(8):
            before = numbers[start : start + length]
            assert are_multiples([factor * before.clone()], [before])


@pytest.mark.parametrize(("dtype", "angle"), [(torch.float64, 1e-7), (torch.float32, 1e-2), (torch.bfloat16, 0.3)])
def test_what_was_added_is_seen(dtype, angle):
    generator = torch.Generator().manual_seed(0)
    before, other = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    other -= (other @ before) / (before @ before) * before
    now = before + angle * before.norm() / other.norm() * other
    assert not are_multiples([now.to(dtype)], [before.to(dtype)])


def test_zeros_and_what_is_not_finite():
    one, zero, inf = torch.ones(3), torch.zeros(3), torch.tensor([1.0, float("inf"), 0.0])
    assert not are_multiples([zero], [one])
    for now, before in ((zero, zero), (one, zero), (inf, one), (one, inf)):
        assert are_multiples([now], [before])
    assert not are_multiples([one, zero], [one, one])
