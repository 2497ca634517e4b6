"""The group of commands. Heavy imports wait until a command needs them: ``--help`` imports no torch or pandas."""

from __future__ import annotations

import click

from gradprobe.cli.runs_commands import diff, runs
from gradprobe.cli.saved_commands import place, plot, report
from gradprobe.cli.script_command import run
from gradprobe.cli.target_commands import compare, demo, points, scan


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gradprobe")
def main() -> None:
    """Find the layers that the gradient does not reach, place deep supervision there, see whether it helps.

    TARGET is model.py, model.py:attr or package.module:attr. It may define `model` or `build_model()`, `batches`
    (or `loader`, `train_loader`, `dataloader`), `loss` (or `loss_fn`, `criterion`), `branch_loss` (the same of
    what a branch returns), `optimizer` (a function of the model, or one of its parameters), `held_out` (or
    `val_loader`) and `metric(output, target)`.

    Exit codes: 0 done, 1 the target failed, 2 usage, 3 found what --fail-on names.
    """


for command in (scan, compare, demo, run, points, place, plot, report, diff, runs):
    main.add_command(command)
