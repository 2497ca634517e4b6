"""What is done for a report amid a script's training leaves no trace in its process."""

import gc
import json
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from support.script_command import inside, outside, python, write_script

import gradprobe as gp
from gradprobe.script.untouched import untouched


def _numbers():
    random.random()
    np.random.rand()  # noqa: NPY002
    torch.rand(1)


def _logger():
    logging.getLogger("matplotlib").setLevel(1)
    logging.root.addHandler(logging.NullHandler())
    logging.disable(logging.INFO)


# what a process has once: how it is looked at, and how something changes it; none of it by gradprobe's own means
STATES = {
    "random": (random.getstate, _numbers),
    "numpy": (lambda: str(np.random.get_state()), _numbers),  # noqa: NPY002
    "torch": (lambda: torch.get_rng_state().tolist(), _numbers),
    "matplotlib": (
        lambda: {key: str(value) for key, value in matplotlib.rcParams.items()},
        lambda: matplotlib.rcParams.update({"text.usetex": True, "axes.facecolor": "black"}),
    ),
    "warnings": (lambda: list(warnings.filters), lambda: warnings.simplefilter("error")),
    "locale": (lambda: locale.setlocale(locale.LC_ALL), lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8")),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "folder": (os.getcwd, lambda: os.chdir("/")),
    "environment": (lambda: dict(os.environ), lambda: os.environ.update(HOME="elsewhere", ANEW="1")),
    "loggers": (
        lambda: (logging.getLogger("matplotlib").level, list(logging.root.handlers), logging.root.manager.disable),
        _logger,
    ),
    "errors": (np.geterr, lambda: np.seterr(all="raise")),
    "printing": (lambda: str(np.get_printoptions()), lambda: np.set_printoptions(precision=2)),
    "dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "gradients": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "garbage": (gc.isenabled, gc.disable),
    "path": (lambda: list(sys.path), lambda: sys.path.append("/")),
    "streams": (lambda: sys.stdout, lambda: setattr(sys, "stdout", None)),
    "hooks": (lambda: sys.excepthook, lambda: setattr(sys, "excepthook", print)),
    "signals": (
        lambda: signal.getsignal(signal.SIGUSR1),
        lambda: signal.signal(signal.SIGUSR1, lambda *_: None),
    ),
    "recursion": (sys.getrecursionlimit, lambda: sys.setrecursionlimit(5000)),
}


@pytest.mark.parametrize("name", STATES)
def test_every_state_is_put_back(name):
    look, change = STATES[name]
    before = look()
    with untouched():
        change()
        assert look() != before  # the change is one
    assert look() == before


def test_a_warning_that_was_shown_once_is_not_shown_again():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            warnings.warn("once", stacklevel=1)
            with untouched(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
    assert len(shown) == 1


def test_in_a_thread_as_well():
    seen = []

    def work():
        before = random.getstate()
        with untouched():
            random.random()
        seen.append(random.getstate() == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


# prints all of it in every step; "ready" is said once, unless somebody touches what Python remembers of it
ALL = """
import gc, hashlib, json, locale, logging, os, random, signal, sys, threading, warnings
import matplotlib, numpy as np, torch
matplotlib.rcParams.update({"text.usetex": True, "axes.facecolor": "black"})
np.seterr(all="raise")
random.seed(1); np.random.seed(1); torch.manual_seed(1)

def states():
    def digest(value):
        return hashlib.md5(repr(value).encode()).hexdigest()[:6]
    loggers = [logging.root, logging.getLogger("matplotlib"), logging.getLogger("PIL")]
    return {
        "random": digest(random.getstate()), "numpy": digest(np.random.get_state()),
        "torch": digest(torch.get_rng_state().tolist()),
        "matplotlib": digest(sorted((key, str(value)) for key, value in matplotlib.rcParams.items())),
        "filters": digest([str(one) for one in warnings.filters]), "show": digest(warnings.showwarning.__module__),
        "locale": locale.setlocale(locale.LC_ALL), "threads": [torch.get_num_threads(), threading.active_count()],
        "folder": os.path.basename(os.getcwd()), "environment": digest(sorted(os.environ.items())),
        "loggers": digest([(one.level, len(one.handlers), one.disabled, one.propagate) for one in loggers]),
        "numerics": [str(np.geterr()), digest(np.get_printoptions()), str(torch.get_default_dtype())],
        "signals": digest([str(signal.getsignal(number))[:20] for number in (2, 10, 15)]), "gc": gc.isenabled(),
        "path": len(sys.path), "recursion": sys.getrecursionlimit(), "hooks": sys.excepthook is sys.__excepthook__,
    }

net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
print(json.dumps(states()))
optimizer = torch.optim.Adam(net.parameters())
for step in range(6):
    optimizer.zero_grad()
    net(torch.randn(16, 4)).square().mean().backward()
    optimizer.step()
    warnings.warn("once")
    print(json.dumps(states()), random.random(), np.random.rand())
"""


@pytest.mark.slow
def test_keep_going_leaves_no_trace_and_keeps_its_own_figures():
    write_script(ALL)
    alone = python("-W", "default", "train.py")
    under = outside("--iterations", 3, "--keep-going", "--out", "run", "train.py", launch=("-W", "default", "-m"))
    assert under.returncode == 0, under.stderr
    for line, other in zip(alone.stdout.splitlines(), under.stdout.splitlines(), strict=True):
        if line.startswith("{") and line.endswith("}"):
            assert json.loads(line) == json.loads(other)
    assert under.stdout == alone.stdout
    assert under.stderr.count("UserWarning: once") == alone.stderr.count("UserWarning: once")
    assert "Nothing is wrong" in under.stderr
    assert "trains on; the figures are drawn when it ends" in under.stderr
    assert (Path("run") / "report.html").exists()
    run = gp.load("run")
    gp.save("plain", run.history, run.placement)
    for name in ("iterations.png", "depth.png", "heatmap.png", "signal.png"):
        assert (Path("run") / name).read_bytes() == (Path("plain") / name).read_bytes()


def test_a_style_of_the_script_does_not_reach_the_figures(monkeypatch):
    write_script(
        ALL.replace("import matplotlib,", "warnings.simplefilter('error')\nimport matplotlib,").replace(
            'warnings.warn("once")', "pass"
        )
    )
    seen = []

    def save(folder, history, placement, **options):
        seen.append(
            (matplotlib.rcParams["text.usetex"], matplotlib.rcParams["axes.facecolor"], np.geterr()["invalid"])
        )
        warnings.warn("not an error", stacklevel=1)
        return gp.save(folder, history, placement, **{**options, "figures": False})

    monkeypatch.setattr("gradprobe.script.results.save", save)
    with matplotlib.rc_context(), np.errstate():
        result = inside("--iterations", 3, "--out", "run", "train.py")
    assert result.exit_code == 0, result.output
    assert seen == [(False, "white", "warn")]
