"""`log.txt` in the folder of a run is what the console said, and a sweep says how long it will take."""

import io
import os
import re
import sys
from contextlib import redirect_stdout

import pytest
from harness import SHORT, only_run, stop_at

from fastconv.config.sweep_progress import SweepProgress, duration
from fastconv.runs.results import Results
from fastconv.system import console_log

ONLINE = (*SHORT, "stream=online")


def test_a_run_keeps_what_the_console_said(command, tmp_path):
    ended = command("train", *ONLINE)
    assert ended.code == 0, ended.err
    log = (only_run(tmp_path) / "log.txt").read_text()
    assert log == ended.out
    assert log.startswith("fastconv: reading the settings")
    assert "next: fastconv evaluate" in log
    assert not isinstance(sys.stdout, console_log._Tee)


def test_a_run_that_fails_and_goes_on_keeps_its_reasons(command, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no step today")

    with monkeypatch.context() as patch:
        patch.setattr("fastconv.training.module.ImageClassifier.training_step", fail)
        with pytest.raises(RuntimeError):
            command("train", *ONLINE)
    run = only_run(tmp_path)
    first = (run / "log.txt").read_text()
    assert first.endswith("RuntimeError: no step today\n")
    assert "Traceback" in first
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 5)
        stopped = command("train", f"resume={run}")
    second = (run / "log.txt").read_text().removeprefix(first)
    assert second == stopped.out + stopped.err
    assert "fastconv: ended by SIGTERM; go on with: " in second


def test_each_job_of_a_sweep_has_a_log_of_its_own(command, tmp_path):
    ended = command("train", "-m", *ONLINE, "seed=0,1")
    assert ended.code == 0, ended.err
    first, second = sorted(tmp_path.glob("outputs/sweeps/*/*/log.txt"))
    for number, log in enumerate((first, second)):
        lines = log.read_text().splitlines()
        assert lines[0].startswith(f"job {number} of 2: ")
        assert str(log.parent.relative_to(tmp_path)) in log.read_text()
        assert sum(line.startswith("job ") for line in lines) == 1
    assert re.search(r"^job 1 of 2: .*seed=1 .*; about \d+ (s|min) left$", ended.out, re.M)
    assert "compare.html" not in second.read_text(), "what follows the last job is of the sweep"


def test_the_time_left_is_that_of_the_jobs_that_are_left(tmp_path):
    Results("digits", "davidnet", None, 0, 0, stop_reason="epochs").write(tmp_path / "1")
    clock = iter([0.0, 100.0, 100.0, 300.0, 300.0, 900.0])
    progress = SweepProgress(5, tmp_path, lambda: next(clock))
    assert progress.line(0, "a=0") == "job 0 of 5: a=0"
    assert progress.line(1, "a=1") == "job 1 of 5: a=1; about 5 min left"  # three jobs of 100 s: 1 is finished
    assert progress.line(2, "a=2") == "job 2 of 5: a=2; about 5 min left"
    assert progress.line(3, "a=3") == "job 3 of 5: a=3; about 5 min left"  # two of 150 s
    assert [duration(each) for each in (0.4, 89, 91, 5399, 5401, 90_000)] == [
        "0 s", "89 s", "2 min", "90 min", "1.5 h", "25.0 h"
    ]  # fmt: skip


def test_the_time_left_of_jobs_in_several_processes(tmp_path):
    """By how many were finished since the sweep began, however many run at once; not those finished before it."""
    Results("digits", "davidnet", None, 0, 0, stop_reason="epochs").write(tmp_path / "4")
    wall = iter([1000.0, 1030.0, 1300.0])
    progress = SweepProgress(5, tmp_path, wall=lambda: next(wall))
    assert progress.line_elsewhere(0, "a=0") == "job 0 of 5: a=0"
    for number in ("0", "1"):
        Results("digits", "davidnet", None, 0, 0, stop_reason="epochs").write(tmp_path / number)
    assert progress.line_elsewhere(2, "a=2") == "job 2 of 5: a=2; about 30 s left"
    Results("digits", "davidnet", None, 0, 0, stop_reason="epochs").write(tmp_path / "2")
    assert progress.line_elsewhere(3, "a=3") == "job 3 of 5: a=3; about 2 min left"


def test_a_terminal_is_logged_as_plain_text(tmp_path):
    """Of a progress bar, which is drawn again and again, only the last drawing."""
    screen = io.StringIO()
    with redirect_stdout(screen), console_log.console_logged():
        print("before the folder is known")
        console_log.keep_log_in(tmp_path)
        sys.stdout.write("\x1b[1mbold\x1b[0m\nno end")
        assert (tmp_path / "log.txt").read_text() == "before the folder is known\nbold\n", "line by line"
        sys.stdout.write(" yet\r\n\r\x1b[2Ktraining  1%\r\x1b[2Ktraining 50%")
        sys.stdout.write("\r\x1b[2Ktraining 100%\n\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\\n")
        print("s3://user:secret@bucket/a")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[1:] == ["bold", "no end yet", "training 100%", "link", "s3://***@bucket/a"]
    assert "\x1b[2Ktraining  1%" in screen.getvalue()


@pytest.mark.parametrize("planted", ["link", "pipe", "folder"])
def test_what_somebody_planted_is_not_written_to(tmp_path, capsys, planted):
    path, target = tmp_path / "log.txt", tmp_path / "target"
    target.write_text("as it was")
    {"link": lambda: path.symlink_to(target), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[planted]()
    with console_log.console_logged():
        with pytest.warns(UserWarning, match=r"cannot write log\.txt, .*The run goes on"):
            console_log.keep_log_in(tmp_path)
        print("still here")
    assert target.read_text() == "as it was"
    assert "still here" in capsys.readouterr().out
