"""Every test of a script has an empty working directory, and runs in this process are written without figures."""

import functools

import pytest

from gradprobe.runs.run import save


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gradprobe.script.results.save", functools.partial(save, figures=False))
    return tmp_path
