"""Networks that learn, of the kinds that people train: each has to be called healthy.

    python -m benchmarks.diagnosis.healthy [NETWORK ...] [--recorded FOLDER] [--out PAGE]

Batches of 2, 8 and 64, windows of 10, 50 and 150 iterations, SGD and Adam, float32 and bfloat16 autocast. After
the windows each training is continued until it has learned its task; what does not learn it is no false alarm.
With ``--recorded`` what is there is not trained again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from benchmarks.diagnosis.networks import SUBJECTS
from benchmarks.diagnosis.trainings import GAN, NETWORKS, Setting, training
from benchmarks.diagnosis.windows import EXPLAINED, NUMBERS, Window, keep, read
from benchmarks.placement import records
from benchmarks.report import Report

WINDOWS = (10, 50, 150)
CHECKED = (150, 300, 600, 1200)  # iterations
LEARNED = 0.5  # of the task
COLUMNS = ("network", "batch", "optimizer", "precision", "score", "iterations")
# the most different ones first, so that a run that is stopped has something of each
HOW = (
    (8, "Adam", "fp32"),
    (2, "SGD", "fp32"),
    (8, "Adam", "bf16"),
    (64, "SGD", "fp32"),
    (2, "Adam", "fp32"),
    (64, "Adam", "fp32"),
    (8, "SGD", "fp32"),
    (2, "Adam", "bf16"),
    (8, "SGD", "bf16"),
)
TEXT = f"""\
Windows of {", ".join(map(str, WINDOWS))} iterations from the beginning of each training. A training counts as one
that learns when it comes to {LEARNED} of its task within {CHECKED[-1]} iterations: accuracy from that of a
constant answer (0) to 1, for a VAE the share of the images' variance that it reconstructs, for a GAN the share of
its points that are near the circle. Of what does not come that far nothing is wanted.

{EXPLAINED}"""


@dataclass(frozen=True)
class Result:
    """A training, what it came to, and what is said of one of its windows."""

    setting: Setting
    score: float
    iterations: int
    part: str
    length: int
    window: Window

    @property
    def learns(self) -> bool:
        """Whether the task was learned."""
        return self.score >= LEARNED

    @property
    def alarm(self) -> bool:
        """Whether it learns and is not called healthy."""
        return self.learns and self.window.diagnosis.verdict != "healthy"


def settings(networks: Iterable[str]) -> list[Setting]:
    """All ways in which these networks are trained."""
    return [Setting(network, *how) for how in HOW for network in networks]


def name_of(setting: Setting, part: str, length: int) -> str:
    """The name of a window."""
    words = [setting.network + part, f"b{setting.batch}", setting.optimizer, setting.precision, str(length)]
    return "-".join(words).replace(", ", "_").replace(" ", "_")


def train(setting: Setting, folder: Path) -> None:
    """Record the windows, go on until the task is learned, and write down to what it came."""
    trained = training(setting)
    for (part, length), history in trained.record(WINDOWS).items():
        keep(folder, name_of(setting, part, length), history)
    done, score = max(WINDOWS), trained.score()
    for checked in CHECKED:
        trained.run(checked - done)
        done, score = checked, trained.score()
        if score >= LEARNED:
            break
    records.append(folder / "learned.csv", COLUMNS, [*astuple(setting), score, done])


def results(networks: Sequence[str], folder: Path, *, stored: bool = False) -> list[Result]:
    """Every window of every training of these networks; with ``stored`` only of those that are there."""
    wanted = settings(networks)
    for setting in wanted:
        if not stored and setting not in _learned(folder):
            train(setting, folder)
    return [
        Result(setting, *_learned(folder)[setting], part, length, read(folder, name_of(setting, part, length)))
        for setting in wanted
        if setting in _learned(folder)
        for part in ((", generator", ", critic") if setting.network == GAN else ("",))
        for length in WINDOWS
    ]


def _learned(folder: Path) -> dict[Setting, tuple[float, int]]:
    return {
        Setting(row["network"], int(row["batch"]), row["optimizer"], row["precision"]): (
            float(row["score"]),
            int(row["iterations"]),
        )
        for row in records.read(folder / "learned.csv")
    }


def page(every: Sequence[Result]) -> Report:
    """The page: a row for each network, the windows with a false alarm, and what does not learn."""
    report = Report(
        "Healthy networks, and what is said of them", TEXT, packages=("torch", "transformers", "monai")
    )
    learning = [one for one in every if one.learns]
    alarms = [one for one in every if one.alarm]
    report.add(
        f"{len(learning) - len(alarms)} of {len(learning)} windows of trainings that learn are healthy.", ""
    )
    _by_network(report, every)
    for what, key in (
        ("window", "length"),
        ("batch", "batch"),
        ("optimizer", "optimizer"),
        ("precision", "precision"),
    ):
        _by_condition(report, learning, what, key)
    report.add("", "What learns and is not called healthy:", "")
    report.columns("network", "batch", "optimizer", "", "window", "learned", "verdict", "causes", *NUMBERS)
    for one in alarms:
        report.row(*_row(one), *one.window.numbers())
    report.add("", "What does not learn, and the verdicts of its windows:", "")
    report.columns("network", "batch", "optimizer", "", "window", "learned", "verdict", "causes", *NUMBERS)
    for one in every:
        if not one.learns:
            report.row(*_row(one), *one.window.numbers())
    return report


def _by_network(report: Report, every: Sequence[Result]) -> None:
    report.columns("network", "from", "trainings", "learn", "windows of those", "not healthy", "causes")
    for network in dict.fromkeys(one.setting.network for one in every):
        mine = [one for one in every if one.setting.network == network]
        trainings = {one.setting for one in mine}
        learning = [one for one in mine if one.learns]
        alarms = [one for one in learning if one.alarm]
        causes = Counter(one.window.cause for one in alarms)
        report.row(
            network,
            SUBJECTS[network].library if network in SUBJECTS else "torch",
            len(trainings),
            len({one.setting for one in learning}),
            len(learning),
            len(alarms),
            ", ".join(f"{cause} {count}" for cause, count in causes.most_common()) or "-",
        )


def _by_condition(report: Report, learning: Sequence[Result], what: str, key: str) -> None:
    def value(one: Result) -> object:
        return one.length if key == "length" else getattr(one.setting, key)

    report.add("")
    report.columns(what, "windows", "not healthy")
    for each in dict.fromkeys(map(value, learning)):
        mine = [one for one in learning if value(one) == each]
        report.row(each, len(mine), sum(one.alarm for one in mine))


def _row(one: Result) -> list[object]:
    setting = one.setting
    causes = ", ".join(one.window.causes) or "-"
    learned = f"{one.score:.2f} at {one.iterations}"
    where = [setting.network + one.part, setting.batch, setting.optimizer, setting.precision, one.length]
    return [*where, learned, one.window.diagnosis.verdict, causes]


def main() -> None:
    """Train what is not there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=NETWORKS)
    parser.add_argument("--recorded", type=Path, metavar="FOLDER", help="where windows are kept")
    parser.add_argument("--stored", action="store_true", help="train nothing: the page of what is there")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.recorded or Path(tempfile.mkdtemp())
    page(results(options.networks, folder, stored=options.stored)).write(options.out)


if __name__ == "__main__":
    main()
