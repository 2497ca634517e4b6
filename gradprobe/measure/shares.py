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
        For each pass whether it is a part of it, None where that cannot be told, since the pass shows nothing or
        looks like another one; or None if it is no combination of them.

    Example:
        >>> a, b = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 1.0])
        >>> made_of(a + 2 * b, [a, b]), made_of(3 * b, [a, b]), made_of(a * b, [a, b])
        ([True, True], [False, True], None)
        >>> made_of(a, [a, a, 0 * a])
        [None, None, None]
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
    distinct = _distinct(unit, tolerance)
    for place, index in enumerate(seen):
        if distinct[place]:
            result[index] = abs(float(weights[place])) > tolerance * size
    return result


def _distinct(unit: Tensor, tolerance: float) -> list[bool]:
    """For each column of unit length whether it is no combination of the others."""
    if unit.shape[1] > unit.shape[0]:
        return [False] * unit.shape[1]
    distinct = []
    for column in range(unit.shape[1]):
        others = torch.cat([unit[:, :column], unit[:, column + 1 :]], 1)
        own = unit[:, column : column + 1]
        rest = (
            own if not others.shape[1] else own - others @ torch.linalg.lstsq(others, own, driver="gelsd").solution
        )
        distinct.append(float(rest.norm()) > 10 * tolerance)
    return distinct
