"""Write docs/reference.md from the docstrings and from the command line's own help: ``python docs/build.py``."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import griffe
from click.testing import CliRunner

from gradprobe.cli.commands import main

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference.md"
WIDTH = 80

# what a reader looks for together; a public name that is in none of them comes under "More"
CHAPTERS = {
    "Measure": ["scan", "GradientProbe", "GradientHistory"],
    "Decide": [
        "place",
        "place_repeatedly",
        "place_by_trials",
        "ThresholdPolicy",
        "RelativePolicy",
        "EveryLayerPolicy",
        "Placement",
    ],
    "Insert": [
        "points",
        "Points",
        "Point",
        "supervise",
        "SupervisedModel",
        "SupervisedOutput",
        "DeepSupervisionLoss",
        "branch_weights",
        "CompanionObjective",
        "squared_hinge",
    ],
    "Branches": ["BRANCHES", "Branch", "CNDSBranch", "build_branch", "C1DeepSup", "conv3x3_bn_relu"],
    "Prove": ["compare", "Comparison", "compare_arms", "ArmsComparison", "Arm"],
    "Draw": [
        "plot_history",
        "plot_profile",
        "plot_heatmap",
        "plot_comparison",
        "comparison_figure",
        "paper_figure",
        "plot_learning",
        "plot_arms",
        "save_figure",
    ],
    "Keep": ["save", "load", "write_page", "Run"],
}
# what is imported from a module of its own
MODULES = {
    "gradprobe.measure.scan": ["Reached"],
    "gradprobe.testing": ["assert_gradients_reach", "text_profile", "GradientReachError"],
    "gradprobe.plugin": ["gradients_reach"],
    "gradprobe.integrations.lightning": ["GradprobeCallback"],
    "gradprobe.integrations.transformers": ["GradprobeCallback"],
    "gradprobe.integrations.accelerate": ["probe"],
    "gradprobe.integrations.recording": ["Settings"],
    "gradprobe.integrations.loggers": ["log_to"],
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
        "[The command line](#the-command-line). The README's examples show how the parts go together.",
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
    listed = {name for names in CHAPTERS.values() for name in names}
    home = _public(package)
    more = [name for name in sorted(home) if name not in listed and not name.startswith("__")]
    for chapter, names in {**CHAPTERS, "More": more}.items():
        if names:
            yield f"### {chapter}"
            yield " · ".join(f"[{name}](#{name.lower()})" for name in names)
        for name in names:
            yield from _object(name, _found(package[f"{home[name]}.{name}"]))


def _public(package: Any) -> dict[str, str]:
    """The module of each public name, as ``gradprobe/__init__.py`` has it."""
    home: dict[str, list[str]] = ast.literal_eval(str(package["_HOME"].value))
    return {name: module for module, names in home.items() for name in names}


def _module(package: Any, module: str, names: Iterable[str]) -> Iterator[str]:
    inside = package[module.removeprefix("gradprobe.")]
    yield f"### {module}"
    yield _sentence(inside.docstring.value)
    for name in names:
        yield from _object(name.rpartition(".")[2], _found(inside[name]))


def _found(member: Any) -> Any:
    return member.final_target if member.is_alias else member


def _object(name: str, found: Any) -> Iterator[str]:
    yield f"#### {name}"
    if found.is_attribute:
        yield f"```python\n{name} = {found.value}\n```"
        return
    yield f"```python\n{_signature(name, found)}\n```"
    yield from _described(found)
    if found.is_class:
        for member_name, member in found.members.items():
            if not member_name.startswith("_") and not member.is_alias and member.docstring:
                kind = "" if member.is_attribute else _arguments(member, skip=1)
                yield f"**`{name}.{member_name}{kind}`**"
                yield from _described(member)


def _signature(name: str, found: Any) -> str:
    if not found.is_class:
        return f"{name}{_arguments(found, skip=0)}{_returned(found)}"
    made = found.all_members.get("__init__")
    if made is not None and not made.is_alias:
        return f"{name}{_arguments(made, skip=1)}"
    if not any("dataclass" in str(decorator.value) for decorator in found.decorators):
        return name + _documented(found)
    fields = [
        key if member.value is None else f"{key}={_default(str(member.value))}"
        for key, member in found.members.items()
        if member.is_attribute and member.annotation and "property" not in member.labels
    ]
    return f"{name}({_laid_out(fields, len(name))})"


def _documented(found: Any) -> str:
    """The arguments that a docstring names, for a class whose constructor is written elsewhere."""
    sections = found.docstring.parsed if found.docstring else ()
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


def _returned(function: Any) -> str:
    return f" -> {function.returns}" if function.returns is not None else ""


def _described(found: Any) -> Iterator[str]:
    for section in found.docstring.parsed if found.docstring else ():
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
    print(PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE)
