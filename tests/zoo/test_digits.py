"""The digits: those of scikit-learn, which is not imported for them."""

import subprocess
import sys

import torch
from sklearn.datasets import load_digits

from gradprobe.zoo import digits


def test_they_are_those_of_scikit_learn():
    pixels, targets = load_digits(return_X_y=True)
    data = digits((64,), batch_size=1438, held_out=0.2)  # 1797 less a fifth: all training images in one batch
    parts = [*data.batches, *data.held_out]
    images, labels = (torch.cat([part[axis] for part in parts]) for axis in (0, 1))
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor(pixels, dtype=torch.float64) / 16
    torch.testing.assert_close(images.double(), (expected - expected.mean())[order], rtol=0, atol=1e-6)
    assert labels.tolist() == targets[order].tolist()


def test_scikit_learn_is_not_imported():
    code = "import sys; from gradprobe.zoo import digits; digits(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
