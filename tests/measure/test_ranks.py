"""Several ranks give the record of one process that sees the whole batch."""

import functools
import json
from pathlib import Path

import pytest
import support.distributed as setups
from support.oracle import means_of, record
from support.torchrun import torchrun
from torch import nn

from gradprobe import load
from gradprobe.record.csv_tables import read_csv

WORKER = Path(__file__).parents[1] / "support" / "distributed.py"
WORLDS = [2, 3]
pytestmark = pytest.mark.slow
in_each_world = pytest.mark.parametrize("world", WORLDS)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Runs all set-ups once for each world size, in a process for each rank."""

    @functools.cache
    def run(world):
        folder = tmp_path_factory.mktemp(f"world{world}")
        torchrun(world, WORKER, folder)
        return folder

    return run


@functools.cache
def expected(world, kind, more=True):
    model = setups.build(kind)
    forward = model.forward
    model.forward = (lambda x: forward(x, more=more)) if not more else forward
    return record(model, setups.batches(world), nn.functional.cross_entropy, setups.ITERATIONS)


def read(folder, name, rank):
    frame = read_csv((folder / f"{name}-{rank}.csv").read_text())
    facts = json.loads((folder / f"{name}-{rank}.json").read_text())
    return means_of(frame), facts


AS_ONE = [
    *((name, world) for name in ("ddp", "ddp_probed_inside", "ddp_scan") for world in WORLDS),
    *((name, world) for name in ("fsdp2", "fsdp2_not_resharded") for world in WORLDS),
    ("tensor_parallel", 2),
    ("hybrid_sharded", 4),
    ("sharded_and_tensor_parallel", 4),
]


@pytest.mark.limit("DistributedDataParallel", "exact, over all ranks", "exact, over all ranks")
@pytest.mark.limit(
    "FSDP2 `fully_shard`, uneven shards, resharding on or off, hybrid meshes",
    "exact, over all ranks",
    "exact, over all ranks",
)
@pytest.mark.limit(
    "tensor parallel (DTensor), alone or with FSDP2", "exact, over all ranks", "exact, over all ranks"
)
@pytest.mark.parametrize(("name", "world"), AS_ONE)
def test_ranks_agree_with_one_process(name, world, ran):
    whole = 2 if name == "sharded_and_tensor_parallel" else world  # ranks that have different data
    oracle = expected(whole, setups.Even if "tensor" in name else setups.Net)
    for rank in range(world):
        measured, facts = read(ran(world), name, rank)
        assert measured.keys() == oracle.keys()
        for key, value in oracle.items():
            assert measured[key] == pytest.approx(value, rel=1e-5), key
        assert facts["conditions"]["ranks"] == f"combined over {world} ranks"


@pytest.mark.limit("FSDP2 with mixed precision", "exact to 1e-4", "exact to 1e-4")
@in_each_world
def test_mixed_precision_agrees_to_its_own_rounding(world, ran):
    oracle = expected(world, setups.Net)
    measured, _ = read(ran(world), "fsdp2_mixed", 0)
    assert measured.keys() == oracle.keys()
    for key, value in oracle.items():
        assert measured[key] == pytest.approx(value, rel=1e-4), key


@pytest.mark.limit("`no_sync`", "exact, over all ranks", "exact, over all ranks")
@in_each_world
def test_accumulation_without_synchronisation(world, ran):
    oracle = expected(world, setups.Net)
    measured, facts = read(ran(world), "ddp_no_sync", 0)
    for key, value in oracle.items():
        assert measured[key] == pytest.approx(value, rel=1e-5), key
    assert facts["conditions"]["micro_batches"] == 2


@pytest.mark.limit("unused parameters of DistributedDataParallel", "unreached", "unreached")
@in_each_world
def test_unused_parameters_are_unreached(world, ran):
    measured, facts = read(ran(world), "ddp_unused", 0)
    assert (0, "sometimes", "output") not in measured
    assert facts["unreached"]["sometimes"]["output"] == "never called as a module"


@pytest.mark.limit("a probe on some ranks only", "this rank's own, and `conditions['ranks']` says so", "the same")
@pytest.mark.limit("a probe on some ranks only", signal="this rank's own, exact")
@in_each_world
def test_a_probe_on_one_rank_waits_for_nobody(world, ran):
    _, facts = read(ran(world), "only_rank_0", 0)
    assert "not every rank attached" in facts["conditions"]["ranks"]
    assert facts["differences"] == []
    assert None not in facts["evidence"]["update"]


@in_each_world
@pytest.mark.parametrize(("name", "wrapper"), [("ddp", "DistributedDataParallel"), ("fsdp2", "fully_shard")])
def test_the_conditions_say_how_it_was_distributed(name, wrapper, world, ran):
    _, facts = read(ran(world), name, 0)
    assert facts["conditions"]["world_size"] == world
    assert facts["conditions"]["wrapper"] == wrapper


@in_each_world
def test_a_rank_that_leaves_does_not_hang_the_others(world, ran):
    _, facts = read(ran(world), "one_leaves", 0)
    assert "not every rank recorded 2 iterations" in facts["conditions"]["ranks"]


@in_each_world
def test_only_rank_0_writes(world, ran):
    measured, _ = read(ran(world), "saving", world - 1)
    assert load(ran(world) / "run").history.frame["mean_abs"].dropna().tolist() == list(measured.values())


OWN = [
    "ddp",
    "ddp_unused",
    "ddp_no_sync",
    "ddp_probed_inside",
    "fsdp2",
    "fsdp2_not_resharded",
    "fsdp2_mixed",
    "tensor_parallel",
]


@pytest.mark.limit("DistributedDataParallel", signal="this rank's own batch, exact")
@pytest.mark.limit(
    "FSDP2 `fully_shard`, uneven shards, resharding on or off, hybrid meshes",
    signal="this rank's own batch and shard, exact",
)
@pytest.mark.limit("FSDP2 with mixed precision", signal="this rank's own batch and shard, exact")
@pytest.mark.limit(
    "tensor parallel (DTensor), alone or with FSDP2", signal="this rank's own batch and shard, exact"
)
@pytest.mark.limit("`no_sync`", signal="this rank's own first small batch; update exact")
@pytest.mark.limit("unused parameters of DistributedDataParallel", signal="no signal; update 0")
@pytest.mark.parametrize("name", OWN)
def test_signal_and_update_are_those_of_the_ranks_own_part(name, ran):
    for rank in range(2):
        _, facts = read(ran(2), name, rank)
        assert facts["differences"] == []
        numbers = facts["evidence"]
        assert sum(value is not None for value in numbers["update"]) == 3 * (3 if name == "tensor_parallel" else 4)
        assert any(value is not None for value in numbers["spread"])
