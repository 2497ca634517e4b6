"""The build hook: compiles gradprobe/measure/reduction/sums.c, if there is a C compiler.

Without one the package is pure Python and measures with torch's own kernels, which is slower.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
FOLDER = ROOT / "gradprobe" / "measure" / "reduction"
SOURCE, LIBRARY = FOLDER / "sums.c", FOLDER / "_sums.so"
# not linked with OpenMP: the library calls the one that torch has loaded
OPENMP = "-fopenmp" if sys.platform == "linux" else "-fopenmp-simd"


class NativeSums(BuildHookInterface):
    """Adds the compiled library to a wheel, or to the source tree for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files are collected."""
        if self.target_name != "wheel" or os.name != "posix" or not compile_library():
            return
        build_data["artifacts"].append(LIBRARY.relative_to(ROOT).as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{self.platform_tag()}"

    @staticmethod
    def platform_tag() -> str:
        """The tag of this platform. The library depends on no version of Python."""
        from packaging.tags import platform_tags

        return next(iter(platform_tags())) if sys.platform != "linux" else f"linux_{os.uname().machine}"


def compile_library() -> bool:
    """Compile the library; False if there is no compiler or it fails."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return False
    object_file = LIBRARY.with_suffix(".o")
    commands = [
        [compiler, "-O3", "-fPIC", OPENMP, "-c", str(SOURCE), "-o", str(object_file)],
        [compiler, "-shared", str(object_file), "-lm", "-o", str(LIBRARY)],
    ]
    try:
        return all(subprocess.run(command, capture_output=True).returncode == 0 for command in commands)
    except OSError:
        return False
    finally:
        object_file.unlink(missing_ok=True)
