"""What a command says of a thread that failed, and of a package that is missing."""

import errno
import functools
import importlib
import sys
import threading
from types import SimpleNamespace

import pytest

from fastconv.config.failures import reported
from fastconv.config.messages import report_thread


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/data/7.png"), "read or write /data/7.png: Too many open files"),
        (OSError(errno.ENOSPC, "No space left on device"), None),  # what waits for the thread says it
        (ValueError("out of paper"), "Traceback"),
    ],
    ids=["too many files", "a full disk", "a fault of the program"],
)
def test_a_thread_that_fails_is_not_silent_unless_another_speaks(monkeypatch, capsys, error, says):
    def fail():
        raise error

    monkeypatch.setattr(threading, "excepthook", functools.partial(report_thread, threading.__excepthook__))
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    said = capsys.readouterr().err
    assert says in said if says else not said
    if isinstance(error, OSError) and says:
        assert said.count("\n") == 1
        assert "Allow more open files (ulimit -n)" in said


def test_a_package_that_is_missing_is_named_in_a_line(capsys):
    def load(name, full_error=False):
        with reported(SimpleNamespace(full_error=full_error), "train"):
            importlib.import_module(name)

    with pytest.raises(SystemExit):
        load("no_such_package")
    says = f"(ModuleNotFoundError: No module named 'no_such_package'): install it for {sys.executable}"
    assert capsys.readouterr().err == f"fastconv: a package cannot be imported {says}\n"
    with pytest.raises(ModuleNotFoundError):  # a fault of the program
        load("fastconv.no_such_module")
    with pytest.raises(ModuleNotFoundError):
        load("no_such_package", full_error=True)
