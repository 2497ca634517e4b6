"""``gradprobe place`` and ``plot`` need only a run. ``report`` and ``diff`` have their tests elsewhere."""

import json
from pathlib import Path

from support.command_line import write

import gradprobe as gp


def test_place_needs_only_the_folder(gradprobe, run_here):
    run_here()
    result = gradprobe("place", "run", "--threshold", "1e-5", "--format", "json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["placement"]["points"]) == 1
    assert gradprobe("place", "run", "--policy", "relative").exit_code == 0
    saved = gp.load("run").placement
    assert gradprobe("place", "run", "--threshold", "1e-30", "--save").exit_code == 0
    assert gp.load("run").placement != saved


def test_the_rule_of_1e_7_has_two_names(gradprobe, run_here):
    run_here()
    by_name = [gradprobe("place", "run", "--policy", name, "--format", "json") for name in ("threshold", "cnds")]
    assert by_name[0].exit_code == 0, by_name[0].output
    assert by_name[0].stdout == by_name[1].stdout


def test_plot_needs_only_the_folder(gradprobe, run_here):
    run = run_here()
    before = (run / "iterations.png").read_bytes()
    (run / "iterations.png").unlink()
    assert gradprobe("plot", "run").exit_code == 0
    assert (run / "iterations.png").read_bytes() == before
    result = gradprobe("plot", "run", "run", "--out", "figures", "--suffix", "svg")
    assert result.exit_code == 0, result.output
    two_panels = f'width="{2 * 7.4 * 72:g}pt"'
    assert two_panels in Path("figures/iterations.svg").read_text(), "one run given twice is drawn twice"


def test_several_runs_are_not_drawn_over_the_first(gradprobe, run_here):
    first, _ = run_here("a"), run_here("b")
    before = (first / "iterations.png").read_bytes()
    drawn = gradprobe("plot", "a", "b")
    assert drawn.exit_code == 0
    assert drawn.stdout.splitlines()[0] == str(Path("gradprobe_runs/side-by-side/iterations.png"))
    assert (first / "iterations.png").read_bytes() == before


INPUTS_AND_TUPLES = """
class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
    def forward(self, x):
        return x.flatten(0, 1), x + self.fc(x)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.pair, self.rnn = nn.Linear(3, 4), Pair(), nn.GRU(4, 4)
        self.blocks, self.head = nn.ModuleList(nn.Linear(4, 4) for _ in range(2)), nn.Linear(4, 2)
    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.rnn(self.pair(x)[1].transpose(0, 1))[0].mean(0))
loss = nn.functional.cross_entropy
batches = [(torch.randn(4, 6, 3), torch.randint(2, (4,)))]
model = Net()
"""


def test_points_at_inputs_of_a_tuple_and_of_a_batch_on_another_axis_are_read_as_they_were(gradprobe):
    """Through the library and through the commands; then branches are built there."""
    result = gradprobe("scan", write(INPUTS_AND_TUPLES), "--iterations", 1, "--out", "run")
    assert result.exit_code == 0, result.output
    assert gradprobe("place", "run", "--policy", "every", "--save").exit_code == 0
    by_command = gp.load("run")
    target = {}
    exec(Path("model.py").read_text(), target)
    history = gp.scan(target["Net"](), target["batches"], target["loss"], iterations=1)
    placement = gp.place(history, gp.EveryLayerPolicy())
    gp.save("again", history, placement)
    by_library = gp.load("again")
    where = [(point.name, point.shape, point.tensor, point.batch) for point in by_library.history.points]
    assert where == [
        ("stem", (4, 6, 4), 0, None),
        ("blocks.1:input", (4, 6, 4), 0, None),
        ("pair:input", (4, 6, 4), 0, None),
        ("pair", (4, 6, 4), 1, None),
        ("rnn", (6, 4, 4), 0, 1),
    ]
    assert tuple(by_library.history.points) == tuple(by_command.history.points) == tuple(history.points)
    assert by_library.placement == by_command.placement == placement
    assert by_command.placement.points == tuple(history.points)
    supervised = gp.supervise(target["Net"](), by_command.placement)
    assert len(supervised(target["batches"][0][0]).auxiliary) == 5
