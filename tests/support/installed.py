"""An installed wheel alone: it measures, by the compiled library that is in it, on the threads that torch has.

    python installed.py

Runs in an environment without pytest: tests/test_wheel.py starts it here, cibuildwheel where wheels are built.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import gradprobe as gp
from gradprobe.measure.reduction import native

OPENMP = ("libgomp", "libomp", "libiomp")


def main():
    assert "site-packages" in gp.__file__, gp.__file__
    assert all(hasattr(gp, name) for name in gp.__all__)  # each is imported from its file only now
    assert native.library() is not None, "expected the library that was compiled for this wheel"
    large = torch.arange(1_000_000, dtype=torch.float32).remainder(7) - 3
    rows = torch.empty(1, 5)
    native.sums([large], into=rows)
    assert rows[0, 0].item() == large.double().abs().sum().item()  # both below 2 ** 24
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    history = gp.scan(
        net, [(torch.randn(8, 4), torch.randint(2, (8,)))], nn.functional.cross_entropy, iterations=3
    )
    assert history.iterations == 3
    print(f"gradprobe {gp.__version__}: measured; OpenMP: {', '.join(openmp()) or 'not known here'}")
    assert len(openmp()) <= 1, "expected one OpenMP in the process, that of torch"


def openmp():
    """The OpenMP libraries of this process, where the system tells."""
    maps = Path("/proc/self/maps")
    paths = {Path(line.split()[-1]) for line in maps.read_text().splitlines()} if maps.exists() else ()
    return sorted(path.name for path in paths if path.name.startswith(OPENMP))


if __name__ == "__main__":
    sys.exit(main())
