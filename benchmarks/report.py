"""The page that a benchmark prints as it runs and writes to ``--out``: title, date, machine, command, tables."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


class Report:
    """A page in Markdown; every line is printed when it is added.

    Args:
        title: What the numbers are about.
        text: How they were measured and how to read them; may have several lines.
        packages: Distributions whose versions matter.
        device: Where the networks are, as torch names it.

    Example:
        >>> report = Report("What a step costs", "Seconds, the fastest of five.")  # doctest: +SKIP
        >>> report.columns("network", "step")  # doctest: +SKIP
        | network | step |
        | --- | --- |
        >>> report.row("plain", 0.25)  # doctest: +SKIP
        | plain | 0.25 |
        >>> report.write(Path("step.md"))  # doctest: +SKIP
    """

    def __init__(
        self, title: str, text: str, *, packages: Sequence[str] = ("torch",), device: str = "cpu"
    ) -> None:
        self.lines: list[str] = []
        self.add(*head(title, packages, device), "", *text.splitlines(), "")

    def add(self, *lines: str) -> None:
        """Add lines of Markdown as they are."""
        self.lines += lines
        print(*lines, sep="\n", flush=True)

    def columns(self, *names: str) -> None:
        """Begin a table."""
        self.row(*names)
        self.row(*["---"] * len(names))

    def row(self, *cells: object) -> None:
        """Add a row to the table."""
        self.add(f"| {' | '.join(map(str, cells))} |")

    def write(self, path: Path | None) -> None:
        """Write everything to the file, if there is one."""
        if path is not None:
            path.write_text("\n".join(self.lines).rstrip("\n") + "\n")


def head(title: str, packages: Sequence[str] = ("torch",), device: str = "cpu") -> list[str]:
    """Title, date, machine, versions and the command that this process was started with."""
    machine = [
        *([torch.cuda.get_device_name(device)] if torch.device(device).type == "cuda" else []),
        f"{processor()}, {os.cpu_count()} CPU cores ({torch.get_num_threads()} used by torch)",
        f"Python {platform.python_version()}",
        *(f"{package} {version(package)}" for package in packages),
    ]
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    command = shlex.join(["python", str(name), *sys.argv[1:]])
    return [f"# {title}", "", f"{datetime.now(timezone.utc):%Y-%m-%d}, {', '.join(machine)}.", "", f"`{command}`"]


def processor() -> str:
    """The name of the processor where the system gives it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def version(package: str) -> str:
    """The installed version, or a note that there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
