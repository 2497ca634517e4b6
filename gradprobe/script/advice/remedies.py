"""The remedy for a cause as lines of a script, where lines can state it. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gradprobe.decide.remedies import REMEDIES
from gradprobe.script.advice.branches import imports
from gradprobe.script.advice.edits import AFTER, BEFORE, INSTEAD, Edit, shown
from gradprobe.script.advice.site import Site

if TYPE_CHECKING:  # it loads pandas, which a script may not need
    from gradprobe.decide.causes.finding import Finding
    from gradprobe.decide.diagnosis import Diagnosis

Lines = list[Edit] | None


def mend(diagnosis: Diagnosis, site: Site, named: Sequence[str] = ()) -> str:
    """What to change for the first cause that was found: lines, or where none can be right the remedy in words.

    Args:
        diagnosis: What is wrong.
        site: What is known of the script.
        named: The remedies that may mend it, the most likely first, by their names in `gradprobe.remedies`.

    Example:
        >>> from gradprobe.decide.causes.finding import Finding
        >>> from gradprobe.decide.diagnosis import Diagnosis
        >>> from gradprobe.script.advice.source import SourceLine
        >>> lost = Diagnosis("sick", (Finding("signal_collapse", ("fc",)),))
        >>> top, sgd = SourceLine("train.py", 1, "import torch"), SourceLine("train.py", 4, "sgd = SGD(...)")
        >>> print(mend(lost, Site("model", optimizer=sgd, tops=(top,)), ["lsuv"]))
        What to change (no file was changed):
          before line 1 of train.py, `import torch`:
            import gradprobe as gp
          before line 4 of train.py, `sgd = SGD(...)`:
            gp.apply_remedy(model, "lsuv")
        >>> mend(Diagnosis("healthy"), Site("model"))
        ''
    """
    if not diagnosis.findings:
        return ""
    finding = diagnosis.findings[0]
    if named and finding.cause in _OF_THE_NETWORK and not REMEDIES[named[0]].on_optimizer:
        edits = _applied(named[0], site)
    else:
        edits = _LINES[finding.cause](finding, site) if finding.cause in _LINES else None
    if not edits:
        return f"What to change, which no line to add can state: {finding.remedy}" if finding.remedy else ""
    return "\n".join(["What to change (no file was changed):", *shown([*imports(edits, site), *edits])])


def _before_optimizer(site: Site, *code: str) -> Lines:
    """Lines for the complete model, before it is trained."""
    if site.model is None or site.optimizer is None or _is_made_there(site):
        return None
    return [Edit(BEFORE, site.optimizer, code)]


def _is_made_there(site: Site) -> bool:
    """Whether the statement that builds the optimizer makes the model too."""
    built, optimizer = site.built, site.optimizer
    return (
        built is not None and optimizer is not None and (built.file, built.end) == (optimizer.file, optimizer.end)
    )


def _applied(remedy: str, site: Site) -> Lines:
    called = f"{site.model}.{site.part}" if site.part else site.model
    return _before_optimizer(site, f'gp.apply_remedy({called}, "{remedy}")')


def _each_layer(call: str) -> Callable[[Finding, Site], Lines]:
    """A method of each layer that has the cause."""

    def lines(finding: Finding, site: Site) -> Lines:
        names = ", ".join(f'"{name}"' for name in finding.layers)
        layer = f"    {site.model}.get_submodule(name).{call}"
        return _before_optimizer(site, f"for name in [{names}]:", layer) if finding.layers else None

    return lines


def _setting(change: str, needs: str = "") -> Callable[[Finding, Site], Lines]:
    """A setting of the optimizer, where the finding has what it `needs` among its evidence."""

    def lines(finding: Finding, site: Site) -> Lines:
        if site.optimizer is None or site.optimizer_name is None or (needs and not finding.evidence.get(needs)):
            return None
        each = f"for group in {site.optimizer_name}.param_groups:"
        return [Edit(AFTER, site.optimizer, (each, f"    group{change}"))]

    return lines


def _clear(finding: Finding, site: Site) -> Lines:
    step = site.step
    if step is None or step.optimizer is None:
        return None
    return [Edit(AFTER, step.place, (f"{step.optimizer}.zero_grad()",))]


def _clear_later(finding: Finding, site: Site) -> Lines:
    step, after = site.step, _clear(finding, site)
    if step is None or after is None or step.clears is None:
        return None
    return [Edit(INSTEAD, step.clears, ("pass",)), *after]


def _clip_less(finding: Finding, site: Site) -> Lines:
    return [site.step.clips] if site.step is not None and site.step.clips is not None else None


def _clip(finding: Finding, site: Site) -> Lines:
    step = site.step
    if step is None or step.model is None or step.backward is None:
        return None
    code = [f"torch.nn.utils.clip_grad_norm_({step.model}.parameters(), max_norm=1.0)"]
    scaler = re.fullmatch(r"(\w[\w.]*)\.step\((.+)\)", step.place.text)
    if scaler and scaler.group(1) != step.optimizer and scaler.group(2) == step.optimizer:
        code.insert(0, f"{scaler.group(1)}.unscale_({step.optimizer})")
    return [Edit(BEFORE, step.place, tuple(code))]


def _train_mode(finding: Finding, site: Site) -> Lines:
    step = site.step
    if step is None or step.model is None or step.call is None:
        return None
    return [Edit(BEFORE, step.call, (f"{step.model}.train()",))]


_OF_THE_NETWORK = frozenset({"signal_collapse", "dead_units", "saturated", "exploding"})
"""Causes that other initial weights or normalisation may mend; units that are all alike need just a new start."""

_LINES: dict[str, Callable[[Finding, Site], Lines]] = {
    "symmetry": _each_layer("reset_parameters()"),
    "saturated": _each_layer("reset_parameters()"),
    "frozen": _each_layer("requires_grad_(True)"),
    "exploding": _clip,
    "clipped": _clip_less,
    "zero_grad_missing": _clear,
    "grad_zeroed": _clear_later,
    "eval_mode": _train_mode,
    "lr_high": _setting('["lr"] *= 0.1'),
    "lr_low": _setting('["lr"] *= 10'),
    "signal_collapse": _setting('["weight_decay"] = 0.0001', needs="weight_decay"),
}
