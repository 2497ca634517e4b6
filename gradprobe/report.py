"""A run as text: the table that the terminal shows, and the same rows as JSON and CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from gradprobe.comparison import Comparison
from gradprobe.history import GradientHistory, Points, describe_conditions, shorten
from gradprobe.magnitude import label
from gradprobe.policies import Placement


def result_frame(history: GradientHistory, placement: Placement) -> pd.DataFrame:
    """One row for each layer, in depth order, with what was measured and decided.

    Returns:
        Columns ``layer, depth, kind, parameters``, one for each quantity, ``unreached``, ``flagged``, ``point``
        (name of the point whose branch serves the layer, else empty).
    """
    table = history.summary()
    served = {layer: point.name for point in placement.points for layer in point.layers}
    table["flagged"] = table["layer"].isin(list(placement.flagged))
    table["point"] = [served.get(name, "") for name in table["layer"]]
    return table


def as_table(
    history: GradientHistory, placement: Placement, comparison: Comparison | None = None
) -> RenderableType:
    """The report for a terminal."""
    parts: list[RenderableType] = [_layer_table(history, placement)]
    parts += [Text(line, style="dim") for line in _notes(history, placement)]
    parts.append(Text(str(placement), style="bold" if placement.flagged else ""))
    if comparison is not None:
        parts.append(Text(f"\n{comparison}", style="bold"))
    return Group(*parts)


def as_json(history: GradientHistory, placement: Placement, comparison: Comparison | None = None) -> str:
    """The same for a program: one JSON object."""
    rows = result_frame(history, placement).to_dict("records")
    clean = [{str(key): _plain(value) for key, value in row.items()} for row in rows]
    result: dict[str, Any] = {
        "conditions": dict(history.conditions),
        "placement": placement.record(),
        "layers": clean,
    }
    if comparison is not None:
        gradient = comparison.gradient.reset_index(names="layer").to_dict("records")
        result["comparison"] = {
            "verdict": comparison.verdict,
            "sentences": str(comparison).splitlines(),
            "conditions": dict(comparison.conditions),
            "gradient": [{str(key): _plain(value) for key, value in row.items()} for row in gradient],
        }
    return json.dumps(result, indent=2, allow_nan=False)


def as_csv(history: GradientHistory, placement: Placement) -> str:
    """The same rows as CSV."""
    return str(result_frame(history, placement).to_csv(index=False, lineterminator="\n"))


def points_tree(points: Points, kinds: Mapping[str, str]) -> RenderableType:
    """The network as a tree of its modules, with its supervision points and the layer that each one serves.

    Args:
        points: The points.
        kinds: Class name of every module, by name, in the order in which to show them.
    """
    point_of = {name: point.name for point in points for name in point.layers}
    shapes = {point.name: point.shape for point in points}
    shown = {name for name in kinds if name in shapes or name in point_of or name in points.unserved}
    root = Tree(Text(points.summary()))
    branches = {"": root}
    for name, kind in kinds.items():
        if not any(other == name or other.startswith(f"{name}.") for other in shown):
            continue
        parent, _, own = name.rpartition(".")
        text = Text(f"{own or '(root)'} {kind}")
        if name in shapes:
            text.append(f" \N{BLACK CIRCLE} {shapes[name]}", style="bold green")
        if name in points.unserved:
            text.append(f" no point: {points.unserved[name]}", style="dim")
        elif name in point_of and not f"{name}.".startswith(f"{point_of[name]}."):
            text.append(f" \N{RIGHTWARDS ARROW} {point_of[name]}", style="green")
        branches[name] = branches[parent if name else ""].add(text)
    return root


def points_record(points: Points) -> dict[str, Any]:
    """The same for a program: plain JSON types."""
    return {"points": [asdict(point) for point in points], "unserved": dict(points.unserved)}


def points_csv(points: Points) -> str:
    """One row for each layer: the point that serves it, or the reason why none does."""
    rows = [(name, point.name, "") for point in points for name in point.layers]
    rows += [(name, "", why) for name, why in points.unserved.items()]
    frame = pd.DataFrame(rows, columns=["layer", "point", "unserved"])
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _layer_table(history: GradientHistory, placement: Placement) -> Table:
    title = f"{' and '.join(label(of) for of in history.of)}, median over the iterations"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("layer", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for of in history.of:
        table.add_column(of, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    points = {point.layers[-1] for point in placement.points}
    for row in result_frame(history, placement).to_dict("records"):
        name = str(row["layer"])
        mark = f"{'flagged' if row['flagged'] else ''}{' +branch' if name in points else ''}"
        numbers = [f"{row[of]:.2e}" if not pd.isna(row[of]) else "unreached" for of in history.of]
        # 78 columns with both quantities
        cells = [str(row["depth"]), shorten(name, 24), shorten(str(row["kind"]), 11), *numbers, mark.strip()]
        # Text, so that a layer called "[red]" is a name and no markup
        table.add_row(*map(Text, cells), style="red" if row["flagged"] else "")
    return table


def _notes(history: GradientHistory, placement: Placement) -> list[str]:
    conditions = history.conditions
    losses = [loss for loss in conditions.get("losses", []) if loss is not None]
    notes = [f"{history.iterations} iterations. {describe_conditions(conditions)}"]
    if losses:
        notes.append(f"loss {losses[0]:.4g} at the first iteration, {losses[-1]:.4g} at the last")
    unreached = [(name, why) for name, why in history.unreached.items() if name not in placement.skipped]
    for name, reasons in unreached[:10]:
        said = "; ".join(f"{of}: {why}" for of, why in reasons.items())
        notes.append(f"unreached: {shorten(name, 40)} ({said})")
    if len(unreached) > 10:
        notes.append(f"unreached: {len(unreached) - 10} more, see run.json")
    return notes


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None if value != value else str(value)
    return value.item() if hasattr(value, "item") else value
