"""Whatever takes a history refuses what is not one, and says where to find it."""

import inspect
from pathlib import Path

import pytest

import gradprobe as gp
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement

HISTORY = GradientHistory(
    tidy([(0, "fc", 0, "output", 1e-3, 1e-3, 1e-3, 0.0, 0)]), {}, (Layer("fc", 0, "Linear", 9),), (), None
)
PLACEMENT = Placement("none", (), (), "")
TAKES = [
    getattr(gp, name)
    for name in gp.__all__
    if inspect.isfunction(getattr(gp, name))
    and "history" in (parameters := inspect.signature(getattr(gp, name)).parameters)
    and parameters["history"].default is inspect.Parameter.empty
]
WRONG = [
    (gp.Run(Path("net"), HISTORY, PLACEMENT), "got Run: give its .history"),
    ("gradprobe_runs/net", r"got str: give what gp\.scan returns, or gp\.load\(run\)\.history"),
    (None, "got NoneType: give what"),
]


def test_there_are_functions_that_take_one():
    assert {gp.diagnose, gp.place, gp.plot_signal, gp.plot_history, gp.save, gp.log_to} <= set(TAKES)


@pytest.mark.parametrize("function", TAKES, ids=lambda one: one.__name__)
@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=["run", "name", "none"])
def test_it_is_refused_at_the_door(function, wrong, message, tmp_path):
    given = {"history": wrong, "folder": tmp_path / "new", "file": tmp_path / "page.html", "placement": PLACEMENT}
    given["writer"] = print
    wanted = inspect.signature(function).parameters
    with pytest.raises(TypeError, match=message):
        function(**{name: value for name, value in given.items() if name in wanted})
    assert not list(tmp_path.iterdir())
