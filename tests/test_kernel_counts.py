"""How many kernels a probe starts on an accelerator, and what these read, on shapes: nothing is computed."""

import pytest
import torch
from torch import nn

kernels = pytest.importorskip("benchmarks.cost.kernels", reason="a source distribution has no benchmarks/")

LAYERS = 30


def convolutions(of):
    """Half of the outputs are large, and half are small."""
    with torch.device("meta"):
        layers = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(LAYERS)]
        model = nn.Sequential(*layers[: LAYERS // 2], nn.MaxPool2d(16), *layers[LAYERS // 2 :])
        x, y = torch.empty(4, 8, 256, 256), torch.empty(4, 8, 16, 16)
    return kernels.Case(model, lambda: nn.functional.mse_loss(model(x), y).backward(), of)


@pytest.mark.parametrize(("of", "most"), [("weight", 20), ("output", 2 * LAYERS)])
def test_kernels_bytes_and_copies_of_an_iteration(of, most):
    pytest.importorskip("triton", reason="there is no Triton for this system")
    usual, looked_at = kernels.counted(convolutions, of, triton=True)
    with kernels.imitated(triton=True):
        sizes = kernels.gradients(convolutions(of))
    assert len(sizes) == LAYERS
    assert usual.kernels <= most
    assert usual.bytes <= 1.1 * sum(sizes)
    assert not looked_at.waits
