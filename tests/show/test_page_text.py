"""What the page of a run says and holds, without a browser."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.histories import HOSTILE, compared, made, several, vanishing
from torch import nn

import gradprobe as gp
from gradprobe.cli.commands import main
from gradprobe.prove import trials
from gradprobe.prove.remedies import REMEDIES
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.show.headline import verdict
from gradprobe.show.page import document, numbers, render, words
from gradprobe.show.page.steps import arms_steps, steps
from gradprobe.verdict.arm import ARMS
from gradprobe.verdict.comparison import Comparison, learning_frame
from gradprobe.zoo import digits, plain_mlp


@pytest.mark.parametrize(
    ("ends", "title"),
    [
        ({"none": 2.3, "cnds": 0.3}, "Keep the branch"),
        ({"none": 2.3, "lsuv": 0.3}, "Change the network first: initial weights of unit variance (lsuv)"),
        ({"none": 0.3, "lsuv": 2.3}, "Leave the network as it is"),
        ({"none": 2.3, "lsuv": 2.3}, "Train longer"),
    ],
)
def test_what_to_do_next_is_what_the_best_arm_did(ends, title):
    arms = several(vanishing(), ends)
    assert arms_steps(arms.plain, arms)[0].title == title


def test_the_style_sheet_has_a_colour_for_every_arm():
    css = (Path(document.__file__).parent / "page.css").read_text()
    assert all(f"--arm-{name}:" in css for name in ARMS)


def test_nothing_in_a_name_can_end_a_script_element():
    text = render(made([[1e-3]] * len(HOSTILE), names=HOSTILE), gp.Placement("by hand", (), (), "</script>"))
    assert text.count("</script>") == 2  # of the data and of the code
    for name in document.SCRIPTS:
        assert "</script" not in document._read_resource(name)


# in words --------------------------------------------------------------------------------------------------------


def with_code(code, of="weight"):
    """Two layers, of which one has a reason instead of a number."""
    history = made([[1e-3], [1e-2]], of=("output", "weight"))
    first = replace(history.layers[0], unreached={of: "so"}, unreached_code={of: code})
    frame = history.frame.copy()
    frame.loc[(frame["layer"] == first.name) & (frame["of"] == of), ["mean_abs", "nonfinite"]] = None
    return replace(history, frame=frame, layers=(first, history.layers[1]))


def with_zero_weight():
    history = made([[1e-3, 1e-3], [1e-2, 1e-2]], of=("output", "weight"))
    frame = history.frame.copy()
    frame.loc[(frame["layer"] == "block.0") & (frame["of"] == "weight"), "mean_abs"] = 0.0
    return replace(history, frame=frame)


VERDICTS = {
    "vanishing": vanishing(),
    "healthy": made([[1e-3], [1e-2]]),
    "nonfinite": made([[np.inf], [1e-2]]),
    "exploding": made([[1e5], [1e-2]]),
    "unreached": made([[np.nan], [1e-2]]),
    "cannot tell": made([[1e-9], [1e-9]]),
    "not_held": with_code("not_held"),
    "checkpointed": with_code("checkpointed"),
    "bypassed": with_code("bypassed", "output"),
    "unregistered": made([[1e-3], [1e-2]], loose_parameters=[[3, 7]]),
    "zero_weight": with_zero_weight(),
}


@pytest.mark.parametrize(("state", "history"), VERDICTS.items(), ids=VERDICTS)
def test_the_verdict_and_what_to_do_next(state, history):
    placement = gp.place(history)
    said = verdict(history, placement)
    assert said.state == state
    assert said.sentence.endswith(".")
    advised = steps(state, history, placement, None, "runs/net")
    assert advised
    for step in advised:
        compile(step.code, "page", "exec")
    assert ("gp.supervise" in "".join(step.code for step in advised)) == bool(placement.points)


def test_where_branches_did_not_help_the_page_does_not_advise_them():
    comparison = compared(vanishing())
    advised = steps("no difference", comparison.plain, comparison.placement, comparison, "")
    assert "supervise" not in "".join(step.code for step in advised)
    assert any("lsuv" in step.code for step in advised)


def test_the_code_to_paste_does_what_it_says():
    torch.manual_seed(0)
    model, x, y = plain_mlp(depth=20, width=16), torch.randn(8, 64), torch.randint(10, (8,))
    history = gp.scan(model, [(x, y)], nn.functional.cross_entropy, iterations=3)
    placement = gp.place(history)
    insertion = steps("vanishing", history, placement, None, "")[0]
    space = {"model": model, "x": x, "y": y, "loss_fn": nn.functional.cross_entropy, "epochs": 5}
    exec(insertion.code, space)
    assert space["net"].points == tuple(point.name for point in placement.points) != ()
    space["loss"].backward()


class Twice(nn.Module):
    """A deep network that adds its two inputs first."""

    def __init__(self):
        super().__init__()
        self.net = plain_mlp(depth=20, width=16)

    def forward(self, a, b):
        return self.net(a + b)


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_the_code_to_paste_calls_the_model_as_the_batches_do(kind):
    torch.manual_seed(0)
    model, a, b, y = Twice(), torch.randn(8, 64), torch.randn(8, 64), torch.randint(10, (8,))
    x = {"a": a, "b": b} if kind == "dict" else (a, b)
    loss_fn = nn.functional.cross_entropy
    history = gp.scan(model, [(x, y)], loss_fn, iterations=3)
    assert history.conditions["inputs"] == kind
    assert gp.compare(model, [(x, y)], loss_fn, iterations=2).plain.conditions["inputs"] == kind
    placement = gp.place(history)
    for step in (
        steps("vanishing", history, placement, None, "")[0],
        steps("nonfinite", history, placement, None, "")[0],
    ):
        space = {"torch": torch, "model": model, "x": x, "y": y, "loss_fn": loss_fn, "epochs": 5}
        exec(step.code, space)
    assert any("lsuv" in step.text + step.code for step in steps("vanishing", history, placement, None, ""))


def test_no_remedy_is_offered_to_a_healthy_network_that_branches_did_not_help():
    data = digits((64,))
    batches, loss_fn = data.batches[:8], nn.functional.cross_entropy
    torch.manual_seed(0)
    history = gp.scan(plain_mlp(depth=3, width=32), batches, loss_fn, iterations=10)
    placement = gp.place(history, "every")
    assert str(gp.diagnose(history)).startswith("Healthy")
    comparison = Comparison(history, history, placement, learning_frame([]), {"iterations": 400})
    titles = [step.title for step in steps("no difference", history, placement, comparison, "")]
    assert titles == ["Leave the branches out"]
    flagged = gp.place(history, gp.ThresholdPolicy(1.0))
    titles = [step.title for step in steps("no difference", history, flagged, comparison, "")]
    assert titles == ["Leave the branches out", "Try another initialisation or normalisation"]


AUTO = Placement(trials.NAME, (), (), "Change the network before anything is placed: so.", remedy="lsuv")


def test_where_the_trials_advise_a_remedy_the_page_says_so_and_what_vanishes():
    history = vanishing()
    said = verdict(history, AUTO)
    assert said.state == "vanishing"
    assert said.sentence == (
        "The gradient does not reach 3 of 8 layers: block.0 to block.2. "
        "Change the network first: initial weights of unit variance (lsuv)."
    )
    assert AUTO.reason in said.details
    assert ("3", "flagged below 1e-7") in words.facts(history, AUTO)
    rule = dict(words.why(history, AUTO, verdict(history, AUTO)))["Rule"]
    assert rule.startswith(
        "Branches are placed by: auto, by short trials. A layer is flagged by: mean |dL/d output|"
    )
    assert numbers.page_data(history, AUTO, None)["flagged"] == [0, 1, 2]


class Anything(nn.Module):
    """A residual block without normalisation, a recurrent layer and a last one: each remedy finds something."""

    def __init__(self):
        super().__init__()
        self.block, self.rnn, self.fc = Block(), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.rnn(self.block(x)[:, None])[0][:, -1])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 8), nn.Linear(8, 16)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


@pytest.mark.parametrize("name", REMEDIES)
@pytest.mark.parametrize("state", ["vanishing", "healthy", "cannot tell"])
def test_a_remedy_is_the_first_thing_to_do_and_its_code_runs(state, name):
    advised = steps(state, VERDICTS[state], replace(AUTO, remedy=name), None, "")
    assert "assert_gradients_reach" not in "".join(step.code for step in advised)
    model, x = nn.Sequential(Block(), Anything()), torch.randn(8, 16)
    if name == "normalised":  # which leaves recurrent layers alone
        model, x = plain_mlp(depth=4, width=16), torch.randn(8, 64)
    if name == "residual_scaled":
        model = nn.Sequential(*(Block() for _ in range(4)))
    before = [*model.named_modules()], [weight.detach().clone() for weight in model.parameters()]
    exec(advised[0].code, {"model": model, "x": x})
    same = [torch.equal(*pair) for pair in zip(before[1], model.parameters(), strict=False)]
    assert not all(same) or [*model.named_modules()] != before[0]


def test_where_every_point_gets_a_branch_the_gradients_are_judged_all_the_same():
    every = gp.EveryLayerPolicy()
    ill, well = vanishing(), made([[1e-3], [1e-2]], points=[Point("block.0", (8, 4), 0, ("block.0",))])
    assert verdict(ill, every(ill)).state == "vanishing"
    assert verdict(well, every(well)).state == "healthy"
    for history in (ill, well):
        assert (
            "gp.supervise"
            in steps(verdict(history, every(history)).state, history, every(history), None, "")[0].code
        )
    rule = dict(words.why(ill, every(ill), verdict(ill, every(ill))))["Rule"]
    assert rule.startswith("A branch at every supervision point")
    assert "flagged by: mean |dL/d output| below 1e-7" in rule


def test_the_headline_names_a_span_only_where_the_layers_are_contiguous():
    names = [f"encoder.layer.{row}.attention.output.dense_projection" for row in range(8)]
    values = np.full((8, 1), 1e-3)
    values[[0, 2, 3, 5]] = 1e-9
    history = made(values, names=names)
    first, second = "encoder.layer.0.atte…ut.dense_projection", "encoder.layer.2.atte…ut.dense_projection"
    said = verdict(history, gp.place(history)).sentence
    assert said == f"The gradient does not reach 4 of 8 layers: {first}, {second} and 2 more."


def test_where_the_reason_for_an_unreached_layer_stands_is_said_as_it_is():
    history = made([[np.nan], [1e-2]])
    placement = gp.place(history)
    assert "block.0" in placement.skipped
    assert "above, under Why" in steps("unreached", history, placement, None, "")[0].text
    assert "under Evidence" in steps("unreached", history, replace(placement, skipped={}), None, "")[0].text


def test_all_conditions_are_listed_and_what_is_missing_is_said():
    given = {"batch_size": 8, "amp_scale": 1024.0, "world_size": 2, "skipped": [3], "mine": "<x>", "losses": [1.0]}
    rows = dict(words.conditions(vanishing(**given), None))
    assert rows["batch size"] == "8"
    assert rows["loss scale (AMP)"] == "1020"
    assert rows["skipped steps (overflow)"] == "3"
    assert rows["mine"] == "<x>"
    assert rows["optimizer"] == "not recorded"
    assert "losses" not in rows


# on disk ---------------------------------------------------------------------------------------------------------


def test_every_run_has_its_page_and_report_writes_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr("gradprobe.show.plots.save_figures", lambda *_, **__: [])
    history = vanishing()
    folder = gp.save(tmp_path / "run", history, gp.place(history))
    first = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    done = CliRunner().invoke(main, ["report", str(folder)])
    assert done.output.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text() == first
    other = tmp_path / "new" / "page.html"
    assert CliRunner().invoke(main, ["report", str(folder), "--out", str(other)]).exit_code == 0
    assert other.read_text() == first
    assert CliRunner().invoke(main, ["report", str(tmp_path)]).exit_code == 2


def test_report_needs_neither_torch_nor_the_model(tmp_path):
    history = vanishing()
    folder = gp.save(tmp_path / "run", history, gp.place(history), figures=False)
    code = f"import sys; from gradprobe.cli.commands import main; main(['report', {str(folder)!r}], "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}standalone_mode=False); print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "False"


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    history = vanishing()
    file = gp.write_page(tmp_path / "page.html", history, gp.place(history))
    before = file.read_bytes()

    def fails(*_):
        raise OSError("no space left")

    monkeypatch.setattr(document.Path, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        gp.write_page(file, made([[1.0]]), gp.place(made([[1.0]])))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_learning_curves_are_thinned():
    rows = [(0, arm, i, 2.0, float("nan")) for arm in ("plain", "supervised") for i in range(5000)]
    history = vanishing()
    comparison = Comparison(history, history, gp.place(history), learning_frame(rows), {"iterations": 5000})
    (curve,) = numbers.page_data(history, comparison.placement, comparison)["learning"]
    assert len(curve["arms"][0]["iterations"]) <= numbers.MAX_CURVE_POINTS


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        ([1.0, 1.0, np.inf, np.inf], "Iterations 0 to 1 were finite. NaN or infinity came in iteration 2: "),
        ([1.0, np.inf, 1.0, 1.0], "Iteration 0 was finite. NaN or infinity came in iteration 1: "),
        ([np.inf, np.inf], "NaN or infinity came in iteration 0: "),
    ],
)
def test_the_page_says_which_iterations_were_finite(iterations, expected):
    history = made(np.array(iterations) * np.array([[1e-3], [1.0]]))
    decision = gp.place(history)
    finite = dict(words.why(history, decision, verdict(history, decision)))["Finite"]
    assert finite.startswith(expected)
    later = {0: "the 1 after it 0", 1: "the 2 after it 2", 2: "the 1 after it 0"}[iterations.index(np.inf)]
    assert finite.endswith(f"Of {later} were finite.")
    assert "Finite" not in dict(words.why(vanishing(), decision, verdict(vanishing(), decision)))


def test_the_page_of_several_arms_says_things_once():
    arms = several(vanishing(), {"none": 2.3, "cnds": 1.5, "lsuv": 0.3})
    text = render(arms.plain, arms.placement, arms=arms)
    body = re.sub(
        r"<pre.*?</pre>|<[^>]+>", "\n", text[text.index("<main>") : text.index("<footer>")], flags=re.DOTALL
    )
    sentences = [one.strip() for one in re.split(r"(?<=[.:;])\s|\n", body)]
    long = [one for one in sentences if len(one) > 25]
    assert len(long) > 10
    assert len(set(long)) == len(long)
