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
    # 603 modules: blocks, 300 with one layer each, gone and fc; without what is in them 36 blocks fit in 40 lines
    assert len(lines) == 1 + 1 + 36 + 1 + 2 + 1
    assert sum("● (4, 3) … 1 inside" in line for line in lines) == 36
    assert lines[0] == "300 points serve 300 layers; 2 layers have none"
    shown = [int(found[1]) for line in lines if (found := re.search(r"(\d+) Sequential", line))]
    assert shown == [*range(18), *range(282, 300)]
    assert sum("… 264 more" in line for line in lines) == 1
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
    assert f"… {90 - shown} more, {90 - shown} layers without a point" in rest


NESTED = """
class Level(nn.Module):
    def __init__(self, below):
        super().__init__()
        self.down, self.below, self.up = tall(), below, tall()
    def forward(self, x):
        return self.up(self.below(self.down(x)))
def tall():
    return nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(3)))
model = nn.Sequential(Level(Level(Level(tall()))), nn.Linear(3, 2))
"""


def test_of_a_nested_network_every_point_is_shown_before_what_is_inside_the_points(gradprobe):
    lines = gradprobe("points", write(NESTED + BATCHES)).stdout.splitlines()
    every = gradprobe("points", "model.py", "--all").stdout.splitlines()
    assert len(every) > 41
    assert len(lines) <= 42
    assert not [line for line in lines if " more" in line]
    for output in lines, every:
        assert sum("●" in line for line in output) == int(output[0].split()[0]) > 6


BLOCKS_OF_A_TRANSFORMER = """
layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=False)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.fc = nn.TransformerEncoder(layer, 8), nn.Linear(4, 2)
    def forward(self, x):
        return self.fc(self.encoder(x.expand(4, 5, 3, 4)[:, :, 0]).mean(1))
model = Net()
batches = [(torch.randn(4, 1, 1, 4), torch.randint(2, (4,)))]
"""


def test_of_blocks_only_the_points_are_shown_before_some_blocks_are_left_out(gradprobe):
    lines = gradprobe("points", write(BLOCKS_OF_A_TRANSFORMER)).stdout.splitlines()
    assert lines[0].startswith("16 points ")  # each block, and in it what comes after its attention
    assert sum("Layer ● (4, 5, 4) … 5 more inside, 1 layer" in line for line in lines) == 8
    assert sum("norm1 LayerNorm ● (4, 5, 4)" in line for line in lines) == 8


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
