"""The documentation as a site: built strictly, with every link, anchor and picture in it leading somewhere."""

import doctest
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("material", reason="the site is built with the extra docs, which dev has")

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parent.parent
FORGE = "https://github.com/gradprobe/gradprobe"


def built(folder, **settings):
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True, **settings)
    build(config)
    return folder


class Found(HTMLParser):
    """The anchors of a page and what it leads to."""

    def __init__(self, page):
        super().__init__()
        self.anchors, self.targets, self.loaded = set(), [], []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors.add(found.get("id"))
        if tag == "a" and found.get("href"):
            self.targets.append(found["href"])
        source = found.get("src") or (
            found.get("href") if tag == "link" and found.get("rel") == "stylesheet" else None
        )
        if source:
            self.loaded.append(source)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return built(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site):
    return {page: Found(page) for page in site.rglob("*.html") if page.name != "404.html"}


def aimed(page, target):
    file = (page.parent / unquote(target)).resolve()
    return file / "index.html" if file.is_dir() else file


def test_every_page_of_the_documentation_is_there(site, pages):
    names = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {page.parent.relative_to(site).as_posix() for page in pages} == {*names, "."}


def test_every_link_leads_somewhere(site, pages):
    assert pages
    for page, found in pages.items():
        for target in found.targets:
            if target.startswith(("http", "mailto:")):
                continue
            path, _, anchor = target.partition("#")
            file = aimed(page, path) if path else page
            assert file.is_file(), (page, target)
            assert not anchor or anchor in pages[file].anchors, (page, target)


def test_every_link_to_the_forge_is_of_a_file_that_is_kept(pages):
    linked = {target.partition("#")[0] for found in pages.values() for target in found.targets}
    files = [
        target.removeprefix(f"{FORGE}/blob/main/") for target in linked if target.startswith(f"{FORGE}/blob/")
    ]
    assert len(files) > 100  # every file of the architecture
    assert not [file for file in files if not (ROOT / file).exists()]


def test_no_page_has_a_picture_style_or_script_from_elsewhere(pages):
    for page, found in pages.items():
        assert not [source for source in found.loaded if source.startswith(("http:", "https:", "//"))], page
        for source in found.loaded:
            assert aimed(page, source.partition("?")[0]).is_file(), (page, source)


def test_every_table_and_list_is_one(pages):
    """Python's Markdown asks for an empty line before both; a forge does not."""
    for page in pages:
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        paragraphs = re.findall(r"<p>(.*?)</p>", text, re.DOTALL)
        assert not [part for part in paragraphs if re.search(r"^\s*(\||- |1\. )", part, re.MULTILINE)], page


def test_the_causes_and_the_public_names_can_be_searched_for(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    texts = {entry["location"]: entry["title"] + entry["text"] for entry in index["docs"]}
    assert "reference/#deepsupervisionloss" in texts
    assert any("zero_grad_missing" in text for where, text in texts.items() if where.startswith("diagnosis/"))


def test_a_broken_link_breaks_the_build(tmp_path, caplog):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\n[nowhere](b.md)\n")
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    with pytest.raises(Abort):
        built(tmp_path / "site", docs_dir=str(tmp_path / "docs"), nav=None)


def test_the_examples_of_the_hooks_hold(load_script):
    ran = doctest.testmod(load_script(ROOT / "docs" / "mkdocs_hooks.py"))
    assert ran.attempted == 3
    assert ran.failed == 0
