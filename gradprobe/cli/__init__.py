"""The command line, the only folder that uses click. Nothing imports it but ``gradprobe.__main__``."""

from gradprobe.cli.commands import main

__all__ = ["main"]
