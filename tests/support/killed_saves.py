"""Kills a process that saves a run at every line of ours that it comes to, and looks at what is left.

Run as a program: ``python killed_saves.py FOLDER HOW EVERY`` kills at each EVERY-th line; HOW is one of `SAVES`.
It prints how many kills left the old and the new run. No torch: a process is cheap, and forked for each kill.
"""

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import gradprobe.show.page as page_module
import gradprobe.show.plots as plots_module
from gradprobe.record.files.atomic import replacing
from gradprobe.runs.draft import FOLDER
from gradprobe.runs.run import load, save
from support.saved_histories import numbered, placement

OURS = (f"gradprobe{os.sep}runs{os.sep}", f"files{os.sep}atomic.py")
MINE = {"notes.txt": "mine", "paper.pdf": "mine", "data/history.csv": "mine"}
OLD, NEW = 3, 4


def _figures(folder, *_, **__):
    """As files come to be, without the seconds that drawing takes."""
    files = [Path(folder) / f"{name}.png" for name in ("iterations", "depth")]
    for file in files:
        with replacing(file) as partial:
            partial.write_bytes(b"new picture")
    return files


def _page(file, *_, **__):
    with replacing(file) as partial:
        partial.write_text("new page")


def _save(folder, number, **options):
    save(folder, numbered(number, evidence=True), placement(number), timings={"all": number}, **options)


def _first(folder):
    _save(folder, NEW)


def _force(folder):
    _save(folder, NEW, force=True)


def _inside(folder):
    os.chdir(folder)
    _save(".", NEW, force=True, figures=False)


def _through_a_link(folder):
    link = folder.with_name("link")
    if not link.is_symlink():
        link.symlink_to(folder)
    _save(link, NEW, force=True, figures=False)


SAVES = {"first": _first, "force": _force, "inside": _inside, "link": _through_a_link}


def _killed_at(line, how, folder):
    """Save in a child that is killed at a line; whether it came to it."""
    child = os.fork()
    if child == 0:
        seen = 0

        def trace(frame, event, _):
            nonlocal seen
            if not any(part in frame.f_code.co_filename for part in OURS):
                return None
            if event == "line":
                seen += 1
                if seen == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            SAVES[how](folder)
        except BaseException as error:
            sys.settrace(None)
            print(how, line, repr(error), file=sys.stderr, flush=True)
            os._exit(9)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, (how, line)
    return os.WIFSIGNALED(status)


def _prepare(how, folder):
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir()
    if how == "first":
        return
    _save(folder, OLD, figures=how != "inside")
    (folder / "data").mkdir()
    for name, text in MINE.items():
        (folder / name).write_text(text)
    folder.chmod(0o2750)


def _outcome(how, folder):
    """Which run is there, and that nothing else has changed."""
    try:
        run = load(folder)
    except FileNotFoundError:
        assert how == "first"
        assert not folder.exists() or not list(folder.iterdir()), list(folder.iterdir())
        return "old"
    number = run.history.conditions["seed"]
    assert number in (OLD, NEW)
    assert (run.history, run.placement) == (numbered(number, evidence=True), placement(number))
    assert run.timings == {"all": number}
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    listed = {"history.csv", "run.json", "iterations.png", "depth.png", "report.html"}
    mine = set() if how == "first" else {*MINE, "data"}
    assert left - listed == mine, left
    for name, text in MINE.items() if mine else ():
        assert (folder / name).read_text() == text
    if number == OLD and how == "force":
        assert left >= listed
    assert how == "first" or oct(folder.stat().st_mode & 0o7777) == oct(0o2750)
    siblings = {path.name for path in folder.parent.iterdir()}
    assert siblings <= {folder.name, "link"}, siblings
    assert how != "link" or folder.with_name("link").is_symlink()
    return "old" if number == OLD else "new"


def main(folder, how, every):
    os.fsync = lambda handle: None  # a kill is no power failure: what was written is there
    plots_module.save_figures, page_module.write_page = _figures, _page
    folder, outcomes = Path(folder) / "here" / "run", {"old": 0, "new": 0}
    line = random.Random(how).randint(1, every)
    while True:
        os.chdir("/")
        _prepare(how, folder)
        if not _killed_at(line, how, folder):
            break
        outcomes[_outcome(how, folder)] += 1
        _save(folder, NEW, force=True, figures=False)  # what is left stands in nobody's way
        assert not (folder / FOLDER).exists()
        line += every
    print(how, outcomes, f"of {line} lines")
    assert min(outcomes.values()) > 0 or every > 50  # only the last lines come after the new run counts


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
