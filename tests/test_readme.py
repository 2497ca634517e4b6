"""What the README says can be typed, can be typed."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradprobe.cli import main

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


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


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_python_examples_run_one_after_the_other(capsys):
    space = {}
    for block in blocks("python")[1:]:
        exec(block, space)
    assert space["probe"].history.iterations == len(space["data"].batches)
    assert "placement" in capsys.readouterr().out


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(blocks("python")[0])
    Path("train.py").write_text(TRAIN)
    commands = [
        line for block in blocks("console") for line in block.splitlines() if line.startswith("gradprobe ")
    ]
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
