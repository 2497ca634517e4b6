"""Of which backward passes a gradient is made that was put into ``.grad`` by hand, or changed there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_COARSE = 0.03  # of bfloat16 and float16


def made_of(gradient: Tensor, passes: Sequence[Tensor]) -> list[bool | None] | None:
    """Which passes a gradient is a combination of, as gradient surgery makes one of those of several losses.

    The least-squares solution tells: each of Yu et al. 2020 (arXiv 2001.06782, equation 1), Desideri 2012 and
    their like is a weighted sum of the losses' gradients, and so is what is left after clipping by the norm.

    Args:
        gradient: Elements of it.
        passes: The same elements of what each pass has come to.

    Returns:
        For each pass whether it is a part of it, None for one that is zero, which shows nothing; an empty list if
        that cannot be told, since some look alike. None if it is no combination of them.

    Example:
        >>> a, b = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 1.0])
        >>> made_of(a + 2 * b, [a, b]), made_of(3 * b, [a, b]), made_of(a * b, [a, b])
        ([True, True], [False, True], None)
        >>> made_of(a, [a, 0 * a]), made_of(a, [a, a])
        ([True, None], [])
    """
    y = gradient.double().cpu()
    basis = torch.stack([one.double().cpu() for one in passes], 1)
    if not (y.isfinite().all() and basis.isfinite().all()):
        return None
    tolerance = _TOLERANCES.get(gradient.dtype, _COARSE)
    sizes, size = basis.norm(dim=0), float(y.norm())
    seen = [index for index, one in enumerate(sizes.tolist()) if one > 0]
    result: list[bool | None] = [None] * len(passes)
    if not seen:
        return result if size == 0 else None
    unit = basis[:, seen] / sizes[seen]
    weights = torch.linalg.lstsq(unit, y.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    if float((unit @ weights - y).norm()) > tolerance * max(size, 1e-300):
        return None
    if not _are_distinct(unit, tolerance):
        return []
    for place, index in enumerate(seen):
        result[index] = abs(float(weights[place])) > tolerance * size
    return result


def _are_distinct(unit: Tensor, tolerance: float) -> bool:
    """Whether no column of unit length is a combination of the others."""
    if unit.shape[1] > unit.shape[0]:
        return False
    return float(torch.linalg.svdvals(unit)[-1]) > 10 * tolerance
