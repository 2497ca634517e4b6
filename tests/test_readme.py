"""What the README and the first steps say can be typed, can be typed; what the README leads to is there."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradprobe.cli import main

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
FIRST_STEPS = (ROOT / "docs" / "first-steps.md").read_text()
FORGE, RAW = (
    "https://github.com/gradprobe/gradprobe/blob/main/",
    "https://raw.githubusercontent.com/gradprobe/gradprobe/main/",
)


TRAIN = """
import sys
import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=float(sys.argv[2]))
for _ in range(100):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
"""


def blocks(language, text=TEXT):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_it_is_read_in_three_minutes():
    assert len(TEXT.split()) <= 700


def test_every_link_and_picture_is_absolute_and_of_a_file_that_is_there(anchors):
    targets = re.findall(r"\]\(([^)\s]+)\)", TEXT)
    own = [target for target in targets if target.startswith((FORGE, RAW))]
    assert {target for target in targets if target not in own} == {"https://arxiv.org/abs/1505.02496"}
    for target in own:
        name, _, anchor = target.removeprefix(FORGE).removeprefix(RAW).partition("#")
        assert (ROOT / name).is_file(), target
        assert not anchor or anchor in anchors(ROOT / name), target
    pictures = re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", TEXT)
    assert len(pictures) == 2
    assert all(picture.startswith(RAW) for picture in pictures)  # a page of the forge is no picture


def test_the_library_in_ten_lines_runs(capsys):
    (block,) = blocks("python")
    assert len(block.splitlines()) <= 12
    space = {}
    exec(block, space)
    assert len(space["net"](space["data"].batches[0][0]).auxiliary) == 1
    assert "Sick" in capsys.readouterr().out


def test_the_python_examples_run_one_after_the_other(capsys):
    space = {}
    for block in blocks("python", FIRST_STEPS)[1:]:
        exec(block, space)
    assert space["probe"].history.iterations == len(space["data"].batches)
    assert "placement" in capsys.readouterr().out


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(blocks("python", FIRST_STEPS)[0])
    Path("train.py").write_text(TRAIN)
    shown = blocks("console", FIRST_STEPS)
    commands = [line for block in shown for line in block.splitlines() if line.startswith("gradprobe ")]
    assert {command.split()[1] for command in commands} == set(main.commands) - {"demo"}
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command, comments=True)[1:])
        assert result.exit_code == 0, (command, result.output)
    assert Path("gradprobe_runs/model/iterations.svg").is_file()


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = [
        line.split()[1] for block in blocks("console") for line in block.splitlines() if line.startswith("make")
    ]
    assert commands == ["demo", "test"]
    assert set(commands) <= set(targets)
