"""An architecture of the zoo: how it is built, called and trained, and where its points may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

Places = tuple[tuple[str, ...], tuple[str, ...]]  # patterns of what has to be a point, of what must not be one


@dataclass(frozen=True)
class Architecture:
    """A network and everything that is needed to train it.

    Attributes:
        name: Name of its row in the matrix.
        build: Builds the network, in training mode; draws its weights from torch's global generator.
        inputs: Makes what it is called with: a tensor, a tuple of positional or a dict of keyword arguments.
        target: Makes the target of one batch.
        loss: ``(output, target) -> scalar``.
        library: ``"transformers"``, ``"monai"`` or ``"torch"``.
        expected: Each of these patterns has to match a point's whole name.
        forbidden: None of these patterns may match a point's whole name.
        long_skips: Whether long bypasses cross most of it (U-Nets, encoder-decoders; several inputs, streams or
            outputs), so that a point need not lie on every path from the input to the output.
        branch: As `gradprobe.supervise` takes it.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    target: Callable[[], Any]
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    library: str = "torch"
    expected: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    long_skips: bool = False
    branch: Any = "auto"


def with_places(architectures: Sequence[Architecture], places: Mapping[str, Places]) -> list[Architecture]:
    """The architectures, each with the places of its name."""
    changed = []
    for architecture in architectures:
        expected, forbidden = places[architecture.name]
        changed.append(replace(architecture, expected=expected, forbidden=forbidden))
    return changed
