"""Advice for the author of a script: lines to add, or what to do if nothing was recorded. No torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from gradprobe.record.text import quoted, shorten
from gradprobe.script.source import Loss, Site

if TYPE_CHECKING:  # it loads pandas, which a script may not need
    from gradprobe.record.placement import Placement

_BY_HAND = "with gradprobe.GradientProbe(model) as probe: around the loop, and probe.step() in it"
_OTHERS = {"keras": "Keras", "tensorflow": "TensorFlow", "jax": "JAX"}  # libraries with optimizers of their own


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
        ''
    """
    if not placement.points:
        return ""
    name = site.model or "model"
    head = f"What to add {when}".rstrip()
    lines = [f"{head} (no file was changed):", f"  {_where(site, name)}:", "    import gradprobe as gp"]
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
        return [f"{name} = gp.supervise({name}, gp.load({quoted(run)}).placement)  {comment}"]
    within = [point.removeprefix(f"{part}.") for point in names]
    inner = f"{name}.{part}"
    points = ", ".join(map(quoted, within))
    return [f"{inner} = gp.supervise({inner}, [{points}], inputs=x)  # x: a batch as {inner} gets it"]


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


def no_module(optimizer: str, left: int, all_of_them: int) -> str:
    """Of an optimizer whose parameters are not those of a model: by hand, where the gradients are final.

    Args:
        optimizer: Its class.
        left: How many of its parameters belong to no module.
        all_of_them: How many it has.
    """
    which = "its parameters belong" if left == all_of_them else f"{left} of its parameters belong"
    return (
        f"{optimizer}: {which} to no module, as copies of weights do (float32 masters) and tensors made by hand, "
        f"so its steps are not seen as those of a model; record the model in your own loop: {_BY_HAND}, after "
        "backward() and before optimizer.step()"
    )


def long_step(optimizer: str, calls: int) -> str:
    """While a step with a closure runs on and on."""
    return (
        f"an iteration is one optimizer step, and this step of {optimizer} has called its closure {calls} times "
        "by now: that is one iteration, whose gradients are those of the first call. The script runs on until the "
        f"step ends; Ctrl-C ends it, and the record is kept. {_more_iterations()}"
    )


def only_step(steps: int, calls: int) -> str:
    """At the end of a script whose few steps called their closures many times."""
    one = "its one step" if steps == 1 else "the last step"
    return (
        f"an iteration is one optimizer step, however often it calls its closure ({one} did {calls} times). "
        f"{_more_iterations()}"
    )


def _more_iterations() -> str:
    return "For more iterations let a step do less: LBFGS(..., max_iter=20), and optimizer.step(closure) in a loop"


def no_batch(name: str) -> str:
    """Of a model whose input has no batch axis."""
    return (
        f"{name}: the size of its batch is not known. A branch needs a batch: if the model acts on a single "
        f"state, give it a batch of one, {name}(state.unsqueeze(0))"
    )


def no_optimizer(ended: str, imported: Collection[str], hint: str) -> str:
    """Of a script that built no optimizer.

    Args:
        ended: How it ended: what follows "the script".
        imported: Names of the modules that it has imported.
        hint: What else may explain it.

    Example:
        >>> no_optimizer("ended", {"os"}, "")
        'the script ended before it built an optimizer of torch.optim in this process'
    """
    own = " and ".join(name for module, name in _OTHERS.items() if module in imported)
    also = (
        ""
        if not own
        else (
            f" ({own}, which it imported, trains by optimizers of its own, which are not recorded: in a loop with "
            f"one of torch.optim the network can be recorded, or by hand: {_BY_HAND} before each update)"
        )
    )
    return f"the script {ended} before it built an optimizer of torch.optim in this process{also}{hint}"
