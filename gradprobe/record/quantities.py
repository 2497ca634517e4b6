"""The statistics and quantities that are measured, and their names. Defined here alone.

A magnitude is the mean absolute value of a gradient, accumulated in float32 (float64 for a gradient in float64)
on the gradient's own device: see `gradprobe.measure.reduction`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistic:
    """A statistic of a gradient tensor: its column name, its short and its printed name."""

    name: str
    short: str
    printed: str


CNDS_THRESHOLD = 1e-7  # of mean |dL/d output|: Wang et al. 2015, arXiv 1505.02496, section 3
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
    """The name of a statistic of a quantity, as every figure and report writes it.

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
        >>> short(1234.5), short(31000)
        ('1230', '3.1e4')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{float(f'{value:.3g}'):g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"
