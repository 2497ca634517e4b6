"""Supervised training in two processes."""

import functools
from pathlib import Path

import pytest
import support.distributed_supervised as setups
import torch
from support.supervised import assert_same, gradients
from support.torchrun import torchrun
from torch.nn.functional import cross_entropy

import gradprobe as gp

pytestmark = pytest.mark.usefixtures("no_hook_of_a_branch_stays")


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    """Runs all set-ups once, in a process for each rank."""

    @functools.cache
    def run():
        folder = tmp_path_factory.mktemp("ranks")
        torchrun(2, Path(__file__).parents[1] / "support" / "distributed_supervised.py", folder)
        return folder

    return run


def blocks_by_hand(net, x):
    """What a supervised `Blocks` computes, written out."""
    t = net.trunk
    first = t.blocks[0](t.stem(x))
    second = t.blocks[1](2 * first)
    branches = net.branches["at_blocks/0"], net.branches["at_blocks/1"]
    return gp.SupervisedOutput(t.head(second), (branches[0](first), branches[1](second)))


def written_out(weights, branch):
    """One process, whole batches: gradients of the first step and parameters after the last."""
    net = setups.build(branch=branch)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first = None
    for step, (x, y) in enumerate(setups.batches()):
        optimizer.zero_grad()
        prediction = blocks_by_hand(net, x)
        loss = cross_entropy(prediction.output, y)
        for weight, auxiliary in zip(weights(step), prediction.auxiliary, strict=True):
            loss = loss + weight * cross_entropy(auxiliary, y) if weight else loss
        loss.backward()
        first = first or gradients(net)
        optimizer.step()
    return {"gradients": first, "parameters": dict(net.named_parameters())}


def both(step):
    return 0.5, 0.5


RANKED = {
    "ddp": both,
    "ddp static graph": both,
    "ddp bucket views": both,
    "ddp shared": both,
    "ddp weight 0": lambda step: (0.0, 0.0),
    "ddp drop_after": lambda step: (0.5, 0.5) if step < 2 else (0.0, 0.0),
    "ddp weights with a 0": lambda step: (0.0, 0.5),
    "fsdp2": both,
    "fsdp2 not resharded": both,
    "fsdp2 shared": both,
    "fsdp2 weight 0": lambda step: (0.0, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RANKED)
def test_two_ranks_are_one_process_with_the_whole_batch(name, on_two_ranks):
    expected = written_out(RANKED[name], "shared" if "shared" in name else "pooled")
    for rank in range(2):
        trained = torch.load(on_two_ranks() / f"{name}-{rank}.pt")
        unreached = trained["gradients"].keys() - expected["gradients"].keys()
        assert all("branches" in key and not trained["gradients"][key].any() for key in unreached)
        assert_same({key: trained["gradients"][key] for key in expected["gradients"]}, expected["gradients"])
        assert_same(trained["parameters"], expected["parameters"])


@pytest.mark.slow
def test_mixed_precision_of_two_shards(on_two_ranks):
    net = setups.build(torch.float32).bfloat16()
    x, y = setups.batches(torch.float32)[0]
    sums = {}
    for rows in (slice(0, 4), slice(4, 8)):  # each rank's in bfloat16, their mean in float32
        net.zero_grad()
        prediction = blocks_by_hand(net, x[rows].bfloat16())
        losses = [cross_entropy(z, y[rows]) for z in (prediction.output, *prediction.auxiliary)]
        (losses[0] + 0.5 * losses[1] + 0.5 * losses[2]).backward()
        for key, value in gradients(net).items():
            sums[key] = sums.get(key, 0) + value.float() / 2
    assert_same(torch.load(on_two_ranks() / "fsdp2 mixed-0.pt")["gradients"], sums)
