"""What to add to a training script, in its own names. Pure text: no file is changed."""

from __future__ import annotations

from gradprobe.record.placement import Placement
from gradprobe.record.text import shorten
from gradprobe.script.source import Loss, Site


def advise(placement: Placement, site: Site, run: str) -> str:
    """Say which lines to add to the script.

    Args:
        placement: The decision.
        site: What is known of the script.
        run: Folder of the run, which holds the placement and its shapes.

    Example:
        >>> from gradprobe.record.points import Point
        >>> from gradprobe.script.source import Place
        >>> placement = Placement("by hand", ("a",), (Point("a", (8, 4), 0, ("a",)),), "", output_shape=(8, 2))
        >>> loss = Loss(Place("train.py", 9, "loss = mse_loss(model(x), y)"), "mse_loss", ("model(x)", "y"))
        >>> built = Place("train.py", 3, "model = Net()")
        >>> print(advise(placement, Site("model", built, Place("train.py", 4), loss), "runs/train"))
        What to add (no file was changed):
          behind line 3 of train.py, `model = Net()`, and before the optimizer (line 4 of train.py):
            import gradprobe as gp
            model = gp.supervise(model, gp.load("runs/train").placement)  # a branch after a
          in place of line 9 of train.py, `loss = mse_loss(model(x), y)`:
            loss = gp.DeepSupervisionLoss(mse_loss, weight=0.3, schedule="constant")(model(x), y)
        In training model(...) then returns (output, auxiliary): .output is what it returned before.
        In eval() it returns just that. Whether it helps is not known before it is tried: often it does not.
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
        "In eval() it returns just that. Whether it helps is not known before it is tried: often it does not.",
    ]
    return "\n".join(lines)


def _where(site: Site, name: str) -> str:
    built, optimizer = site.built, site.optimizer
    if built and optimizer and (built.file, built.line) == (optimizer.file, optimizer.line):
        return f"split {built}, which builds the optimizer as well; between {name} and the optimizer"
    behind = f"behind {built}" if built else f"where {name} is built"
    return f"{behind}, and before the optimizer{f' ({optimizer})' if optimizer else ''}"


def _supervise(placement: Placement, name: str, part: str, run: str) -> list[str]:
    names = [point.name for point in placement.points]
    after = ", ".join(shorten(point, 40) for point in names)
    said = f"# {'a branch' if len(names) == 1 else 'branches'} after {after}"
    if not part:
        return [f'{name} = gp.supervise({name}, gp.load("{run}").placement)  {said}']
    within = [point.removeprefix(f"{part}.") for point in names]
    inner = f"{name}.{part}"
    quoted = ", ".join(f'"{point}"' for point in within)
    return [f"{inner} = gp.supervise({inner}, [{quoted}], inputs=x)  # x: a batch as {inner} gets it"]


def _joint_loss(loss: Loss | None, name: str) -> list[str]:
    made = 'gp.DeepSupervisionLoss({}, weight=0.3, schedule="constant")'
    if loss is None:
        criterion = made.format("loss_fn")
        return [
            "  where the loss is computed (loss_fn: what computes it now; None: the model itself):",
            f"    loss = {criterion}({name}(x), y)",
        ]
    assigned = loss.place.text.partition(" = ")[0]
    if not loss.arguments:
        return [
            f"  in place of {loss.place}:",
            f"    {assigned} = {made.format('loss_fn')}({name}(x), y)",
            f"  loss_fn gets what {name}(...) returned before, and y. What the script does with that before the",
            "  loss belongs into loss_fn, so that it is done with the branches' output as well.",
        ]
    arguments = ", ".join(loss.arguments if loss.function else (*loss.arguments, "labels"))
    return [
        f"  in place of {loss.place}:",
        f"    {assigned} = {made.format(loss.joint or loss.function)}({arguments})",
    ]
