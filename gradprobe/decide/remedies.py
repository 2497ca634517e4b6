"""The remedies in words: what each changes, what to know before, and how to do it. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

_NEW_WEIGHTS = "It draws new weights, so it is only for a model trained from scratch."


@dataclass(frozen=True)
class RemedyText:
    """A remedy in words: what changes in the network, what to know before, and what stays in it.

    Attributes:
        change: What it changes, in a few words.
        caution: What to know before.
        stays: What is more in the network or its training afterwards: 0 nothing (other numbers in the same
            places), 1 something in the training, 2 something in the network.
        on_optimizer: Whether it changes the optimizer and not the network.
    """

    change: str
    caution: str
    stays: int = 0
    on_optimizer: bool = False


REMEDIES = {
    "kaiming": RemedyText("initial weights after He et al.", _NEW_WEIGHTS),
    "xavier": RemedyText("initial weights by the activation after each layer (Xavier, He)", _NEW_WEIGHTS),
    "lsuv": RemedyText("initial weights of unit variance", _NEW_WEIGHTS),
    "within_channel": RemedyText("initial weights and biases by which each unit has variance 1", _NEW_WEIGHTS),
    "orthogonal": RemedyText("orthogonal recurrent weights and an open forget gate", _NEW_WEIGHTS),
    "residual_scaled": RemedyText("residual branches divided by the root of how many there are", _NEW_WEIGHTS),
    "learning_rate": RemedyText(
        "a learning rate by which steps move weights by 3e-3 of their size",
        "A scheduler is built after it.",
        stays=0,
        on_optimizer=True,
    ),
    "clipping": RemedyText(
        "the gradient clipped at a norm of 1", "It acts in every step.", stays=1, on_optimizer=True
    ),
    "normalised": RemedyText(
        "batch normalisation after each layer",
        "It puts batch normalisation after each layer, so the names of what is below them change.",
        stays=2,
    ),
}
"""Those of `gradprobe.remedies`, which needs torch."""


def remedy_code(name: str) -> str:
    """The line that does it, in the names that gradprobe's own code uses.

    Example:
        >>> remedy_code("lsuv")
        'remedies.lsuv(model, x)'
        >>> remedy_code("learning_rate")
        'remedies.learning_rate(optimizer, history)'
    """
    on_optimizer = name in REMEDIES and REMEDIES[name].on_optimizer
    return f"remedies.{name}({'optimizer, history' if on_optimizer else 'model, x'})"
