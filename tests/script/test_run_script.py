"""Scripts run as ``python`` runs them, and give the numbers of loops that have nothing of gradprobe in them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from support.oracle import assert_agrees, record
from torch import nn

import gradprobe as gp
from gradprobe.cli.commands import main
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.script.advice import advise
from gradprobe.script.source import Loss, Site, SourceLine, built_at, loss_at

SCRIPTS = Path(__file__).parents[1] / "support" / "scripts"
sys.path.append(str(SCRIPTS))
import bptt  # noqa: E402
import gan  # noqa: E402
import plain  # noqa: E402


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inside(*arguments):
    """Run a command in this process."""
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}


def outside(*arguments, launch=("-m",)):
    """Run a command in a process of its own."""
    command = [sys.executable, *launch, "gradprobe", "run", *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False
    )


def python(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)


def write(text, name="train.py"):
    Path(name).write_text(text)
    return name


class ByHand:
    """Means of absolute gradients by autograd's own ``retain_grad``: for loops that `oracle.record` cannot run."""

    def __init__(self, model):
        self.model, self.outputs, self.found, self.iteration = model, {}, {}, 0
        for name, module in model.named_modules():
            if list(module.parameters(recurse=False)):
                module.forward = self._keeping(name, module.forward)

    def _keeping(self, name, forward):
        def keeping(*args, **kwargs):
            output = forward(*args, **kwargs)
            tensor = output[0] if isinstance(output, tuple) else output
            tensor.retain_grad()
            self.outputs.setdefault(name, []).append(tensor)
            return output

        return keeping

    def forget(self):
        self.outputs = {}

    def read(self):
        for name, tensors in self.outputs.items():
            gradients = torch.cat([tensor.grad.flatten() for tensor in tensors if tensor.grad is not None])
            self.found[self.iteration, name, "output"] = gradients.abs().mean().item()
        for name, module in self.model.named_modules():
            own = [(local, p) for local, p in module.named_parameters(recurse=False) if "bias" not in local]
            if own:
                weights = torch.cat([parameter.grad.flatten() for _, parameter in own])
                self.found[self.iteration, name, "weight"] = weights.abs().mean().item()
        self.forget()
        self.iteration += 1


def ran(script, *arguments, folder="run"):
    result = inside("--iterations", 3, "--out", folder, SCRIPTS / script, *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.mark.parametrize(("script", "depth"), [("plain.py", 12), ("trainer.py", 12)])
def test_a_plain_loop_and_a_trainer_class(script, depth):
    result = ran(script)
    assert_agrees(gp.load("run").history, record(plain.build(depth), plain.batches(3), F.cross_entropy, 3))
    assert "trained to the end" not in result.output


def test_accumulation_under_a_gradient_scaler():
    ran("accumulation.py")
    small = plain.batches(6)
    batches = [tuple(map(torch.cat, zip(*small[i : i + 2], strict=True))) for i in (0, 2, 4)]
    assert_agrees(gp.load("run").history, record(plain.build(2), batches, F.cross_entropy, 3))


def test_lbfgs_has_the_numbers_of_the_closures_first_call():
    ran("lbfgs.py")
    model, hand = plain.build(1), None
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    hand = ByHand(model)
    for x, y in plain.batches(3):
        calls = []

        def closure(x=x, y=y, calls=calls):
            optimizer.zero_grad()
            hand.forget()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if not calls:
                hand.read()
            calls.append(loss)
            return loss

        optimizer.step(closure)
        assert len(calls) > 1
    assert_agrees(gp.load("run").history, hand.found)


def test_truncated_backpropagation():
    ran("bptt.py")
    model, tokens, state = bptt.build(), bptt.text(), None
    hand = ByHand(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for start in range(0, 12, 4):
        state = None if state is None else tuple(part.detach() for part in state)
        optimizer.zero_grad()
        output, state = model(tokens[start : start + 4], state)
        F.cross_entropy(output.view(-1, 7), tokens[start + 1 : start + 5].view(-1)).backward()
        hand.read()
        optimizer.step()
    assert_agrees(gp.load("run").history, hand.found)


def test_a_gan_has_a_record_for_each_model_and_of_its_own_loss_only():
    result = ran("gan.py")
    generator, discriminator = gan.build()
    hands = ByHand(generator), ByHand(discriminator)
    steps = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (generator, discriminator)]
    ones, zeros = torch.ones(6, 1).double(), torch.zeros(6, 1).double()
    for image, noise in gan.data(3):
        fake = generator(noise)
        discriminator.zero_grad()
        hands[1].forget()  # what the generator's loss left there is no part of the discriminator's
        (gan.loss_fn(discriminator(image), ones) + gan.loss_fn(discriminator(fake.detach()), zeros)).backward()
        hands[1].read()
        steps[1].step()
        generator.zero_grad()
        gan.loss_fn(discriminator(fake), ones).backward()
        hands[0].read()
        steps[0].step()
    assert_agrees(gp.load("run-generator").history, hands[0].found)
    assert_agrees(gp.load("run-discriminator").history, hands[1].found)
    assert "generator" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers(method):
    done = outside("--iterations", 3, "--out", "run", SCRIPTS / "workers.py", method)
    assert done.returncode == 0, done.stderr
    assert_agrees(gp.load("run").history, record(plain.build(2), plain.batches(3), F.cross_entropy, 3))


@pytest.mark.slow
def test_torchrun_with_ddp_gives_the_record_of_one_process():
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = outside("--iterations", 3, "--out", "run", SCRIPTS / "ddp.py", launch=launch)
    assert done.returncode == 0, done.stderr
    history = gp.load("run").history
    assert_agrees(history, record(plain.build(2), plain.batches(3, size=8), F.cross_entropy, 3))
    assert history.conditions["ranks"] == "combined over 2 ranks"
    assert done.stderr.count("run written to") == 1


@pytest.mark.slow
def test_transformers_trainer_on_a_model_from_a_config():
    pytest.importorskip("accelerate")
    huggingface = pytest.importorskip("huggingface")
    done = outside("--iterations", 3, "--out", "run", SCRIPTS / "huggingface.py", "out")
    assert done.returncode == 0, done.stderr
    model = huggingface.build()
    hand = ByHand(model.train())
    rows = torch.stack([row["input_ids"] for row in huggingface.rows()])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        # the Trainer divides by the number of labels, the first of each row included
        model(input_ids=rows, labels=rows, num_items_in_batch=rows.numel()).loss.backward()
        hand.read()
        optimizer.step()
    assert_agrees(gp.load("run").history, hand.found)


@pytest.mark.slow
def test_lightning():
    pytest.importorskip("lightning")
    done = outside("--iterations", 3, "--out", "run", SCRIPTS / "lit.py")
    assert done.returncode == 0, done.stderr
    expected = record(plain.build(12), plain.batches(3), F.cross_entropy, 3)
    assert_agrees(gp.load("run").history, {(i, f"net.{name}", of): x for (i, name, of), x in expected.items()})
    assert 'model.net = gp.supervise(model.net, ["body.5"], inputs=x)' in done.stdout


# ends as without gradprobe ----------------------------------------------------------------------------------

LOOP = """
import sys, torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(5):
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    print(step, flush=True)
"""
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


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_it_ends_as_without_gradprobe_plus_one_sentence(ending):
    write(ENDINGS[ending])
    alone, under = python("train.py"), outside("--iterations", 10, "train.py")
    assert under.returncode == alone.returncode
    assert under.stdout.startswith(alone.stdout)
    *before, said = under.stderr.splitlines(keepends=True)
    assert "".join(before) == alone.stderr
    assert said.startswith("gradprobe: ")
    assert ("run written to" in said) == ("for step" in ENDINGS[ending] and "in a backward" not in ending)
    if alone.returncode:
        assert under.stdout == alone.stdout


def test_a_script_that_swallows_the_stop_is_stopped_again():
    write(
        LOOP.replace("    optimizer.step()", "    try:\n        optimizer.step()\n    except BaseException: pass")
    )
    result = inside("--iterations", 2, "--out", "run", "train.py")
    assert result.exit_code == 0, result.exception
    assert result.output.startswith("0\n1\n2\n3\n4\n")
    assert gp.load("run").history.iterations == 2
    write(LOOP.replace("    optimizer.step()", "    try:\n        optimizer.step()\n    except Exception: pass"))
    assert inside("--iterations", 2, "--out", "run2", "train.py").output.startswith("0\nmean")


def test_keep_going_trains_on_without_hooks():
    write(
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
    write(
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


# as python would --------------------------------------------------------------------------------------------

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
    write("", "package/__init__.py")
    write(LOOKING, "package/train.py")
    write(LOOKING, "package/__main__.py")
    named = {"file": ["package/train.py"], "module": ["-m", "package.train"], "folder": ["package"]}[how]
    arguments = [*named, "--iterations", "7", "-q", "--", "-h"]
    alone, under = python(*arguments), outside(*arguments)
    assert alone.returncode == 0, alone.stderr
    assert under.stdout == alone.stdout


def test_torch_is_not_imported_for_the_script():
    write("import sys\nprint('torch' in sys.modules, 'pandas' in sys.modules)\n")
    assert outside("train.py").stdout == "False False\n"


def test_nothing_stays_patched():
    owners = [(torch.optim.Optimizer, "__init__"), (torch.optim.Optimizer, "zero_grad"), (nn.Module, "zero_grad")]
    owners += [(sys, name) for name in ("argv", "path", "exit", "stdout", "stderr", "excepthook", "meta_path")]
    before = [(owner, name, getattr(owner, name)) for owner, name in owners]
    main_module, finders = sys.modules["__main__"], list(sys.meta_path)
    for text in (LOOP, LOOP + "    raise ValueError\n", "import sys\nsys.path.clear()\nsys.exit = print\n"):
        write(text)
        inside("--iterations", 2, "train.py")
        assert [getattr(owner, name) for owner, name, _ in before] == [value for *_, value in before]
        assert sys.modules["__main__"] is main_module
        assert sys.meta_path == finders
    from torch.optim import optimizer

    assert not optimizer._global_optimizer_pre_hooks
    assert not optimizer._global_optimizer_post_hooks


# which models, which optimizers -----------------------------------------------------------------------------


def numbers(text, iterations=3):
    write("import torch\nfrom torch import nn\n" + text)
    result = inside("--iterations", iterations, "--out", "run", "train.py")
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def magnitudes(of):
    """Those of the only layer of the run."""
    frame = gp.load("run").history.frame
    return frame[frame["of"] == of]["mean_abs"].tolist()


MODEL = "model = nn.Linear(1, 1)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
STEPS = """
def steps(model, optimizer, scales):
    for scale in scales:
        optimizer.zero_grad()
        (scale * model(torch.ones(1, 1))).sum().backward()
        optimizer.step()
"""


def test_the_outermost_module_of_an_optimizer_over_a_part():
    numbers(
        "model = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1))\n"
        "optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)\n"
        + STEPS
        + "steps(model, optimizer, [1.0] * 3)"
    )
    assert [layer.name for layer in gp.load("run").history.layers] == ["0", "1"]


def test_optimizers_that_take_over_from_each_other():
    numbers(
        "model = nn.Linear(1, 1)\nadam = torch.optim.Adam(model.parameters())\n"
        "sgd = torch.optim.SGD(model.parameters(), lr=0.1)\n" + STEPS + "steps(model, adam, [1.0, 2.0])\n"
        "steps(model, sgd, [3.0])\nsteps(model, torch.optim.SGD(model.parameters(), lr=0.1), [4.0, 5.0])\n",
        iterations=4,
    )
    for of in ("output", "weight"):
        assert magnitudes(of) == [1.0, 2.0, 3.0, 4.0]


def test_an_optimizer_that_steps_by_another_one():
    numbers(
        "class Outer(torch.optim.Optimizer):\n"
        "    def __init__(self, params):\n"
        "        super().__init__(params, {})\n"
        "        self.inner = torch.optim.SGD(self.param_groups, lr=0.1)\n"
        "    def step(self, closure=None):\n"
        "        self.inner.step()\n"
        "model = nn.Linear(1, 1)\n" + STEPS + "steps(model, Outer(model.parameters()), [1.0, 2.0, 3.0])\n"
    )
    assert magnitudes("output") == [1.0, 2.0, 3.0]


def test_a_model_compiled_behind_its_optimizer():
    compiled = "model = torch.compile(model, backend='eager')\n"
    numbers(MODEL + compiled + STEPS + "steps(model, optimizer, [1.0, 2.0, 3.0])\n")
    assert magnitudes("output") == [1.0, 2.0, 3.0]


def test_gradients_zeroed_before_the_step_are_seen_all_the_same():
    numbers(
        MODEL + "for scale in (1.0, 2.0, 3.0):\n"
        "    (scale * model(torch.ones(1, 1))).sum().backward()\n"
        "    optimizer.zero_grad()\n"
        "    optimizer.step()\n"
    )
    assert magnitudes("output") == [1.0, 2.0, 3.0]
    assert "zeroed before" in gp.load("run").history.unreached[""]["weight"]


def test_what_cannot_be_recorded_is_said_with_the_reason():
    write(
        "import torch\nfrom torch import nn\nimage = torch.ones(2, requires_grad=True)\n"
        "torch.optim.SGD([image], lr=0.1)\ntorch.optim.SGD(nn.LazyLinear(2).parameters(), lr=0.1)\n"
    )
    result = inside("train.py")
    assert "SGD: its parameters belong to no module" in result.stderr
    assert "LazyLinear: the model has lazy parameters" in result.stderr


def test_a_model_that_never_steps_is_not_waited_for():
    result = numbers(
        "idle = nn.Linear(1, 1)\nother = torch.optim.SGD(idle.parameters(), lr=0.1)\nmodel = nn.Linear(1, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        + STEPS
        + "steps(model, optimizer, [1.0] * 10**4)\n"
    )
    assert "before an optimizer of idle stepped" in result.stderr
    assert gp.load("run").history.iterations == 3


def test_the_training_is_that_without_gradprobe_to_the_last_bit():
    text = LOOP + "torch.save(model.state_dict(), sys.argv[1])\n"
    write("import torch\ntorch.manual_seed(0)\n" + text)
    assert python("train.py", "alone").returncode == 0
    for arguments in (["--iterations", 2, "--keep-going"], ["--iterations", 50]):
        assert outside(*arguments, "train.py", "under").returncode == 0
        alone, under = torch.load("alone"), torch.load("under")
        assert all(torch.equal(alone[name], under[name]) for name in alone)


# what is shown ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code"), [("vanishing", 3), ("exploding", 0)])
def test_fail_on(kind, code):
    assert inside("--iterations", 2, "--fail-on", kind, SCRIPTS / "plain.py").exit_code == code


def test_json_and_csv_hold_every_model():
    result = inside("--iterations", 2, "-q", "--format", "json", SCRIPTS / "gan.py")
    found = json.loads(result.stdout)
    assert list(found) == ["generator", "discriminator"]
    assert found["generator"]["folder"] == "gradprobe_runs/gan-generator"
    assert found["generator"]["advice"][0].startswith("Nothing to add")
    table = inside("--iterations", 2, "-q", "--format", "csv", SCRIPTS / "gan.py").stdout.splitlines()
    assert table[0].startswith("model,layer,depth")
    assert len(table) == 5


def test_a_script_that_is_not_there_is_a_matter_of_usage():
    result = inside("missing.py")
    assert result.exit_code == 2
    assert "missing.py: no such file" in result.stderr


def test_an_existing_run_is_not_replaced():
    write(LOOP)
    assert inside("--out", "run", "train.py").exit_code == 0
    assert inside("--out", "run", "train.py").exit_code == 2
    assert inside("--out", "run", "--force", "train.py").exit_code == 0


# the advice -------------------------------------------------------------------------------------------------


def edited(source, advice):
    """Do to a script what the advice says."""
    lines, said = source.splitlines(), advice[advice.index("What to add") :].splitlines()
    built = int(next(line for line in said if "after line" in line).split()[2])
    replaced = int(next(line for line in said if "in place of line" in line).split()[4])
    code = [line.strip() for line in said if line.startswith("    ")]

    def indented(line, text):
        return " " * (len(lines[line - 1]) - len(lines[line - 1].lstrip())) + text

    lines[replaced - 1] = indented(replaced, code[2])
    lines.insert(built, indented(built, code[1]))
    return "\n".join([code[0], *lines])


CHANGED = """
import torch
import torch.nn.functional as F
from plain import batches, build
model = build(12)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for x, y in batches(4):
    optimizer.zero_grad()
    out = model(x)
    loss = F.nll_loss(F.log_softmax(out, -1), y)
    loss.backward()
    optimizer.step()
"""
NESTED = CHANGED.replace("out = model(x)", "pass").replace("(out, -1), y)", "(model(x), -1), y.long())")


@pytest.mark.parametrize("source", [CHANGED, NESTED])
def test_a_change_of_the_output_in_the_loss_call_moves_into_the_loss_function(source):
    write(source)
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    result = inside("--iterations", 3, "--out", "run", "train.py")
    write(edited(source, result.stdout), "supervised.py")
    again = inside("--iterations", 3, "--out", "after", "supervised.py")
    assert again.exit_code == 0, (again.output, again.exception)
    before, after = gp.load("run").history.aggregate(), gp.load("after").history.aggregate()
    assert after["trunk.body.5.0"] > 100 * before["body.5.0"]


def test_a_change_that_cannot_be_moved_is_said_in_words():
    write(
        CHANGED.replace("    loss =", "    out = F.log_softmax(out, -1)\n    loss =").replace(
            "F.log_softmax(out, -1), y", "out, y"
        )
    )
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    said = inside("--iterations", 2, "train.py").stdout
    assert 'loss = gp.DeepSupervisionLoss(loss_fn, weight=0.3, schedule="constant")(model(x), y)' in said
    assert "belongs in loss_fn" in said


def test_a_model_and_an_optimizer_on_one_line_are_to_be_split():
    write(CHANGED.replace("(12)\noptimizer", "(12); optimizer"))
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    said = inside("--iterations", 2, "train.py").stdout
    assert "split line 5 of train.py, `model = build(12)`, which builds the optimizer as well" in said


@pytest.mark.parametrize("script", ["plain.py", "trainer.py"])
def test_the_lines_to_add_do_what_they_say(script):
    first = ran(script)
    source = edited((SCRIPTS / script).read_text(), first.stdout)
    write(source, "supervised.py")
    Path("plain.py").symlink_to(SCRIPTS / "plain.py")
    result = inside("--iterations", 3, "--out", "after", "supervised.py")
    assert result.exit_code == 0, (result.output, result.exception)
    before, after = gp.load("run").history.aggregate(), gp.load("after").history.aggregate()
    assert after["trunk.body.5.0"] > 100 * before["body.5.0"]


PLACED = Placement("by hand", ("a",), (Point("net.a", (8, 4), 0, ("net.a",)),), "", output_shape=(8, 2))


def test_advice_for_a_part_that_is_called_and_a_loss_that_cannot_be_told():
    said = advise(PLACED, Site("lit", part="net"), "runs/x")
    assert 'lit.net = gp.supervise(lit.net, ["a"], inputs=x)' in said
    assert 'gp.DeepSupervisionLoss(loss_fn, weight=0.3, schedule="constant")(lit.net(x), y)' in said


def test_advice_for_a_model_with_its_own_loss():
    loss = Loss(SourceLine("t.py", 3, "loss = outputs.loss"), None, ("outputs",))
    said = advise(PLACED, Site("model", loss=loss), "runs/x")
    assert 'loss = gp.DeepSupervisionLoss(None, weight=0.3, schedule="constant")(outputs, labels)' in said


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = m(x)\nloss = f(a, b)\nloss.backward()\nstep()", ("f", ("a", "b"), None)),
        ("loss = f(m(x), b)\nloss = loss / 4\nscaler.scale(loss).backward()\nstep()", ("f", ("m(x)", "b"), None)),
        ("a = m(x)\nloss = f(g(a), y)\nloss.backward()\nstep()", ("f", ("a", "y"), "lambda a, y: f(g(a), y)")),
        (
            "loss = f(g(m(x), out), y['y'])\nloss.backward()\nstep()",
            ("f", ("m(x)", "y['y']"), "lambda out_, y_: f(g(out_, out), y_)"),
        ),
        (
            "a = m(x)\nloss = f(a - a.max(), y)\nloss.backward()\nstep()",
            ("f", ("a", "y"), "lambda a, y: f(a - a.max(), y)"),
        ),
        ("loss = f(m(x) - m(x), y)\nloss.backward()\nstep()", ("f", (), None)),
        ("a = g(m(x))\nloss = f(a, b)\nloss.backward()\nstep()", ("f", (), None)),
        ("a = m(x)\na += 1\nloss = f(a, b)\nloss.backward()\nstep()", ("f", (), None)),
        ("a, state = m(x)\nloss = f(a, b)\nloss.backward()\nstep()", ("f", (), None)),
        ("a = m(x)\nfor a in a:\n    loss = f(a, b)\n    loss.backward()\nstep()", ("f", (), None)),
        ("a = m(x)\nloss = f(g(a), h(a))\nloss.backward()\nstep()", ("f", (), None)),
        ("loss = f(a, b)\nloss.backward()\nstep()", ("f", (), None)),
        ("loss = out.loss\naccelerator.backward(loss)\nstep()", (None, ("out",), None)),
        ("loss = f(a, b, weight=w)\nloss.backward()\nstep()", None),
        ("def other():\n    loss = f(a, b)\n    loss.backward()\nstep()", None),
        ("step()", None),
        ("not python at all (", None),
    ],
)
def test_where_the_loss_is_computed(source, expected):
    found = loss_at(source, "t.py", len(source.splitlines()), ["m"])
    assert (found and (found.function, found.arguments, found.joint)) == expected


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("model = Net()\nsgd", 1),
        ("model = Net(\n  1,\n)\nsgd", 3),
        ("model = Net()\nmodel = torch.compile(model)\nsgd", 1),
        ("def f():\n    model = 1\nmodel: Net = Net()\nsgd", 3),
        ("sgd\nmodel = Net()", None),
    ],
)
def test_where_the_model_is_built(source, line):
    before = source.splitlines().index("sgd") + 1
    found = built_at(source, "t.py", "model", before)
    assert (found and found.line) == line
