import concurrent.futures
import multiprocessing
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradprobe.measure.reduction import Reducer, compiled, native

COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
KNOWN = torch.tensor([3.0, -4.0, 0.0])
FOREIGN = "int gradprobe_sums(void) { return 0; }"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that the package takes its library from."""
    native.library.cache_clear()
    monkeypatch.setattr(compiled.find, "__defaults__", (tmp_path, compiled.SOURCE))
    yield tmp_path
    native.library.cache_clear()


def works():
    """Whether the library is used, and whether the row is right in any case."""
    assert Reducer().one(KNOWN).tolist() == [[7.0, 5.0, 4.0, 1.0, 0.0]]
    return native.library() is not None


def renamed(path, content):
    """The same place in the folder for other content, with the name that this content would have."""
    path.unlink()
    new = path.with_name(f"{path.name.rpartition('-')[0]}-{compiled._digest(content)}.so")
    new.write_bytes(content)
    return new


def shared_library(source, folder):
    file = folder / "other.c"
    file.write_text(source)
    subprocess.run([COMPILER, "-shared", "-fPIC", file, "-o", folder / "other"], check=True)
    return (folder / "other").read_bytes()


@needs_compiler
def test_it_is_built_whole_found_and_used(folder):
    path = compiled.build(folder)
    assert path == compiled.find(folder)
    assert list(folder.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRGRP
    assert works()


@needs_compiler
def test_what_is_there_is_not_built_again(folder, monkeypatch):
    path = compiled.build(folder)
    monkeypatch.setattr(compiled, "_compile", lambda source: pytest.fail("compiled again"))
    assert compiled.build(folder) == path


@needs_compiler
def test_another_source_makes_another_library_and_the_stale_one_goes(folder, tmp_path_factory):
    first = compiled.build(folder)
    changed = tmp_path_factory.mktemp("source") / "sums.c"
    changed.write_text(compiled.SOURCE.read_text() + "\n/* another version */\n")
    assert compiled.find(folder, changed) is None
    (folder / "_sums.so").write_bytes(b"of an earlier version")
    second = compiled.build(folder, changed)
    assert second != first
    assert list(folder.iterdir()) == [second]
    assert not works()  # of the source that is installed there is no library


@needs_compiler
def test_other_options_make_another_library(folder, monkeypatch):
    compiled.build(folder)
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-g"))
    assert compiled.find(folder) is None


@needs_compiler
@pytest.mark.parametrize("kept", [0, 1, 64, 4096, -1])
def test_a_truncated_library_is_not_loaded(folder, kept):
    path = compiled.build(folder)
    path.write_bytes(path.read_bytes()[:kept])
    assert not works()


@needs_compiler
def test_one_changed_byte_is_seen(folder):
    path = compiled.build(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not works()


@needs_compiler
@pytest.mark.parametrize(
    "source", ["int other(void) { return 0; }", FOREIGN, "int gradprobe_sums(void) { return 1; }"]
)
def test_a_library_that_does_not_answer_to_the_known_row_is_not_used(folder, tmp_path_factory, source):
    content = shared_library(source, tmp_path_factory.mktemp("other"))
    renamed(compiled.build(folder), content)
    assert not works()


@needs_compiler
def test_a_library_that_needs_what_is_not_there_is_not_used(folder, tmp_path_factory):
    source = "int nowhere(void); int gradprobe_sums(void) { return nowhere(); }"
    renamed(compiled.build(folder), shared_library(source, tmp_path_factory.mktemp("other")))
    assert not works()


@needs_compiler
def test_what_is_no_library_at_all_is_not_used(folder):
    renamed(compiled.build(folder), b"text")
    assert not works()


@needs_compiler
@pytest.mark.parametrize("arguments", ["{} -O1", "env UNUSED=1 {}", "{} '-DUNUSED=1 + 1'", "  {}  "])
def test_a_compiler_may_have_arguments(folder, monkeypatch, arguments):
    monkeypatch.setenv("CC", arguments.format(COMPILER))
    assert compiled.build(folder) is not None
    assert works()


@pytest.mark.parametrize("command", ["no-such-compiler", "false", "true", "'open quotation mark"])
def test_without_a_compiler_that_works_there_is_none_and_torch_s_kernels_are_used(folder, monkeypatch, command):
    monkeypatch.setenv("CC", command)
    assert compiled.build(folder) is None
    assert list(folder.iterdir()) == []
    assert not works()


def test_without_any_compiler_there_is_none(folder, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    assert compiled.build(folder) is None


@needs_compiler
def test_a_folder_that_cannot_be_written_to_stays_as_it_is(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "read-only", str(folder))

    # the mode of a folder does not stop root, who may run the tests
    monkeypatch.setattr(compiled, "_written", refuse)
    assert compiled.build(folder) is None
    assert not works()
    assert compiled.build(folder / "not there") is None


@needs_compiler
def test_several_processes_that_build_at_once_leave_one_whole_library(folder):
    with concurrent.futures.ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        paths = list(pool.map(compiled.build, [folder] * 3))
    assert None not in paths
    assert {path.parent for path in paths} == {folder}
    assert compiled.find(folder) in list(folder.iterdir())
    assert {path.suffix for path in folder.iterdir()} == {".so"}
    assert works()


def test_the_switch_turns_it_off(folder, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")
    assert not works()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the sections of an ELF file")
@needs_compiler
def test_it_is_not_linked_with_an_openmp_of_its_own(folder):
    content = Path(compiled.build(folder)).read_bytes()
    assert b"GOMP_parallel" in content
    assert b"libgomp.so" not in content
