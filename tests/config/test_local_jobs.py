"""What submitit's launcher has started on this machine ends with the command."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from fastconv.config import cli, local_jobs
from fastconv.config.local_jobs import CONTROLLER, end_local_jobs
from fastconv.system.process import descendants
from fastconv.system.signals import Interrupted

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def heed_interrupts():
    """A shell lets the commands that it starts in the background ignore SIGINT, such as the one that runs the tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def begin(monkeypatch):
    """Starts a process that ends with code 7 when it has read a line; tells it that by the first wait of this one."""
    started, passed = [], [0.0]
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace())

    def process(*arguments, ends_itself=False):
        wait = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(7)", *arguments]
        started.append(subprocess.Popen(wait, stdin=subprocess.PIPE, preexec_fn=heed_interrupts))
        started[-1].ends_itself = ends_itself
        return started[-1]

    def pass_time(seconds):
        passed[0] += 1.0
        for each in started:
            if each.ends_itself:
                each.communicate(b"\n", timeout=300)

    monkeypatch.setattr(local_jobs, "time", SimpleNamespace(sleep=pass_time, monotonic=lambda: passed[0]))
    yield process
    for each in started:
        each.kill()
        each.communicate()


def test_the_controllers_of_a_command_are_told_to_end(begin):
    """They end their jobs. By its group only a terminal's Ctrl-C reaches them, and not one that comes as they start."""
    controller, other = begin(CONTROLLER, "folder"), begin("folder")
    setup = f"'{sys.executable}' -c 'input()' {CONTROLLER}; true"
    shell = subprocess.Popen(setup, shell=True, stdin=subprocess.PIPE, preexec_fn=heed_interrupts)
    while len(descendants(CONTROLLER)) < 2:
        time.sleep(0.01)
    end_local_jobs()
    assert controller.wait(300) in (-signal.SIGINT, 128 + signal.SIGINT)
    assert shell.wait(300) == 0, "a launcher's setup is run by a shell"
    assert other.poll() is None


def test_controllers_that_end_by_themselves_are_let(begin):
    """A second Ctrl-C would keep them from killing their jobs."""
    controller = begin(CONTROLLER, ends_itself=True)
    end_local_jobs()
    assert controller.wait(300) == 7


def test_a_command_that_a_signal_ends_ends_them(command, monkeypatch):
    """Of a sweep by a launcher."""
    ended = []

    def main(**_):
        def interrupt():
            raise Interrupted(signal.SIGINT)

        return lambda job: interrupt

    monkeypatch.setattr(cli.hydra, "main", main)
    monkeypatch.setattr(cli, "end_local_jobs", lambda: ended.append(1))
    assert command("train", "-m", "dataset=digits", "seed=0,1", "hydra/launcher=joblib").code == 128 + signal.SIGINT
    assert ended == [1]
