"""Saves runs on a disk of 2 MB that is nearly full, and on one that cannot be written; prints what came of it.

Run as a program in a namespace of its own (``unshare -rm``), where it may mount them: FOLDER is an empty folder.
"""

import subprocess
import sys
import warnings
from pathlib import Path

import gradprobe.show.page as page_module
import gradprobe.show.plots as plots_module
from gradprobe.record.files.atomic import replacing
from gradprobe.runs.draft import FOLDER
from gradprobe.runs.folder import check_free, reserve
from gradprobe.runs.run import load, save
from support.saved_histories import numbered, placement

BLOCK = 4096
FIGURES = ("iterations", "depth", "heatmap")


def _figures(folder, *_, **__):
    for name in FIGURES:
        with replacing(Path(folder) / f"{name}.png") as file:
            file.write_bytes(bytes(60_000))
    return [Path(folder) / f"{name}.png" for name in FIGURES]


def _page(file, *_, **__):
    with replacing(file) as partial:
        partial.write_bytes(bytes(250_000))


def mount(folder, *options):
    subprocess.run(["mount", *options, str(folder)], check=True)


def _save(folder, number, **options):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        save(folder, numbered(number), placement(number), **options)
    return [str(one.message) for one in said]


def _refused(attempt):
    """The sentence that something is refused with, or nothing."""
    try:
        attempt()
    except OSError as error:
        return str(error)
    return ""


def fill(disk, free):
    """Fill a disk up to so many free bytes."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(BLOCK)):
                continue
        except OSError:
            pass
    size = (disk / "filler").stat().st_size
    with (disk / "filler").open("r+b") as file:
        file.truncate(max(0, size - free))


def full(disk, old_figures):
    """Save with more and more room: the old run or the new one, and the picture is lost before the record is."""
    run, outcomes = disk / "run", []
    for free in [*range(0, 200_000, 10 * BLOCK), *range(240_000, 700_000, 8 * BLOCK), 1_000_000]:
        (disk / "filler").unlink(missing_ok=True)
        _save(run, 3, force=True, figures=old_figures)
        (run / "notes.txt").write_text("mine")
        fill(disk, free)
        said = []
        refused = _refused(lambda: said.extend(_save(run, 4, force=True)))  # noqa: B023
        if refused:
            assert "No space left" in refused
            assert load(run).history == numbered(3)
            assert (run / "depth.png").is_file() == old_figures
            outcomes.append("old")
        else:
            assert load(run).history == numbered(4)
            assert said or (run / "report.html").is_file()
            assert all("the record is kept in" in one and "No space left" in one for one in said)
            outcomes.append(f"new, {len(said)} pictures lost" if said else "new")
        assert (run / "notes.txt").read_text() == "mine"
        assert not (run / FOLDER).exists()
        (run / "notes.txt").unlink()
    assert outcomes == sorted(outcomes, key=["old", *(f"new, {n} pictures lost" for n in (2, 1)), "new"].index)
    return {one: outcomes.count(one) for one in outcomes}


def before_training(disk):
    """A disk without room is found when the folder is reserved."""
    fill(disk, 100_000)
    assert "other cannot be written: No space left" in _refused(lambda: reserve(disk / "other"))
    assert not (disk / "other").exists()


def read_only(disk):
    """What is there is read; what would be written is refused, in a sentence."""
    mount(disk, "-o", "remount,ro")
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    assert load(disk / "run").history == numbered(4)
    for folder, options in ((disk / "run", {"force": True}), (disk / "new", {})):
        for attempt in (lambda: _save(folder, 5, **options), lambda: check_free(folder, **options)):  # noqa: B023
            assert "cannot be written: Read-only file system" in _refused(attempt)
    assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before


def main(folder):
    plots_module.save_figures, page_module.write_page = _figures, _page
    disk = Path(folder)
    mount(disk, "-t", "tmpfs", "-o", "size=2m", "none")
    print(full(disk, True), full(disk, False))
    before_training(disk)
    read_only(disk)


if __name__ == "__main__":
    main(sys.argv[1])
