"""Several arms: what each does, which one is to be used, and that it does not depend on where they are trained."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from support.awkward import threads
from torch import nn

import gradprobe as gp
from gradprobe.prove import compare_arms as comparing_arms
from gradprobe.prove import remedies
from gradprobe.prove.engines import Processes, Serial, open_engine
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.points import Point
from gradprobe.verdict.arm import ARMS, NONE, REMEDIES, Arm, chosen_arms
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import learning_frame
from gradprobe.verdict.judge import student, weigh
from gradprobe.zoo import digits, plain_mlp

LOSS = nn.functional.cross_entropy
POINT = Point("act1", (8, 4), 0, ("fc1",))
BRANCH = gp.Placement("by hand", ("fc1",), (POINT,), "to see", output_shape=(8, 10))


def small():
    data = digits((64,), batch_size=128)
    return data.batches[:4], data.held_out


def deep():
    return plain_mlp(depth=30, width=16)


# what each arm does ---------------------------------------------------------------------------------------------


def test_the_names_of_the_remedies_are_those_of_the_remedies():
    assert set(REMEDIES) == set(remedies.REMEDIES)


@pytest.mark.parametrize(("name", "said"), [("cdns", "did you mean 'cnds'"), ("x", "Arms are none, cnds")])
def test_an_unknown_arm_is_told_the_known_ones(name, said):
    with pytest.raises(ValueError, match=said):
        chosen_arms([name])


@threads(1)
def test_the_arms_of_a_comparison_are_those_of_compare():
    batches, held_out = small()
    options = {"iterations": 4, "seeds": (0, 1), "held_out": held_out}
    two = gp.compare(deep, batches, LOSS, **options)
    arms = gp.compare_arms(deep, batches, LOSS, ["cnds"], **options)
    renamed = two.frame.replace({"arm": {"plain": "none", "supervised": "cnds"}})
    key = ["arm", "seed", "iteration"]
    assert two.placement == arms.arms[1].placement
    pd.testing.assert_frame_equal(
        renamed.sort_values(key).reset_index(drop=True), arms.frame.sort_values(key).reset_index(drop=True)
    )
    assert arms.plain == two.plain
    # of two arms there is one pair, and what is said of it is what compare says
    found = weigh(arms.frame, arms.conditions, "none", "cnds")
    assert (found.verdict, found.difference, found.error) == (
        two.verdict,
        two.outcome.difference,
        two.outcome.error,
    )


def test_a_remedy_begins_from_the_same_weights_and_sees_the_same_batches():
    trunk = plain_mlp(depth=3, width=8)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    seen = {}

    def optimizer(net):
        seen[len(seen)] = net.fc3.weight.detach().clone()
        return torch.optim.SGD(net.parameters(), lr=0.0)

    batches, _ = small()
    result = gp.compare_arms(trunk, batches, LOSS, ["kaiming"], iterations=2, seeds=[5], optimizer=optimizer)
    torch.manual_seed(5)
    remedies.kaiming(trunk)
    assert torch.equal(seen[0], before["fc3.weight"])
    assert torch.equal(seen[1], trunk.fc3.weight)
    assert result.conditions["same_batches"]


def test_an_arm_without_a_branch_is_not_trained_again():
    batches, _ = small()
    told = []
    result = gp.compare_arms(
        plain_mlp(depth=2),
        batches,
        LOSS,
        ["cnds", "relative", "lsuv"],
        iterations=2,
        seeds=(0, 1),
        on_training=lambda *what: told.append(what),
    )
    assert {arm.name: arm.like for arm in result.arms} == {
        "none": None,
        "cnds": "none",
        "relative": "none",
        "lsuv": None,
    }
    assert set(result.frame["arm"]) == {"none", "lsuv"}
    assert "no branch: same as none" in str(result)
    assert [done for what, done, _ in told if "seed" in what] == [1, 2, 3, 4]


def test_what_auto_advises_is_what_it_trains_with(monkeypatch):
    advice = gp.Placement("auto", (), (), "because", remedy="lsuv")
    monkeypatch.setattr(comparing_arms, "decide_by_trials", lambda *_, on_iteration: on_iteration() or advice)
    batches, _ = small()
    alone, both = (
        gp.compare_arms(plain_mlp(depth=3), batches, LOSS, arms, iterations=4, window=2, seeds=[0])
        for arms in (["auto"], ["auto", "lsuv"])
    )
    assert [arm.did for arm in alone.arms] == ["as it is", "advises lsuv"]
    assert both.arms[1].did == "advises lsuv: same as lsuv"
    assert both.arms[1].windows == 0.5  # one iteration of a window of two
    curves = [result.frame[result.frame["arm"] == arm] for result, arm in ((alone, "auto"), (both, "lsuv"))]
    assert curves[0]["loss"].tolist() == curves[1]["loss"].tolist()


def test_policies_that_train_count_what_it_costs():
    batches, _ = small()
    result = gp.compare_arms(deep, batches, LOSS, ["repeated", "auto"], iterations=4, window=2, seeds=[0])
    windows = {arm.name: arm.windows for arm in result.arms}
    assert windows["none"] == 0
    assert windows["repeated"] >= 1  # at least one round with the branch in place
    assert 2 <= windows["auto"] <= 10  # the two remedies take a window each; ten is the budget


def test_data_that_draws_from_a_state_of_its_own_is_not_judged():
    generator = torch.Generator().manual_seed(0)

    def drawn():
        yield torch.randn(8, 64, generator=generator), torch.randint(10, (8,), generator=generator)

    result = gp.compare_arms(plain_mlp(depth=2), drawn, LOSS, ["kaiming"], iterations=4, seeds=[0])
    assert not result.conditions["same_batches"]
    assert (result.best, result.choice.verdict) == ("none", "cannot tell")
    assert "did not see the same batches" in str(result)


def test_what_cannot_be_compared_is_refused_at_the_door():
    batches, _ = small()
    net = plain_mlp(depth=2)
    for options, error, said in (
        ({"seeds": []}, ValueError, "one or more"),
        ({"engine": "threads"}, ValueError, "engine out of"),
        ({"jobs": 2}, ValueError, "one thing after the other"),
        ({"jobs": 0, "engine": "processes"}, ValueError, "at least 1"),
    ):
        with pytest.raises(error, match=said):
            gp.compare_arms(net, batches, LOSS, ["cnds"], **options)
    with pytest.raises(TypeError, match="loss_fn"):
        gp.compare_arms(net, LOSS, batches, ["cnds"])


# which one to use -----------------------------------------------------------------------------------------------


def made(ends, *, size=10**6, chance=0.0, kinds=None, failed=()):
    """A comparison from the last accuracies of each arm, a number for each seed."""
    rows = [
        (seed, name, iteration, 1.0, end if iteration else chance)
        for name, values in ends.items()
        for seed, end in enumerate(values)
        for iteration in (0, 1)
    ]
    layer = (Layer("fc1", 0, "Linear", 9), Layer("fc2", 1, "Linear", 9))
    table = tidy([(0, "fc1", 0, "output", 1e-9, 0, 0, 0.0, 0), (0, "fc2", 1, "output", 1e-3, 0, 0, 0.0, 0)])
    arms = tuple(
        Arm(
            name,
            placement=BRANCH if name in ("cnds", "every", "repeated") else None,
            remedy=name if name in REMEDIES else None,
            failed={"seed 9": "it died"} if name in failed else {},
        )
        for name in ends
    )
    conditions = {"iterations": 2, "held_out": size, "chance": chance, "seeds": list(range(len(ends[NONE])))}
    return ArmsComparison(
        GradientHistory(table, {}, layer, (POINT,), (8, 10)), arms, learning_frame(rows), conditions
    )


LOW, HIGH = [0.10, 0.11, 0.12], [0.90, 0.91, 0.92]


@pytest.mark.parametrize(
    ("ends", "best", "sentence"),
    [
        ({"none": LOW, "lsuv": HIGH, "cnds": [0.3, 0.31, 0.32]}, "lsuv", "It does better than branches"),
        # as good as: the remedy, because there is nothing to take off again
        ({"none": LOW, "cnds": [0.93, 0.90, 0.92], "lsuv": HIGH}, "lsuv", "It does as well as branches"),
        ({"none": LOW, "cnds": [0.93, 0.90, 0.92], "lsuv": HIGH}, "lsuv", "cnds is ahead of it by 0.0067"),
        (
            {"none": LOW, "cnds": HIGH, "lsuv": [0.2, 0.21, 0.22]},
            "cnds",
            "Use cnds: held-out accuracy 0.91 with it, 0.11 as it is",
        ),
        # of two remedies the one that is ahead, though within the noise
        ({"none": LOW, "lsuv": HIGH, "kaiming": [0.93, 0.90, 0.92]}, "kaiming", "Use kaiming"),
        # the best of the arms is not beyond the noise
        ({"none": HIGH, "lsuv": [0.93, 0.90, 0.92]}, "none", "lsuv is ahead by 0.0067"),
        ({"none": HIGH, "lsuv": LOW}, "none", "no arm did better"),
        # one seed settles little
        ({"none": [0.5], "lsuv": [0.7]}, "none", "One seed cannot tell more"),
        ({"none": [0.1], "lsuv": [0.7]}, "lsuv", "but on one seed only"),
    ],
)
def test_the_arm_to_use_is_the_simplest_that_is_not_clearly_beaten(ends, best, sentence):
    result = made(ends)
    assert result.best == best
    assert sentence in str(result)


def test_a_remedy_that_is_chosen_is_the_decision_of_the_run():
    result = made({"none": LOW, "lsuv": HIGH})
    assert (result.placement.remedy, result.placement.points) == ("lsuv", ())
    assert result.placement.flagged == ("fc1",)  # by the rule of CNDS: 1e-9
    assert made({"none": LOW, "cnds": HIGH}).placement.points == (POINT,)


def test_where_no_arm_learns_nothing_is_said():
    result = made({"none": LOW, "lsuv": LOW}, chance=0.5, size=100)
    assert (result.best, result.choice.verdict) == ("none", "cannot tell")
    assert "No arm learnt" in str(result)


def test_an_arm_of_which_a_part_failed_is_not_chosen():
    result = made({"none": LOW, "lsuv": HIGH, "kaiming": [0.8, 0.81, 0.82]}, failed=["lsuv"])
    assert result.best == "kaiming"
    assert result.summary.set_index("arm")["verdict"]["lsuv"] == "failed"
    assert "lsuv failed (seed 9): it died" in str(result)


def test_the_doubt_is_divided_among_all_pairs_of_arms():
    # differences .10, .12, .14: mean .12, standard error .0115, so t = 10.4 with 2 degrees of freedom; alone it
    # has to exceed 4.30, and as one of the ten pairs of five arms 14.09
    gained = [0.60, 0.62, 0.64]
    alone = made({"none": [0.5] * 3, "lsuv": gained})
    assert alone.summary["verdict"].tolist() == ["", "helped"]
    assert "How sure: 0.12 better (standard error of the difference 0.012, 3 seeds); the seeds agree" in str(alone)
    others = {name: [0.5] * 3 for name in ("cnds", "every", "kaiming")}
    of_five = made({"none": [0.5] * 3, "lsuv": gained, **others})
    assert of_five.best == "lsuv"
    assert of_five.summary["verdict"].tolist() == ["", "likely helped", *["no difference"] * 3]
    assert "; likely, not settled" in str(of_five)
    assert (alone.choice.verdict, of_five.choice.verdict) == ("helped", "likely helped")


@pytest.mark.parametrize(
    ("freedom", "doubt", "table"),
    # Abramowitz and Stegun, table 26.10
    [
        (1, 0.05, 12.706),
        (2, 0.05, 4.303),
        (5, 0.01, 4.032),
        (10, 0.05, 2.228),
        (30, 0.05, 2.042),
        (120, 0.05, 1.980),
    ],
)
def test_students_t_is_that_of_the_tables(freedom, doubt, table):
    assert student(freedom, doubt) == pytest.approx(table, abs=6e-4)


def test_a_loss_that_is_not_finite_is_never_the_best():
    rows = [(0, "none", i, 2.0 - 0.01 * i, math.nan) for i in range(40)]
    rows += [(0, "lsuv", i, 1.0 if i < 20 else math.inf, math.nan) for i in range(40)]
    result = made({"none": LOW, "lsuv": LOW})
    worse = ArmsComparison(result.plain, result.arms, learning_frame(rows), {"iterations": 40})
    assert worse.best == "none"
    assert not worse.held_out


# kept and drawn -------------------------------------------------------------------------------------------------


def test_a_run_of_arms_reads_back_equal(tmp_path):
    result = made({"none": LOW, "cnds": HIGH, "lsuv": [1 / 3, 0.2, 0.1]}, failed=["lsuv"])
    folder = gp.save(tmp_path / "run", result.plain, result.placement, arms=result)
    again = gp.load(folder)
    assert again.arms == result
    assert again.placement == result.placement
    assert str(result) in str(again)
    assert (folder / "arms.png").is_file()
    page = (folder / "report.html").read_text()
    assert result.choice.sentences[0] in page
    assert '<section id="arms"' in page
    other = gp.save(tmp_path / "other", again.history, again.placement, arms=again.arms)
    for name in ("arms.csv", "arms.png", "report.html"):
        one, two = ((each / name).read_bytes() for each in (folder, other))
        assert one.replace(b"/run", b"") == two.replace(b"/other", b""), name


def test_a_notebook_shows_the_table():
    shown = made({"none": LOW, "lsuv": HIGH})._repr_html_()
    assert "use lsuv" in shown
    assert "unit variance in every layer" in shown


def test_each_arm_has_a_line_and_its_name_at_the_end():
    result = made({"none": LOW, "cnds": HIGH, "lsuv": HIGH})
    arms = (*result.arms, Arm("auto", gp.Placement("auto", (), (), "", remedy="lsuv"), "lsuv", like="lsuv"))
    result = ArmsComparison(result.plain, arms, result.frame, result.conditions)
    ax = gp.plot_arms(result)
    ends = [line.get_ydata()[-1] for line in ax.lines if line.get_gid() == "mean"]
    assert ends == pytest.approx([0.11, 0.91, 0.91])
    assert {text.get_text() for text in ax.texts} >= {"none", "cnds", "lsuv = auto"}
    assert gp.plot_arms(result, value="loss").get_title(loc="left") == "Training loss, main output"
    with pytest.raises(ValueError, match="expected one of"):
        gp.plot_arms(result, value="x")


def test_every_arm_has_a_look_of_its_own():
    from gradprobe.show.plots.arms import _COLOURS, _MARKERS

    assert len(set(_COLOURS)) == len(set(_MARKERS)) == len(ARMS)


# where they are trained -----------------------------------------------------------------------------------------


def ends_here(net):
    """An optimizer that no supervised network survives, nor one whose biases are zero."""
    if isinstance(net, gp.SupervisedModel):
        os.kill(os.getpid(), signal.SIGKILL)
    if not net.fc1.bias.any():
        raise ValueError("no biases")
    return torch.optim.SGD(net.parameters(), lr=0.01)


def compared(engine, **options):
    batches, held_out = small()
    return gp.compare_arms(
        deep,
        batches,
        LOSS,
        ["cnds", "lsuv"],
        iterations=4,
        seeds=(0, 1),
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
@pytest.mark.parametrize("jobs", [1, 2])
def test_processes_come_to_the_same_bit_for_bit(serial, jobs):
    assert serial.arms[1].points  # else there would be less to compare
    assert compared("processes", jobs=jobs) == serial


@pytest.mark.slow
def test_a_cluster_comes_to_the_same_bit_for_bit(serial, cluster):
    assert compared("ray") == serial


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_an_arm_that_dies_is_told_and_the_others_stand(engine, request):
    if engine == "ray":
        request.getfixturevalue("cluster")
    batches, _ = small()
    result = gp.compare_arms(
        deep, batches, LOSS, ["cnds", "kaiming"], iterations=2, seeds=[0], optimizer=ends_here, engine=engine
    )
    failed = {arm.name: dict(arm.failed) for arm in result.arms}
    assert failed["none"] == {}
    assert "SIGKILL" in failed["cnds"]["seed 0"] or "WorkerCrashedError" in failed["cnds"]["seed 0"]
    assert failed["kaiming"]["seed 0"].startswith("ValueError: no biases (test_compare_arms.py, line ")
    assert result.best == "none"
    assert "cnds failed (seed 0)" in str(result)


def test_here_an_arm_that_raises_is_told_and_the_others_stand():
    def raising(net):
        if not net.fc1.bias.any():
            raise ValueError("no biases")
        return torch.optim.SGD(net.parameters(), lr=0.01)

    batches, _ = small()
    result = gp.compare_arms(
        plain_mlp(depth=2), batches, LOSS, ["kaiming"], iterations=2, seeds=[0], optimizer=raising
    )
    assert result.failures == [f"kaiming failed (seed 0): {result.arms[1].failed['seed 0']}"]


def test_without_the_plain_training_there_is_nothing_to_compare_to():
    batches, _ = small()
    with pytest.raises(RuntimeError, match=r"nothing to compare to: ZeroDivisionError: .* \(test_compare_arms.py, line"):
        gp.compare_arms(plain_mlp(depth=2), batches, lambda *_: 1 / 0, ["kaiming"], iterations=2, seeds=[0])


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
    assert twice.failure.startswith("ValueError: not yet")
    assert len(marks[1].read_text()) == 2


def test_what_a_process_prints_is_passed_on(capsys):
    with Processes(jobs=1) as made:
        made.run([lambda: print("to be seen")], lambda position: None)
    assert capsys.readouterr().out == "to be seen\n"


def test_what_cannot_be_sent_is_said_so():
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


def test_without_a_cluster_it_is_said_how_to_start_one(monkeypatch):
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


def test_ctrl_c_here_is_ctrl_c(monkeypatch):
    def interrupt(net):
        raise KeyboardInterrupt

    batches, _ = small()
    with pytest.raises(KeyboardInterrupt) as caught:
        gp.compare_arms(plain_mlp(depth=2), batches, LOSS, ["kaiming"], iterations=2, optimizer=interrupt)
    assert not hasattr(caught.value, "history")


def test_the_order_of_what_comes_back_is_that_of_the_calls():
    for made in (Serial(), Processes(workers=2)):
        calls = [lambda: time.sleep(0.2) or "slow", lambda: "fast"]
        assert [one.value for one in made.run(calls, lambda position: None)] == ["slow", "fast"]
