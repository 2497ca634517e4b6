"""Targets for the tests of the command line, as source."""

from pathlib import Path

HEAD = "import torch\nfrom torch import nn\n"
BATCHES = """
generator = torch.Generator().manual_seed(0)
batches = [(torch.randn(4, 3, generator=generator), torch.randint(2, (4,), generator=generator)) for _ in range(3)]
"""
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)
    def forward(self, x):
        return self.second(self.first(x).relu())
"""
# its gradients vanish
DEEP = (
    "model = nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(9)], nn.Linear(3, 2))\n"
    "for p in model[:-1].parameters():\n    nn.init.normal_(p, std=0.01)\n"
)
BLOCKS = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
    def forward(self, x):
        return x + self.down(self.up(x).relu())
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.act, self.gone = nn.Linear(3, 4), nn.ReLU(), nn.Linear(1, 1)
        self.blocks, self.fc = nn.Sequential(Block(), Block()), nn.Linear(4, 2)
    def forward(self, x):
        return self.fc(self.blocks(self.act(self.stem(x))))
model = Net()
"""


def write(text, name="model.py"):
    """Write a target into the working directory."""
    Path(name).write_text(HEAD + text)
    return name
