"""The conditions that gradients were recorded under: batch size, loss, optimizer, seed, device, ... Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PRINTED = {
    "target": "{}",
    "data": "data: {}",
    "batch_size": "batch size {}",
    "loss": "loss: {}",
    "optimizer": "{}",
    "learning_rates": "learning rate {} at the first iteration, {} at the last",
    "micro_batches": "{} micro-batches in an iteration",
    "dtype": "{}",
    "device": "{}",
    "seed": "seed {}",
    "stopped": "incomplete: {}",
}


def describe_conditions(conditions: Mapping[str, Any]) -> str:
    """The conditions that a magnitude depends on, on one line.

    Example:
        >>> describe_conditions({"target": "net.py", "data": "digits", "batch_size": 64, "seed": 0})
        'net.py, data: digits, batch size 64, seed 0'
        >>> describe_conditions({"learning_rates": [0.1, 0.05], "micro_batches": 4})
        'learning rate 0.1 at the first iteration, 0.05 at the last, 4 micro-batches in an iteration'
    """
    known = ((text, _known(key, conditions)) for key, text in _PRINTED.items())
    return ", ".join(
        text.format(*value) if isinstance(value, list) else text.format(value)
        for text, value in known
        if value is not None
    )


def _known(key: str, conditions: Mapping[str, Any]) -> Any:
    """A condition; a batch size that was looked for and not found is unknown."""
    value = conditions.get(key)
    if key == "micro_batches" and value == 1:
        return None
    return "unknown" if key == "batch_size" and key in conditions and value is None else value


def with_codes(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions with the codes that runs of version 0.1.0 do not have, taken from their sentences.

    Example:
        >>> with_codes({"loss": "MSELoss (sum)"})
        {'reduction': 'sum', 'loss': 'MSELoss (sum)'}
    """
    codes: dict[str, Any] = {"synthetic": "synthetic" in str(conditions.get("data", "")).lower()}
    name, _, reduction = str(conditions.get("loss", "")).removesuffix(")").rpartition(" (")
    codes["reduction"] = reduction if name and reduction in ("mean", "sum", "none") else None
    return {**{key: code for key, code in codes.items() if code}, **conditions}
