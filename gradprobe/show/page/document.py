"""The template filled in: one file that requests no other."""

from __future__ import annotations

import functools
import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

import gradprobe.show.page.words as words
from gradprobe.record.files.atomic import replacing
from gradprobe.record.history import GradientHistory, check_history
from gradprobe.show.headline import verdict
from gradprobe.show.page.numbers import found_rows, page_data
from gradprobe.show.page.steps import arms_steps, steps
from gradprobe.version import __version__

if TYPE_CHECKING:
    from gradprobe.record.placement import Placement
    from gradprobe.verdict.arms_comparison import ArmsComparison
    from gradprobe.verdict.comparison import Comparison

# in this order: each uses what those before it define
FIGURES = ("depth.js", "signal.js", "curves.js", "profile.js", "heatmap.js", "learning.js")
SCRIPTS = ("data.js", "state.js", "chart.js", "marks.js", *FIGURES, "tree.js", "table.js", "main.js")
_UNBROKEN = re.compile(r"--[a-z][a-z-]*(?: \d+)?|\d[\d.]*e-\d+")  # an option, a number


def write_page(
    file: str | os.PathLike[str],
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None = None,
    *,
    arms: ArmsComparison | None = None,
    run: str = "",
) -> Path:
    """Write a run as one HTML file: whole or not at all.

    Args:
        file: Where to; missing folders are made, an existing file is replaced.
        history: The record; for a comparison that of the plain arm.
        placement: The decision.
        comparison: With and without, if it was done.
        arms: Several arms, if they were compared.
        run: Folder of the run, as the code to paste should name it; empty where there is none.

    Returns:
        The file.

    Raises:
        TypeError: If ``history`` is not one.
        OSError: If the file cannot be written.

    Example:
        >>> from gradprobe.record.history import GradientHistory, tidy
        >>> from gradprobe.decide.policies import place
        >>> history = GradientHistory(tidy([]), {}, (), (), None)
        >>> with __import__("tempfile").TemporaryDirectory() as folder:
        ...     page = write_page(Path(folder) / "report.html", history, place(history))
        ...     page.read_text(encoding="utf-8").startswith("<!doctype html>")
        True
    """
    file = Path(file)
    text = render(history, placement, comparison, arms=arms, run=run)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace", newline="")
    return file


def render(
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None = None,
    *,
    arms: ArmsComparison | None = None,
    run: str = "",
) -> str:
    """The page as text; see `write_page`."""
    said = verdict(check_history(history), placement, comparison, arms)
    advice = arms_steps(history, arms) if arms else steps(said.state, history, placement, comparison, run)
    return _template().render(
        title=str(history.conditions.get("target") or "a run"),
        verdict=said,
        layers=[(row, history.layers[row].name) for row in found_rows(history)] if said.cause else [],
        has_signal=history.evidence is not None,
        facts=words.facts(history, placement),
        synthetic=history.conditions.get("synthetic", False),
        why=words.why(history, placement, said),
        skipped=placement.skipped,
        steps=advice,
        arms=arms,
        conditions=words.conditions(history, comparison or arms),
        depends=words.DEPENDS,
        data=_script_json(page_data(history, placement, comparison, arms)),
        style=Markup(_read_resource("page.css")),
        scripts=[Markup(_read_resource(name)) for name in SCRIPTS],
        version=__version__,
    )


def _script_json(record: dict[str, Any]) -> Markup:
    r"""JSON that can stand inside a script element whatever the names in it are.

    Example:
        >>> print(_script_json({"name": "</script>"}))
        {"name":"\u003c/script\u003e"}
    """
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _unbroken(text: str) -> Markup:
    """A sentence as HTML whose options and numbers stay on one line: a browser breaks lines after a dash.

    Example:
        >>> print(_unbroken("a < 1e-7 (--seeds 3)."))
        a &lt; <span class="unbroken">1e-7</span> (<span class="unbroken">--seeds 3</span>).
    """
    return Markup(_UNBROKEN.sub(r'<span class="unbroken">\g<0></span>', str(escape(text))))


@functools.cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["unbroken"] = _unbroken
    return environment.from_string(_read_resource("page.html.jinja"))


@functools.cache
def _read_resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
