"""An independent float64 record: plain autograd, one layer at a time, nothing of gradprobe in it."""

from __future__ import annotations

import copy

import numpy as np
import torch


def first(output):
    if isinstance(output, torch.Tensor):
        return output
    return first(next(iter(output.values() if isinstance(output, dict) else output)))


def handed_on(output, tensor):
    if output is tensor:
        return tensor.clone()
    if isinstance(output, dict):
        return {key: handed_on(value, tensor) for key, value in output.items()}
    return type(output)(handed_on(value, tensor) for value in output) if isinstance(output, tuple) else output


def record(model, batches, loss_fn, iterations, optimizer=None, seed=None):
    """``{(iteration, layer, of): mean absolute gradient}`` in float64; absent where no gradient arrived."""
    model = copy.deepcopy(model)
    model.train()
    steps = (optimizer or (lambda net: torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.01)))(
        model
    )
    if seed is not None:
        torch.manual_seed(seed)
    names = {module: name for name, module in model.named_modules() if list(module.parameters(recurse=False))}
    found = {}
    for iteration in range(iterations):
        inputs, target = batches[iteration % len(batches)]
        outputs = {}
        forwards = {}

        def wrap(module, original, outputs=outputs):
            def forward(*args, **kwargs):
                output = original(*args, **kwargs)
                tensor = first(output)
                if not tensor.requires_grad:
                    return output
                outputs.setdefault(module, []).append(tensor)
                # the network goes on with a copy: what it does in place does not touch what is measured
                return handed_on(output, tensor)

            return forward

        for module in names:
            forwards[module] = module.forward
            module.forward = wrap(module, module.forward)
        loss = loss_fn(model(inputs), target)
        for module in names:
            module.forward = forwards[module]
            del module.__dict__["forward"]
        for module, tensors in outputs.items():
            gradients = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
            values = [np.abs(g.double().numpy()).ravel() for g in gradients if g is not None]
            if values:
                found[iteration, names[module], "output"] = np.concatenate(values).mean()
        steps.zero_grad()
        loss.backward()
        for module, name in names.items():
            values = [
                np.abs(parameter.grad.double().numpy()).ravel()
                for local, parameter in module.named_parameters(recurse=False)
                if "bias" not in local and parameter.grad is not None
            ]
            if values:
                found[iteration, name, "weight"] = np.concatenate(values).mean()
            if isinstance(module, (torch.nn.RNNBase, torch.nn.RNNCellBase)):
                for local, parameter in module.named_parameters(recurse=False):
                    if local.startswith("weight") and parameter.grad is not None:
                        row = f"{name}.{local}" if name else local
                        found[iteration, row, "weight"] = np.abs(parameter.grad.double().numpy()).mean()
        steps.step()
    return found


def means_of(frame):
    """The means in the table of a history, by the keys of `record`."""
    rows = frame.dropna(subset=["mean_abs"])
    return {(row.iteration, row.layer, row.of): row.mean_abs for row in rows.itertuples()}


def layer_means(history, of, layer):
    """One layer's mean in each iteration."""
    frame = history.frame
    return frame[(frame["of"] == of) & (frame["layer"] == layer)]["mean_abs"].tolist()


def assert_agrees(history, expected, rel=1e-5):
    """Every number of a history is in the oracle's record and the other way round.

    Single weights of recurrent layers are compared where the record has them.
    """
    singles = {name for layer in history.layers for name in layer.weights}
    measured = means_of(history.frame)
    measured = {key: mean for key, mean in measured.items() if key[1] not in singles or key in expected}
    assert measured.keys() == expected.keys()
    for key, value in expected.items():
        assert abs(measured[key] - value) <= rel * value, (key, measured[key], value)
