"""Every test of a script has an empty working directory, and runs in this process are written without figures."""

import functools

import pytest

from gradprobe import save  # by this name, so that it is the real one when a test asks for it


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gradprobe.script.results.save", functools.partial(save, figures=False))
    monkeypatch.setattr("gradprobe.script.results.add_pictures", lambda *_: None)
    return tmp_path
