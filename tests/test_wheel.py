"""The wheel, installed alone in an empty environment, does its job."""

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
    return subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True, env=environment, **options
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


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
def test_the_wheel_alone_helps_and_scans(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, timeout=1200)
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
