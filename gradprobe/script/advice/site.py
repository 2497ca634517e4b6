"""What is known of a script, for one of its models: names and places. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from gradprobe.script.advice.edits import Edit
from gradprobe.script.advice.source import SourceLine


@dataclass(frozen=True)
class Step:
    """Where the script itself lets an optimizer step, and what it calls things there.

    Attributes:
        place: The statement.
        optimizer: The optimizer's name.
        model: The model's name.
        backward: The backward pass before it, in the same function.
        clears: Where the gradients are cleared between the two, if they are.
        clips: Where they are clipped between the two, if they are, and the call with a norm of 1.
        call: Where the model is called, in the same function.
        has_torch: Whether torch has its name there.
    """

    place: SourceLine
    optimizer: str | None
    model: str | None
    backward: SourceLine | None = None
    clears: SourceLine | None = None
    clips: Edit | None = None
    call: SourceLine | None = None
    has_torch: bool = False


@dataclass(frozen=True)
class Site:
    """What is known of a script, for one of its models.

    Attributes:
        model: What the script calls the model.
        built: After which statement the model is complete, and nothing is wrapped around it; None if not clear.
        wrapped: The statement that both makes the model and wraps it, with ``{}`` for what makes it; else empty.
        bare: What makes it in that statement.
        optimizer: The statement that builds its optimizer, or that calls what builds it: a library, a trainer.
        optimizer_name: What the script calls the optimizer there.
        in_method: Whether a method of the model builds the optimizer, of its own parameters.
        function: What computes its loss, as source, where that is clear.
        loss: The loss together with those of branches; empty where it is not clear how it is computed.
        others: Other calls of the model, of the trunk alone.
        tops: Where imports can be added, by file.
        step: Where the optimizer steps, in a loop of the script itself.
        loop: The library whose loop it is otherwise.
        part: Name of the part of the model that is called, where the model itself never is (``LightningModule``).
    """

    model: str | None = None
    built: SourceLine | None = None
    wrapped: str = ""
    bare: str = ""
    optimizer: SourceLine | None = None
    optimizer_name: str | None = None
    in_method: bool = False
    function: str | None = None
    loss: tuple[Edit, ...] = ()
    others: tuple[Edit, ...] = ()
    tops: tuple[SourceLine, ...] = ()
    step: Step | None = None
    loop: str = ""
    part: str = ""
