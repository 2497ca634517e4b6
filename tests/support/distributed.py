"""What each rank does in the tests of several processes: one function for each set-up, run by `torchrun`.

Usage: torchrun --nproc-per-node N tests/support/distributed.py FOLDER
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import gradprobe.measure.ranks as ranks
from gradprobe import GradientProbe, place, save, scan
from gradprobe.record.csv_tables import write_csv
from support.account import Account

ITERATIONS = 3
DIFFERENCES: list[str] = []  # between the newest record and the account beside it


class Net(nn.Module):
    """Sizes that do not divide by the number of ranks, and a layer that some iterations do not reach."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 7), nn.Linear(7, 5)
        self.sometimes, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x, more=True):
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.last(self.sometimes(x) if more else x)


class Even(nn.Module):
    """Sizes that divide by two, for tensor parallelism."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(x))))


def build(kind=Net):
    torch.manual_seed(0)
    return kind().double()


def batches(world, count=ITERATIONS):
    """Global batches: each rank takes its rows."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(4 * world, 6, generator=generator).double(),
            torch.randint(3, (4 * world,), generator=generator),
        )
        for _ in range(count)
    ]


def mine(batch):
    rank = dist.get_rank()
    return tuple(part[4 * rank : 4 * rank + 4] for part in batch)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.01)


@contextlib.contextmanager
def accounted(probe):
    """A probe, and beside it the account of this rank's signal and update."""
    account = Account(probe, probe.model, probe.optimizers)
    with probe:
        yield probe
    account.close()
    DIFFERENCES[:] = map(str, account.differences(probe.history))


def train(model, probed=None, rows=None, world=None, **arguments):
    """Train on the rows of each global batch that are this rank's, or on those given."""
    optimizer = sgd(model)
    with accounted(GradientProbe(probed or model, optimizer=optimizer, iterations=ITERATIONS)) as probe:
        for batch in batches(world or dist.get_world_size()):
            x, y = mine(batch) if rows is None else (part[rows] for part in batch)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x, **arguments), y).backward()
            optimizer.step()
    return probe.history


def ddp():
    return train(DistributedDataParallel(build()))


def ddp_probed_inside():
    model = DistributedDataParallel(build())
    return train(model, probed=model.module)


def ddp_unused():
    return train(DistributedDataParallel(build(), find_unused_parameters=True), more=False)


def ddp_no_sync():
    model = DistributedDataParallel(build())
    optimizer = sgd(model)
    with accounted(GradientProbe(model, optimizer=optimizer, iterations=ITERATIONS)) as probe:
        for batch in batches(dist.get_world_size()):
            x, y = mine(batch)
            optimizer.zero_grad()
            with model.no_sync():
                (nn.functional.cross_entropy(model(x[:2]), y[:2]) / 2).backward()
            (nn.functional.cross_entropy(model(x[2:]), y[2:]) / 2).backward()
            optimizer.step()
    return probe.history


def ddp_scan():
    pairs = [mine(batch) for batch in batches(dist.get_world_size())]
    return scan(DistributedDataParallel(build()), pairs, nn.functional.cross_entropy, ITERATIONS)


def sharded(reshard=True, **arguments):
    model = build()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model.first, model.second):
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard, **arguments)
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard, **arguments)
    return model


def fsdp2():
    return train(sharded())


def fsdp2_not_resharded():
    return train(sharded(reshard=False))


def fsdp2_mixed():
    return train(sharded(mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32)))


def tensor_parallel():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {"first": ColwiseParallel(), "second": RowwiseParallel()}
    return train(parallelize_module(build(Even), mesh, plan), rows=slice(None))


def hybrid_sharded():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = build()
    for layer in (model.first, model.second):
        fully_shard(layer, mesh=mesh)
    return train(fully_shard(model, mesh=mesh))


def sharded_and_tensor_parallel():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    plan = {"first": ColwiseParallel(), "second": RowwiseParallel()}
    model = parallelize_module(build(Even), mesh["tensor"], plan)
    for layer in (model.first, model.second, model.last):
        fully_shard(layer, mesh=mesh["data"])
    rank = mesh["data"].get_local_rank()
    return train(fully_shard(model, mesh=mesh["data"]), rows=slice(4 * rank, 4 * rank + 4), world=2)


def only_rank_0():
    """A probe on one rank alone must not wait for the others."""
    model = DistributedDataParallel(build())
    if dist.get_rank() == 0:
        return train(model)
    optimizer = sgd(model)
    for batch in batches(dist.get_world_size()):
        x, y = mine(batch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return None


def one_leaves():
    """A rank that leaves its probe by an error must not keep the others waiting for long."""
    ranks.PATIENCE = 0.5
    model = build()
    optimizer = sgd(model)
    with contextlib.suppress(ZeroDivisionError), GradientProbe(model, optimizer=optimizer, iterations=2) as probe:
        dist.barrier()  # the training that ranks share keeps them in step; these do not share any
        for x, y in map(mine, batches(dist.get_world_size())):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if dist.get_rank() == 1:
                raise ZeroDivisionError
    ranks.PATIENCE = 30.0
    return probe.history


def saving():
    """Every rank may ask to save; one writes."""
    history = train(DistributedDataParallel(build()))
    save(Path(sys.argv[1]) / "run", history, place(history), figures=False)
    return history


SETUPS = {
    function.__name__: function
    for function in (
        ddp,
        ddp_probed_inside,
        ddp_unused,
        ddp_no_sync,
        ddp_scan,
        fsdp2,
        fsdp2_not_resharded,
        fsdp2_mixed,
        tensor_parallel,
        hybrid_sharded,
        sharded_and_tensor_parallel,
        only_rank_0,
        one_leaves,
        saving,
    )
}


WORLDS = {"tensor_parallel": (2,), "hybrid_sharded": (4,), "sharded_and_tensor_parallel": (4,)}


def main(folder):
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    for name, setup in SETUPS.items():
        if world not in WORLDS.get(name, (2, 3)):
            continue
        history = setup()
        if history is not None:
            facts = {"conditions": dict(history.conditions), "unreached": history.unreached}
            facts |= {"differences": DIFFERENCES, "evidence": history.evidence.to_dict()["samples"]}
            (folder / f"{name}-{rank}.csv").write_text(write_csv(history.frame))
            (folder / f"{name}-{rank}.json").write_text(json.dumps(facts))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
