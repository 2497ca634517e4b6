"""What a notebook shows of a history, a decision, a comparison: words, bars by depth, and a small table.

Pieces of HTML that need nothing else. Colours and fonts are the notebook's own, light or dark; names are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

import pandas as pd

from gradprobe.arms import ArmsComparison
from gradprobe.comparison import Comparison
from gradprobe.history import GradientHistory, Points, describe_conditions, shorten
from gradprobe.magnitude import label, short
from gradprobe.policies import CNDS_THRESHOLD, Placement
from gradprobe.wording import counted, few

MOST = 24
LOW = "#d55e00"  # vermillion: told from grey by every kind of colour vision, on white and on black
_SMALL = "font-size:85%;opacity:.75;margin:.2em 0"


def history_html(history: GradientHistory) -> str:
    """A history: bars by depth, the conditions, and the layers with their magnitudes.

    Example:
        >>> from gradprobe.history import Layer, tidy
        >>> rows = [(0, "<b>", 0, "output", 2e-9, 3e-9, 1e-8, 0.0, 0)]
        >>> "&lt;b&gt;" in history_html(GradientHistory(tidy(rows), {}, (Layer("<b>", 0, "Conv2d", 9),), (), None))
        True
    """
    of = _quantity(history)
    counts = f"{counted(len(history.layers), 'layer')}, {counted(history.iterations, 'iteration')}"
    parts = [_title(f"gradient history: {counts}"), _small(describe_conditions(history.conditions))]
    if of is not None:
        below = _below(history, of)
        parts += [
            _bars(history, of, below, _span([history], of)),
            _small(_legend(history, of, below, "below 1e-7")),
        ]
    return _block([*parts, _layers(history)])


def placement_html(placement: Placement) -> str:
    """A decision: where the branches go, why, and what was left out."""
    count = len(placement.points)
    head = counted(count, "branch", "branches") if count else "no branch"
    rows = [(point.name, point.shape, _names(point.layers)) for point in placement.points]
    skipped = [(name, why) for name, why in placement.skipped.items()]
    said = [placement.reason, placement.disagreement or ""]
    parts = [_title(f"placement: {head}"), _small(placement.policy), *map(_text, said)]
    parts.append(_table(("branch after", "shape", "serves"), rows))
    return _block([*parts, _table(("skipped", "why"), skipped)])


def points_html(points: Points) -> str:
    """Supervision points, and why the other layers have none."""
    rows = [(point.name, point.shape, _names(point.layers)) for point in points]
    unserved = _table(("no point for", "why"), list(points.unserved.items()))
    return _block([_title(points.summary()), _table(("point", "shape", "serves"), rows), unserved])


def comparison_html(comparison: Comparison) -> str:
    """A comparison: the verdict, the sentences, and the gradient by depth without and with, on one scale."""
    arms = {"without deep supervision": comparison.plain, "with deep supervision": comparison.supervised}
    histories = {title: arm for title, arm in arms.items() if arm is not None}
    of, flagged = _quantity(comparison.plain), set(comparison.placement.flagged)
    parts = [_title(f"comparison: {comparison.verdict}"), *map(_text, str(comparison).splitlines())]
    for title, history in histories.items() if of is not None else ():
        bars = _bars(history, str(of), flagged, _span(list(histories.values()), str(of)))
        parts.append(bars + _small(f"{title}: {_legend(history, str(of), flagged, 'flagged')}"))
    return _block([*parts, _small(describe_conditions(comparison.plain.conditions))])


def arms_html(result: ArmsComparison) -> str:
    """Several arms: which one to use, and the table."""
    head, *rows = result.table()
    said = [*result.choice.sentences, *result.failures]
    parts = [_title(f"{len(rows)} arms: use {result.best}"), *map(_text, said), _table(head, rows)]
    return _block([*parts, _small(describe_conditions(result.plain.conditions))])


def run_html(
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None,
    arms: ArmsComparison | None = None,
) -> str:
    """A saved run: all that it holds."""
    parts = [history_html(history), placement_html(placement)]
    parts += [comparison_html(comparison)] if comparison else []
    return "".join([*parts, *([arms_html(arms)] if arms else [])])


def _quantity(history: GradientHistory) -> str | None:
    return "output" if "output" in history.of else next(iter(history.of), None)


def _below(history: GradientHistory, of: str) -> set[str]:
    """The layers below the threshold of CNDS, which is about outputs."""
    medians = history.aggregate(of)
    return set(medians.index[medians < CNDS_THRESHOLD]) if of == "output" else set()


def _span(histories: Sequence[GradientHistory], of: str) -> tuple[float, float]:
    """Powers of ten that hold every magnitude: the smallest ones leave a stump of a bar to see."""
    medians = pd.concat([history.aggregate(of) for history in histories])
    there = medians[(medians > 0) & (medians < math.inf)]
    if there.empty:
        return -8.0, 0.0
    low, high = math.log10(there.min()), math.log10(there.max())
    return low - max(0.5, 0.08 * (high - low)), high


def _bars(history: GradientHistory, of: str, marked: Collection[str], span: tuple[float, float]) -> str:
    """A bar for each layer by depth, on a log scale; an exact zero is a stump, NaN or inf a full bar, hollow."""
    medians = history.aggregate(of)
    count = max(len(history.layers), 1)
    width = max(min(600, 24 * count), 120) / count
    colours = {True: f'fill="{LOW}"', False: 'fill="currentColor" fill-opacity=".5"'}
    # one path for all bars of a kind: 1,000 layers stay small
    paths: dict[str, list[str]] = {look: [] for look in [*colours.values(), 'fill="none" stroke="currentColor"']}
    for place, layer in enumerate(history.layers):
        if layer.name not in medians.index:
            continue
        value = float(medians[layer.name])
        look = colours[layer.name in marked] if math.isfinite(value) else 'fill="none" stroke="currentColor"'
        top, gap = _height(value, span), 0.15 * width
        left, right = place * width + gap, (place + 1) * width - gap
        paths[look].append(f"M{left:.1f} 60V{max(0.0, 60 - top):.1f}H{right:.1f}V60z")
    drawn = "".join(f'<path {look} d="{"".join(bars)}"/>' for look, bars in paths.items() if bars)
    total = f"{width * count:.0f}"
    # the root's own colour: some notebooks give an SVG a colour that is not that of their text
    style = "max-width:100%;height:60px;color:inherit;display:block;margin:.4em 0"
    spoken = escape(f"{label(of)} of {counted(len(history.layers), 'layer')} by depth")
    return (
        f'<svg role="img" aria-label="{spoken}" width="{total}" height="60" viewBox="0 0 {total} 60" '
        f'preserveAspectRatio="none" style="{style}">{drawn}</svg>'
    )


def _height(value: float, span: tuple[float, float]) -> float:
    if not math.isfinite(value):
        return 60.0
    if value == 0:
        return 1.0
    low, high = span
    return 1 + 59 * (math.log10(value) - low) / max(high - low, 1e-9)


def _legend(history: GradientHistory, of: str, marked: Collection[str], word: str) -> str:
    medians = history.aggregate(of)
    there = medians[(medians > 0) & (medians < math.inf)]
    said = f"{label(of)} by depth, median over the iterations"
    if len(there):
        said += f", {short(there.min())} to {short(there.max())}, log scale"
    count = sum(name in marked for name in medians.index)
    said += f"; {count} of {counted(len(medians), 'layer')} {word} (coloured)" if count else ""
    zeros, nonfinite = int((medians == 0).sum()), int((medians == math.inf).sum())
    said += f"; {zeros} exactly zero" if zeros else ""
    said += f"; {nonfinite} NaN or inf (hollow)" if nonfinite else ""
    unreached = len(history.layers) - len(medians)
    return said + (f"; {unreached} unreached" if unreached else "")


def _layers(history: GradientHistory) -> str:
    """The layers with their magnitudes; of many those that get least, folded away."""
    table = history.summary()
    title = "layers"
    if len(table) > MOST:
        title = f"the {MOST} least fed of {len(table)} layers"
        table = table.nsmallest(MOST, str(_quantity(history))).sort_values("depth") if history.of else table[:MOST]
    head = ("depth", "layer", "kind", *(label(of) for of in history.of))
    rows = [
        (row["depth"], row["layer"], row["kind"], *(_number(row[of]) for of in history.of))
        for row in table.to_dict("records")
    ]
    unfolded = " open" if len(history.layers) <= MOST else ""
    return f"<details{unfolded}><summary>{escape(title)}</summary>{_table(head, rows)}</details>"


def _table(head: Iterable[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table, or nothing where it would be empty; layer names are shortened, the whole name is the tooltip."""
    if not rows:
        return ""
    left = 'style="text-align:left"'
    top = "".join(f"<th {left}>{escape(text)}</th>" for text in head)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows[: 4 * MOST])
    more = _small(f"and {len(rows) - 4 * MOST} more") if len(rows) > 4 * MOST else ""
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return f'<td style="text-align:left">{escape(str(value))}</td>'
    words = shorten(value, 40) if " " not in value else value
    return f'<td style="text-align:left" title="{escape(value)}">{escape(words)}</td>'


def _names(layers: Sequence[str]) -> str:
    return few([shorten(name, 24) for name in layers])


def _number(value: float) -> str:
    return "unreached" if pd.isna(value) else f"{value:.3g}"


def _title(text: str) -> str:
    return f'<div style="font-weight:bold">{escape(text)}</div>'


def _text(text: str) -> str:
    return f'<div style="margin:.2em 0;max-width:60em">{escape(text)}</div>' if text else ""


def _small(text: str) -> str:
    return f'<div style="{_SMALL}">{escape(text)}</div>' if text else ""


def _block(parts: Iterable[str]) -> str:
    return f'<div style="color:inherit">{"".join(parts)}</div>'
