"""Cases: scalers, half precision, and gradients at the ends of the range."""

from __future__ import annotations

import torch
from torch import nn

from support.cases.loop import case, data, mlp, plain, sgd, squared, variants

# --- precision -------------------------------------------------------------------------------------------------


@case
def scaled_loss(loop):
    net = mlp(4, 5, 2).float()
    optimizer = sgd(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4, dtype=torch.float32):
            optimizer.zero_grad()
            loss = squared(net(x))
            scale = scaler.get_scale()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            record.read(scale)
            scaler.step(optimizer)
            scaler.update()
            loop.note(loss)


@case
def autocast(loop):
    net = mlp(4, 5, 2).float()
    for x in loop.steps(net, data(6, 4, dtype=torch.float32)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = squared(net(x))
        loop.backward(loss)


@variants(float16=torch.float16, bfloat16=torch.bfloat16)
def halved(loop, dtype):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(75, 4)).to(dtype)
    loop.fit(net, data(4, 1, 7, 7, dtype=dtype), lambda y: y.float().square().mean())


@plain
def float16_sums_above_its_range():
    net = nn.Linear(4, 300, bias=False).half()
    return net, data(40, 4, dtype=torch.float16), lambda y: (y * 2000).float().sum(), sgd(net, 1e-6)


@plain
def subnormal_gradients():
    return mlp(4, 5, 2).float(), data(6, 4, dtype=torch.float32), lambda y: y.sum() * 1e-41


@plain
def float16_subnormal_gradients():
    net = nn.Linear(4, 2).half()
    return net, data(6, 4, dtype=torch.float16), lambda y: (y * 1e-7).sum()


@plain
def gradients_below_the_range_of_float32():
    return mlp(4, 5, 2), data(6, 4), lambda y: y.sum() * 1e-60


@plain
def gradients_above_the_range_of_float32():
    net = mlp(4, 5, 2)
    return net, data(6, 4), lambda y: y.sum() * 1e60, sgd(net, 1e-62)


@plain
def float32_squares_out_of_range():
    net = mlp(4, 5, 2).float()
    return net, data(6, 4, dtype=torch.float32), lambda y: y.sum() * 1e30, sgd(net, 1e-32)


@plain
def nan_in_one_iteration():
    inputs = data(6, 4, count=4)
    inputs[3][0, 0] = float("nan")
    return mlp(4, 5, 2), inputs


@plain
def infinite_gradients():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    return net, data(6, 4), lambda y: (y[0] * float("inf")).sum() + y[1:].mean()


@plain
def dead_relu():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    nn.init.constant_(net[0].bias, -100.0)
    return net, data(6, 4)


@plain
def half_dead_relu():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    nn.init.zeros_(net[0].bias)
    return net, data(6, 4)


@plain
def two_hundred_layers():
    layers = [layer for _ in range(200) for layer in (nn.Linear(3, 3), nn.Tanh())]
    return nn.Sequential(*layers).double(), data(4, 3), lambda y: y.sum() * 1e20
