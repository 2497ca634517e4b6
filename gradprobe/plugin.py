"""A pytest plugin: the fixture ``gradients_reach``. Loads nothing heavy before a test asks for it."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradprobe.testing import GradientReachError, ReachCheck


@pytest.fixture
def gradients_reach(tmp_path: Path) -> ReachCheck:
    """`gradprobe.testing.assert_gradients_reach`, which on failure writes the run and says where.

    The run goes to the test's ``tmp_path``; its figures, its record and its table are there.
    """
    from gradprobe.testing import GradientReachError, assert_gradients_reach

    @functools.wraps(assert_gradients_reach)
    def check(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return assert_gradients_reach(*args, **kwargs)
        except GradientReachError as error:
            failure = error.with_note(f"run written to {_written(error, tmp_path)}")
        raise failure

    return check


def _written(error: GradientReachError, parent: Path) -> Path:
    from gradprobe.runs.folder import free_folder
    from gradprobe.runs.run import save

    with warnings.catch_warnings():
        # a warning made an error while the figures are drawn must not hide why the test failed
        warnings.simplefilter("ignore")
        return save(free_folder(parent, "gradprobe"), error.history, error.placement)
