"""Before a window: are the kernels of an accelerator right there?"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gradprobe.measure.reduction import on_device, samples

_KNOWN = (3.0, -4.0, 0.0, 12.0)  # and many times over, so that there are several pieces
_TOLERANCE = 1e-5


def prepare(devices: Iterable[torch.device]) -> None:
    """Compile the kernels for devices and compare what they measure to torch's own result, once in a process.

    Waits for the devices, so this is for before the window. Where Triton or its compiler does not work, torch's
    kernels are used.

    Example:
        >>> prepare([torch.device("cpu")])
        >>> on_device.works(torch.device("cpu"))
        False
    """
    for device in set(devices):
        on_device.tried(device, _are_right)


def _are_right(device: torch.device) -> bool:
    return all(_reads_gradients(device, dtype) for dtype in on_device.DTYPES) and _describes_samples(device)


def _reads_gradients(device: torch.device, dtype: torch.dtype) -> bool:
    several = torch.tensor(_KNOWN, dtype=dtype, device=device).repeat(on_device.PIECE // 2)
    infinite = several[:7].clone()
    infinite[5] = -torch.inf
    expected = torch.stack([_by_torch(several), _by_torch(infinite)])
    kernels, means = on_device.OnDevice(every=True), on_device.OnDevice(every=False)
    together, sums = kernels.rows_at_once([several, infinite]), means.rows_at_once([several, infinite])
    alone = torch.cat([kernels.rows_at_once([one]) for one in (several, infinite)])
    pairs = ((together, expected), (alone, expected), (sums, expected[:, :1]))
    return all(torch.allclose(found, right, rtol=_TOLERANCE) for found, right in pairs)


def _by_torch(gradient: Tensor) -> Tensor:
    sizes = gradient.float().abs()
    return torch.stack(
        [sizes.sum(), sizes.norm(), sizes.amax(), (sizes == 0).sum().float(), (~sizes.isfinite()).sum().float()]
    )


def _describes_samples(device: torch.device) -> bool:
    known = torch.tensor(_KNOWN, device=device).repeat(150)
    spoiled = known[:24].clone()
    spoiled[5] = torch.inf
    several = [known.view(4, 150, 1), spoiled.view(2, 3, 4), known[:8].view(1, 4, 2)]
    rows, ranges = samples.by_kernel(several)
    single = [samples.by_torch(one.unsqueeze(0)) for one in several]
    expected = torch.cat([one for one, _ in single])
    highest, nearest = (torch.cat([getattr(found, of) for _, found in single]) for of in ("highest", "nearest"))
    pairs = ((rows, expected), (ranges.highest, highest), (ranges.nearest, nearest))
    return all(torch.allclose(found, right, rtol=_TOLERANCE, equal_nan=True) for found, right in pairs)
