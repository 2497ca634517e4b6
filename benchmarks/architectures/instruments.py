"""What the checks use: timing, comparing outputs and gradients, cutting a network, describing a model."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.record.points import is_input, module_of


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Up to ``count`` of the items, evenly over their order."""
    number = min(count, len(items))
    return [items[(2 * index + 1) * len(items) // (2 * number)] for index in range(number)]


def fastest_of_three(run: Callable[[], Any]) -> float:
    """The seconds of the fastest of up to three runs, of one if it is slow."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < 0.5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def assert_same(expected: Any, actual: Any, what: str) -> None:
    """Raise unless both are of one class and hold bit-equal tensors."""
    assert type(expected) is type(actual), f"{what}: {type(actual).__name__}, not {type(expected).__name__}"
    pairs = list(zip(tensors(expected), tensors(actual), strict=True))
    assert pairs, f"{what}: no tensors"
    assert all(torch.equal(one, other) for one, other in pairs), f"{what} differs"


def gradient_differs(plain: nn.Module, other: nn.Module, layer: str) -> bool:
    """Whether a gradient of the layer's own parameters differs by more than rounding."""
    pairs = zip(parameters_of(plain, layer), parameters_of(other, layer), strict=True)
    return any(differ(one.grad, two.grad) for one, two in pairs)


def parameters_of(model: nn.Module, layer: str) -> Iterator[nn.Parameter]:
    """The layer's own parameters, those of its parametrizations included."""
    module = model.get_submodule(layer)
    yield from module.parameters(recurse=False)
    yield from dict(module.named_children()).get("parametrizations", nn.Module()).parameters()


def differ(one: Tensor | None, two: Tensor | None) -> bool:
    """Whether two gradients differ by more than rounding; None differs from any gradient."""
    if one is None or two is None:
        return one is not two
    return bool((one - two).norm() > 1e-5 * two.norm())


def gradient_reaches_input(
    model: nn.Module, inputs: Any, loss_of: Callable[[nn.Module, Any], Tensor], cut: str | None
) -> bool:
    """Whether the loss has a gradient at the input when the outputs of the module ``cut`` are constants.

    The loss is scaled up: at random weights some gradients are below the smallest number of single precision.
    """
    source: list[Tensor] = []
    inputs = with_gradient(inputs, source)
    if not source:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(lambda _, __, output: first_gradient(output, source))
    if cut is not None and is_input(cut):
        model.get_submodule(module_of(cut)).register_forward_pre_hook(without_gradient, with_kwargs=True)
    elif cut is not None:
        model.get_submodule(cut).register_forward_hook(lambda _, __, output: constant(output))
    loss = loss_of(model, inputs) * 2.0**60
    if not loss.requires_grad:
        return False
    gradient = torch.autograd.grad(loss, source[0], allow_unused=True)[0]
    return gradient is not None and bool(gradient.any())


def with_gradient(inputs: Any, source: list[Tensor]) -> Any:
    """The inputs, of which the first floating one requires a gradient; it is appended to ``source``."""
    if isinstance(inputs, Tensor):
        return first_gradient(inputs, source) if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {key: value if key == "labels" else with_gradient(value, source) for key, value in inputs.items()}
    return tuple(with_gradient(value, source) for value in inputs)


def first_gradient(tensor: Tensor, source: list[Tensor]) -> Tensor:
    """The tensor; at the first call a leaf of the same values that requires a gradient, appended to ``source``."""
    if source:
        return tensor
    source.append(tensor.detach().clone().requires_grad_())
    return source[0] * 1  # a network may begin with an in-place operation, which a leaf does not allow


def without_gradient(module: nn.Module, args: Any, kwargs: Any) -> None:
    """Let no gradient through the tensors that a module is called with, wherever else they are used."""
    for tensor in tensors([args, kwargs]):
        if tensor.requires_grad:
            tensor.register_hook(torch.zeros_like)


def constant(output: Any) -> Any:
    """The output with all its floating tensors detached, in containers of the same kinds."""
    if isinstance(output, Tensor):
        return output.detach().clone() if output.is_floating_point() else output
    if isinstance(output, Mapping):
        return type(output)(**{key: constant(value) for key, value in output.items()})
    if isinstance(output, (tuple, list)):
        values = [constant(value) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    return output


def restore(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Load the weights and buffers, and remove the gradients."""
    model.load_state_dict(weights)
    model.zero_grad(set_to_none=True)


def traits(model: nn.Module) -> dict[str, Any]:
    """What can be seen of a model from outside; no bytes for one that cannot be pickled."""
    hooks = [
        (name, kind, len(value))
        for name, module in model.named_modules()
        for kind, value in vars(module).items()
        if kind.endswith("_hooks") and value
    ]
    parameters = [name for name, parameter in model.named_parameters() if parameter._backward_hooks]
    try:
        pickled = pickle.dumps(model)
    except Exception:
        pickled = b""
    return {
        "class": type(model),
        "keys": list(model.state_dict()),
        "hooks": hooks,
        "hooks on parameters": parameters,
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "pickle": pickled,
    }
