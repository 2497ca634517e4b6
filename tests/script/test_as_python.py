"""What a script does to threads, streams, hooks and the process' end is as under ``python``."""

import os
import sys
from pathlib import Path

import pytest
from support.script_command import inside, outside, python, write_script

import gradprobe as gp

# a training that goes on and on, to be called in whatever the script calls it in
ENDLESS = """
import asyncio, concurrent.futures, multiprocessing.pool, queue, sys, threading, time
import torch
from torch import nn
def train(steps=10**6, width=4):
    net = nn.Linear(3, width)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        net(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
    return 0
def failing(args):
    print("a hook was called with", args)
    sys.exit(4)
"""

STOPPED = {
    "threads that are joined": "threads = [threading.Thread(target=train, args=(10**6, n)) for n in (3, 4, 5)]\n"
    "for thread in threads: thread.start()\nfor thread in threads: thread.join()\n",
    "a thread whose result is waited for": "results = queue.Queue()\n"
    "threading.Thread(target=lambda: results.put(train())).start()\nprint(results.get())\n",
    "a daemon and a hook for errors in threads": "threading.excepthook = failing\n"
    "thread = threading.Thread(target=train, daemon=True)\nthread.start()\nthread.join()\nprint('unknown'[99])\n",
    "an executor": "with concurrent.futures.ThreadPoolExecutor(1) as pool:\n"
    "    print([future.result() for future in [pool.submit(train) for _ in range(4)]])\n",
    "a pool of threads": "with multiprocessing.pool.ThreadPool(1) as pool:\n"
    "    print(pool.map(lambda _: train(), [1]))\n",
    "a task of asyncio": "async def work(): train()\nasync def main(): await asyncio.gather(work(), work())\n"
    "asyncio.run(main())\n",
    "a task that nobody waits for": "async def work(): train()\nasync def main():\n"
    "    task = asyncio.create_task(work())\n    await asyncio.sleep(60)\nasyncio.run(main())\n",
    "a thread of asyncio": "asyncio.run(asyncio.to_thread(train))\n",
    "a stop that becomes another error": "try:\n    train()\nexcept BaseException as e:\n"
    "    raise ValueError() from e\n",
    "a group of errors": "import builtins\ntry:\n    train()\nexcept BaseException as e:\n"
    "    if not hasattr(builtins, 'BaseExceptionGroup'): raise\n    raise BaseExceptionGroup('all', [e])\n",
}


@pytest.mark.parametrize("how", STOPPED)
def test_the_stop_is_silent_wherever_the_script_trains(how):
    write_script(ENDLESS + STOPPED[how])
    result = outside("--iterations", 3, "--out", "run", "train.py")
    assert result.returncode == 0
    assert result.stderr.startswith("gradprobe: ")
    assert "run written to run" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Healthy. Nothing is wrong" in result.stdout[:60]
    # of threads, which of them have built their optimizer when the first is full is a matter of chance
    assert 3 in [gp.load(run.parent).history.iterations for run in Path().glob("run*/run.json")]


# what each of them does is what it does alone; all train five steps, so that there is a record
SHORT = ENDLESS + "train(5)\nsys.stdout.write('trained\\n')\nsys.stdout.flush()\n"  # a line in one piece
AS_ALONE = {
    "closes stdout": "sys.stdout.close()\n",
    "closes stderr": "sys.stderr.close()\n",
    "closes both": "sys.stdout.close()\nsys.stderr.close()\n",
    "closes descriptor 1": "import os\nos.close(1)\n",
    "closes both descriptors": "import os\nos.close(1)\nos.close(2)\n",
    "has no streams": "sys.stdout = sys.stderr = None\n",
    "exits with words and no stderr": "sys.stderr = None\nsys.exit('words')\n",
    "a hook that raises": "def hook(*error): raise KeyError('hook')\nsys.excepthook = hook\n1 / 0\n",
    "a hook that exits": "sys.excepthook = lambda *error: sys.exit(9)\n1 / 0\n",
    "no hook": "del sys.excepthook\n1 / 0\n",
    "a hook for threads that raises": "def hook(args): raise KeyError('hook')\nthreading.excepthook = hook\n"
    "thread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()\n",
    "an executor that is not shut down": "pool = concurrent.futures.ThreadPoolExecutor(1)\n"
    "for n in range(4): pool.submit(lambda n=n: (time.sleep(.1), print('done', flush=True)))\n",
    "os._exit": "import os\nos._exit(6)\n",
    "a large exit code": "sys.exit(2**80)\n",
    "a negative exit code": "sys.exit(-3)\n",
    "a signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n",
    "a handler for a signal": "import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
    "os.kill(os.getpid(), signal.SIGTERM)\n",
    "a handler for the signal that we use": "import os, signal\n"
    "signal.signal(signal.SIGURG, lambda *_: print('urgent', flush=True))\nos.kill(os.getpid(), signal.SIGURG)\n",
    "processes": "import multiprocessing\nif __name__ == '__main__':\n    for how in ('fork', 'spawn'):\n"
    "        context = multiprocessing.get_context(how)\n        with context.Pool(1) as pool:\n"
    "            print(pool.map(train, [3, 3]))\n",
}


def without_report(text):
    """What a script wrote itself: our report on standard output and our sentence on standard error come last."""
    lines = text.splitlines(keepends=True)
    beginnings = ("Healthy. ", "gradprobe: ")
    ours = next((i for i, line in enumerate(lines) if line.startswith(beginnings)), len(lines))
    return "".join(lines[:ours])


# how a script ends has nothing to do with torch, which takes seconds to import
NO_TORCH = """
class Anything:
    def __getattr__(self, name): return self
    def __call__(self, *args, **kwargs): return self
nn = optim = ones = Anything()
"""


def alone_without_torch():
    """What the script does under ``python``, if all that it trains is made of nothing."""
    stub = Path(write_script(NO_TORCH, "torch.py"))
    result = python("train.py")
    stub.unlink()
    return result


@pytest.mark.parametrize("what", AS_ALONE)
def test_it_ends_as_alone(what):
    text = SHORT.replace("train(5)", "if __name__ == '__main__': train(5)")
    write_script(text + AS_ALONE[what])
    alone, under = alone_without_torch(), outside("--iterations", 10, "--out", "run", "train.py")
    assert (under.returncode, without_report(under.stdout)) == (alone.returncode, alone.stdout)
    assert without_report(under.stderr) == alone.stderr
    killed = what in ("os._exit", "a signal")
    assert Path("run/run.json").exists() == (not killed)


def test_functions_for_the_exit_see_the_script():
    write_script(
        ENDLESS + "import atexit, pickle\nclass Own: pass\nown = Own()\n"
        "atexit.register(lambda: print('first registered', sys.argv, flush=True))\n"
        "atexit.register(lambda: print('last registered', len(pickle.dumps(own)) > 0, flush=True))\ntrain(5)\n"
    )
    alone, under = python("train.py", "-x"), outside("--iterations", 10, "train.py", "-x")
    assert alone.stdout.splitlines()[0] == "last registered True"
    assert under.stdout.endswith(alone.stdout)
    assert under.returncode == alone.returncode == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system refuses such names")
def test_names_that_no_encoding_has():
    name = os.fsdecode(b"tr\xffain.py")
    text = BUILD + "for _ in range(3): " + STEP
    write_script("import torch\nfrom torch import nn\n" + text.replace("net", "globals()['n\\udcff/et']"), name)
    result = outside("--iterations", 10, name, os.fsdecode(b"--out=\xfe"))
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("gradprobe: n__et: the script ended after 3 of 10 iterations; run written to")
    assert gp.load("gradprobe_runs/tr_ain").history.conditions["target"] == "tr?ain.py --out=?"


def recorded(text, *options):
    """The outcome of a script of a few lines, and its history."""
    write_script("import random, sys, torch\nfrom torch import nn\n" + text)
    result = inside("--iterations", 3, "--out", "run", *options, "train.py")
    assert result.exit_code == 0, (result.output, result.exception)
    return result


BUILD = "net = nn.Linear(2, 1)\noptimizer = torch.optim.SGD(net.parameters(), lr=0.1)\n"
STEP = "optimizer.zero_grad(); net(torch.ones(4, 2)).sum().backward(); optimizer.step()\n"
LIBRARY = """
import random, torch
def set_seed(seed):
    torch.manual_seed(seed)
def set_any_seed():
    torch.manual_seed(random.randrange(10**6))
class Trainer:
    def __init__(self, args):
        torch.manual_seed(args.seed)
"""


@pytest.mark.parametrize(
    ("call", "seed"),
    [
        ("torch.manual_seed(7)", 7),
        ("torch.random.manual_seed(7)", 7),
        ("from torch import manual_seed\nmanual_seed(0)", 0),
        ("torch.manual_seed(-7)", -7),
        ("torch.manual_seed(7)\ntorch.manual_seed(8)", 8),
        ("import mylib\nmylib.set_seed(7)", 7),
        ("import mylib, types\nmylib.Trainer(types.SimpleNamespace(seed=7))", 7),
        ("", None),
        ("torch.seed()", None),
        ("torch.manual_seed(7)\ntorch.seed()", None),
        ("torch.manual_seed(7)\ntorch.default_generator.seed()", None),
        ("import mylib\nmylib.set_any_seed()", None),
        ("torch.Generator().manual_seed(7)", None),
    ],
)
def test_the_seed_is_that_which_the_script_set(call, seed, monkeypatch):
    monkeypatch.delitem(sys.modules, "mylib", raising=False)
    Path("site-packages").mkdir()
    write_script(LIBRARY, "site-packages/mylib.py")
    recorded(f"sys.path.append('site-packages')\n{call}\n{BUILD}for _ in range(3): {STEP}")
    assert gp.load("run").history.conditions["seed"] == seed


def test_weights_that_are_copies_by_hand_are_told_the_way_out_and_it_works():
    text = (
        "model = nn.Linear(2, 1)\nmasters = [p.detach().clone().requires_grad_() for p in model.parameters()]\n"
        "optimizer = torch.optim.SGD(masters, lr=0.1)\n{around}for _ in range(3):\n"
        "{i}    model(torch.ones(4, 2)).sum().backward()\n"
        "{i}    for master, p in zip(masters, model.parameters()): master.grad = p.grad.clone()\n{step}"
        "{i}    optimizer.step()\n"
    )
    result = recorded(text.format(around="", i="", step=""))
    assert "SGD: its parameters belong to no module" in result.stderr
    assert "with gradprobe.GradientProbe(model) as probe:" in result.stderr
    assert "probe.step()" in result.stderr
    around = "import gradprobe\nwith gradprobe.GradientProbe(model) as probe:\n  "
    recorded(
        text.format(around=around, i="  ", step="      probe.step()\n") + "assert probe.history.iterations == 3\n"
    )


@pytest.mark.parametrize("module", ["keras", "jax"])
def test_a_library_with_optimizers_of_its_own_is_named(module, monkeypatch):
    monkeypatch.delitem(sys.modules, module, raising=False)
    write_script("", f"{module}.py")
    result = recorded(f"import {module}\n")
    del sys.modules[module]
    assert "before it built an optimizer of torch.optim" in result.stderr
    assert f"({'Keras' if module == 'keras' else 'JAX'}, which it imported" in result.stderr


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("for net in [Own(), Own()]:\n    for _ in range(3):\n        net.learn()\n", "Own"),
        ("agent, other = Own(), 3\nfor _ in range(3):\n    agent.learn()\n", "agent"),
        ("def main():\n    policy = Own()\n    for _ in range(3):\n        policy.learn()\nmain()\n", "policy"),
    ],
)
def test_a_model_that_builds_its_optimizer_has_its_own_name(text, name):
    result = recorded(
        "class Own(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 1)\n"
        "        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)\n    def learn(self):\n"
        "        self.optimizer.zero_grad(); self(torch.ones(4, 2)).sum().backward(); self.optimizer.step()\n"
        + text.replace("range(3)", "range(2)")
    )
    assert f"gradprobe: {name}: the script ended after 2 of 3" in result.stderr


def test_a_step_that_is_the_whole_training():
    text = (
        "torch.manual_seed(0)\nnet = nn.Linear(2, 1)\nx = torch.rand(9, 2)\ncalls = 0\n"
        "optimizer = torch.optim.LBFGS(net.parameters(), max_iter=90, max_eval=1000, tolerance_grad=0, "
        "tolerance_change=0, lr=0.01)\n"
        "def closure():\n    global calls\n    calls += 1\n    optimizer.zero_grad()\n"
        "    loss = (net(x) - x.prod(1, keepdim=True)).square().mean()\n    loss.backward()\n"
        "    if calls == 60: print('sixty', file=sys.stderr)\n    return loss\n{}print('calls', calls)\n"
    )
    result = recorded(text.format("optimizer.step(closure)\n"))
    first, *_, last = result.stderr.splitlines()
    assert "has called its closure 50 times by now" in first  # at once, before the sixtieth
    assert "after 1 of 3 iterations" in last
    assert "its one step did 90 times" in last
    assert "calls 90" in result.stdout
    assert gp.load("run").history.iterations == 1
    quiet = recorded(
        text.replace("max_iter=90", "max_iter=20").format("for _ in range(3): optimizer.step(closure)\n"),
        "--force",
    )
    assert "closure" not in quiet.stderr
    assert gp.load("run").history.iterations == 3


def test_keep_going_draws_the_random_numbers_that_the_script_draws_alone():
    text = f"import numpy\nrandom.seed(1); numpy.random.seed(1); torch.manual_seed(1)\n{BUILD}"
    text += (
        "for _ in range(5):\n    "
        + STEP
        + "    print(random.random(), numpy.random.rand(), torch.rand(1).item())\n"
    )
    result = recorded(text, "--keep-going")
    assert result.stdout == python("train.py").stdout  # the result is on standard error
