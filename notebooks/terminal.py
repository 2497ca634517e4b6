"""Draws notebooks/figures/terminal.svg: what a terminal shows of ``gradprobe run train.py``, from a real run.

python notebooks/terminal.py   # runs notebooks/train.py in an empty folder, and keeps what it printed
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
PICTURE = HERE / "figures" / "terminal.svg"
SCRIPT = HERE / "train.py"
COLUMNS = 100
COMMAND = f"gradprobe run {SCRIPT.name}"
LAST = "gp.apply_remedy("  # the branches that follow it are an afterthought here


def printed() -> str:
    """What the command prints to a terminal of this width, with its colours."""
    terminal = {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(SCRIPT, folder)
        command = [sys.executable, "-m", *COMMAND.split()]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **terminal},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return done.stdout


def shortened(text: str) -> str:
    """The text up to the line with the remedy, if there is one."""
    lines = text.rstrip().splitlines()
    ends = [number for number, line in enumerate(lines) if LAST in line]
    return "\n".join(lines[: ends[0] + 1] if ends else lines)


def picture(text: str) -> str:
    """The terminal as SVG."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, color_system="truecolor", force_terminal=True)
        console.print(Text("$ ", style="bold green") + Text(COMMAND, style="bold"))
        console.print(Text.from_ansi(text), "", sep="\n")  # the last line is cut off at its descenders
    return console.export_svg(title=COMMAND, unique_id="gradprobe-run")


if __name__ == "__main__":
    PICTURE.write_text(picture(shortened(printed())), encoding="utf-8")
    print(PICTURE)
