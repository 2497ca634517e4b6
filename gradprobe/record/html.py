"""Pieces of HTML for a notebook: a title, text, a small table, bars by depth.

They need no style sheet and no script. Colours and fonts are the notebook's own, light or dark; names are escaped.
A class that has a notebook form builds it from them in its own file, as ``history_html`` does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

import pandas as pd

from gradprobe.record.quantities import label, short
from gradprobe.record.text import counted, few, shorten

MOST_ROWS = 24  # of layers; a table of anything else has four times as many
LOW = "#d55e00"  # vermillion: distinct from grey for every kind of colour vision, on white and on black
_SMALL = "font-size:85%;opacity:.75;margin:.2em 0"
_HEIGHT = 60


def span_of(medians: Sequence[pd.Series[float]]) -> tuple[float, float]:
    """The powers of ten that hold every magnitude, with room below so that the smallest ones have a visible bar.

    Example:
        >>> span_of([pd.Series({"a": 1e-6, "b": 0.0}), pd.Series({"a": 1e-2})])
        (-6.5, -2.0)
    """
    values = pd.concat(medians)
    finite = values[(values > 0) & (values < math.inf)]
    if finite.empty:
        return -8.0, 0.0
    low, high = math.log10(finite.min()), math.log10(finite.max())
    return low - max(0.5, 0.08 * (high - low)), high


def bars(
    medians: pd.Series[float], layers: Sequence[str], of: str, marked: Collection[str], span: tuple[float, float]
) -> str:
    """A bar for each layer by depth, on a log scale; an exact zero is a stump, NaN or inf a full bar, hollow.

    Args:
        medians: A magnitude for each layer that a gradient arrived at.
        layers: The names of all layers in depth order.
        of: The quantity.
        marked: The layers to colour.
        span: From `span_of`.
    """
    count = max(len(layers), 1)
    width = max(min(600, 24 * count), 120) / count
    hollow = 'fill="none" stroke="currentColor"'
    colours = {True: f'fill="{LOW}"', False: 'fill="currentColor" fill-opacity=".5"'}
    # one path for all bars of a kind: 1,000 layers stay small
    paths: dict[str, list[str]] = {look: [] for look in [*colours.values(), hollow]}
    for position, name in enumerate(layers):
        if name not in medians.index:
            continue
        value = float(medians[name])
        look = colours[name in marked] if math.isfinite(value) else hollow
        top, gap = _HEIGHT - _bar_height(value, span), 0.15 * width
        left, right = position * width + gap, (position + 1) * width - gap
        paths[look].append(f"M{left:.1f} {_HEIGHT}V{max(0.0, top):.1f}H{right:.1f}V{_HEIGHT}z")
    shapes = "".join(f'<path {look} d="{"".join(outlines)}"/>' for look, outlines in paths.items() if outlines)
    return _svg(shapes, f"{width * count:.0f}", f"{label(of)} of {counted(len(layers), 'layer')} by depth")


def _svg(shapes: str, width: str, alt: str) -> str:
    # the root's own colour: some notebooks give an SVG a colour that is not that of their text
    style = f"max-width:100%;height:{_HEIGHT}px;color:inherit;display:block;margin:.4em 0"
    return (
        f'<svg role="img" aria-label="{escape(alt)}" width="{width}" height="{_HEIGHT}" '
        f'viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none" style="{style}">{shapes}</svg>'
    )


def _bar_height(value: float, span: tuple[float, float]) -> float:
    if not math.isfinite(value):
        return float(_HEIGHT)
    if value == 0:
        return 1.0
    low, high = span
    return 1 + (_HEIGHT - 1) * (math.log10(value) - low) / max(high - low, 1e-9)


def legend(
    medians: pd.Series[float], layers: Sequence[str], of: str, marked: Collection[str], mark_name: str
) -> str:
    """What `bars` shows, in a sentence: the range, and how many layers are marked, zero, not finite, unreached."""
    finite = medians[(medians > 0) & (medians < math.inf)]
    marked_count = sum(name in marked for name in medians.index)
    zeros, nonfinite = int((medians == 0).sum()), int((medians == math.inf).sum())
    unreached = len(layers) - len(medians)
    text = f"{label(of)} by depth, median over the iterations"
    if len(finite):
        text += f", {short(finite.min())} to {short(finite.max())}, log scale"
    counts = [
        (marked_count, f"{marked_count} of {counted(len(medians), 'layer')} {mark_name} (coloured)"),
        (zeros, f"{zeros} exactly zero"),
        (nonfinite, f"{nonfinite} NaN or inf (hollow)"),
        (unreached, f"{unreached} unreached"),
    ]
    return "; ".join([text, *(phrase for count, phrase in counts if count)])


def table(head: Iterable[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table, or nothing where it would be empty; layer names are shortened, the whole name is the tooltip."""
    if not rows:
        return ""
    left, most = 'style="text-align:left"', 4 * MOST_ROWS
    top = "".join(f"<th {left}>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows[:most])
    more = small(f"and {len(rows) - most} more") if len(rows) > most else ""
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return f'<td style="text-align:left">{escape(str(value))}</td>'
    words = shorten(value, 40) if " " not in value else value
    return f'<td style="text-align:left" title="{escape(value)}">{escape(words)}</td>'


def layer_names(layers: Sequence[str]) -> str:
    """The first of some layers' names, shortened, and how many more there are."""
    return few([shorten(name, 24) for name in layers])


def title(text: str) -> str:
    """A line in bold."""
    return f'<div style="font-weight:bold">{escape(text)}</div>'


def paragraph(text: str) -> str:
    """A paragraph, or nothing where the text is empty."""
    return f'<div style="margin:.2em 0;max-width:60em">{escape(text)}</div>' if text else ""


def small(text: str) -> str:
    """A small, pale line, or nothing where the text is empty."""
    return f'<div style="{_SMALL}">{escape(text)}</div>' if text else ""


def folded(summary: str, content: str, *, is_open: bool) -> str:
    """Content that a click shows and hides."""
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>{content}</details>"


def block(parts: Iterable[str]) -> str:
    """Several pieces as one."""
    return f'<div style="color:inherit">{"".join(parts)}</div>'
