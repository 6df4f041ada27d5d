"""Files that somebody else may have left: only regular ones are read, and no link leads a write elsewhere."""

import contextlib
import errno
import ntpath
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from fastconv.data.sources.base import stamp
from fastconv.system.errors import InputError, RunWarning
from fastconv.system.files import (
    forget_measurement,
    keep_measurement,
    locked,
    path_from,
    read_file,
    replacing,
    write_atomically,
)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def linked_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(pipe, "a named pipe"), (unix_socket, "a socket"), (endless, "a device"), (linked_pipe, "a named pipe"),
     (Path.mkdir, "a folder")],
)  # fmt: skip
def test_only_regular_files_are_read(tmp_path, make, kind):
    make(tmp_path / "x.jpg")
    with pytest.raises(InputError, match=f"x.jpg is {kind}, not a regular file"):
        read_file(tmp_path / "x.jpg")


def test_a_file_is_read_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert read_file(tmp_path / "link", 5) == b"12345"
    with pytest.raises(InputError, match="a has more than"):
        read_file(tmp_path / "a", 4)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10 * 2**30)  # it takes no space on the disk
    with pytest.raises(InputError, match="huge has more than 1 MiB"):
        read_file(tmp_path / "huge", 2**20)


def test_a_file_takes_the_memory_of_its_size(tmp_path):
    """A limit on a process's memory (`ulimit -v`) counts what is allocated: 1 GiB for each of several threads."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"x" * 300_000)
    tracemalloc.start()
    try:
        assert read_file(path) == b"x" * 300_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs Linux")
def test_a_file_without_a_size_is_read_whole():
    path = Path("/proc/self/maps")  # of more than a part, once numpy and others are mapped
    assert path.stat().st_size == 0
    assert b"[stack]" in read_file(path)
    with pytest.raises(InputError, match="maps has more than"):
        read_file(path, 1000)


def test_a_file_that_grows_while_it_is_opened_is_read_whole(tmp_path, monkeypatch):
    path, size = tmp_path / "log", 10
    path.write_bytes(b"x" * 200_000)
    about = path.stat()
    monkeypatch.setattr(os, "fstat", lambda descriptor: os.stat_result((*about[:6], size, *about[7:])))
    assert read_file(path) == b"x" * 200_000
    assert read_file(path, 200_000) == b"x" * 200_000
    with pytest.raises(InputError, match="log has more than"):
        read_file(path, 199_999)


@pytest.mark.parametrize(("times", "content"), [(1, b"new"), (2, None)])
def test_a_file_that_another_machine_replaces_meanwhile_is_read_again(tmp_path, monkeypatch, times, content):
    """NFS then says that the handle is stale, as of a manifest to which another machine adds."""
    (tmp_path / "a").write_bytes(b"new")
    fstat, stale = os.fstat, [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * times

    def status(descriptor):
        if stale:
            raise stale.pop()
        return fstat(descriptor)

    monkeypatch.setattr(os, "fstat", status)
    if content is None:
        with pytest.raises(OSError, match="Stale file handle"):
            read_file(tmp_path / "a")
    else:
        assert read_file(tmp_path / "a") == content


def test_writing_follows_no_link_that_was_planted(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("results.json", f"results.json.{os.getpid()}.part", "part-results.json", ".results.json.part"):
        (run / name).symlink_to(precious)
    write_atomically(run / "results.json", b"new")
    assert precious.read_text() == "mine"
    assert (run / "results.json").read_text() == "new"
    assert not (run / "results.json").is_symlink()


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path):
    (tmp_path / "a").write_text("before")

    def fail():
        with replacing(tmp_path / "a") as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"


@pytest.mark.parametrize(
    ("code", "busy", "tries", "content"),
    [(5, 2, 3, "new"), (32, 5, 6, "new"), (5, 9, 6, "old"), (None, 1, 1, "old")],
    ids=["for a moment", "for a while", "for long", "on another system"],
)
def test_a_file_that_another_process_reads_is_replaced_on_windows(tmp_path, monkeypatch, code, busy, tries, content):
    (tmp_path / "results.json").write_text("old")
    replace, seen, pauses = Path.replace, [], []

    def refused(partial, path):
        seen.append(path)
        if len(seen) <= busy:
            error = PermissionError(errno.EACCES, "Access is denied")
            error.winerror = code
            raise error
        return replace(partial, path)

    monkeypatch.setattr(Path, "replace", refused)
    monkeypatch.setattr("fastconv.system.files.time.sleep", pauses.append)
    with contextlib.suppress(InputError):
        write_atomically(tmp_path / "results.json", b"new")
    assert (len(seen), len(pauses)) == (tries, tries - 1)
    assert sum(pauses) < 2
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("results.json", content)]


def test_a_measurement_that_cannot_be_kept_ends_nothing(tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    with pytest.warns(RunWarning, match="a measurement is not kept, so the next run makes it again: cannot write"):
        keep_measurement(tmp_path / "a file" / "measurement.json", b"{}")
    keep_measurement(kept := tmp_path / "measurement.json", b"{}")
    assert kept.read_bytes() == b"{}"
    with monkeypatch.context() as read_only:
        read_only.setattr(Path, "unlink", lambda *given, **settings: (_ for _ in ()).throw(OSError(errno.EROFS, "")))
        forget_measurement(kept)
    assert kept.exists()
    forget_measurement(kept)
    forget_measurement(kept)
    assert not kept.exists()


def test_files_are_made_with_the_usual_permissions(tmp_path):
    write_atomically(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_a_lock_whose_file_another_machine_removes_meanwhile_is_taken(tmp_path, monkeypatch):
    """As users of a stream remove theirs: NFS then says that the handle is stale."""
    import fcntl

    flock, stale = fcntl.flock, [OSError(errno.ESTALE, os.strerror(errno.ESTALE))]

    def locking(*given):
        if stale:
            raise stale.pop()
        flock(*given)

    monkeypatch.setattr(fcntl, "flock", locking)
    with locked(tmp_path, "a", wait=False) as is_ours:
        assert is_ours


def test_a_lock_follows_no_link_that_was_planted(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".locks" / "a").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot write"), locked(tmp_path, "a"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_path_on_another_drive_of_windows_is_told_whole(tmp_path, monkeypatch):
    assert path_from(tmp_path / "photos" / "a.png", tmp_path) == os.path.join("photos", "a.png")
    monkeypatch.setattr(os.path, "relpath", ntpath.relpath)
    assert path_from("C:\\photos\\a.png", "C:\\work") == "..\\photos\\a.png"
    assert path_from("D:\\photos\\a.png", "C:\\work") == "D:\\photos\\a.png"
    assert stamp(tmp_path, Path("D:\\"))[0] == str(tmp_path), "a table may name images of another drive"
