"""The numbers are those of loops that have nothing of gradprobe in them, whatever a script trains with."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.oracle import assert_agrees, record
from support.script_command import LOOP, SCRIPTS, inside, outside, write_script

import gradprobe as gp

sys.path.append(str(SCRIPTS))
import bptt
import gan
import plain


class ByHand:
    """Means of absolute gradients by autograd's own ``retain_grad``: for loops that `oracle.record` cannot run."""

    def __init__(self, model):
        self.model, self.outputs, self.means, self.iteration = model, {}, {}, 0
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
            self.means[self.iteration, name, "output"] = gradients.abs().mean().item()
        for name, module in self.model.named_modules():
            own = [(local, p) for local, p in module.named_parameters(recurse=False) if "bias" not in local]
            if own:
                weights = torch.cat([parameter.grad.flatten() for _, parameter in own])
                self.means[self.iteration, name, "weight"] = weights.abs().mean().item()
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
    assert_agrees(gp.load("run").history, hand.means)


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
    assert_agrees(gp.load("run").history, hand.means)


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
    assert_agrees(gp.load("run-generator").history, hands[0].means)
    assert_agrees(gp.load("run-discriminator").history, hands[1].means)
    assert "generator" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers(method):
    ran("workers.py", method)
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
@pytest.mark.filterwarnings("default")
def test_transformers_trainer_on_a_model_from_a_config():
    pytest.importorskip("accelerate")
    import huggingface

    ran("huggingface.py", "out")
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
    assert_agrees(gp.load("run").history, hand.means)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_lightning():
    pytest.importorskip("lightning")
    result = ran("lit.py")
    expected = record(plain.build(12), plain.batches(3), F.cross_entropy, 3)
    assert_agrees(gp.load("run").history, {(i, f"net.{name}", of): x for (i, name, of), x in expected.items()})
    assert 'model.net = gp.supervise(model.net, gp.load("run").placement.within("net"))' in result.stdout


def numbers(text, iterations=3):
    write_script("import torch\nfrom torch import nn\n" + text)
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


def test_a_model_compiled_after_its_optimizer():
    compiled = "model = torch.compile(model, backend='eager')\n"
    numbers(MODEL + compiled + STEPS + "steps(model, optimizer, [1.0, 2.0, 3.0])\n")
    assert magnitudes("output") == [1.0, 2.0, 3.0]


def test_gradients_that_are_zeroed_before_the_step_are_missing_with_that_reason():
    numbers(
        MODEL + "for scale in (1.0, 2.0, 3.0):\n"
        "    (scale * model(torch.ones(1, 1))).sum().backward()\n"
        "    optimizer.zero_grad()\n"
        "    optimizer.step()\n"
    )
    history = gp.load("run").history
    assert history.frame["mean_abs"].isna().all()
    assert set(history.unreached[""]) == {"output", "weight"}
    assert all("zeroed before" in reason for reason in history.unreached[""].values())


def test_what_cannot_be_recorded_is_named_with_the_reason():
    write_script(
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


@pytest.mark.parametrize(("kind", "code"), [("vanishing", 3), ("exploding", 0)])
def test_fail_on(kind, code):
    assert inside("--iterations", 2, "--fail-on", kind, SCRIPTS / "plain.py").exit_code == code


def test_json_and_csv_hold_every_model():
    result = inside("--iterations", 2, "-q", "--format", "json", SCRIPTS / "gan.py")
    found = json.loads(result.stdout)
    assert list(found) == ["generator", "discriminator"]
    assert found["generator"]["folder"] == "gradprobe_runs/gan-generator"
    assert found["generator"]["advice"] == []
    assert found["generator"]["verdict"] == "healthy"
    assert found["generator"]["findings"] == []
    table = inside("--iterations", 2, "-q", "--format", "csv", SCRIPTS / "gan.py").stdout.splitlines()
    assert table[0].startswith("model,layer,depth")
    assert len(table) == 5


def test_a_script_that_is_not_there_is_a_matter_of_usage():
    result = inside("missing.py")
    assert result.exit_code == 2
    assert "missing.py: no such file" in result.stderr


def test_an_existing_run_is_not_replaced():
    write_script(LOOP)
    assert inside("--out", "run", "train.py").exit_code == 0
    assert inside("--out", "run", "train.py").exit_code == 2
    assert inside("--out", "run", "--force", "train.py").exit_code == 0


TWO_NAMES = LOOP.replace(
    "torch.nn.Linear(2, 1)", "torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))"
)


def test_layers_can_be_chosen_and_a_mistyped_name_is_said_at_once():
    script = write_script(TWO_NAMES)
    chosen = inside("--iterations", 3, "--layers", "1", "--layers", "9", "--out", "run", script)
    assert chosen.exit_code == 0, chosen.output
    assert [layer.name for layer in gp.load("run").history.layers] == ["1"], "9 fits another model, or none"
    mistyped = inside("--iterations", 3, "--layers", "9", "--out", "none", script)
    assert mistyped.stderr.startswith("gradprobe: Sequential: no layer is called '9'; did you mean '0' or '1'?")
    assert mistyped.stdout.splitlines() == list("01234"), "the script runs as ever"


def test_the_page_is_named_where_there_is_one():
    done = inside("--iterations", 3, "--out", "run", write_script(LOOP))
    assert done.stderr == "gradprobe: run written to run: look at run/report.html\n"
    assert Path("run/report.html").is_file()
    later = inside("--iterations", 3, "--keep-going", "--out", "later", "train.py")
    assert "look at" not in later.stderr, "it is written when the script ends"
