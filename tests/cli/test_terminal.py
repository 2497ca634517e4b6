"""What a terminal shows while a network trains, and what a log gets instead."""

import io
import os
import pty
import re
import subprocess
import sys
import threading

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from support.command_line import write
from torch import nn

import gradprobe as gp
from gradprobe.cli import main
from gradprobe.cli.progress import Display
from gradprobe.cli.terminal import in_lines
from gradprobe.decide.policies import EveryLayerPolicy, RelativePolicy, ThresholdPolicy
from gradprobe.measure.preview import Preview
from gradprobe.measure.scan import scan

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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

    def call(progress):
        display._next = 0.0
        display(progress)

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
        on_iteration=lambda at: seen.append(at.probe.glimpse(at.loss, "weight")),
    )
    for iteration, glimpse in zip(range(4), seen, strict=True):
        rows = history.frame[(history.frame["iteration"] == iteration) & (history.frame["of"] == "weight")]
        assert glimpse.arrived
        assert glimpse.magnitudes == pytest.approx(dict(zip(rows["layer"], rows["mean_abs"], strict=True)))
        assert glimpse.loss == pytest.approx(history.conditions["losses"][iteration])


def test_looking_changes_nothing_of_what_is_recorded():
    histories = []
    for on_iteration in (None, lambda progress: progress.probe.glimpse(progress.loss).magnitudes):
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
model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
batches = [(torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))]
"""
SCAN = ("scan", "model.py", "--iterations", "2", "--out", "run")


@pytest.fixture
def target(here):
    """A target in the working directory."""
    write(MODEL)


def read_all(descriptor):
    """What is written to a pseudo-terminal until nobody writes to it any more."""
    written = b""
    while True:
        try:
            read = os.read(descriptor, 65536)
        except OSError:
            return written.decode()
        if not read:
            return written.decode()
        written += read


@pytest.mark.slow
def test_a_terminal_gets_a_picture_and_the_path(target):
    ours, theirs = pty.openpty()
    settings = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    with subprocess.Popen(
        [sys.executable, "-m", "gradprobe", *SCAN], stdout=theirs, stderr=theirs, env=settings
    ) as process:
        os.close(theirs)
        text = read_all(ours)
        assert process.wait() == 0, text
    os.close(ours)
    assert "\x1b[?25l" in text  # the cursor is hidden while it draws
    assert "run written to run" in text


def in_a_terminal(arguments, monkeypatch):
    """Run the command in this process with a pseudo-terminal for its standard output and error."""
    ours, theirs = pty.openpty()
    texts = []
    reader = threading.Thread(target=lambda: texts.append(read_all(ours)))
    reader.start()
    with open(theirs, "w") as terminal, monkeypatch.context() as patch:  # noqa: PTH123 (a descriptor)
        patch.setattr(sys, "stdout", terminal)
        patch.setattr(sys, "stderr", terminal)
        main(list(arguments), standalone_mode=False)
    reader.join()
    os.close(ours)
    return texts[0]


@pytest.mark.parametrize(("options", "kind"), [((), "xterm-256color"), (("-q",), "xterm-256color"), ((), "dumb")])
def test_quiet_and_a_dumb_terminal_get_no_picture(options, kind, target, monkeypatch):
    monkeypatch.setenv("TERM", kind)
    text = in_a_terminal([*SCAN, *options], monkeypatch)
    assert ("\x1b[?25l" in text) == (not options and kind != "dumb")
    assert ("run written" in text) == (not options)
    if kind == "dumb":
        assert "\x1b" not in text


def test_a_log_gets_few_lines_and_no_codes(target, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    settings = {**os.environ, "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "gradprobe", *SCAN]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=settings)
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.splitlines() == [
        "loading torch ...",
        "scanning model.py: 2 iterations",
        "run written to run: look at run/report.html",
    ]


def test_a_quiet_log_stays_empty(target):
    result = CliRunner().invoke(main, [*SCAN, "-q"])
    assert result.exit_code == 0
    assert result.stderr == ""


def test_a_log_that_may_have_colours_gets_no_picture(target):
    result = CliRunner(env={"FORCE_COLOR": "1"}).invoke(main, SCAN)
    assert result.exit_code == 0
    assert "\x1b[?25l" not in result.stderr


def test_sentences_are_broken_between_words_in_a_terminal_alone(monkeypatch):
    sentence = (
        "expected " + "a-long-word/of.a-path " * 6 + "here\n    an indented line of code stays whole " + "x" * 60
    )
    monkeypatch.setenv("COLUMNS", "40")
    assert in_lines(sentence) == sentence, "a file gets it as it is"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    *lines, code = in_lines(sentence, before="Error: ").split("\n")
    assert all(len(line) <= 40 for line in ["Error: " + lines[0], *lines[1:]])
    assert " ".join([*lines, code]).split() == sentence.split()
    assert code.endswith("x" * 60)
