"""DistributedDataParallel on gloo, started by torchrun."""

import os
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from plain import batches, build
from torch.nn.parallel import DistributedDataParallel


def main():
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(build(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for x, y in batches(6, size=4 * world):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rank::world]), y[rank::world])
        loss.backward()
        optimizer.step()
    print("rank", rank, "of", os.environ["WORLD_SIZE"], "trained to the end")


if __name__ == "__main__":
    try:
        main()
    finally:
        dist.destroy_process_group()
        # torch 2.13 on gloo: a process that ends at once may abort ("terminate called without an active ..."),
        # with gradprobe or without
        time.sleep(0.5)
