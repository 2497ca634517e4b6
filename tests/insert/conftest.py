"""A fixture for the tests of supervised models: no hook stays."""

from __future__ import annotations

import pytest
import torch

import gradprobe as gp


@pytest.fixture
def no_hook_of_a_branch_stays(monkeypatch):
    """Fail a test that leaves a hook, or a stand-in for a module's registry of hooks, on a supervised network."""
    registries = []
    original = gp.SupervisedModel.__init__

    def noting(self, *args):
        original(self, *args)
        registries.extend(
            (module, module._forward_hooks, dict(module._forward_hooks)) for module in self.modules()
        )

    monkeypatch.setattr(gp.SupervisedModel, "__init__", noting)
    yield
    for module, registry, hooks in registries:
        assert module._forward_hooks is registry
        assert dict(registry) == hooks
    torch._dynamo.reset()
