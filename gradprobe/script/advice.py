"""What to add to a training script, in its own names. Pure text: no file is changed."""

from __future__ import annotations

from gradprobe.record.placement import Placement
from gradprobe.record.text import shorten
from gradprobe.script.source import Loss, Site


def advise(placement: Placement, site: Site, run: str) -> str:
    """The lines to add to the script.

    Args:
        placement: The decision.
        site: What is known of the script.
        run: Folder of the run, which holds the placement and its shapes.

    Example:
        >>> from gradprobe.record.points import Point
        >>> from gradprobe.script.source import SourceLine
        >>> placement = Placement("by hand", ("a",), (Point("a", (8, 4), 0, ("a",)),), "", output_shape=(8, 2))
        >>> loss = Loss(SourceLine("train.py", 9, "loss = mse_loss(model(x), y)"), "mse_loss", ("model(x)", "y"))
        >>> built, optimizer = SourceLine("train.py", 3, "model = Net()"), SourceLine("train.py", 4)
        >>> print(advise(placement, Site("model", built, optimizer, loss), "runs/train"))
        What to add (no file was changed):
          after line 3 of train.py, `model = Net()`, and before the optimizer (line 4 of train.py):
            import gradprobe as gp
            model = gp.supervise(model, gp.load("runs/train").placement)  # a branch after a
          in place of line 9 of train.py, `loss = mse_loss(model(x), y)`:
            loss = gp.DeepSupervisionLoss(mse_loss, weight=0.3, schedule="constant")(model(x), y)
        In training model(...) then returns (output, auxiliary): .output is what it returned before.
        In eval() it returns just that. Whether branches help shows only in training: often they do not.
        >>> advise(Placement("by hand", (), (), "None needed: all is well."), Site("model"), "runs/train")
        'Nothing to add.'
    """
    if not placement.points:
        return "Nothing to add."
    name = site.model or "model"
    lines = ["What to add (no file was changed):", f"  {_where(site, name)}:", "    import gradprobe as gp"]
    lines += [f"    {line}" for line in _supervise(placement, name, site.part, run)]
    called = f"{name}.{site.part}" if site.part else name
    lines += _joint_loss(site.loss, called)
    lines += [
        f"In training {called}(...) then returns (output, auxiliary): .output is what it returned before.",
        "In eval() it returns just that. Whether branches help shows only in training: often they do not.",
    ]
    return "\n".join(lines)


def _where(site: Site, name: str) -> str:
    built, optimizer = site.built, site.optimizer
    if built and optimizer and (built.file, built.line) == (optimizer.file, optimizer.line):
        return f"split {built}, which builds the optimizer as well; between {name} and the optimizer"
    where = f"after {built}" if built else f"where {name} is built"
    return f"{where}, and before the optimizer{f' ({optimizer})' if optimizer else ''}"


def _supervise(placement: Placement, name: str, part: str, run: str) -> list[str]:
    names = [point.name for point in placement.points]
    after = ", ".join(shorten(point, 40) for point in names)
    comment = f"# {'a branch' if len(names) == 1 else 'branches'} after {after}"
    if not part:
        return [f'{name} = gp.supervise({name}, gp.load("{run}").placement)  {comment}']
    within = [point.removeprefix(f"{part}.") for point in names]
    inner = f"{name}.{part}"
    quoted = ", ".join(f'"{point}"' for point in within)
    return [f"{inner} = gp.supervise({inner}, [{quoted}], inputs=x)  # x: a batch as {inner} gets it"]


def _joint_loss(loss: Loss | None, name: str) -> list[str]:
    joint_loss = 'gp.DeepSupervisionLoss({}, weight=0.3, schedule="constant")'
    if loss is None:
        criterion = joint_loss.format("loss_fn")
        return [
            "  where the loss is computed (loss_fn: the function that computes it now; None if the model does):",
            f"    loss = {criterion}({name}(x), y)",
        ]
    assigned = loss.place.text.partition(" = ")[0]
    if not loss.arguments:
        return [
            f"  in place of {loss.place}:",
            f"    {assigned} = {joint_loss.format('loss_fn')}({name}(x), y)",
            f"  loss_fn gets what {name}(...) returned before, and y. What the script does to the output before",
            "  the loss belongs in loss_fn, so that it is done to the branches' output as well.",
        ]
    arguments = ", ".join(loss.arguments if loss.function else (*loss.arguments, "labels"))
    return [
        f"  in place of {loss.place}:",
        f"    {assigned} = {joint_loss.format(loss.joint or loss.function)}({arguments})",
    ]
