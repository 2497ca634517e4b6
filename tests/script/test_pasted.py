"""The lines that `gradprobe run` prints are pasted into copies of scripts, which then train to the end."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from support.pasting import edits, pasted
from support.script_command import SCRIPTS, inside

import gradprobe as gp
from gradprobe.insert.loss import DeepSupervisionLoss
from gradprobe.script.execute import Script, execute

sys.path.append(str(SCRIPTS))
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of Lightning, with torch 2.13
MORE = SCRIPTS / "foreign"
SEVERAL = {"gan.py": ["generator", "discriminator"]}
ARGUMENTS = {"workers.py": ["fork"], "huggingface.py": ["out"]}
# each is run twice or three times, so that all of them are run where somebody asks for it
ALL = os.environ.get("GRADPROBE_PASTED") == "all"
BRANCHES = ["bptt", "gan", "foreign/built_in_if", "foreign/gpt", "foreign/super_resolution"]
REMEDIES = ["trainer", "foreign/returns_loss"]
CAUSES = ["grad_zeroed", "frozen"]
if ALL:
    BRANCHES += ["accumulation", "ddp", "lbfgs", "lit", "plain", "trainer", "workers", "foreign/accelerated"]
    REMEDIES += ["plain", "lit", "foreign/built_in_if", "foreign/diffusion"]
    CAUSES += ["zero_grad_missing", "clipped", "eval_mode", "lr_low", "symmetry"]


@pytest.fixture
def alone(monkeypatch):
    """One process is all that train together."""
    names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29631"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def joint(monkeypatch):
    """How many losses of branches were added up."""
    count, terms = [], DeepSupervisionLoss.terms

    def counting(self, prediction, target):
        main, auxiliary = terms(self, prediction, target)
        count.append(len(auxiliary))
        return main, auxiliary

    monkeypatch.setattr(DeepSupervisionLoss, "terms", counting)
    return count


def advice_of(script, policy, *arguments):
    """What to change in a copy of a script, and what to add, each as it is printed, by model."""
    shutil.copy(script, script.name)
    options = ["--iterations", 2, "--policy", policy, "--out", "run"]
    result = inside(*options, script.name, *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def train(script, advice, *arguments):
    """Paste into a fresh copy, beside the run, and train it to its end."""
    folder = Path("pasted")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for run in Path().glob("run*"):
        shutil.copytree(run, folder / run.name)
    shutil.copy(script, folder)
    assert pasted(advice, folder)
    os.chdir(folder)
    try:
        ending = execute(Script(script.name, tuple(arguments)))
    finally:
        os.chdir("..")
    assert ending.code == 0, ending.words


@pytest.mark.parametrize("name", BRANCHES)
def test_with_the_lines_as_printed_it_trains_with_branches(name, alone, joint):
    script = SCRIPTS / f"{name}.py"
    arguments = ARGUMENTS.get(script.name, [])
    printed = advice_of(script, "every", *arguments)
    added = ["What to add" + part for part in printed.split("What to add")[1:]]
    assert len(added) == len(SEVERAL.get(script.name, [""]))
    for advice in added:
        joint.clear()
        train(script, advice, *arguments)
        assert joint
        assert all(joint)


@pytest.mark.parametrize("name", REMEDIES)
def test_with_the_lines_as_printed_it_trains_with_the_remedy(name):
    script = SCRIPTS / f"{name}.py"
    before = advice_of(script, "threshold")
    mended = before[before.index("What to change") :].partition("What to add")[0]
    train(script, mended)
    os.chdir("pasted")
    again = inside("--iterations", 2, "--out", "again", script.name)
    assert again.exit_code == 0, (again.output, again.exception)
    causes = [{one.cause for one in gp.diagnose(gp.load(run).history).findings} for run in ("run", "again")]
    assert causes[0] - causes[1]  # what was wrong is so no more


def test_the_page_of_the_run_has_the_same_lines():
    from gradprobe.show.page.document import render

    printed = advice_of(SCRIPTS / "plain.py", "threshold")
    run = gp.load("run")
    page = render(run.history, run.placement, run="run").replace("&#34;", '"').replace("&#39;", "'")
    lines = [line for *_, code in edits(printed) for line in code]
    assert len(lines) > 3
    assert all(line in page for line in lines)


@pytest.mark.slow
def test_of_a_librarys_loop_it_is_said_that_no_line_can_be_right():
    printed = advice_of(SCRIPTS / "huggingface.py", "every", "out")
    assert "computed in the loop of transformers" in printed
    assert "--keep-going" in printed
    assert not edits(printed)


FAULTS = {
    "zero_grad_missing": (("optimizer.zero_grad()", "pass"), "optimizer.zero_grad()"),
    "grad_zeroed": (("loss.backward()", "loss.backward(); optimizer.zero_grad()"), "optimizer.zero_grad()"),
    "clipped": (
        ("optimizer.step()", "torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-9); optimizer.step()"),
        "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)",
    ),
    "eval_mode": (("optimizer.zero_grad()", "model.eval(); optimizer.zero_grad()"), "model.train()"),
    "lr_low": (("lr=0.1", "lr=1e-9"), 'group["lr"] *= 10'),
    "frozen": (("optimizer =", "model[0].requires_grad_(False); optimizer ="), "requires_grad_(True)"),
    "symmetry": (
        ("optimizer =", "nn.init.zeros_(model[0].weight); nn.init.zeros_(model[0].bias); optimizer ="),
        "reset_parameters()",
    ),
}
SOUND = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(16):
    optimizer.zero_grad()
    x = torch.randn(64, 16)
    loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize("cause", CAUSES)
def test_the_remedy_of_each_cause_that_lines_can_state(cause):
    (old, new), line = FAULTS[cause]
    assert old in SOUND
    faulty = SOUND.replace(old, new.replace("; ", "\n" + " " * 4 * (old != "optimizer =")))
    Path("train.py").write_text(faulty)
    script = Path("faulty.py")
    script.write_text(faulty)
    result = inside("--iterations", 12, "--out", "run", "train.py")
    assert result.exit_code == 0, (result.output, result.exception)
    found = gp.diagnose(gp.load("run").history).findings
    assert found[0].cause == cause
    assert line in result.stdout
    shutil.copy(script, "train.py")
    assert pasted(result.stdout.partition("What to add")[0])
    again = inside("--iterations", 12, "--out", "again", "train.py")
    assert again.exit_code == 0, (again.output, again.exception)
    assert cause not in {one.cause for one in gp.diagnose(gp.load("again").history).findings} or cause == "lr_low"


def test_a_remedy_waits_for_the_first_batch_and_leaves_loaded_weights_alone():
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8))
    saved = {name: value.clone() for name, value in net.state_dict().items()}
    gp.apply_remedy(net, "lsuv")
    net.double().float()  # to move it is not to change it
    assert all(torch.equal(value, saved[name]) for name, value in net.state_dict().items())
    x = torch.randn(64, 8)
    assert net(x).std().item() == pytest.approx(1, abs=0.05)
    assert not net._forward_pre_hooks
    gp.apply_remedy(net, "lsuv")
    net.load_state_dict(saved)
    with pytest.warns(UserWarning, match="the remedy is left out"):
        net(x)
    assert all(torch.equal(value, saved[name]) for name, value in net.state_dict().items())
    with pytest.raises(ValueError, match="expected a remedy out of"):
        gp.apply_remedy(net, "none")
