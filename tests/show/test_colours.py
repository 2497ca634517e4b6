"""The colours that are written down."""

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from gradprobe.show.colours import VIRIDIS


def test_the_colours_of_the_page_are_matplotlibs():
    assert list(VIRIDIS) == [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0, 1, 33))]
