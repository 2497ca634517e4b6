"""What each rank does in the tests of supervised training in several processes, run by `torchrun`.

Usage: torchrun --nproc-per-node 2 tests/support/distributed_supervised.py FOLDER
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import gradprobe as gp

STEPS = 4
ROWS = 4  # of each rank in each batch


class Blocks(nn.Module):
    """Two blocks, and an in-place operation after the first."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Tanh(), nn.Linear(8, 8)) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.blocks[0](self.stem(x))
        x.mul_(2)
        return self.head(self.blocks[1](x))


def build(dtype=torch.float64, branch="pooled"):
    torch.manual_seed(0)
    x = torch.zeros(ROWS, 6, dtype=dtype)
    return gp.supervise(Blocks().to(dtype), ["blocks.0", "blocks.1"], inputs=x, branch=branch)


def batches(dtype=torch.float64, world=2):
    """Global batches: each rank takes its rows."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(ROWS * world, 6, generator=generator).to(dtype), torch.arange(ROWS * world) % 3)
        for _ in range(STEPS)
    ]


def criterion(weight=0.5, **arguments):
    return gp.DeepSupervisionLoss(nn.functional.cross_entropy, weight=weight, schedule="constant", **arguments)


def train(net, model, joint=None, dtype=torch.float64):
    """Train `model`, which is made of `net`: the gradients of the first step, the parameters after the last."""
    joint = joint or criterion()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = {}
    for x, y in batches(dtype):
        optimizer.zero_grad()
        rows = slice(ROWS * dist.get_rank(), ROWS * (dist.get_rank() + 1))
        joint(model(x[rows]), y[rows]).backward()
        first = first or {name: whole(p.grad) for name, p in net.named_parameters() if p.grad is not None}
        optimizer.step()
        joint.step()
    return {"gradients": first, "parameters": {name: whole(p.detach()) for name, p in net.named_parameters()}}


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def ddp(joint=None, branch="pooled", **arguments):
    net = build(branch=branch)
    return train(net, DistributedDataParallel(net, **arguments), joint)


def fsdp2(joint=None, dtype=torch.float64, branch="pooled", **arguments):
    net = build(dtype, branch)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (*net.branches.values(), *net.trunk.blocks, net.trunk.head):
        fully_shard(part, mesh=mesh, **arguments)
    return train(net, fully_shard(net, mesh=mesh, **arguments), joint, dtype)


MIXED = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
SETUPS = {
    "ddp": ddp,
    "ddp static graph": lambda: ddp(static_graph=True),
    "ddp bucket views": lambda: ddp(gradient_as_bucket_view=True),
    "ddp shared": lambda: ddp(branch="shared"),
    "ddp weight 0": lambda: ddp(criterion(weight=0.0)),
    "ddp drop_after": lambda: ddp(criterion(drop_after=2)),
    "ddp weights with a 0": lambda: ddp(criterion(weights=(0.0, 1.0))),
    "fsdp2": fsdp2,
    "fsdp2 not resharded": lambda: fsdp2(reshard_after_forward=False),
    "fsdp2 shared": lambda: fsdp2(branch="shared"),
    "fsdp2 weight 0": lambda: fsdp2(criterion(weight=0.0)),
    "fsdp2 mixed": lambda: fsdp2(dtype=torch.float32, mp_policy=MIXED),
}


def main(folder):
    dist.init_process_group("gloo")
    for name, setup in SETUPS.items():
        torch.save(setup(), folder / f"{name}-{dist.get_rank()}.pt")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
