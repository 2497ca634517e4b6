"""For a project's own tests: assert that the gradient reaches every layer, and say where it does not.

Needs no test framework. With pytest the fixture ``gradients_reach`` does the same and keeps the run of a failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from torch import nn

from gradprobe.decide.causes.finding import CAUSES, FINDINGS
from gradprobe.decide.diagnosis import diagnose
from gradprobe.decide.explain import explain
from gradprobe.decide.findings import EXPLODING, findings
from gradprobe.decide.findings import unreached as unreached_layers
from gradprobe.decide.policies import Policy, place
from gradprobe.measure.batches import Source
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.measure.scan import scan
from gradprobe.network.layers import matching_names, named_layers
from gradprobe.network.losses import LossFunction
from gradprobe.record.conditions import describe_conditions
from gradprobe.record.history import GradientHistory, Layer
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import label, short
from gradprobe.record.text import counted, few, shorten
from gradprobe.record.text_bars import RowBars

WIDTH = 28  # of a bar, in characters
MOST_ROWS = 40
ENDS = 4  # rows that are left at either end of a run of equal layers, where there are too many
UNREACHED = ("fail", "ignore")
LOST = ("signal_collapse", "dead_units", "saturated")  # causes for which signal or gradient do not get through

LayersByKind = Mapping[str, Sequence[str]]  # by kind of finding
ReachCheck = Callable[..., GradientHistory]  # `assert_gradients_reach`, and what the fixture makes of it


class GradientReachError(AssertionError):
    """The gradient of some layer vanishes, explodes, is not finite or never arrives.

    Attributes:
        history: What was recorded.
        placement: What the policy decided from it.
    """

    def __init__(self, message: str, history: GradientHistory, placement: Placement) -> None:
        super().__init__(message)
        self.history = history
        self.placement = placement

    def with_note(self, note: str) -> GradientReachError:
        """The same with one more line in its message."""
        return GradientReachError(f"{self}\n{note}", self.history, self.placement)


def assert_gradients_reach(
    model: nn.Module,
    batches: Source,
    loss_fn: LossFunction,
    iterations: int = 10,
    *,
    policy: Policy | str | None = None,
    layers: Iterable[str] | None = None,
    optimizer: OptimizerFactory | None = None,
    unreached: str = "fail",
    seed: int | None = 0,
) -> GradientHistory:
    """Train a little and assert that every layer gets a gradient; the model is bit-identical afterwards.

    It fails where the diagnosis finds that the signal or the gradient is lost (see `gradprobe.diagnose`), where a
    layer is flagged by the policy (vanishing), where its mean magnitude exceeds 1e3 in some iteration (exploding),
    where its gradient or the loss is NaN or infinite, and where no gradient arrives, at its output or its weight,
    though the layer is not frozen.

    Args:
        model: Any module.
        batches: Iterable of ``(inputs, target)`` or a function returning one; see `gradprobe.scan`.
        loss_fn: ``(output, target) -> scalar``.
        iterations: Optimizer steps to record.
        policy: What counts as vanishing: by default CNDS' rule, below 1e-7 on the outputs' gradient (Wang et al.
            2015, section 3), unless the diagnosis finds the network healthy.
        layers: Names or shell patterns of the layers to check; all by default. All are recorded.
        optimizer: ``model -> Optimizer``; SGD with lr 0.01 by default.
        unreached: ``"ignore"`` lets layers pass that no gradient arrives at, as long as one arrives at some layer.
        seed: Seeds every generator first, so that the same test gives the same result; None leaves them as they
            are. They are put back either way.

    Returns:
        What was recorded.

    Raises:
        GradientReachError: An AssertionError whose message begins with the cause and what mends it, names the
            layers, and shows the magnitudes by depth as bars.
        ValueError: If no layer has such a name, nothing in the model can be trained, or the loss does not depend
            on it.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> assert_gradients_reach(net, batches, nn.functional.cross_entropy).iterations
        10
    """
    __tracebackhide__ = True  # pytest shows the line of the test, not these
    if unreached not in UNREACHED:
        raise ValueError(f"expected unreached= to be one of {list(UNREACHED)}, got {unreached!r}")
    wanted = None if layers is None else set(matching_names(named_layers(model), layers))
    history = scan(model, batches, loss_fn, iterations, optimizer=optimizer, seed=seed)
    names = [layer.name for layer in history.layers if wanted is None or layer.name in wanted]
    placement = place(history, policy)
    by_kind = _findings_in(names, history, placement, unreached, is_default=policy is None)
    if by_kind or _stopped(history):
        how = getattr(policy, "aggregate", "median")
        raise GradientReachError(_message(history, placement, by_kind, names, how), history, placement)
    return history


def text_profile(
    history: GradientHistory,
    placement: Placement,
    found: LayersByKind | None = None,
    *,
    layers: Iterable[str] | None = None,
    how: str = "median",
) -> str:
    """The magnitude of every layer by depth, as text: a bar for each on a log scale, the threshold marked.

    Long runs of layers with the same findings are folded into one line.

    Args:
        history: What to show.
        placement: Whose quantity and threshold to show.
        found: What to write after the bars: layers by kind of finding; by default those of
            `gradprobe.decide.findings.findings`.
        layers: Names of the layers to show; all by default.
        how: Aggregation over the iterations.

    Example:
        >>> from gradprobe.record.history import tidy
        >>> sizes = {"conv1": 1e-9, "conv2": 1e-6, "fc": 1e-2}
        >>> rows = [(0, name, i, "output", size, 0, 0, 0, 0) for i, (name, size) in enumerate(sizes.items())]
        >>> layers = tuple(Layer(name, i, "Linear", 9) for i, name in enumerate(sizes))
        >>> history = GradientHistory(tidy(rows), {}, layers, (), None)
        >>> print(text_profile(history, place(history)))
        mean |dL/d output| by depth, median over 1 iteration, log scale, | is 1e-7
           0 conv1     1e-9 █       |                    vanishing
           1 conv2     1e-6 ████████|███
           2 fc        0.01 ████████|█████████████████
    """
    found = findings(history, placement) if found is None else found
    wanted = None if layers is None else set(layers)
    shown = [layer for layer in history.layers if wanted is None or layer.name in wanted]
    values = history.aggregate(placement.of, how).to_dict()
    kinds = {
        layer.name: ", ".join(kind for kind, names in found.items() if layer.name in names) for layer in shown
    }
    reached = [values[layer.name] for layer in shown if layer.name in values]
    bars = RowBars(reached, placement.threshold, WIDTH)
    width = max((len(shorten(layer.name, 24)) for layer in shown), default=0)
    rows = [_row(layer, values.get(layer.name), kinds[layer.name], bars, width) for layer in shown]
    mark = "" if placement.threshold is None else f", | is {short(placement.threshold)}"
    over = counted(history.iterations, "iteration")
    title = f"{label(placement.of)} by depth, {how} over {over}, log scale{mark}"
    return "\n".join([title, *_folded(rows, [kinds[layer.name] for layer in shown])])


def _row(layer: Layer, value: float | None, kinds: str, bars: RowBars, width: int) -> str:
    number = "none" if value is None else "nan, inf" if math.isinf(value) else short(value)
    return f"{layer.depth:>4} {shorten(layer.name, 24):<{width}} {number:>8} {bars.bar(value)} {kinds}".rstrip()


def _folded(rows: Sequence[str], kinds: Sequence[str]) -> Iterator[str]:
    """The rows; where there are too many, the middle of each long run of equal findings becomes one line."""
    for kind, run in groupby(range(len(rows)), kinds.__getitem__):
        places = list(run)
        if len(rows) <= MOST_ROWS or len(places) <= 2 * ENDS + 1:
            yield from (rows[place] for place in places)
        else:
            yield from (rows[place] for place in places[:ENDS])
            yield f"     … {len(places) - 2 * ENDS} more {kind}".rstrip()
            yield from (rows[place] for place in places[-ENDS:])


def _findings_in(
    names: Sequence[str], history: GradientHistory, placement: Placement, unreached: str, *, is_default: bool
) -> dict[str, list[str]]:
    """The findings in these layers, by kind, in the order of `FINDINGS`."""
    diagnosis = diagnose(history)
    rows = history.frame[history.frame["nonfinite"].notna()]
    arrived = set(rows["layer"]) & set(names)
    missing = list(names) if not arrived else unreached_layers(history) if unreached == "fail" else []
    everywhere = {**findings(history, placement), "unreached": missing}
    if is_default and diagnosis.verdict == "healthy":  # magnitudes are small in sound networks too
        everywhere.pop("vanishing", None)
    if "vanishing" not in everywhere:
        everywhere |= {one.cause: list(one.layers) for one in diagnosis.findings if one.cause in LOST}
    by_kind = {kind: [name for name in everywhere.get(kind, []) if name in names] for kind in (*FINDINGS, *LOST)}
    return {kind: layers for kind, layers in by_kind.items() if layers}


def _stopped(history: GradientHistory) -> str | None:
    stopped: str | None = history.conditions.get("stopped")
    return stopped


def _message(
    history: GradientHistory, placement: Placement, by_kind: LayersByKind, names: Sequence[str], how: str
) -> str:
    diagnosis = diagnose(history)
    cause = str(diagnosis).splitlines()[:2] if diagnosis.verdict == "sick" else []
    return "\n".join(
        [
            *cause,
            _headline(by_kind, _stopped(history)),
            text_profile(history, placement, by_kind, layers=names, how=how),
            describe_conditions(history.conditions),
            *_advice(history, placement, by_kind),
        ]
    )


def _headline(by_kind: LayersByKind, stopped: str | None) -> str:
    if not by_kind:
        return f"{stopped}: the record ends there"
    parts = [f"{_in_words(kind)} at {_listed(names)}" for kind, names in by_kind.items()]
    begins = "" if next(iter(by_kind)) in LOST else "the gradient is "
    return begins + "; ".join([*parts, stopped] if stopped else parts)


def _in_words(kind: str) -> str:
    return CAUSES[kind] if kind in LOST else kind.replace("_", " ")


def _listed(names: Sequence[str], most: int = 5) -> str:
    return f"{counted(len(names), 'layer')} ({few([shorten(name, 40) for name in names], most)})"


def _advice(history: GradientHistory, placement: Placement, by_kind: LayersByKind) -> Iterator[str]:
    """What to do, a line or two for each kind of finding."""
    if "vanishing" in by_kind:
        yield f"vanishing ({placement.policy}): {placement.reason}"
        if placement.points:
            yield (
                "  look at the initialisation, normalisation and residual connections first; gradprobe.supervise "
                "puts branches there, gradprobe.compare says whether they help"
            )
        if placement.disagreement:
            yield f"  {placement.disagreement}"
    if "exploding" in by_kind:
        yield (
            f"exploding (above {EXPLODING:g}): look at the scale of the loss and of the initialisation, add "
            "normalisation, or lower the learning rate if it begins small"
        )
    if "nonfinite" in by_kind:
        yield f"nonfinite: {_first_nonfinite(history, by_kind['nonfinite'])}"
    for name in list(by_kind.get("unreached", ()))[:5]:
        yield f"unreached: {shorten(name, 40)}: {_reasons(history, name)}"
    if "unreached" in by_kind:
        yield "  use these layers in the forward, freeze or remove them, or pass unreached='ignore'"
    for finding in explain(history, placement):
        if finding.cause in ("not_held", "zero_weight") and finding.cause in by_kind:
            yield f"{finding.cause.replace('_', ' ')}: {finding.sentence} {finding.remedy}"


def _first_nonfinite(history: GradientHistory, names: Sequence[str]) -> str:
    rows = history.frame[(history.frame["nonfinite"] > 0) & history.frame["layer"].isin(list(names))]
    first = int(rows["iteration"].min())
    where = rows.loc[rows["iteration"] == first, ["depth", "layer"]].sort_values("depth")["layer"].iloc[-1]
    return (
        f"first in iteration {first}, nearest the output at {shorten(str(where), 40)}; "
        "torch.autograd.set_detect_anomaly(True) names the operation"
    )


def _reasons(history: GradientHistory, name: str) -> str:
    reasons = history.unreached.get(name, {})
    return "; ".join(dict.fromkeys(reasons.values())) or "no gradient was recorded"
