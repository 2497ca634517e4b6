"""A browser for the tests of the page, and figures that are closed again."""

import os
import shutil

import pytest
from matplotlib import pyplot as plt
from playwright.sync_api import sync_playwright
from support.browser import Tabs

import gradprobe as gp

INSTALL = "no chromium: apt-get install -y --no-install-recommends chromium"
FLAGS = "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"


@pytest.fixture
def no_figure_stays_open():
    yield
    plt.close("all")


@pytest.fixture(scope="package")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail(INSTALL) if os.environ.get("CI") else pytest.skip(INSTALL)
    with sync_playwright() as playwright:
        flags = [f"--{flag}" for flag in [*FLAGS.split(), "disable-quic"]]
        running = playwright.chromium.launch(executable_path=path, args=flags)
        yield running
        running.close()


@pytest.fixture(scope="package")
def tabs(browser):
    return Tabs(browser)


@pytest.fixture
def show(tabs, tmp_path):
    """Opens the page of a run from disk and checks that nothing goes wrong in it and that it requests nothing."""
    file = tmp_path / "page.html"
    tabs.errors.clear()
    tabs.requests.clear()

    def open_page(history, placement=None, comparison=None, *, arms=None, width=1440, scheme="light"):
        placement = placement or gp.place(history, gp.ThresholdPolicy(of=(history.of or ("output",))[0]))
        gp.write_page(file, history, placement, comparison, arms=arms)
        return tabs.open(file, width, scheme)

    yield open_page
    assert tabs.errors == []
    assert {url for url in tabs.requests if not url.startswith("data:")} <= {file.as_uri()}
