"""A script runs and ends as ``python`` would have it, and nothing stays patched."""

import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.script_command import ENVIRONMENT, LOOP, inside, outside, python, write_script
from torch import nn

import gradprobe as gp

ENDINGS = {
    "fails at once": "print('hello')\n{}['missing']\n",
    "fails while it trains": LOOP + "    if step == 2:\n        raise ValueError('no')\n",
    "fails with a cause": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise OSError('x') from e\n",
    "exits with a number": "import sys\nsys.exit(7)\n",
    "exits with a sentence": LOOP + "sys.exit('that was it')\n",
    "exits early": "import torch\nraise SystemExit\n",
    "never builds an optimizer": "import torch\nprint(torch.nn.Linear(2, 1)(torch.ones(1, 2)).shape)\n",
    "never steps": "import torch\ntorch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)\n",
    "trains less than the window": LOOP,
    "replaces sys.exit": "import sys\nsys.exit = lambda code=0: print('no exit', code)\nsys.exit(3)\n" + LOOP,
    "has its own excepthook": "import sys\nsys.excepthook = lambda *e: print('mine', e[1])\n1 / 0\n",
    "does not compile": "def f(:\n",
    "an empty optimizer": "import torch\ntorch.optim.SGD([], lr=0.1)\n",
    "an error in a backward": LOOP.replace(".sum()", ""),
    "a fork": "import os\nif not os.fork():\n    raise SystemExit(5)\n"
    "print(os.waitstatus_to_exitcode(os.wait()[1]))\n",
    "a thread": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(.3), print('late'))).start()\n",
}


# what belongs to the process itself: its output is at the level of the system, or it waits for others
IN_A_PROCESS = {"fails while it trains", "exits with a sentence", "a fork", "a thread"}


def check_ending(ending, alone, code, stdout, stderr):
    assert code == alone.returncode
    assert stdout.startswith(alone.stdout)
    *before, sentence = stderr.splitlines(keepends=True)
    assert "".join(before) == alone.stderr
    assert sentence.startswith("gradprobe: ")
    assert ("run written to" in sentence) == ("for step" in ENDINGS[ending] and "in a backward" not in ending)
    if alone.returncode:
        assert stdout == alone.stdout


@pytest.mark.slow
@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending not in IN_A_PROCESS])
def test_it_ends_as_without_gradprobe_plus_one_sentence(ending):
    write_script(ENDINGS[ending])
    alone, under = python("train.py"), inside("--iterations", 10, "train.py")
    check_ending(ending, alone, under.exit_code, under.stdout, under.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("ending", sorted(IN_A_PROCESS))
def test_its_process_ends_as_without_gradprobe_plus_one_sentence(ending):
    write_script(ENDINGS[ending])
    alone, under = python("train.py"), outside("--iterations", 10, "train.py")
    check_ending(ending, alone, under.returncode, under.stdout, under.stderr)


def test_a_script_that_swallows_the_stop_is_stopped_again():
    write_script(
        LOOP.replace("    optimizer.step()", "    try:\n        optimizer.step()\n    except BaseException: pass")
    )
    result = inside("--iterations", 2, "--out", "run", "train.py")
    assert result.exit_code == 0, result.exception
    assert result.output.startswith("0\n1\n2\n3\n4\n")
    assert gp.load("run").history.iterations == 2
    write_script(
        LOOP.replace("    optimizer.step()", "    try:\n        optimizer.step()\n    except Exception: pass")
    )
    # the script never clears its gradients, which is what is said first
    output = inside("--iterations", 2, "--out", "run2", "train.py").output
    assert output.startswith("0\nSick: gradients not cleared. ")


def test_keep_going_trains_on_without_hooks():
    write_script(
        LOOP + "    assert bool(model._forward_hooks) == (step < 1), step\nprint('done', model._forward_hooks)\n"
    )
    result = inside("--iterations", 2, "--out", "run", "--keep-going", "train.py")
    assert result.exit_code == 0, result.output
    assert "done OrderedDict()" in result.output
    assert result.output.index("mean |dL/d output|") < result.output.index("\n2\n")
    assert result.output.count("None needed") == 1
    assert gp.load("run").history.conditions["complete"]


@pytest.mark.slow
def test_ctrl_c_keeps_the_record():
    write_script(
        LOOP.replace("range(5)", "range(10**9)").replace(
            "flush=True)", "flush=True)\n    import time; time.sleep(.01)"
        )
    )
    command = [sys.executable, "-m", "gradprobe", "run", "--iterations", "100000", "--out", "run", "train.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while process.stdout.readline().strip() != "5":
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "KeyboardInterrupt" in errors
    assert "the script was interrupted after" in errors
    assert gp.load("run").history.iterations > 5


LOOKING = """
import sys, pickle
class Own: pass
print(sys.argv, sys.path[0], __name__, __spec__ and __spec__.name, __package__, __file__)
print(type(pickle.loads(pickle.dumps(Own()))) is Own, sys.modules["__main__"].Own is Own)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["file", "module", "folder"])
def test_the_script_sees_what_it_would_see(how):
    Path("package").mkdir()
    write_script("", "package/__init__.py")
    write_script(LOOKING, "package/train.py")
    write_script(LOOKING, "package/__main__.py")
    named = {"file": ["package/train.py"], "module": ["-m", "package.train"], "folder": ["package"]}[how]
    arguments = [*named, "--iterations", "7", "-q", "--", "-h"]
    alone, under = python(*arguments), outside(*arguments)
    assert alone.returncode == 0, alone.stderr
    assert under.stdout == alone.stdout


def test_torch_is_not_imported_for_the_script():
    write_script("import sys\nprint('torch' in sys.modules, 'pandas' in sys.modules)\n")
    assert outside("train.py").stdout == "False False\n"


def test_nothing_stays_patched():
    owners = [
        (torch.optim.Optimizer, "__init__"),
        (torch.optim.Optimizer, "zero_grad"),
        (nn.Module, "zero_grad"),
        (nn.Module, "__init__"),
    ]
    owners += [(sys, name) for name in ("argv", "path", "exit", "stdout", "stderr", "excepthook", "meta_path")]
    before = [(owner, name, getattr(owner, name)) for owner, name in owners]
    main_module, finders = sys.modules["__main__"], list(sys.meta_path)
    for text in (LOOP, LOOP + "    raise ValueError\n", "import sys\nsys.path.clear()\nsys.exit = print\n"):
        write_script(text)
        inside("--iterations", 2, "train.py")
        assert [getattr(owner, name) for owner, name, _ in before] == [value for *_, value in before]
        assert sys.modules["__main__"] is main_module
        assert sys.meta_path == finders
    from torch.optim import optimizer

    assert not optimizer._global_optimizer_pre_hooks
    assert not optimizer._global_optimizer_post_hooks


def test_the_training_is_that_without_gradprobe_to_the_last_bit(monkeypatch):
    text = LOOP + "torch.save(model.state_dict(), sys.argv[1])\n"
    write_script("import torch\ntorch.manual_seed(0)\n" + text)
    monkeypatch.setattr(sys, "argv", ["train.py", "alone"])
    runpy.run_path("train.py", run_name="__main__")
    for arguments in (["--iterations", 2, "--keep-going"], ["--iterations", 50]):
        assert inside(*arguments, "train.py", "under").exit_code == 0
        alone, under = torch.load("alone"), torch.load("under")
        assert all(torch.equal(alone[name], under[name]) for name in alone)
