"""How a folder becomes a run: what is refused, what is left alone, and who has it."""

import contextlib
import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.saved_histories import numbered, placement

from gradprobe.runs.contents import RECORD, sealed, sha256
from gradprobe.runs.draft import FOLDER, BusyError
from gradprobe.runs.folder import check_free, kept_elsewhere, reserve, reserve_free
from gradprobe.runs.run import load, save


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(folder="run", number=3, **options):
    return save(folder, numbered(number), placement(number), figures=False, **options)


def listing(folder="."):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


OTHERS = {
    "another tool's": '{"schema": 1, "run": "mlflow"}',
    "no JSON": "run: 1",
    "a list": "[]",
    "another format": '{"schema": 2, "format": "other", "gradprobe": "0"}',
    "of the future": '{"schema": 3, "format": "gradprobe run", "gradprobe": "9"}',
    "foreign names in its list": json.dumps(
        {
            "schema": 2,
            "format": "gradprobe run",
            "gradprobe": "0",
            **dict.fromkeys(("conditions", "layers", "placement")),
            "checksum": "0" * 64,
            "files": {"../notes.txt": "0" * 64},
        }
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_run_json_that_is_not_ours_protects_its_folder(kind):
    Path("notes.txt").write_text("mine")
    mine = {"run.json": OTHERS[kind], "history.csv": "mine", "report.html": "mine", "paper.png": "mine"}
    Path("run").mkdir()
    for name, text in mine.items():
        Path("run", name).write_text(text)
    with pytest.raises(FileExistsError, match="run is not empty and not a run"):
        saved(force=True)
    assert {path.name: path.read_text() for path in Path("run").iterdir()} == mine
    assert Path("notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["report.html", "iterations.png", "history.csv"])
def test_a_folder_named_as_one_of_our_files_is_left_alone(name):
    saved()
    Path("run", name).unlink(missing_ok=True)
    Path("run", name).mkdir()
    Path("run", name, "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name} is a folder: move it, or choose another folder"):
        saved(force=True)
    assert Path("run", name, "mine.txt").read_text() == "mine"


def test_a_file_that_the_list_does_not_name_is_the_users():
    saved()
    for name in ("paper.png", "learning.csv"):
        Path("run", name).write_text("mine")
        with pytest.raises(FileExistsError, match=f"{name} is not gradprobe's: move it"):
            saved(number=4, force=True)
        assert Path("run", name).read_text() == "mine"
        Path("run", name).unlink()
    Path("run/iterations.pdf").write_text("mine")  # which a save never writes
    saved(number=4, force=True)
    assert Path("run/iterations.pdf").read_text() == "mine"


def test_what_the_new_run_does_not_have_goes_if_it_is_listed():
    saved()
    with reserve("run", force=True) as folder:
        (folder.draft.path / "iterations.pdf").write_text("ours")
        folder.draft.add(["iterations.pdf"])
    assert load("run").history == numbered(3)
    assert Path("run/iterations.pdf").read_text() == "ours"
    saved(number=4, force=True)
    assert listing("run") == ["history.csv", "run.json"]


def test_a_run_that_was_edited_can_be_replaced():
    saved()
    Path("run/run.json").write_text(Path("run/run.json").read_text().replace("Linear", "Conv2d"))
    Path("run/history.csv").write_text("")
    saved(number=4, force=True)
    assert load("run").history == numbered(4)


def test_links_stay_and_modes_too(here):
    saved("real")
    Path("real/notes.txt").write_text("mine")
    Path("real").chmod(0o2750)
    Path("link").symlink_to("real")
    Path("absolute").symlink_to(here / "link")
    for link, number in (("link", 4), ("absolute", 5)):
        saved(link, number, force=True)
        assert Path(link).is_symlink()
        assert load("real").history == numbered(number)
    assert oct(Path("real").stat().st_mode & 0o7777) == oct(0o2750)
    assert listing("real") == ["history.csv", "notes.txt", "run.json"]


def test_a_file_of_a_run_that_is_a_link_is_replaced_and_not_its_target():
    saved()
    Path("run/history.csv").rename("mine.csv")
    Path("run/history.csv").symlink_to("../mine.csv")
    before = Path("mine.csv").read_bytes()
    saved(number=4, force=True)
    assert Path("mine.csv").read_bytes() == before
    assert not Path("run/history.csv").is_symlink()


def test_a_run_is_written_from_inside_and_into_an_empty_folder(monkeypatch):
    Path("empty").mkdir()
    monkeypatch.chdir("empty")
    saved(".")
    saved(".", 4, force=True)
    assert load(".").history == numbered(4)


@pytest.mark.parametrize(
    ("folder", "error", "sentence"),
    [
        ("x" * 300, OSError, "x cannot be written: File name too long"),
        ("file", FileExistsError, "file is a file: choose another folder"),
        ("file/run", NotADirectoryError, "file is a file"),
        ("link", FileNotFoundError, "link is a link to .*nowhere, which is not there"),
        ("a\0b", FileNotFoundError, "cannot be the name of a folder"),
        ("/proc/nowhere/run", OSError, "cannot be written"),
    ],
)
def test_what_cannot_be_a_folder_is_found_before_a_training(folder, error, sentence):
    Path("file").write_text("mine")
    Path("link").symlink_to("nowhere")
    with pytest.raises(error, match=sentence):
        reserve(folder)
    assert listing() == ["file", "link"]


def test_a_reserved_folder_is_locked_and_gone_if_it_is_not_used():
    with reserve("deep/run") as folder:
        assert Path("deep/run").is_dir()
        with pytest.raises(BusyError, match=r"another process writes to .*run"):
            reserve("deep/run")
        with pytest.raises(FileNotFoundError):
            load("deep/run")
        assert str(folder) == os.fspath(folder) == "deep/run"
    assert listing() == []
    check_free("deep/run")
    assert listing() == []


def test_processes_with_the_same_name_get_a_folder_each():
    program = (
        "import sys; from gradprobe.runs.folder import reserve_free\n"
        "with reserve_free('runs', 'net') as folder:\n    print(folder, flush=True); sys.stdin.read()\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    names = {one.stdout.readline().strip(): one for one in started}
    assert sorted(names) == ["runs/net", "runs/net-2", "runs/net-3"]
    names["runs/net"].kill()
    for one in started:
        one.communicate()
    assert f"runs/net/{FOLDER}" in listing()
    # what the killed one has left is no run, and the next one has its name
    with reserve_free("runs", "net") as folder:
        assert str(folder) == "runs/net"
        saved(folder)
    assert listing() == ["runs", "runs/net", "runs/net/history.csv", "runs/net/run.json"]


def test_who_reserves_at_the_same_moment_leaves_nothing():
    at_once, names = threading.Barrier(4), [set() for _ in range(30)]
    Path("runs").mkdir()

    def reserve_often():
        for taken in names:
            at_once.wait()
            with reserve_free("runs", "net") as folder:
                taken.add(str(folder))
                at_once.wait()

    threads = [threading.Thread(target=reserve_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    each = {"runs/net", *(f"runs/net-{number}" for number in (2, 3, 4))}
    assert names == [each] * 30
    assert listing() == ["runs"]


def test_threads_that_save_at_the_same_time_leave_one_run():

    def save_often(number):
        for _ in range(20):
            with contextlib.suppress(BusyError):
                saved("run", number, force=True)

    threads = [threading.Thread(target=save_often, args=(number,)) for number in (3, 4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        try:
            seed = load("run").history.conditions["seed"]
        except FileNotFoundError:
            continue
        assert seed in (3, 4)
    assert listing("run") == ["history.csv", "run.json"]


def test_a_link_in_place_of_our_own_folder_is_not_followed():
    saved()
    Path("mine").mkdir()
    Path("mine/run.json").write_text("mine")
    Path("run", FOLDER).symlink_to("../mine")
    with pytest.raises(FileExistsError, match="is a link: delete it"):
        saved(number=4, force=True)
    with pytest.raises(ValueError, match="cannot be read"):
        load("run")
    assert Path("mine/run.json").read_text() == "mine"


def test_a_child_that_was_forked_gives_nothing_back():
    with reserve("run") as folder:
        child = os.fork()
        if child == 0:
            folder.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert Path("run").is_dir()
        with pytest.raises(BusyError):
            reserve("run")
        saved(folder)
    assert load("run").history == numbered(3)


def test_a_folder_that_was_deleted_meanwhile_is_made_again():
    with reserve("deep/run") as folder:
        shutil.rmtree("deep")
        saved(folder)
    assert load("deep/run").history == numbered(3)
    assert listing("deep/run") == ["history.csv", "run.json"]


def test_the_folder_is_where_it_was_when_it_was_reserved(tmp_path):
    Path("elsewhere").mkdir()
    with reserve("run") as folder:
        os.chdir("elsewhere")
        saved(folder)
    assert load(tmp_path / "run").history == numbered(3)


def test_a_copy_of_a_reserved_folder_is_its_path():
    with reserve("run") as folder:
        assert copy.deepcopy(folder) == pickle.loads(pickle.dumps(folder)) == Path("run")


def test_a_run_without_a_place_is_kept_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    where = kept_elsewhere("net", OSError("full"), saved)
    assert where == tmp_path / "temporary" / "gradprobe-net"
    assert load(where).history == numbered(3)
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    with pytest.raises(OSError, match="full"):
        kept_elsewhere("net", OSError("full"), saved)


def test_a_run_that_counts_and_has_not_moved_yet_is_read(here):
    """As a process leaves it that is killed just after the new run.json has its name."""
    saved()
    record = json.loads(Path("run/run.json").read_text())
    saved("new", 4)
    draft = Path("run", FOLDER)
    shutil.copytree("new", draft)
    for writable in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if not writable:
                patch.setattr("gradprobe.runs.run.recover", lambda folder: None)
            assert load("run").history == numbered(4)
    assert listing("run") == ["history.csv", "run.json"]
    # and one that does not count is taken back
    draft.mkdir()
    (draft / "history.csv").write_text("not whole")
    (draft / RECORD).write_bytes(sealed(record, {"history.csv": sha256(b"")})[:-9])
    assert load("run").history == numbered(4)
    assert listing("run") == ["history.csv", "run.json"]
