"""Other initial weights: by the rules of He and Xavier, by LSUV, within each channel, and orthogonal ones.

Each function changes a network in place and leaves alone what it does not understand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.batches import forward
from gradprobe.measure.evidence.after_layers import following
from gradprobe.network.hooks import Attached, Hook
from gradprobe.network.layers import recurrent_weights
from gradprobe.network.tensors import tensors
from gradprobe.prove.remedies.layers import PlainLayer, is_conv1d, outputs_first, plain_layers, zero_bias

FORGET_BIAS = 1.0  # Jozefowicz et al. 2015: without it an LSTM forgets half of its state in each step
_GAINS = {  # of the standard deviation sqrt(2 / (inputs + outputs)), by the activation that follows
    "tanh": 1.0,  # Glorot and Bengio 2010, equation 16
    "sigmoid": 4.0,  # its slope at 0 is a quarter of that of tanh; LeCun et al., Efficient BackProp, 1998
    "softmax": 1.0,
}
_HE = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "clamp_min")


def kaiming(model: nn.Module, inputs: Any = None) -> None:
    """Draw the weights of all linear and convolutional layers after He et al. 2015 (arXiv 1502.01852); biases 0.

    Normal, for the inputs of each layer and a ReLU after it (equation 10). The ``Conv1D`` of transformers is a
    linear layer. Other layers, frozen and parametrized weights are left as they are.

    Args:
        model: Changed in place.
        inputs: Not used.

    Example:
        >>> layer = nn.Linear(50_000, 4)
        >>> kaiming(layer)
        >>> round(layer.weight.std().item() * 25_000**0.5, 1)  # sqrt(2 / inputs)
        1.0
    """
    for layer in plain_layers(model):
        nn.init.kaiming_normal_(outputs_first(layer))
        zero_bias(layer)


def xavier(model: nn.Module, inputs: Any) -> None:
    """Draw the weights of all linear and convolutional layers by the activation that follows each; biases 0.

    Before tanh and where none follows: Glorot and Bengio 2010, equation 16; before a sigmoid four times that, for
    its slope at 0; before ReLU and what is like it: He et al. 2015. What follows is read from the graph of one
    forward pass. Other layers, frozen and parametrized weights are left as they are.

    Args:
        model: Changed in place; it runs as it is, in train or eval mode.
        inputs: Of one batch.

    Example:
        >>> net = nn.Sequential(nn.Linear(400, 400), nn.Sigmoid(), nn.Linear(400, 4))
        >>> xavier(net, torch.randn(8, 400))
        >>> round(net[0].weight.std().item() * 400**0.5, 1)  # 4 * sqrt(2 / (400 + 400))
        4.0
    """
    after = _activations(model, inputs)
    for layer in plain_layers(model):
        weight = outputs_first(layer)
        if after.get(layer) in _HE:
            nn.init.kaiming_normal_(weight)
        else:
            nn.init.xavier_normal_(weight, _GAINS.get(after.get(layer, ""), 1.0))
        zero_bias(layer)


def _activations(model: nn.Module, inputs: Any) -> dict[nn.Module, str]:
    """The activation that follows each plain layer, where the graph shows one."""
    nodes: dict[Any, nn.Module] = {}
    hooks = Attached()

    def note(layer: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            nodes[output.grad_fn] = layer

    try:
        for layer in plain_layers(model):
            hooks.add(layer.register_forward_hook(Hook(note)))
        with torch.enable_grad():
            results = [one for one in tensors(forward(model, inputs)) if one.requires_grad]
    finally:
        hooks.remove()
    if not results:
        return {}
    root = torch.stack([one.float().sum() for one in results]).sum().grad_fn
    names = {node: str(index) for index, node in enumerate(nodes)}
    found = following(root, names).activation
    return {layer: found[names[node]] for node, layer in nodes.items() if names[node] in found}


def lsuv(model: nn.Module, inputs: Any) -> None:
    """Layer-sequential unit variance (Mishkin and Matas 2016, arXiv 1511.06422, algorithm 1), from one batch.

    Orthonormal weights, biases 0; then, in the order of a forward pass, each layer's weights are divided by the
    standard deviation of its output, the first time that it is called. Other layers, frozen and parametrized
    weights are left as they are.

    Args:
        model: Changed in place; it runs as it is, in train or eval mode.
        inputs: Of one batch.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        >>> x = torch.randn(64, 8)
        >>> lsuv(net, x)
        >>> round(net(x).std().item(), 3)
        1.0
    """

    def scale(layer: PlainLayer, output: Tensor) -> Tensor:
        deviation = output.float().std()
        if not 0 < deviation < float("inf"):
            return output
        layer.weight.div_(deviation)
        return output / deviation.to(output.dtype)

    _one_after_the_other(model, inputs, scale)


def within_channel(model: nn.Module, inputs: Any) -> None:
    """Give each unit's output mean 0 and variance 1 on one batch, by its weights and its bias.

    Within-channel initialisation of Kraehenbuehl et al. 2016 (Data-dependent Initializations of Convolutional
    Neural Networks, arXiv 1511.06856, section 3.1), in the order of a forward pass, from orthonormal weights. What
    is the same for every input goes into the bias, so the signal stays where LSUV loses it: after sigmoids. It is
    what batch normalisation does in the first iteration, with nothing added to the network. Layers without a
    bias and transposed convolutions get orthonormal weights alone; other layers, frozen and parametrized weights
    are left as they are.

    Args:
        model: Changed in place; it runs as it is, in train or eval mode.
        inputs: Of one batch.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2))
        >>> x = torch.randn(64, 8)
        >>> within_channel(net, x)
        >>> deviation = net(x).std(0)
        >>> [round(value, 3) for value in deviation.tolist()]
        [1.0, 1.0]
    """

    def standardise(layer: PlainLayer, output: Tensor) -> Tensor:
        axis = output.dim() - 1 if isinstance(layer, nn.Linear) or is_conv1d(layer) else 1
        others = [other for other in range(output.dim()) if other != axis]
        values = output.float()
        deviation, mean = values.std(others), values.mean(others)
        # a unit that is the same for every input, but for rounding, has nothing to be scaled
        alive = (deviation > 1e-5 * values.abs().mean(others)) & torch.isfinite(deviation)
        if layer.bias is None or isinstance(layer, nn.modules.conv._ConvTransposeNd):
            return output
        scale = torch.where(alive, 1 / deviation.clamp(min=1e-30), torch.ones_like(deviation))
        shift = torch.where(alive, -mean * scale, torch.zeros_like(mean))
        weight = outputs_first(layer)
        weight.mul_(scale.to(weight.dtype).view(-1, *[1] * (weight.dim() - 1)))
        layer.bias.add_(shift.to(layer.bias.dtype))
        shape = [-1 if other == axis else 1 for other in range(output.dim())]
        return output * scale.to(output.dtype).view(shape) + shift.to(output.dtype).view(shape)

    _one_after_the_other(model, inputs, standardise)


def _one_after_the_other(model: nn.Module, inputs: Any, change: Callable[[PlainLayer, Tensor], Tensor]) -> None:
    """Orthonormal weights, then a change of each layer by its output, which goes on to the layers after it."""
    done: set[nn.Module] = set()

    def once(layer: nn.Module, args: Any, output: Any) -> Any:
        if layer in done or not isinstance(output, Tensor) or output.numel() < 2:
            return output
        done.add(layer)
        return change(layer, output)  # type: ignore[arg-type]

    hooks = Attached()
    with torch.no_grad():
        try:
            for layer in plain_layers(model):
                weight = outputs_first(layer)
                # in float32: torch has no QR decomposition of float16 and bfloat16
                weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape, device=weight.device)))
                zero_bias(layer)
                hooks.add(layer.register_forward_hook(Hook(once)))
            forward(model, inputs)
        finally:
            hooks.remove()


def orthogonal(model: nn.Module, inputs: Any = None) -> None:
    """Orthogonal recurrent weights of gain 1, Xavier's rule for those of the inputs, and an open forget gate.

    Saxe et al. 2014 (arXiv 1312.6120, section 3) for the recurrent weights, each gate its own matrix; Glorot and
    Bengio 2010 for the others; a bias of 1 on the forget gate of an LSTM and on the update gate of a GRU, which
    keep the state (Jozefowicz et al. 2015); all other biases 0. Of networks without recurrent layers nothing
    changes. Frozen and parametrized weights are left as they are.

    Args:
        model: Changed in place.
        inputs: Not used.

    Example:
        >>> lstm = nn.LSTM(4, 8)
        >>> orthogonal(lstm)
        >>> gate = lstm.weight_hh_l0[8:16]  # of the forget gate
        >>> torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5), lstm.bias_ih_l0[8].item()
        (True, 1.0)
    """
    for module in model.modules():
        for name in recurrent_weights(module):
            parameter = module._parameters.get(name)
            if isinstance(parameter, Tensor) and parameter.requires_grad:
                _draw_gates(module, name, parameter.detach())
        for name, bias in module.named_parameters(recurse=False):
            if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and name.startswith("bias") and bias.requires_grad:
                _open_gate(module, name, bias.detach())


def _draw_gates(module: nn.Module, name: str, weight: Tensor) -> None:
    size = getattr(module, "hidden_size", 0)
    if weight.dim() != 2 or not size or weight.shape[0] % size:
        return
    for gate in weight.split(size):
        drawn = torch.empty(gate.shape, device=gate.device)
        gate.copy_(nn.init.orthogonal_(drawn) if "hh" in name else nn.init.xavier_uniform_(drawn))


def _open_gate(module: nn.Module, name: str, bias: Tensor) -> None:
    bias.zero_()
    size = getattr(module, "hidden_size", 0)
    if "ih" in name and isinstance(module, (nn.LSTM, nn.LSTMCell, nn.GRU, nn.GRUCell)):
        bias[size : 2 * size] = FORGET_BIAS  # the second in torch's order, of both kinds
