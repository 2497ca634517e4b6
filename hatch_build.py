"""The build hook: compiles gradprobe/measure/reduction/sums.c, if there is a C compiler.

Without one the package is pure Python and measures with torch's own kernels, which is slower.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.macos import process_macos_plat_tag

ROOT = Path(__file__).parent
COMPILED = ROOT / "gradprobe" / "measure" / "reduction" / "compiled.py"


class NativeSums(BuildHookInterface):
    """Adds the compiled library to a wheel, or to the source tree for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files are collected."""
        library = compile_library() if self.target_name == "wheel" and os.name == "posix" else None
        if library is None:
            return
        build_data["artifacts"].append(library.relative_to(ROOT).as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{self.platform_tag()}"

    @staticmethod
    def platform_tag() -> str:
        """The tag of this platform. The library depends on no version of Python.

        On Linux auditwheel replaces it by that of the oldest system that the library runs on; on macOS the
        compiler and the tag go by the same ``MACOSX_DEPLOYMENT_TARGET``.
        """
        from packaging.tags import platform_tags

        if sys.platform == "linux":
            return f"linux_{os.uname().machine}"
        return process_macos_plat_tag(next(iter(platform_tags())), compat=False)


def compile_library() -> Path | None:
    """Compile the library, by the package's own file: the package itself needs torch, which is not there yet."""
    spec = importlib.util.spec_from_file_location("compiled", COMPILED)
    assert spec is not None
    assert spec.loader is not None
    compiled = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compiled)
    library: Path | None = compiled.build()
    return library
