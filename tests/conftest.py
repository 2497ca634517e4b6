"""Fixtures for all tests: nothing may stay attached, networks with known gradients, scripts of no package."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
import weakref

import matplotlib as mpl
import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, settings
from torch import nn

from gradprobe.network.hooks import Hook

# Triton reads this when it is first imported: its kernels run on CPU tensors (docs/facts.md, 14)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
mpl.use("Agg")
# no test depends on how fast the machine is
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# Started in the background by a shell, the tests would ignore Ctrl-C, and so would the programs that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_EXIT = sys.exit
# pytest --doctest-modules would import each conftest.py a second time, all under one name, and run the scripts
collect_ignore_glob = ["*conftest.py", "support/scripts/*"]


@pytest.fixture(autouse=True)
def nothing_stays_attached(monkeypatch):
    """Fail a test that leaves one of our hooks on a module, a parameter or an optimizer."""
    touched: list[weakref.ref] = []

    def noting(original):
        def register(self, *args, **kwargs):
            touched.append(weakref.ref(self))
            return original(self, *args, **kwargs)

        return register

    for owner, method in (
        (nn.Module, "register_forward_hook"),
        (torch.Tensor, "register_hook"),
        (torch.optim.Optimizer, "register_step_pre_hook"),
    ):
        monkeypatch.setattr(owner, method, noting(getattr(owner, method)))
    yield
    registries = ("_forward_hooks", "_backward_hooks", "_optimizer_step_pre_hooks")
    for thing in (reference() for reference in touched):
        if thing is None or (isinstance(thing, torch.Tensor) and not thing.is_leaf):
            continue  # the graph owns it, and ends with it
        for registry in registries:
            left = [hook for hook in (getattr(thing, registry, None) or {}).values() if isinstance(hook, Hook)]
            assert not left, f"a hook was left on {type(thing).__name__}"


@pytest.fixture(autouse=True)
def the_interpreters_own_ending(monkeypatch):
    """Start each test with Python's own ``sys.exit`` and ``excepthook``: wandb and Ray replace them for good."""
    monkeypatch.setattr(sys, "exit", _EXIT)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)


@pytest.fixture
def chain():
    """Builds a chain of 1x1 linear layers ``y = prod(w) * x``: every gradient is known by hand."""

    def build(*weights: float) -> nn.Sequential:
        net = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in weights))
        with torch.no_grad():
            for layer, weight in zip(net, weights, strict=True):
                layer.weight.fill_(weight)
        return net.double()

    return build


@pytest.fixture
def two_inputs():
    """Builds a network that takes two inputs, ``a`` and ``b``: ``fc(a + b)``."""

    class Two(nn.Module):
        def __init__(self, fc):
            super().__init__()
            self.fc = fc

        def forward(self, a, b):
            return self.fc(a + b)

    return Two


@pytest.fixture
def process_group():
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def load_script():
    """Loads a file that is in no package as a module of its own name."""

    def load(path):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def anchors():
    """What GitHub calls the headings of a page."""

    def found(page):
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    return found


def pytest_collection_modifyitems(items):
    """Begin with the files that take long, so that no process is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
