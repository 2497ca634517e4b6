"""The messages to the author of a script that cannot be recorded, or only in part. No torch."""

from __future__ import annotations

from collections.abc import Collection

_BY_HAND = "with gradprobe.GradientProbe(model) as probe: around the loop, and probe.step() in it"
_OTHERS = {"keras": "Keras", "tensorflow": "TensorFlow", "jax": "JAX"}  # libraries with optimizers of their own
_KERAS = (
    "on its torch backend a model is an nn.Module: with gradprobe.GradientProbe(model) as probe: around fit(), "
    "and probe.step() in a train_step of your own, after loss.backward()"
)


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


def no_optimizer(ended: str, imported: Collection[str], hint: str, makes_modules: bool = False) -> str:
    """Of a script that built no optimizer.

    Args:
        ended: How it ended: what follows "the script".
        imported: Names of the modules that it has imported.
        hint: What else may explain it.
        makes_modules: Whether it made modules of torch all the same: they may be trained by hand.

    Example:
        >>> no_optimizer("ended", {"os"}, "")
        'the script ended before it built an optimizer of torch.optim in this process'
    """
    own = [name for module, name in _OTHERS.items() if module in imported]
    said = f"the script {ended} before it built an optimizer of torch.optim in this process"
    if own:
        how = _KERAS if own[0] == "Keras" else f"in a loop with one of torch.optim, or by hand: {_BY_HAND}"
        said += (
            f" ({' and '.join(own)}, which it imported, trains by optimizers of its own, which are not recorded; "
            f"the network can be: {how})"
        )
    elif makes_modules:
        said += f" (a loop that moves the weights by itself is recorded by hand: {_BY_HAND}, before each update)"
    return f"{said}{hint}"
