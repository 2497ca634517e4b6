"""What is measured and how: the one place where a statistic is defined and has its names.

A magnitude is the mean absolute value of a gradient, accumulated in float32 (float64 for a gradient in float64)
on the gradient's own device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names and labels are needed where torch is not
    from torch import Tensor


@dataclass(frozen=True)
class Statistic:
    """A statistic of a gradient tensor: its column name, its short and its printed name."""

    name: str
    short: str
    printed: str


STATISTICS = {
    statistic.name: statistic
    for statistic in (
        Statistic("mean_abs", "mean |{}|", "mean absolute value of {}"),
        Statistic("rms", "rms {}", "root mean square of {}"),
        Statistic("max_abs", "max |{}|", "largest absolute value of {}"),
        Statistic("zero_fraction", "zeros in {}", "fraction of exact zeros in {}"),
        Statistic("nonfinite", "non-finite in {}", "number of NaN and infinite elements of {}"),
    )
}
QUANTITIES = {"output": "dL/d output", "weight": "dL/d weight"}


def label(of: str, statistic: str = "mean_abs", *, printed: bool = False) -> str:
    """The name of a statistic of a quantity; every figure and report takes it from here.

    Example:
        >>> label("output")
        'mean |dL/d output|'
        >>> label("weight", "rms", printed=True)
        'root mean square of dL/d weight'
    """
    names = STATISTICS[statistic]
    return (names.printed if printed else names.short).format(QUANTITIES[of])


def short(value: float) -> str:
    """A number in as few characters as it needs.

    Example:
        >>> short(1e-7), short(0.3), short(2.5e-12), short(1e-4)
        ('1e-7', '0.3', '2.5e-12', '1e-4')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


class PartialSumError(TypeError):
    """A distributed gradient that is not whole on any rank."""


class Tally:
    """Running sums over every gradient tensor of one layer in one iteration.

    ``sums`` is a vector on the gradients' device: sum of absolute values, L2 norm, largest absolute
    value, exact zeros, non-finite elements. ``count`` is the number of elements. Nothing here waits for the
    device.

    Example:
        >>> import torch
        >>> tally = Tally()
        >>> tally.add(torch.tensor([3.0, -4.0, 0.0, 1.0]))
        >>> tally.sums.tolist(), tally.count
        ([8.0, 5.0990..., 4.0, 1.0, 0.0], 4)
    """

    __slots__ = ("count", "sums")

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.count = 0

    def add(self, gradient: Tensor, *, every: bool = True) -> None:
        """Add a gradient tensor; ``every=False`` takes only the sum of absolute values."""
        gradient = _local(gradient.detach())
        new = _sums(gradient, every)
        self.count += gradient.numel()
        self.sums = new if self.sums is None else _join(self.sums, new)


def _local(gradient: Tensor) -> Tensor:
    """This rank's part of a distributed gradient (DTensor); what it counts is added up over the ranks later."""
    if not hasattr(gradient, "placements"):
        return gradient
    if any(placement.is_partial() for placement in gradient.placements):
        raise PartialSumError("its gradient is a partial sum over ranks: no rank holds the true values")
    local: Tensor = gradient.to_local()  # type: ignore[attr-defined]
    return local


def _sums(gradient: Tensor, every: bool) -> Tensor:
    import torch

    if gradient.is_sparse:
        # implicit zeros count as zeros: they are what the optimizer sees
        values = gradient.coalesce().values()
        sums = _sums(values, every)
        sums[3] += gradient.numel() - values.numel()
        return sums
    sizes = gradient.abs().float() if gradient.dtype != torch.float64 else gradient.abs()
    if not sizes.numel():
        return torch.zeros(5, device=sizes.device)
    total = sizes.sum()
    if not every:
        return torch.nn.functional.pad(total.reshape(1), (0, 4), value=float("nan"))
    peak = sizes.amax()
    # squares of 1e-30 vanish in float32: take out the largest value first
    scale = torch.where(peak.isfinite() & (peak > 0), peak, torch.ones_like(peak))
    norm = scale * (sizes / scale).square().sum().sqrt()
    zeros = (sizes == 0).sum()
    nonfinite = (~sizes.isfinite()).sum()
    return torch.stack([total, norm, peak, zeros, nonfinite])


def _join(first: Tensor, second: Tensor) -> Tensor:
    import torch

    joined = first + second.to(first.dtype)
    joined[1] = torch.hypot(first[1], second[1])
    joined[2] = torch.maximum(first[2], second[2])
    return joined
