"""Building, keeping and loading a library, and what happens where that is not possible."""

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from fastconv.kernels import library, winograd, winograd_library
from fastconv.kernels.library import UnavailableError, find_compiler, load_library

COUNTING = """#!/bin/sh
case "$1" in --version) echo counting;; *) echo built >> {log};; esac
exec {compiler} "$@"
"""


@pytest.fixture(autouse=True)
def compiler():
    try:
        return find_compiler()[0]
    except UnavailableError as why:
        pytest.skip(str(why))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }\n")
    return path


@pytest.fixture
def builds(tmp_path, monkeypatch, compiler):
    """Counts the builds."""
    script, log = tmp_path / "counting", tmp_path / "builds.txt"
    script.write_text(COUNTING.format(log=log, compiler=library.shutil.which(compiler)))
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    return lambda: len(log.read_text().split()) if log.exists() else 0


def test_it_is_built_once(source, user_cache, builds):
    assert [load_library(source).answer() for _ in range(3)] == [42, 42, 42]
    assert builds() == 1
    assert stat.S_IMODE(user_cache.stat().st_mode) == 0o700
    source.write_text("int answer(void) { return 43; }\n")
    assert load_library(source).answer() == 43
    assert builds() == 2


def test_it_is_built_again_for_another_header(source, user_cache, builds):
    source.write_text('#include "answer.h"\nint answer(void) { return ANSWER; }\n')
    for answer in (42, 43):
        source.with_name("answer.h").write_text(f"#define ANSWER {answer}\n")
        assert [load_library(source).answer() for _ in range(2)] == [answer, answer]
    assert builds() == 2


def test_a_damaged_one_is_built_anew(source, user_cache, builds):
    load_library(source)
    (path,) = user_cache.glob("*.so")
    content = path.read_bytes()
    path.unlink()  # this process has it mapped
    path.write_bytes(content[: len(content) // 2])
    path.chmod(0o700)
    assert load_library(source).answer() == 42
    assert builds() == 2
    assert path.read_bytes() == content


@pytest.mark.parametrize("why", ["a file", "read-only", "others write", "of another user", "a link to such a one"])
def test_a_cache_that_cannot_be_used_is_left_alone(source, user_cache, monkeypatch, why):
    user_cache.parent.mkdir()
    if why == "a file":
        user_cache.write_text("")
    else:
        place = user_cache.parent / "elsewhere" if "link" in why else user_cache
        place.mkdir(mode=0o755)
        if place != user_cache:
            user_cache.symlink_to(place)
        place.chmod({"read-only": 0o555, "of another user": 0o755}.get(why, 0o777))
    if why == "of another user":
        monkeypatch.setattr(library.os, "geteuid", lambda: os.getuid() + 1)
    if why == "read-only":  # also for root
        refuse = PermissionError(13, "Permission denied")
        monkeypatch.setattr(library, "write_atomically", refusing(library.write_atomically, user_cache, refuse))
        monkeypatch.setattr(library, "locked", refusing(library.locked, user_cache, refuse))
    assert load_library(source).answer() == 42
    assert why == "a file" or not list(user_cache.glob("*.so"))


def refusing(function, folder, error):
    def called(path, *more, **named):
        if path == folder or folder in path.parents:
            raise error
        return function(path, *more, **named)

    return called


@pytest.mark.parametrize(
    ("compiler_script", "message"),
    [
        (None, "there is no C compiler, such as gcc"),
        ("exit 1", "the C compiler fails: exit code 1$"),
        ("kill -9 $$", "the C compiler fails: SIGKILL$"),
        ("case $1 in --version) ;; *) echo 'x.c:1: error: unknown flag' >&2; exit 1;; esac", "error: unknown flag"),
        ("exit 0", "cannot be run"),  # it writes no file
        ('[ "$1" = --version ] || { while [ "$1" != -o ]; do shift; done; echo text > "$2"; }', "cannot be loaded"),
    ],
)
def test_without_a_compiler_that_works_it_says_why(tmp_path, source, user_cache, monkeypatch, compiler_script, message):
    if compiler_script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)
    else:
        script = tmp_path / "compiler"
        script.write_text(f"#!/bin/sh\n{compiler_script}\n")
        script.chmod(0o755)
        monkeypatch.setenv("CC", str(script))
    with pytest.raises(UnavailableError, match=message) as failed:
        load_library(source)
    assert len(str(failed.value).splitlines()) == 1


def test_eight_processes_build_it_once(source, user_cache, builds):
    code = (
        "from pathlib import Path; from fastconv.kernels.library import load_library;"
        f" print(load_library(Path({str(source)!r})).answer())"
    )

    def load(_):
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(load, range(8))) == ["42\n"] * 8
    assert builds() == 1
    assert len(list(user_cache.glob("*.so"))) == 1


@pytest.fixture
def fresh():
    """The library is looked for anew, and afterwards too."""
    caches = (winograd.obstacle, winograd_library.load)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


def test_another_library_is_not_used(fresh, source, monkeypatch, user_cache):
    monkeypatch.setattr(winograd_library, "SOURCE", source)
    assert winograd.obstacle() == "the library is not this one's"


def test_wrong_results_are_not_used(fresh, monkeypatch):
    monkeypatch.setattr(winograd_library, "_convolve", lambda *given, **named: torch.ones(()))
    assert winograd.obstacle().startswith("their results are wrong here")


TRIAL = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).answer()"


def test_it_is_tried_once_in_another_process(source, user_cache, monkeypatch):
    tried = []
    run = library._try
    monkeypatch.setattr(library, "_try", lambda *given: (tried.append(1), run(*given)))
    assert [load_library(source, TRIAL).answer() for _ in range(3)] == [42] * 3
    assert len(tried) == 1
    source.write_text("int answer(void) { return 43; }\n")
    load_library(source, TRIAL)
    assert len(tried) == 2


@pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="the system does not say it")
def test_a_cache_that_may_not_execute_is_not_used(source, user_cache, monkeypatch):
    monkeypatch.setattr(library.os, "statvfs", lambda folder: SimpleNamespace(f_flag=os.ST_NOEXEC | os.ST_NOSUID))
    assert load_library(source, TRIAL).answer() == 42
    assert not list(user_cache.glob("*.so"))


@pytest.mark.parametrize("place", ["a cache", "no cache"])
def test_a_library_that_traps_ends_no_command(source, user_cache, place):
    source.write_text("int answer(void) { __builtin_trap(); }\n")
    if place == "no cache":
        user_cache.parent.mkdir()
        user_cache.write_text("")
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"fails when it is tried \(SIG(ILL|TRAP)\)"):
            load_library(source, TRIAL)
    assert not list(user_cache.glob("*.tried"))


def test_sizes_that_cannot_be_are_no_traceback(fresh, monkeypatch, tmp_path, user_cache):
    source = tmp_path / "winograd.c"
    for header in winograd_library.SOURCE.parent.glob("*.h"):
        shutil.copy(header, tmp_path)
    text = winograd_library.SOURCE.read_text()
    source.write_text(
        text.replace("fastconv_convolve_floats(", "fastconv_other_floats(")
        + """
long fastconv_convolve_floats(const Problem *p) { return -5; }
"""
    )
    monkeypatch.setattr(winograd_library, "SOURCE", source)
    monkeypatch.setattr(winograd_library, "TRIAL", "")
    assert winograd.obstacle().startswith("they fail here (")
