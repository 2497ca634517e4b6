"""Where the arms are trained: the result does not depend on it, and what fails is reported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.trainings import LOSS, deep, small

import gradprobe as gp
from gradprobe.prove.engines import Processes, Serial, open_engine
from gradprobe.zoo import plain_mlp


def ends_here(net):
    """An optimizer that no supervised network survives."""
    if isinstance(net, gp.SupervisedModel):
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.optim.SGD(net.parameters(), lr=0.01)


def compared(engine, **options):
    batches, held_out = small()
    return gp.compare_arms(
        deep,
        batches,
        LOSS,
        ["cnds", "lsuv"],
        iterations=4,
        seeds=[1],
        held_out=held_out,
        engine=engine,
        **options,
    )


@pytest.fixture(scope="module")
def serial():
    return compared("serial")


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of its own, which the engine finds by its address."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", made.address)
        yield
    made.shutdown()


@pytest.mark.slow
def test_processes_come_to_the_same_bit_for_bit(serial):
    assert serial.arms[1].points  # else there would be less to compare
    assert compared("processes", jobs=2) == serial


@pytest.mark.slow
def test_a_cluster_comes_to_the_same_bit_for_bit(serial, cluster):
    assert compared("ray") == serial


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_an_arm_that_dies_is_reported_and_the_others_stand(engine, request):
    if engine == "ray":
        request.getfixturevalue("cluster")
    batches, _ = small()
    result = gp.compare_arms(
        deep, batches, LOSS, ["cnds"], iterations=2, seeds=[0], optimizer=ends_here, engine=engine
    )
    failed = {arm.name: dict(arm.failed) for arm in result.arms}
    assert failed["none"] == {}
    assert "SIGKILL" in failed["cnds"]["seed 0"] or "WorkerCrashedError" in failed["cnds"]["seed 0"]
    assert result.best == "none"
    assert "cnds failed (seed 0)" in str(result)


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_what_failed_is_tried_once_more(engine, tmp_path):
    marks = [tmp_path / name for name in ("once", "twice")]

    def failing(times, mark):
        count = len(mark.read_text()) if mark.exists() else 0
        mark.write_text("x" * (count + 1))
        if count < times:
            raise ValueError("not yet")
        return count

    with open_engine(engine) as made:
        once, twice = made.run([lambda: failing(1, marks[0]), lambda: failing(2, marks[1])], lambda position: None)
    assert (once.value, once.failure) == (1, None)
    assert twice.failure.startswith("ValueError: not yet (test_engines.py, line ")
    assert len(marks[1].read_text()) == 2


def test_what_a_process_prints_is_passed_on(capsys):
    with Processes(workers=1) as made:
        made.run([lambda: print("to be seen")], lambda position: None)
    assert capsys.readouterr().out == "to be seen\n"


def test_what_cannot_be_sent_is_refused():
    batches = (batch for batch in small()[0])  # a generator cannot be pickled
    with pytest.raises(TypeError, match=r"cannot be sent to another process.*batches as a list"):
        gp.compare_arms(plain_mlp(depth=2), batches, LOSS, ["kaiming"], engine="processes", iterations=2)


@pytest.mark.parametrize(
    ("engine", "name", "extra"), [("processes", "cloudpickle", "parallel"), ("ray", "ray", "ray")]
)
def test_what_is_not_installed_is_answered_with_the_line_that_installs_it(engine, name, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'gradprobe\[{extra}\]'"), open_engine(engine):
        pass


def test_without_a_cluster_the_error_says_how_to_start_one(monkeypatch):
    import ray

    def init(**_):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConnectionError, match="ray start --head"), open_engine("ray"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_nothing_is_left_running(number, tmp_path):
    program = f"""
import os, time
from pathlib import Path
from gradprobe.prove.engines import Processes

def forever(name):
    Path({str(tmp_path)!r}, name).write_text(str(os.getpid()))
    time.sleep(600)

with Processes(workers=2) as engine:
    engine.run([lambda: forever("a"), lambda: forever("b"), lambda: forever("c")], lambda position: None)
"""
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as parent:
        started = [tmp_path / name for name in ("a", "b")]
        wait_until(lambda: all(mark.exists() and mark.read_text() for mark in started))
        children = [int(mark.read_text()) for mark in started]
        assert all(map(alive, children))
        parent.send_signal(number)
        parent.wait(timeout=30)
    wait_until(lambda: not any(map(alive, children)))
    assert not (tmp_path / "c").exists()


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(process):
    stat = Path("/proc", str(process), "stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_results_are_in_the_order_of_the_jobs():
    for engine in (Serial(), Processes(workers=2)):
        jobs = [lambda: time.sleep(0.2) or "slow", lambda: "fast"]
        assert [result.value for result in engine.run(jobs, lambda position: None)] == ["slow", "fast"]
