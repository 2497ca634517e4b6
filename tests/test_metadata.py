"""What a package index, a forge and a citation say of the package is one thing, and true. Nothing is built."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from hatchling.builders.macos import process_macos_plat_tag
from hatchling.builders.sdist import SdistBuilder
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from trove_classifiers import classifiers, deprecated_classifiers

ROOT = Path(__file__).parent.parent
PROJECT = ProjectMetadata(str(ROOT), PluginManager()).core
PYTHONS = [f"3.{minor}" for minor in range(10, 15)]
FORGE = "https://github.com/gradprobe/gradprobe"
LEFT_OUT = (".ci/", ".github/")


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}


def test_the_version_is_the_same_everywhere():
    assert read("CITATION.cff")["version"] == PROJECT.version


def test_the_addresses_are_the_same_everywhere():
    assert PROJECT.urls["Repository"] == FORGE
    assert all(url.startswith((FORGE, PROJECT.urls["Documentation"])) for url in PROJECT.urls.values())
    citation, site = read("CITATION.cff"), (ROOT / "mkdocs.yml").read_text()
    assert (citation["repository-code"], citation["url"]) == (FORGE, PROJECT.urls["Documentation"])
    assert f"repo_url: {FORGE}\n" in site
    assert f"site_url: {PROJECT.urls['Documentation']}\n" in site


def test_the_classifiers_exist_and_name_every_python_that_is_allowed_and_tested():
    assert set(PROJECT.classifiers) <= classifiers - set(deprecated_classifiers)
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT.classifiers]
    assert [match[1] for match in named if match] == PYTHONS
    assert [python for python in PYTHONS if python in SpecifierSet(PROJECT.requires_python)] == PYTHONS
    assert "3.9" not in SpecifierSet(PROJECT.requires_python)
    jobs = read(".github/workflows/ci.yml")["jobs"]
    (pinned_python,) = re.findall(r"python:(3\.\d+)-", jobs["test"]["container"])
    assert sorted([*jobs["newest"]["strategy"]["matrix"]["python"], pinned_python], key=PYTHONS.index) == PYTHONS


def test_what_the_readme_installs_is_pinned():
    requirements = [Requirement(text) for text in PROJECT.dependencies]
    requirements += [Requirement(text) for extra in PROJECT.optional_dependencies.values() for text in extra]
    own_choice = {"gradprobe", "triton"}  # the CUDA builds of torch ask for their own version of triton
    for requirement in requirements:
        if requirement.name not in own_choice:
            assert pinned()[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_oldest_torch_has_what_is_imported_of_its_inside():
    (torch,) = (Requirement(text) for text in PROJECT.dependencies if Requirement(text).name == "torch")
    imports = "from torch.fx._symbolic_trace import is_fx_symbolic_tracing"  # new in torch 2.9
    assert imports in (ROOT / "gradprobe/network/hooks.py").read_text()
    assert "2.8.0" not in torch.specifier
    assert "2.9.0" in torch.specifier
    oldest = read(".github/workflows/ci.yml")["jobs"]["oldest"]["steps"]
    assert "pip install torch==2.9.0 ." in [step.get("run") for step in oldest]


def test_the_source_archive_has_everything_that_is_kept():
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    kept = {name for name in listed if name and not name.startswith(LEFT_OUT)}
    inside = {
        Path(file.path).relative_to(ROOT).as_posix() for file in SdistBuilder(str(ROOT)).recurse_included_files()
    }
    assert kept <= inside | {"pyproject.toml", ".gitignore", "README.md", "LICENSE", "hatch_build.py"}
    assert not [name for name in inside if name.startswith(LEFT_OUT) or name.endswith((".so", ".pyc"))]


def test_the_tools_before_a_commit_are_those_of_the_tests():
    ruff, own = read(".pre-commit-config.yaml")["repos"]
    assert ruff["rev"] == f"v{pinned()['ruff']}"
    (mypy,) = own["hooks"]
    target = mypy["entry"].split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_workflows_run_what_a_contributor_runs_and_publish_without_a_token():
    test, newest = (read(".github/workflows/ci.yml")["jobs"][job]["steps"] for job in ("test", "newest"))
    assert test[-1]["run"] == "make test PYTHON=python3"
    assert newest[-1]["run"] == "make unit PYTHON=python3 CONSTRAINTS="
    publish = read(".github/workflows/release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_an_issue_form_has_what_the_forge_asks_for(form):
    text = yaml.safe_load(form.read_text())
    if form.stem == "config":
        assert all(link.keys() == {"name", "url", "about"} for link in text["contact_links"])
        return
    assert text.keys() >= {"name", "description", "body"}
    ids = [part["id"] for part in text["body"]]
    assert len(set(ids)) == len(ids) > 0
    assert all(part["attributes"]["label"] for part in text["body"])


def test_a_wheel_for_macos_has_the_oldest_system_that_was_asked_for(monkeypatch, load_script):
    build = load_script(ROOT / "hatch_build.py")
    assert build.process_macos_plat_tag is process_macos_plat_tag
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("packaging.tags.platform_tags", lambda: iter(["macosx_15_0_arm64", "macosx_14_0_arm64"]))
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "11.0")
    assert build.NativeSums.platform_tag() == "macosx_11_0_arm64"


def test_the_script_for_a_clean_environment_needs_nothing_but_the_package():
    tree = ast.parse((ROOT / "tests/support/installed.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in modules} <= {"sys", "pathlib", "torch", "gradprobe"}
