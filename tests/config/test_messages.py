"""What a command says of a thread that failed."""

import errno
import functools
import threading

import pytest

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
