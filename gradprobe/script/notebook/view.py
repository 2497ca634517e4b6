"""What stands below a cell under ``%%gradprobe``: how far it is, then the verdict, the figures and the table."""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
import torch

from gradprobe.decide.auto import open_remedies
from gradprobe.decide.diagnosis import diagnose, diagnosis_html
from gradprobe.decide.policies import place
from gradprobe.measure.preview import Preview
from gradprobe.record.history import history_html
from gradprobe.record.html import bars, block, folded, legend, small, span_of, title
from gradprobe.record.placement import placement_html
from gradprobe.record.quantities import CNDS_THRESHOLD, short
from gradprobe.script.advice.remedies import mend
from gradprobe.script.run import RecordedModel
from gradprobe.script.training import Training, shown_name

INTERVAL = 0.25  # seconds between two pictures, at least


class CellView:
    """The output of a cell; the notebook asks for it again whenever it has changed.

    Args:
        iterations: Length of the window.

    Example:
        >>> print(CellView(50))
        recording the first 50 iterations
    """

    def __init__(self, iterations: int) -> None:
        self.full = self.training = False
        self._iterations, self._next = iterations, 0.0
        self._recorded, self._name = 0, ""
        self._preview: Preview | None = None
        self._magnitudes: dict[str, float | None] = {}
        self._models: Sequence[RecordedModel] = ()
        self._sentences: Sequence[str] = ()
        self._figures: dict[str, dict[str, bytes]] = {}

    def look_at(self, training: Training) -> bool:
        """Look at the newest iteration of a training, at most a few times a second; says whether to show it."""
        probe, now = training.probe, time.monotonic()
        if probe is None or now < self._next:
            return False
        self.training, self._name, self._recorded = True, shown_name(training), probe.recorded
        if self._preview is None:
            self._preview = probe.glimpse(torch.zeros(()))
        if self._preview.arrived:
            self._magnitudes, self._preview = self._preview.magnitudes, None
        self._next = now + INTERVAL
        return True

    def conclude(self, models: Sequence[RecordedModel], sentences: Sequence[str]) -> None:
        """Show the result from now on.

        Args:
            models: What was recorded.
            sentences: What was not recorded, and why.
        """
        self.full, self._models, self._sentences = True, models, sentences

    def draw(self) -> None:
        """Draw the figures; the training has ended."""
        for model in self._models:
            self._figures[model.name] = _figures(model)

    def __repr__(self) -> str:
        if not self.full:
            return self._progress()
        return "\n\n".join([*(str(diagnose(model.history)) for model in self._models), *self._sentences])

    def _progress(self) -> str:
        of = f" of {self._name}" if self._name else ""
        if not self._recorded:
            return f"recording the first {self._iterations} iterations{of}"
        return f"recording iteration {self._recorded} of {self._iterations}{of}"

    def _repr_html_(self) -> str:
        if not self.full:
            return block([title(self._progress()), _bars_of(self._magnitudes)])
        parts = [self._model_html(model) for model in self._models]
        return block([*parts, *map(small, self._sentences)])

    def _model_html(self, model: RecordedModel) -> str:
        history, placement = model.history, place(model.history)
        diagnosis = diagnose(history)
        lines = mend(diagnosis, model.site, open_remedies(history, diagnosis))
        parts = [title(model.name) if len(self._models) > 1 else "", diagnosis_html(diagnosis)]
        if lines:
            parts.append(f"<pre>{escape(lines)}</pre>")
        drawn = self._figures.get(model.name, {})
        parts += [_image(name, data) for name, data in drawn.items()]
        if not drawn:
            parts.append(small("the figures follow when the cell has ended"))
        return block([*parts, history_html(history), folded("branches", placement_html(placement), is_open=False)])


def _bars_of(magnitudes: dict[str, float | None]) -> str:
    """The gradient by depth in one iteration."""
    if not magnitudes:
        return ""
    arrived = pd.Series({name: value for name, value in magnitudes.items() if value is not None}, dtype=float)
    low = set(arrived.index[arrived < CNDS_THRESHOLD])
    names = list(magnitudes)
    picture = bars(arrived, names, "output", low, span_of([arrived]))
    return picture + small(legend(arrived, names, "output", low, f"below {short(CNDS_THRESHOLD)}"))


def _figures(model: RecordedModel) -> dict[str, bytes]:
    """The figures of a run by name; none where they cannot be drawn, as without room for their files."""
    from gradprobe.show.plots import own_style, save_figures  # not above: the training may have ended before

    try:
        with tempfile.TemporaryDirectory() as folder, own_style():
            files = save_figures(Path(folder), model.history, place(model.history))
            return {file.stem: file.read_bytes() for file in files}
    except Exception:
        return {}


def _image(name: str, data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    style = "max-width:48%;display:inline-block;vertical-align:top;background:white"
    return f'<img alt="{escape(name)}" style="{style}" src="data:image/png;base64,{text}">'
