"""Where a running script makes a model, builds its optimizer, calls it and steps: from frames and source."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from torch import nn
from torch.optim import Optimizer

from gradprobe.network.layers import unwrap
from gradprobe.script.advice.edits import INSTEAD, Edit
from gradprobe.script.advice.losses import loss_at
from gradprobe.script.advice.other_calls import other_calls
from gradprobe.script.advice.site import Site, Step
from gradprobe.script.advice.source import (
    SourceLine,
    built_at,
    first_statement,
    is_loop_variable,
    line_of,
    own_expressions,
    statement_at,
    statements,
    targets,
    wraps,
)
from gradprobe.script.births import Place
from gradprobe.script.frames import (
    file_name,
    library_of,
    local_names,
    names_of,
    script_frames,
    source,
    source_of,
    tensor_names,
    value_of,
)


@dataclass(frozen=True)
class Called:
    """Where a model was called, as far as it is kept from the frame.

    Attributes:
        file: The file, with its folder.
        line: The line.
        trunks: What the model is called there, and what its trunk will be once it is supervised.
        tensors: Names that hold tensors there.
    """

    file: str
    line: int
    trunks: Mapping[str, str]
    tensors: tuple[str, ...]


def called_at(model: nn.Module, frame: FrameType | None) -> Called | None:
    """From where in the script a model is being called, or could be."""
    for one in script_frames(frame):
        trunks = {
            name: f"{name}.trunk" if value_of(name, one) is unwrap(model) else f"{name}.module.trunk"
            for name in names_of(model, one)
        }
        if trunks:
            return Called(one.f_code.co_filename, one.f_lineno, trunks, tuple(tensor_names(one)))
    return None


def site_of(model: nn.Module, frame: FrameType | None, made: Sequence[Place]) -> Site:
    """The script's name for a model, and where it is made; outer functions first, where it is built.

    A loop's variable names one model after the other, so that the class says more, unless it is one of torch's
    containers.

    Args:
        model: The model, bare or not.
        frame: Where its optimizer is being built.
        made: Where it was made, if that is known.
    """
    frames = list(script_frames(frame))
    first: tuple[str, FrameType] | None = None
    own_class = not type(unwrap(model)).__module__.startswith("torch.nn")
    for one in reversed(frames):
        for name in local_names(model, one):
            site = _built(name, one, made)
            if site is not None:
                return _with_optimizer(site, name, model, one, frames)
            if not (own_class and is_loop_variable(source(one), name, one.f_lineno)):
                first = first or (name, one)
    if first is None:
        return Site(optimizer=_current(frames[0]) if frames else None)
    return _with_optimizer(Site(first[0]), *first[:1], model, first[1], frames)


def _built(name: str, frame: FrameType, made: Sequence[Place]) -> Site | None:
    """Where a name got the model, in the function of a frame or in another method."""
    before = frame.f_lineno
    for place in made:
        same = place.code is frame.f_code
        if same or name.startswith("self."):
            text, file = source_of(place.code.co_filename), Path(place.code.co_filename).name
            found = built_at(text, file, name, _line(text, before) if same else None, place.line)
            if found is not None:
                return _site(name, *found)
    text = source(frame)
    found = built_at(text, file_name(frame), name, _line(text, before))
    return _site(name, *found) if found is not None else None


def _line(text: str, line: int) -> int:
    """The first line of the statement that a line belongs to."""
    node = statement_at(text, line)
    return node.lineno if node is not None else line


def _site(name: str, built: SourceLine, node: ast.stmt) -> Site:
    call = getattr(node, "value", None)
    if not wraps(node) or not isinstance(call, ast.Call) or not call.args or len(targets(node)) != 1:
        return Site(name, built)
    bare = ast.unparse(call.args[0])
    whole = ast.unparse(node)
    return Site(name, built, whole.replace("{", "{{").replace("}", "}}").replace(bare, "{}", 1), bare)


def _with_optimizer(
    site: Site, name: str, model: nn.Module, frame: FrameType, frames: Sequence[FrameType]
) -> Site:
    """Add where the optimizer is built, as the function sees it that the model has its name in."""
    optimizer, node = _current(frame), statement_at(source(frame), frame.f_lineno)
    assigned = targets(node) if node is not None else []
    inside = frames[0].f_locals.get("self")
    in_method = frame is not frames[0] and isinstance(inside, nn.Module) and unwrap(inside) is unwrap(model)
    top = first_statement(source(frame), file_name(frame))
    return replace(
        site,
        optimizer=optimizer,
        optimizer_name=assigned[0] if len(assigned) == 1 and assigned[0] != name else None,
        in_method=in_method and not hasattr(inside, "training_step"),
        tops=() if top is None else (top,),
    )


def _current(frame: FrameType) -> SourceLine:
    node = statement_at(source(frame), frame.f_lineno)
    return SourceLine(file_name(frame), frame.f_lineno) if node is None else line_of(node, file_name(frame))


def with_step(site: Site, model: nn.Module, optimizer: Optimizer, frame: FrameType | None) -> Site:
    """Add what is seen when the optimizer steps: whose loop it is, and in one of the script's own where."""
    frames = list(script_frames(frame))
    loop = library_of(frame)
    if not frames or loop:
        return replace(site, loop=loop)
    here = frames[0]
    site = replace(site, step=_step(here, _line(source(here), here.f_lineno), names_of(model, here), optimizer))
    called = called_at(model, here)
    return site if called is None else with_loss(site, called)


def with_loss(site: Site, called: Called) -> Site:
    """Add where the loss is computed, in a function that calls the model, or lets the optimizer step."""
    text, file = source_of(called.file), Path(called.file).name
    found = list(statements(text, called.line))
    step = site.step.place.line if site.step is not None and site.step.place.file == file else None
    is_in_it = step is not None and any(node.lineno == step for node in found)
    loss = loss_at(found, file, called.trunks, step if is_in_it else None, called.tensors)
    if loss is None:
        return site
    top = first_statement(text, file)
    tops = site.tops if top is None or top in site.tops else (*site.tops, top)
    others = () if site.loop else tuple(other_calls(text, file, loss, called.trunks))
    return replace(site, function=loss.function, loss=loss.edits, others=others, tops=tops)


def _step(frame: FrameType, line: int, names: Sequence[str], optimizer: Optimizer) -> Step:
    """What stands between the backward pass and the step."""
    file, text = file_name(frame), source(frame)
    held = names_of(optimizer, frame)
    simple = [node for node in statements(text, line) if not getattr(node, "body", None)]
    backward = [node for node in simple if node.lineno <= line and ".backward(" in ast.unparse(node)]
    between = [node for node in simple if backward and backward[-1].lineno < node.lineno <= line]
    clears = next((node for node in between if "zero_grad(" in ast.unparse(node)), None)
    clips = next(filter(None, (_clip(node, file) for node in between)), None)
    calls = [
        node for node in simple if node.lineno <= line and any(f"{name}(" in ast.unparse(node) for name in names)
    ]
    return Step(
        _current(frame),
        held[0] if held else None,
        names[0] if names else None,
        line_of(backward[-1], file) if backward else None,
        None if clears is None else line_of(clears, file),
        clips,
        line_of(calls[-1], file) if calls else None,
        "torch" in {*frame.f_globals, *frame.f_locals},
    )


def _clip(node: ast.stmt, file: str) -> Edit | None:
    """A call that clips gradients, with a norm of 1."""
    for call in own_expressions(node):
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        if isinstance(call, ast.Call) and call.args and name.endswith(("clip_grad_norm_", "clip_grad_value_")):
            text = f"torch.nn.utils.clip_grad_norm_({ast.unparse(call.args[0])}, max_norm=1.0)"
            return Edit(INSTEAD, line_of(node, file), (text,))
    return None
