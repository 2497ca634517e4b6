"""Write docs/reference.md, and what architecture.md and limits.md show of the code: ``python docs/build.py``.

The reference comes from the docstrings and from the command line's own help; ``architecture.py`` and ``limits.py``
beside this file write the other two.
"""

from __future__ import annotations

import ast
import logging
import runpy
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import griffe
from click.testing import CliRunner

from gradprobe.cli import main

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference.md"
WIDTH = 80

# a chapter for each folder, its names in the order in which a reader needs them; others come under "More"
CHAPTERS = {
    "Measure": ("measure", ["scan", "GradientProbe"]),
    "Record": ("record", ["GradientHistory", "Evidence", "Placement", "Points", "Point"]),
    "Decide": (
        "decide",
        [
            "diagnose",
            "Diagnosis",
            "Finding",
            "place",
            "ThresholdPolicy",
            "RelativePolicy",
            "EveryLayerPolicy",
            "BranchesPolicy",
            "AutoPolicy",
        ],
    ),
    "Find points": ("network", ["points"]),
    "Insert": (
        "insert",
        [
            "supervise",
            "SupervisedModel",
            "SupervisedOutput",
            "DeepSupervisionLoss",
            "branch_weights",
            "CompanionObjective",
            "squared_hinge",
        ],
    ),
    "Branches": (
        "insert.branches",
        ["BRANCHES", "Branch", "CNDSBranch", "build_branch", "C1DeepSup", "conv3x3_bn_relu"],
    ),
    "Prove": ("prove", ["compare", "compare_arms", "place_by_trials", "place_repeatedly"]),
    "Judge": ("verdict", ["Comparison", "ArmsComparison", "Arm"]),
    "Show": (
        "show",
        [
            "plot_history",
            "plot_profile",
            "plot_signal",
            "plot_heatmap",
            "plot_comparison",
            "comparison_figure",
            "paper_figure",
            "plot_learning",
            "plot_arms",
            "save_figure",
            "write_page",
        ],
    ),
    "Keep": ("runs", ["save", "load", "Run"]),
    "Log": ("integrations", ["log_to"]),
}
# what is imported from a module of its own
MODULES = {
    "gradprobe.measure.scan": ["TrainingProgress"],
    "gradprobe.prove.remedies": [
        "kaiming",
        "xavier",
        "lsuv",
        "within_channel",
        "orthogonal",
        "residual_scaled",
        "normalised",
        "learning_rate",
        "clipping",
    ],
    "gradprobe.testing": ["assert_gradients_reach", "text_profile", "GradientReachError"],
    "gradprobe.plugin": ["gradients_reach"],
    "gradprobe.integrations.lightning": ["GradprobeCallback"],
    "gradprobe.integrations.transformers": ["GradprobeCallback"],
    "gradprobe.integrations.accelerate": ["probe"],
    "gradprobe.integrations.recording": ["Settings"],
    "gradprobe.zoo": ["cnds.cnds8", "cnds.cnds13", "plain.plain_mlp", "digits.digits"],
}


def reference() -> str:
    """The page."""
    logging.getLogger("griffe").setLevel(logging.ERROR)  # it wants a type for **settings
    package = griffe.load("gradprobe", search_paths=[ROOT], docstring_parser="google")
    parts = [
        "# Reference",
        "<!-- written by docs/build.py from the docstrings and the commands' help: edit those, then run it -->",
        "[The library](#the-library) · [In a trainer, a test, a logger](#in-a-trainer-a-test-a-logger) · "
        "[The command line](#the-command-line). [First steps](first-steps.md) show how the parts go together.",
        "## The library",
        "`import gradprobe as gp`; every name here is `gp.NAME`.",
        *_library(package),
        "## In a trainer, a test, a logger",
        *(part for module, names in MODULES.items() for part in _module(package, module, names)),
        "## The command line",
        *_commands(),
    ]
    return "\n\n".join(parts) + "\n"


# docstrings -----------------------------------------------------------------------------------------------------


def _library(package: Any) -> Iterator[str]:
    home = _homes(package)
    for title, (folder, names) in _chapters(home).items():
        yield f"### {title}"
        if folder:
            yield f"`gradprobe/{folder.replace('.', '/')}/`. {_sentence(package[folder].docstring.value)}"
        yield " · ".join(f"[{name}](#{name.lower()})" for name in names)
        for name in names:
            yield from _object(name, _target(package[f"{home[name]}.{name}"]))


def _chapters(home: dict[str, str]) -> dict[str, tuple[str, list[str]]]:
    """The chapters, and one more for the public names that none of them has."""
    listed = {name for _, names in CHAPTERS.values() for name in names}
    more = [name for name in sorted(home) if name not in listed and not name.startswith("__")]
    return {**CHAPTERS, "More": ("", more)} if more else CHAPTERS


def _homes(package: Any) -> dict[str, str]:
    """The module of each public name, as ``gradprobe/__init__.py`` has it."""
    public: dict[str, list[str]] = ast.literal_eval(str(package["_PUBLIC"].value))
    return {name: module for module, names in public.items() for name in names}


def _module(package: Any, module: str, names: Iterable[str]) -> Iterator[str]:
    inside = package[module.removeprefix("gradprobe.")]
    yield f"### {module}"
    yield _sentence(inside.docstring.value)
    for name in names:
        yield from _object(name.rpartition(".")[2], _target(inside[name]))


def _target(member: Any) -> Any:
    return member.final_target if member.is_alias else member


def _object(name: str, entry: Any) -> Iterator[str]:
    yield f"#### {name}"
    if entry.is_attribute:
        yield f"```python\n{name} = {entry.value}\n```"
        return
    yield f"```python\n{_signature(name, entry)}\n```"
    yield from _description(entry)
    if entry.is_class:
        for member_name, member in entry.members.items():
            if not member_name.startswith("_") and not member.is_alias and member.docstring:
                kind = "" if member.is_attribute else _arguments(member, skip=1)
                yield f"**`{name}.{member_name}{kind}`**"
                yield from _description(member)


def _signature(name: str, entry: Any) -> str:
    if not entry.is_class:
        return f"{name}{_arguments(entry, skip=0)}{_result(entry)}"
    made = entry.all_members.get("__init__")
    if made is not None and not made.is_alias:
        return f"{name}{_arguments(made, skip=1)}"
    if not any("dataclass" in str(decorator.value) for decorator in entry.decorators):
        return name + _documented_arguments(entry)
    fields = [
        key if member.value is None else f"{key}={_default(str(member.value))}"
        for key, member in entry.members.items()
        if member.is_attribute and member.annotation and "property" not in member.labels
    ]
    return f"{name}({_laid_out(fields, len(name))})"


def _documented_arguments(entry: Any) -> str:
    """The arguments that a docstring names, for a class whose constructor is written elsewhere."""
    sections = entry.docstring.parsed if entry.docstring else ()
    names = [item.name for section in sections if section.kind.value == "parameters" for item in section.value]
    return f"({', '.join(names)})" if names else ""


def _default(value: str) -> str:
    """The default of a dataclass's field as a reader wants it."""
    return f"{value.split('=')[-1].rstrip(')')}()" if value.startswith("field(default_factory=") else value


def _arguments(function: Any, skip: int) -> str:
    shown, keyword_only = [], False
    for parameter in list(function.parameters)[skip:]:
        kind = parameter.kind.value
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        if kind == "keyword-only" and not keyword_only:
            shown.append("*")
        keyword_only = keyword_only or kind == "keyword-only" or stars == "*"
        default = f"={parameter.default}" if parameter.default is not None and not stars else ""
        shown.append(f"{stars}{parameter.name}{default}")
    return f"({_laid_out(shown, len(function.name))})"


def _laid_out(parts: list[str], before: int) -> str:
    flat = ", ".join(parts)
    return flat if before + len(flat) < WIDTH else "\n    " + ",\n    ".join(parts) + ",\n"


def _result(function: Any) -> str:
    return f" -> {function.returns}" if function.returns is not None else ""


def _description(entry: Any) -> Iterator[str]:
    for section in entry.docstring.parsed if entry.docstring else ():
        yield from _section(section)


def _section(section: Any) -> Iterator[str]:
    kind, value = section.kind.value, section.value
    if kind == "text":
        yield str(value)
    elif kind in ("parameters", "attributes"):
        yield "\n".join(f"- `{item.name}`: {_line(item.description)}" for item in value)
    elif kind in ("returns", "yields"):
        yield f"{kind.title()}: " + " ".join(_line(item.description) for item in value)
    elif kind == "raises":
        yield "Raises:\n\n" + "\n".join(f"- `{item.annotation}`: {_line(item.description)}" for item in value)
    elif kind == "admonition":
        yield f"```pycon\n{dedent(value.description)}\n```"
    else:
        raise ValueError(f"a section that this page has no form for: {kind}")


def _line(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    return _line(text.split("\n\n")[0])


# the command line -----------------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    for words in [[], *([name] for name in main.commands)]:
        yield "### " + " ".join(["gradprobe", *words])
        printed = CliRunner().invoke(main, [*words, "--help"], prog_name="gradprobe", terminal_width=WIDTH)
        yield f"```text\n{printed.output}```"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    for other in ("architecture.py", "limits.py"):
        runpy.run_path(str(ROOT / "docs" / other), run_name="__main__")
