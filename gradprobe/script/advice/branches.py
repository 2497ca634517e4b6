"""The lines that add the branches of a placement to a script, or in words what to do instead. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gradprobe.record.text import few, quoted, shorten
from gradprobe.script.advice.edits import AFTER, BEFORE, INSTEAD, Edit, shown
from gradprobe.script.advice.site import Site
from gradprobe.script.advice.source import SourceLine

if TYPE_CHECKING:  # it loads pandas, which a script may not need
    from gradprobe.record.placement import Placement

_GRADPROBE, _TORCH = "import gradprobe as gp", "import torch"
_COMPUTES = (
    "The loss is computed in the loop of {loop}, not in the script, so no line of the script can be changed. "
    "gradprobe run --keep-going records that loop and lets it train on, and so does gradprobe's callback for "
    "transformers and Lightning. To train with branches override the method that computes the loss (compute_loss "
    'of a transformers Trainer), by gp.DeepSupervisionLoss(loss_fn, weight=0.3, schedule="constant")({name}(...), '
    "target), and give the trainer the model {call}."
)
_UNKNOWN = (
    "How the loss is made of the output is not clear. Where it is computed, let "
    'gp.DeepSupervisionLoss(loss_fn, weight=0.3, schedule="constant")({name}(x), y) do it: loss_fn gets what '
    "{name}(...) returned before, and y. What the script does to the output before the loss belongs in loss_fn, "
    "so that it is done to the branches' output as well."
)


def advise(placement: Placement, site: Site, run: str, when: str = "") -> str:
    """The lines to add to the script; empty where the placement has no branch.

    Args:
        placement: The decision.
        site: What is known of the script.
        run: Folder of the run, which holds the placement and its shapes.
        when: When to add them, as a clause; empty for now.

    Example:
        >>> from gradprobe.record.placement import Placement
        >>> from gradprobe.record.points import Point
        >>> placement = Placement("by hand", ("a",), (Point("a", (8, 4), 0, ("a",)),), "", output_shape=(8, 2))
        >>> lines = [SourceLine("train.py", *one) for one in ((1, "import torch"), (3, "model = Net()"), (4, ""))]
        >>> loss = Edit(INSTEAD, SourceLine("train.py", 9, "loss = mse_loss(model(x), y)"), ("loss = ...",))
        >>> site = Site("model", lines[1], optimizer=lines[2], loss=(loss,), tops=(lines[0],))
        >>> print(advise(placement, site, "runs/train"))
        What to add (no file was changed):
          before line 1 of train.py, `import torch`:
            import gradprobe as gp
          after line 3 of train.py, `model = Net()`:
            model = gp.supervise(model, gp.load("runs/train").placement)  # a branch after a
          in place of line 9 of train.py, `loss = mse_loss(model(x), y)`:
            loss = ...
        In training model(...) then returns (output, auxiliary): .output is what it returned before.
        In eval() it returns just that. Whether branches help shows only in training: often they do not.
        >>> advise(Placement("by hand", (), (), "None needed: all is well."), Site("model"), "runs/train")
        ''
    """
    if not placement.points:
        return ""
    head = f"What to add {when}".rstrip()
    called = ".".join(filter(None, [site.model or "model", site.part]))
    if site.loop and not site.loss:
        call = _call(placement, called, site.part, run)
        return f"{head}: {_COMPUTES.format(loop=site.loop, name=called, call=call)}"
    edits = [*_inserted(placement, site, run)] if site.loss else []
    words = [] if edits else [*_in_words(placement, site, run)]
    edits += [*site.loss, *site.others]
    words += [] if site.loss else [_UNKNOWN.format(name=called)]
    lines = [f"{head} (no file was changed):", *shown([*imports(edits, site), *edits]), *words]
    return "\n".join(
        [
            *lines,
            f"In training {called}(...) then returns (output, auxiliary): .output is what it returned before.",
            "In eval() it returns just that. Whether branches help shows only in training: often they do not.",
        ]
    )


def imports(edits: Sequence[Edit], site: Site) -> list[Edit]:
    """What they need, at the top of every file that the lines go into."""
    found = []
    for top in site.tops:
        code = " ".join(line for edit in edits if edit.place.file == top.file for line in edit.code)
        needed = [_GRADPROBE] if "gp." in code else []
        needed += (
            [_TORCH] if "torch.nn.utils." in code and site.step is not None and not site.step.has_torch else []
        )
        found += [Edit(BEFORE, top, tuple(needed))] if needed else []
    return found


def _call(placement: Placement, name: str, part: str, run: str) -> str:
    load = f"gp.load({quoted(run)}).placement"
    return f"gp.supervise({name}, {load}.within({quoted(part)}))" if part else f"gp.supervise({name}, {load})"


def _comment(placement: Placement) -> str:
    names = [point.name for point in placement.points]
    after = few([shorten(point, 40) for point in names], 3)
    return f"  # {'a branch' if len(names) == 1 else 'branches'} after {after}"


def _inserted(placement: Placement, site: Site, run: str) -> Iterator[Edit]:
    """Where the branches are put on the model, and given to the optimizer if that does not get them by itself."""
    if site.model is None or site.built is None or _is_one_line(site):
        return
    inner = f"{site.model}.{site.part}" if site.part else site.model
    if site.wrapped:
        supervised = site.wrapped.format(_call(placement, site.bare, site.part, run))
        yield Edit(INSTEAD, site.built, (supervised + _comment(placement),))
    else:
        supervised = f"{inner} = {_call(placement, inner, site.part, run)}"
        yield Edit(AFTER, site.built, (supervised + _comment(placement),))
    if site.in_method and site.optimizer is not None and site.optimizer_name is not None:
        given = f'{site.optimizer_name}.add_param_group({{"params": {site.model}.branches.parameters()}})'
        yield Edit(AFTER, site.optimizer, (given,))


def _in_words(placement: Placement, site: Site, run: str) -> Iterator[str]:
    name = site.model or "model"
    call = _call(placement, f"{name}.{site.part}" if site.part else name, site.part, run)
    if _is_one_line(site):
        yield f"  Split {site.built}, which builds the optimizer as well; between {name} and the optimizer:"
        yield f"    {name} = {call}{_comment(placement)}"
    else:
        optimizer = f" ({site.optimizer})" if site.optimizer else ""
        where = f"After {site.built}" if site.built else f"Where the script makes {name}"
        yield f"  {where}, and before it builds the optimizer{optimizer}:"
        inner = f"{name}.{site.part}" if site.part else name
        yield f"    {inner} = {call}{_comment(placement)}"


def _is_one_line(site: Site) -> bool:
    built, optimizer = site.built, site.optimizer
    return built is not None and optimizer is not None and _place(built) == _place(optimizer)


def _place(line: SourceLine) -> tuple[str, int]:
    return line.file, line.end
