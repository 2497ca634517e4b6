"""Compiles gradprobe/measure/reduction/sums.c where there is a C compiler; without one the package is pure Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOM = Path(__file__).parent / "gradprobe" / "measure" / "reduction"
SOURCE, LIBRARY = ROOM / "sums.c", ROOM / "_sums.so"
# OpenMP is compiled for but not linked: the calls are those of the OpenMP that torch has loaded
OPENMP = "-fopenmp" if sys.platform == "linux" else "-fopenmp-simd"


class NativeSums(BuildHookInterface):
    """Adds the compiled library to a wheel, or to the source tree for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files are collected."""
        if self.target_name != "wheel" or os.name != "posix" or not compiled():
            return
        build_data["artifacts"].append("gradprobe/measure/reduction/_sums.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{self.platform_tag()}"

    @staticmethod
    def platform_tag() -> str:
        """The tag of this platform: the library needs no particular Python."""
        from packaging.tags import platform_tags

        return next(iter(platform_tags())) if sys.platform != "linux" else f"linux_{os.uname().machine}"


def compiled() -> bool:
    """Compile the library; False where that fails."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return False
    objects = LIBRARY.with_suffix(".o")
    steps = [
        [compiler, "-O3", "-fPIC", OPENMP, "-c", str(SOURCE), "-o", str(objects)],
        [compiler, "-shared", str(objects), "-lm", "-o", str(LIBRARY)],
    ]
    try:
        return not any(subprocess.run(step, capture_output=True).returncode for step in steps)
    except OSError:
        return False
    finally:
        objects.unlink(missing_ok=True)
