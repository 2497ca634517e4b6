"""What the site has beside the pages of docs/, for mkdocs.yml: the README first, the pictures, links to the code.

The pages stay as a forge shows them: links out of docs/ are relative there, and on the site lead to the forge.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "notebooks" / "figures"
BRANCH = "blob/main/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The README as the first page, and the figures."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=first_page(readme, str(config.repo_url))))
    for path in sorted(FIGURES.glob("*.[ps][nv]g")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Pictures from the site, and whatever else is outside of docs/ from the forge."""
    up = "../" * (page.file.src_uri.count("/") + 1)
    return outside(markdown, up, str(config.repo_url))


def first_page(readme: str, forge: str) -> str:
    """The README with the site's own pages and pictures.

    Example:
        >>> first_page("[a](https://f.org/g/g/blob/main/docs/a.md#b)", "https://f.org/g/g")
        '[a](a.md#b)'
        >>> first_page("![a](https://raw.f.org/g/g/main/notebooks/figures/a.png)", "https://f.org/g/g")
        '![a](figures/a.png)'
    """
    pages = readme.replace(f"]({forge}/{BRANCH}docs/", "](")
    return re.sub(r"\]\(https://raw\.[^)]*/notebooks/figures/", "](figures/", pages)


def outside(markdown: str, up: str, forge: str) -> str:
    """A page whose links out of docs/ lead somewhere; ``up`` is the way from the page to the root.

    Example:
        >>> outside("![a](../notebooks/figures/a.png) [b](../gradprobe/b.py)", "../", "https://f.org/g/g")
        '![a](figures/a.png) [b](https://f.org/g/g/blob/main/gradprobe/b.py)'
    """
    here = up.removeprefix("../")
    with_pictures = markdown.replace(f"]({up}notebooks/figures/", f"]({here}figures/")
    return with_pictures.replace(f"]({up}", f"]({forge}/{BRANCH}")
