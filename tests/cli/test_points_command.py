"""``gradprobe points``: the tree, its excerpt, and the formats for programs."""

import io
import json
import re

import pandas as pd
from support.command_line import BATCHES, BLOCKS, NET, write


def test_points_are_shown_as_a_tree(gradprobe):
    result = gradprobe("points", write(BLOCKS + BATCHES))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "3 points serve 5 layers; 2 layers have none",
        "├── stem Linear → act",
        "├── act ReLU ● (4, 4)",
        "├── gone Linear no point: never called as a module",
        "├── blocks Sequential",
        "│   ├── 0 Block ● (4, 4)",
        "│   │   ├── up Linear",
        "│   │   └── down Linear",
        "│   └── 1 Block ● (4, 4)",
        "│       ├── up Linear",
        "│       └── down Linear",
        "└── fc Linear no point: it makes the network's output",
    ]


DEEP_BLOCKS = """
class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(300))
        self.gone, self.fc = nn.Linear(1, 1), nn.Linear(3, 2)
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.fc(x)
model = Deep()
"""


def test_the_points_of_a_deep_network_are_an_excerpt_until_all_are_asked_for(gradprobe):
    target = write(DEEP_BLOCKS + BATCHES)
    lines = gradprobe("points", target).stdout.splitlines()
    # 603 modules: blocks, 300 with one layer each, gone and fc; 18 blocks are 36 lines, 19 would be 38 of 42
    assert len(lines) == 1 + 1 + 36 + 1 + 2 + 1
    assert lines[0] == "300 points serve 300 layers; 2 layers have none"
    shown = [int(found[1]) for line in lines if (found := re.search(r"(\d+) Sequential", line))]
    assert shown == [*range(9), *range(291, 300)]
    assert sum("… 282 more" in line for line in lines) == 1
    assert "fc Linear no point: it makes the network's output" in lines[-2]
    assert lines[-1] == "564 of 603 modules are not shown: --all shows them, and --format csv every layer"
    every = gradprobe("points", target, "--all").stdout.splitlines()
    assert len(every) == 1 + 603
    assert "more" not in every[-1]


def test_an_excerpt_says_how_many_without_a_point_are_left_out(gradprobe):
    unused = "model.add_module('gone', nn.ModuleList(nn.Linear(1, 1) for _ in range(90)))\n"
    lines = gradprobe("points", write(DEEP_BLOCKS + unused + BATCHES)).stdout.splitlines()
    [rest] = [line for line in lines if "without a point" in line]
    shown = sum("never called" in line for line in lines)
    assert f"… {90 - shown} more, {90 - shown} layers in them without a point" in rest


def test_points_for_a_program(gradprobe):
    target = write(BLOCKS + BATCHES)
    record = json.loads(gradprobe("points", target, "--format", "json").stdout)
    assert record["points"][1] == {
        "name": "blocks.0",
        "shape": [4, 4],
        "depth": 3,
        "layers": ["blocks.0.up", "blocks.0.down"],
        "channels": None,
        "tensor": 0,
        "batch": None,
    }
    assert list(record["unserved"]) == ["gone", "fc"]
    rows = pd.read_csv(io.StringIO(gradprobe("points", target, "--format", "csv").stdout), keep_default_na=False)
    assert rows["layer"].tolist() == [
        "stem",
        "blocks.0.up",
        "blocks.0.down",
        "blocks.1.up",
        "blocks.1.down",
        "gone",
        "fc",
    ]
    assert rows["point"].tolist() == ["act", *["blocks.0"] * 2, *["blocks.1"] * 2, "", ""]


def test_points_say_what_the_target_raised(gradprobe):
    result = gradprobe("points", write(NET + "batches = [(torch.ones(2, 7), torch.tensor([0, 1]))]"))
    assert result.exit_code == 1
    assert "cannot be multiplied (2x7 and 3x5)" in result.stderr
