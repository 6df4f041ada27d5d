"""When a command began."""

import os
import subprocess
import sys
import time

from fastconv.system import process


def test_the_start_of_python_counts():
    """A process that sleeps before it imports fastconv."""
    code = (
        "import time; time.sleep(0.5)\n"
        "from fastconv.system import process; print(time.monotonic() - process.process_start())"
    )
    started = time.monotonic()
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ)
    assert 0.5 <= float(found.stdout) <= time.monotonic() - started + 0.02  # in ticks of 10 ms


def test_what_a_process_did_long_before_does_not_count(monkeypatch):
    """This one has imported pytest and run tests; a script may have run for long before it became a command."""
    monkeypatch.setattr(process, "_imported", time.monotonic() + process.LONGEST_START)
    assert process.process_start() == process._imported


def test_without_the_systems_answer_the_import_counts(monkeypatch):
    monkeypatch.delattr(time, "clock_gettime")
    assert process.process_start() == process._imported


def test_only_the_first_clock_of_a_command_has_its_start():
    assert process.take_start_seconds() == 0, "this process was not started for a command"
    process.begin_command()
    assert process.take_start_seconds() > 0
    assert process.take_start_seconds() == 0
