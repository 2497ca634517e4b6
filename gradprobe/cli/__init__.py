"""The command line, the only folder that uses click. Only ``gradprobe.__main__`` imports it."""

from gradprobe.cli.commands import main

__all__ = ["main"]
