import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import gradprobe as gp
from gradprobe.runs import run as run_module
from gradprobe.runs.folder import free_folder
from gradprobe.zoo import plain_mlp

NAMES = ["0", "nan", "", "[red]", "<script>", "ä/b", "null"]


class Named(nn.Module):
    """Layers with awkward names; the root owns a parameter, so that it is the layer called ""."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        for name in NAMES:
            if name:
                self.add_module(name, nn.Linear(3, 3))

    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x * self.scale


@pytest.fixture(scope="module")
def recorded():
    torch.manual_seed(0)
    history = gp.scan(
        Named(), [(torch.randn(4, 3), torch.randn(4, 3))], nn.functional.mse_loss, iterations=3, seed=1
    )
    assert {layer.name for layer in history.layers} == set(NAMES)
    return history


@pytest.fixture(scope="module")
def compared():
    torch.manual_seed(0)
    batches = [(torch.randn(8, 64), torch.randint(10, (8,))) for _ in range(3)]
    return gp.compare(
        plain_mlp(depth=30, width=16),
        batches,
        nn.functional.cross_entropy,
        iterations=12,
        held_out=batches,
        seeds=(0, 1),
    )


@pytest.fixture(scope="module")
def drawn(compared, tmp_path_factory):
    """The folder of a run with a comparison and all its figures, which take most of the time."""
    folder = tmp_path_factory.mktemp("drawn") / "run"
    return gp.save(folder, compared.plain, compared.placement, compared)


def test_a_run_reads_back_equal(recorded, tmp_path):
    placement = gp.place(recorded)
    folder = gp.save(tmp_path / "deep" / "run", recorded, placement, timings={"scan": 1.25})
    again = gp.load(folder)
    assert again.history == recorded
    assert again.placement == placement
    assert again.comparison is None
    assert again.timings == {"scan": 1.25}
    assert {path.name for path in folder.iterdir()} == {
        "history.csv",
        "run.json",
        "iterations.png",
        "depth.png",
        "heatmap.png",
        "signal.png",
        "report.html",
    }


def test_a_comparison_reads_back_equal(compared, drawn):
    again = gp.load(drawn)
    assert again.comparison == compared
    assert again.comparison.verdict == compared.verdict
    assert str(again.comparison) == str(compared)
    assert (drawn / "comparison.png").is_file()


def test_saving_what_was_loaded_gives_the_same_files(drawn, tmp_path):
    again = gp.load(drawn)
    second = gp.save(tmp_path / "second", again.history, again.placement, again.comparison)
    for path in drawn.iterdir():
        if path.name != "run.json":
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    texts = [json.loads((folder / "run.json").read_text()) for folder in (drawn, second)]
    for text in texts:
        del text["created"]
    assert texts[0] == texts[1]


def test_a_run_reads_without_torch(recorded, tmp_path):
    folder = gp.save(tmp_path / "run", recorded, gp.place(recorded), figures=False)
    code = (
        "import sys; sys.modules['torch'] = None; import gradprobe as gp; "
        f"print(len(gp.load({str(folder)!r}).history.layers))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(len(NAMES))


def test_json_is_strict(recorded, tmp_path):
    folder = gp.save(tmp_path / "run", recorded, gp.place(recorded), figures=False)
    json.loads((folder / "run.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_an_existing_run_stays_unless_forced(recorded, tmp_path):
    placement = gp.place(recorded)
    folder = gp.save(tmp_path / "run", recorded, placement, figures=False)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a run at .* already.*--force"):
        gp.save(folder, recorded, placement, figures=False)
    gp.save(folder, recorded, placement, timings={"again": 1.0}, figures=False, force=True)
    assert gp.load(folder).timings == {"again": 1.0}
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_not_a_run_is_never_replaced(recorded, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(FileExistsError, match="not empty and not a run"):
            gp.save(tmp_path, recorded, gp.place(recorded), force=force)
    file = tmp_path / "mine.txt"
    with pytest.raises(FileExistsError, match="is a file"):
        gp.save(file, recorded, gp.place(recorded))
    with pytest.raises(NotADirectoryError, match="is a file"):
        gp.save(file / "run", recorded, gp.place(recorded))


def test_nothing_half_written_is_left(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "write_csv", lambda frame: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        gp.save(tmp_path / "run", recorded, gp.place(recorded))
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_figure_that_fails_costs_the_picture_and_not_the_record(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr("gradprobe.show.plots.save_figures", lambda *_, **__: 1 / 0)
    with pytest.warns(
        run_module.PictureWarning, match="is kept in .*run, but without its figures: division by zero"
    ):
        folder = gp.save(tmp_path / "run", recorded, gp.place(recorded))
    assert gp.load(folder).history == recorded
    assert {path.name for path in folder.iterdir()} == {"history.csv", "run.json", "report.html"}


def test_a_run_moved_aside_by_a_killed_process_comes_back(recorded, tmp_path):
    folder = gp.save(tmp_path / "run", recorded, gp.place(recorded), figures=False)
    (folder / "notes.txt").write_text("mine")
    aside = tmp_path / ".run.x.old"
    aside.mkdir()
    folder.replace(aside / "run")
    assert gp.load(folder).history == recorded
    assert (folder / "notes.txt").read_text() == "mine"
    assert not aside.exists()


def test_a_folder_that_is_not_a_run_says_so(recorded, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder with run\.json"):
        gp.load(tmp_path)
    folder = gp.save(tmp_path / "run", recorded, gp.place(recorded), figures=False)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "schema": 99}))
    with pytest.raises(ValueError, match=r"schema 99.*update it"):
        gp.load(folder)


DAMAGE = {
    "cut off": ("run.json", lambda text: text[:100], r"run\.json is incomplete"),
    "no object": ("run.json", lambda text: "[]", r"run\.json is not what gradprobe writes"),
    "a key less": (
        "run.json",
        lambda text: text.replace('"placement"', '"place"'),
        r"run\.json has no 'placement'",
    ),
    "another key": ("run.json", lambda text: text.replace('"kind"', '"sort"'), r"run\.json is not what .*'sort'"),
    "no table": ("history.csv", lambda text: None, r"history\.csv: No such file"),
    "an empty table": ("history.csv", lambda text: "", r"history\.csv: No columns"),
    "another table": ("history.csv", lambda text: "a,b\n1,2\n", r"history\.csv: expected the columns iteration"),
    "no number": ("history.csv", lambda text: text.replace("0,", "x,", 1), r"history\.csv: invalid literal .*'x'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_says_which_file_and_what_to_do(case, recorded, tmp_path):
    name, damaged, sentence = DAMAGE[case]
    folder = gp.save(tmp_path / "run", recorded, gp.place(recorded), figures=False)
    text = damaged((folder / name).read_text())
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"cannot be read: {sentence}.*; copy the folder again, or record"):
        gp.load(folder)


def test_free_folders_are_numbered(tmp_path):
    for name in ("net", "net-2", "net-3"):
        folder = free_folder(tmp_path, "net")
        assert folder.name == name
        folder.mkdir()


def test_a_run_prints_itself(compared, drawn):
    text = str(gp.load(drawn))
    assert "fc1" in text
    assert "placement" in text
    assert str(compared) in text
