"""What a person sees in a terminal, and what nobody asked for and nobody sees."""

import io
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from torch import nn

import gradprobe as gp
from gradprobe.cli.progress import Display
from gradprobe.decide.policies import EveryLayerPolicy, RelativePolicy, ThresholdPolicy, place
from gradprobe.measure.preview import Preview
from gradprobe.measure.scan import scan
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.record.text_bars import sparkline
from gradprobe.show.tables import MAX_ROWS, Profile, as_table, excerpt, fit, result_frame

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CJK = "\u5c42" * 30
LONG = "encoder." + "very_long_name_" * 13  # above 200 characters
HOSTILE = "[red]not markup[/red]"


def recorded(magnitudes, points=()):
    """A history with these layers and magnitudes, and a point behind each of the layers named."""
    layers = tuple(Layer(name, depth, "Linear", 9) for depth, name in enumerate(magnitudes))
    rows = [
        (0, layer.name, layer.depth, of, magnitudes[layer.name], 0, 0, 0, 0)
        for layer in layers
        for of in ("output", "weight")
    ]
    made = tuple(Point(f"{name}.act", (8, 4), list(magnitudes).index(name), (name,)) for name in points)
    return GradientHistory(tidy(rows), {"batch_size": 8}, layers, made, (8, 2))


def printed(renderable, width=80, **options):
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, **options).print(renderable)
    return file.getvalue()


def table_of(history, width=80, policy=None, **options):
    every = options.pop("every_layer", False)
    return printed(as_table(history, place(history, policy), every_layer=every), width, **options)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("name", [LONG, CJK, HOSTILE, "\u00e9" * 90, "a\x1b[31mb\nc"])
def test_the_table_fits_the_terminal_whatever_the_layers_are_called(name, width):
    text = table_of(recorded({name: 1e-9, "fc": 1e-2}, points=[name]), width)
    assert max(map(cell_len, text.splitlines())) <= width
    row = next(line for line in text.splitlines() if "flagged +branch" in line)
    assert "1.00e-09" in row
    assert "\x1b" not in text


def test_a_gradient_with_nan_is_not_called_infinite_and_one_iteration_is_one():
    layers = tuple(Layer(name, depth, "Linear", 9) for depth, name in enumerate("ab"))
    numbers = {"a": (float("nan"),) * 3 + (0, 3), "b": (1.0, 1.0, 1.0, 0, 0)}
    rows = [(0, layer.name, layer.depth, "output", *numbers[layer.name]) for layer in layers]
    text = table_of(GradientHistory(tidy(rows), {}, layers, (), None))
    assert re.search(r"0 +a +Linear +not finite", text)
    assert "inf" not in text.replace("not finite", "")
    assert re.search(r"^1 iteration\.", text, re.MULTILINE)


def test_a_loss_that_ended_in_nan_is_not_given_the_last_finite_value():
    history = recorded({"a": 1.0})
    text = table_of(replace(history, conditions={"losses": [2.5, 2.25, None]}))
    assert "loss 2.5 at the first iteration, not finite at the last" in text


def test_a_long_name_is_cut_in_the_middle_and_its_end_stays():
    text = table_of(recorded({"model.encoder.layers.11.first_" + "x" * 200 + "_last": 1.0, "fc": 1e-2}))
    assert re.search(r"m\.e\.l\.11\.first_x*…x*_last ", text)


def test_markup_in_a_name_is_text():
    assert HOSTILE in table_of(recorded({HOSTILE: 1e-9, "fc": 1e-2}), force_terminal=True)


@pytest.mark.parametrize("width", range(12))
def test_a_name_is_never_wider_than_its_room(width):
    assert all(cell_len(fit(name, width)) <= width for name in (LONG, CJK, HOSTILE, "", "abc"))


def test_colours_need_a_terminal_and_no_color_takes_them_away(monkeypatch):
    history = recorded({"a": 1e-9, "fc": 1e-2})
    assert "\x1b" not in table_of(history)
    assert "\x1b[31m" in table_of(history, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in table_of(history, force_terminal=True, color_system="standard")


DEEP = {f"layer{i}": 10.0 ** (-12 + 10 * i / 999) for i in range(1000)}  # the 500th is at 1e-7


def test_a_thousand_layers_are_no_thousand_rows():
    text = table_of(recorded(DEEP, points=["layer499"]))
    assert len(text.splitlines()) < 40
    shown = re.findall(r"^ *\d+  (layer\d+)", text, re.MULTILINE)
    # the ends, the border of the flagged with its neighbours, and the layer in front of the branch
    assert shown == ["layer0", *(f"layer{i}" for i in (498, 499, 500, 501)), "layer999"]
    assert "… 497 more, all flagged" in text
    assert "994 of 1000 layers are not shown: --all shows them, and so does --format csv" in text


def test_all_shows_every_layer():
    text = table_of(recorded(DEEP), every_layer=True)
    assert all(name in text for name in DEEP)
    assert "not shown" not in text


def test_the_least_fed_and_the_unreached_are_shown_wherever_they_are():
    magnitudes = {f"layer{i}": 1e-3 for i in range(100)} | {"layer37": 1e-6, "layer60": None}
    history = recorded(magnitudes)
    shown = excerpt(result_frame(history, place(history)), place(history))
    assert shown == [0, 37, 60, 99]


def test_where_too_many_matter_the_table_stays_short():
    history = recorded({f"layer{i}": 1e-9 if i % 2 else 1e-3 for i in range(500)})
    assert len(excerpt(result_frame(history, place(history)), place(history))) <= MAX_ROWS


def test_what_it_comes_to_is_last():
    lines = table_of(recorded(DEEP, points=["layer499"])).splitlines()
    verdict = next(i for i, line in enumerate(lines) if line.startswith("placement"))
    assert verdict > max(i for i, line in enumerate(lines) if "layer999" in line)
    assert verdict >= len(lines) - 8


def test_many_skipped_layers_do_not_push_the_verdict_off_the_screen():
    layers = tuple(Layer(f"{i}", i, "Linear", 9, {"output": "frozen"}) for i in range(300))
    rows = [(0, layer.name, layer.depth, "output", None, None, None, None, None) for layer in layers[:-1]]
    rows.append((0, "299", 299, "output", 1e-3, 0, 0, 0, 0))
    text = str(place(GradientHistory(tidy(rows), {}, layers, (), (8, 2))))
    assert len(text.splitlines()) < 20
    assert "skipped 289 more" in text


@pytest.mark.parametrize("policy", [EveryLayerPolicy(), lambda _: Placement("auto", (), (), "so", remedy="lsuv")])
def test_what_vanishes_is_marked_whatever_decides(policy):
    magnitudes = {f"layer{i}": 10.0 ** (i - 12) for i in range(10)}  # five of them below 1e-7
    text = table_of(recorded(magnitudes), policy=policy)
    assert len(re.findall(r"flagged *$", text, re.MULTILINE)) == 5
    assert "flagged: mean |dL/d output| below 1e-7, median over the iterations" in text
    assert "below 1e-7 " in text.split("by depth")[1], "the profile is drawn on either side of the threshold"


def test_the_rule_is_not_said_twice():
    assert "flagged: mean" not in table_of(recorded({"a": 1e-9, "fc": 1e-2}))


# the profile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [ThresholdPolicy(), ThresholdPolicy(1e-3), RelativePolicy(0.1)])
def test_a_bar_reaches_the_upper_line_exactly_where_its_layer_is_not_flagged(policy):
    magnitudes = {f"layer{i}": 10.0 ** (-9 + i / 4) for i in range(30)}
    history = recorded(magnitudes)
    placement = place(history, policy)
    upper, _ = sparkline(list(magnitudes.values()), placement.threshold, 80)
    assert [char == " " for char in upper] == [name in placement.flagged for name in magnitudes]


@pytest.mark.parametrize("width", [1, 7, 40, 200])
def test_a_column_of_several_layers_shows_the_least_fed(width):
    values = [1.0] * 1000
    values[500] = 1e-9
    upper, lower = sparkline(values, 1e-7, width)
    assert len(upper) == len(lower) == width
    assert upper.count(" ") == 1


def test_the_side_of_the_threshold_shows_without_colour():
    text = printed(Profile([1e-9, 1e-8, 1e-6, 1e-5], 1e-7, "output"))
    above, below = text.splitlines()[1:]
    assert above.startswith("above 1e-7   ")
    assert below.removeprefix("below 1e-7 ").startswith("▁▄██")


def test_a_terminal_that_has_only_ascii_gets_no_blocks():
    assert printed(Profile([1e-9, 1e-3], 1e-7, "output"), legacy_windows=False, _environ={}) != ""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, width=80).print(Profile([1e-9, 1e-3], 1e-7, "output"))
    file.flush()
    assert file.buffer.getvalue().strip() == b""


# while it runs --------------------------------------------------------------------------------------------------


def a_net():
    torch.manual_seed(0)
    layers = [layer for _ in range(9) for layer in (nn.Linear(4, 4), nn.Tanh())]
    net = nn.Sequential(*layers, nn.Linear(4, 2))
    for parameter in net[:-1].parameters():
        nn.init.normal_(parameter, std=0.01)
    return net, [(torch.randn(8, 4), torch.randint(2, (8,)))]


def a_terminal(width=80):
    return Console(force_terminal=True, width=width, height=24, file=io.StringIO(), highlight=False)


def lived(policy, width=80, of=("output", "weight")):
    """What a scan under a display leaves in a terminal, codes taken out, and the history."""
    terminal = a_terminal(width)
    net, batches = a_net()
    with Display(terminal, policy) as display:
        history = scan(
            net, batches, nn.functional.cross_entropy, 5, of=of, seed=0, on_iteration=unhurried(display)
        )
    return ESCAPE.sub("", terminal.file.getvalue()), history


def unhurried(display):
    """The display, drawing at every iteration."""

    def call(reached):
        display._next = 0.0
        display(reached)

    return call


@pytest.mark.parametrize("of", ["output", "weight"])
@pytest.mark.parametrize("width", [40, 80])
def test_a_scan_shows_how_far_it_is_its_loss_and_the_flagged(width, of):
    text, history = lived(ThresholdPolicy(of=of), width)
    last = history.frame[(history.frame["iteration"] == 4) & (history.frame["of"] == of)]
    low = int((last["mean_abs"] < 1e-7).sum())
    assert 0 < low < 10
    assert "5/5" in text
    assert f"loss {history.conditions['losses'][-1]:.4g}"[:20] in text
    assert f"{low} of 10 layers"[: width - 20] in text
    assert all(len(line) <= width for line in re.split(r"[\r\n]+", text))


def test_a_policy_without_a_threshold_has_no_flagged_so_far():
    text, _ = lived(EveryLayerPolicy())
    assert "loss" in text
    assert "layers below" not in text


def test_the_relative_rule_shows_its_own_threshold():
    text, history = lived(RelativePolicy(0.5))
    last = history.frame[(history.frame["iteration"] == 4) & (history.frame["of"] == "output")]["mean_abs"]
    assert f"{int((last < 0.5 * last.max()).sum())} of 10 layers below" in text


def test_the_picture_is_gone_when_the_training_is():
    terminal = a_terminal()
    net, batches = a_net()
    with Display(terminal, ThresholdPolicy()) as display:
        scan(net, batches, nn.functional.cross_entropy, 3, on_iteration=unhurried(display))
    assert terminal.file.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h"))


def test_it_draws_at_most_four_times_a_second_and_counts_what_it_costs():
    terminal = a_terminal()
    net, batches = a_net()
    with Display(terminal, ThresholdPolicy()) as display:
        scan(net, batches, nn.functional.cross_entropy, 200, on_iteration=display)
    drawn = terminal.file.getvalue().count("layers below")
    assert 1 <= drawn < 20  # of 200 iterations in a fraction of a second
    assert 0 < display.seconds < 0.5


def test_what_has_not_arrived_is_neither_read_nor_waited_for(monkeypatch):
    made, asked = [], []

    class Slow(Preview):
        """One whose copies take three iterations."""

        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

        @property
        def arrived(self):
            asked.append(len(made))
            return len(asked) % 3 == 0

        @property
        def magnitudes(self):
            assert len(asked) % 3 == 0
            return super().magnitudes

    monkeypatch.setattr("gradprobe.measure.probe.Preview", Slow)
    text, _ = lived(ThresholdPolicy())  # five iterations
    assert asked == [1, 1, 1, 2, 2]
    assert "(iteration 1)" in text  # drawn at the third, and says whose numbers they are
    assert "(iteration 4)" not in text


def test_a_glimpse_is_what_the_history_says():
    net, batches = a_net()
    seen = []
    history = scan(
        net,
        batches,
        nn.functional.cross_entropy,
        4,
        on_iteration=lambda reached: seen.append(reached.probe.glimpse(reached.loss, "weight")),
    )
    for iteration, glimpse in enumerate(seen):
        rows = history.frame[(history.frame["iteration"] == iteration) & (history.frame["of"] == "weight")]
        assert glimpse.arrived
        assert glimpse.magnitudes == pytest.approx(dict(zip(rows["layer"], rows["mean_abs"], strict=True)))
        assert glimpse.loss == pytest.approx(history.conditions["losses"][iteration])


def test_looking_changes_nothing_of_what_is_recorded():
    histories = []
    for on_iteration in (None, lambda reached: reached.probe.glimpse(reached.loss).magnitudes):
        net, batches = a_net()
        histories.append(scan(net, batches, nn.functional.cross_entropy, 5, seed=0, on_iteration=on_iteration))
    assert histories[0] == histories[1]


def test_a_comparison_says_which_of_its_trainings_runs():
    terminal = a_terminal()
    net, batches = a_net()
    with Display(terminal, ThresholdPolicy(), trainings=4) as display:
        gp.compare(
            net,
            batches,
            nn.functional.cross_entropy,
            policy=ThresholdPolicy(1e-6),
            repeat=True,
            iterations=3,
            seeds=(0, 1),
            on_iteration=unhurried(display),
        )
    text = ESCAPE.sub("", terminal.file.getvalue())
    assert "without branches, seed 0 (1 of 4)" in text
    assert "again, with branches, seed 0 " in text
    assert "with branches, seed 1 (4 of 4)" in text


# the command line -----------------------------------------------------------------------------------------------

MODEL = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
batches = [(torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))]
"""


def in_a_terminal(arguments, folder, **environment):
    """Run the command with a pseudo-terminal for its standard output and error; what it wrote there."""
    (Path(folder) / "model.py").write_text(MODEL)
    ours, theirs = pty.openpty()
    settings = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    command = [sys.executable, "-m", "gradprobe", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=theirs, stderr=theirs, env=settings) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                read = os.read(ours, 65536)
            except OSError:  # nobody writes to it any more
                break
            if not read:
                break
            written += read
        assert process.wait() == 0, written.decode()
    os.close(ours)
    return written.decode()


@pytest.mark.slow
def test_a_terminal_gets_a_picture_and_the_path_last(tmp_path):
    text = in_a_terminal(["scan", "model.py", "--iterations", "5", "--out", "run"], tmp_path)
    assert "\x1b[?25l" in text  # the cursor is hidden while it draws
    assert text.rstrip().splitlines()[-1].startswith("run written to run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "environment"), [(["-q"], {}), ([], {"TERM": "dumb"}), (["-q"], {"TERM": "dumb"})]
)
def test_quiet_and_a_dumb_terminal_get_no_picture(options, environment, tmp_path):
    scan = ["scan", "model.py", "--iterations", "2", "--out", "run"]
    text = in_a_terminal([*scan, *options], tmp_path, **environment)
    assert "\x1b[?25l" not in text
    assert ("run written" in text) == (not options)
    if environment:
        assert "\x1b" not in text


@pytest.mark.parametrize("options", [[], ["-q"]])
def test_a_log_gets_a_line_at_either_end_and_no_codes(options, tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(MODEL)
    command = [
        sys.executable,
        "-m",
        "gradprobe",
        "scan",
        "model.py",
        "--iterations",
        "2",
        "--out",
        "run",
        *options,
    ]
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    settings = {**os.environ, "TERM": "xterm-256color"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=settings)
    assert "\x1b" not in done.stdout + done.stderr
    said = [] if options else ["scanning model.py: 2 iterations", "run written to run: look at run/report.html"]
    assert done.stderr.splitlines() == said


def test_a_log_that_may_have_colours_gets_no_picture(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    command = [sys.executable, "-m", "gradprobe", "scan", "model.py", "--iterations", "2", "--out", "run"]
    settings = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=settings)
    assert "\x1b[?25l" not in done.stderr


# completion -----------------------------------------------------------------------------------------------------


def completed(words, folder):
    """What bash is told to complete the last of the words with; the command must do without torch."""
    code = "import sys; sys.modules['torch'] = None; from gradprobe.cli.commands import main; main(prog_name='gradprobe')"
    settings = {
        **os.environ,
        "_GRADPROBE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["gradprobe", *words]),
        "COMP_CWORD": str(len(words)),
        "PYTHONPATH": str(Path(gp.__file__).parent.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, env=settings
    )
    assert not done.stderr
    return [tuple(line.split(",", 1)) for line in done.stdout.splitlines()]


@pytest.fixture
def project(tmp_path):
    """A folder as a user has it: a model, a script, a text, a folder, and two runs."""
    for name in ("model.py", "train.py", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "source").mkdir()
    for name in ("model", "train"):
        (tmp_path / "gradprobe_runs" / name).mkdir(parents=True)
        (tmp_path / "gradprobe_runs" / name / "run.json").write_text("{}")
    (tmp_path / "gradprobe_runs" / "unfinished").mkdir()
    return tmp_path


def test_commands_and_options_are_completed(project):
    assert ("plain", "scan") in completed(["sc"], project)
    assert ("plain", "--threshold") in completed(["scan", "model.py", "--thr"], project)
    assert completed(["scan", "model.py", "--policy", "rel"], project) == [("plain", "relative")]


@pytest.mark.parametrize("command", ["scan", "compare", "points"])
def test_a_target_is_completed_to_python_files(command, project):
    assert completed([command, "mo"], project) == [("file", "mo"), ("plain", "model.py")]


def test_a_script_is_completed_to_python_files(project):
    assert completed(["run", "tr"], project) == [("file", "tr"), ("plain", "train.py")]


def test_where_a_folder_begins_so_too_the_shell_completes(project):
    (project / "sourced.py").write_text("")
    assert completed(["scan", "so"], project) == [("file", "so")]


@pytest.mark.parametrize("command", ["place", "plot", "diff"])
def test_a_run_is_completed_to_the_runs_there_are(command, project):
    runs = [("plain", "gradprobe_runs/model"), ("plain", "gradprobe_runs/train")]
    assert completed([command, "g"], project) == [("dir", "g"), *runs]
    assert completed([command, "elsewhere"], project) == [("dir", "elsewhere")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_of_every_shell_gets_its_script(shell):
    recipes = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    assert f"_GRADPROBE_COMPLETE={shell}_source gradprobe" in recipes
    code = "from gradprobe.cli.commands import main; main(prog_name='gradprobe')"
    settings = {**os.environ, "_GRADPROBE_COMPLETE": f"{shell}_source"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=settings)
    assert f"{shell}_complete" in done.stdout


def test_the_second_run_is_completed_as_the_first(project):
    assert ("plain", "gradprobe_runs/train") in completed(
        ["diff", "gradprobe_runs/model", "gradprobe_runs/t"], project
    )
