"""Processes that notice, beat by beat, that another one is gone; and how each of them ends."""

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from harness import REPOSITORY

from fastconv.system import distributed, heartbeat, signals
from fastconv.system.distributed import from_first_rank
from fastconv.system.errors import InputError, SharedError
from fastconv.system.heartbeat import (
    BEAT_SECONDS,
    ENDED,
    FAILED,
    LOST,
    STOPPED,
    Heartbeat,
    end_after_first_rank,
    have_all_left_job,
)

# Seconds for the first of two processes to end, wrongly, before the second one asks its store.
TIME_TO_END = 2.0


class Store(dict):
    def set(self, key, value):
        self[key] = value.encode()

    def get(self, key):
        return self[key]

    def check(self, keys):
        return all(key in self for key in keys)


class Processes:
    """As many as there are, and the time, which passes a beat at a time."""

    def __init__(self, count):
        self.store = Store()
        self.beats = [Heartbeat(self.store, rank, count) for rank in range(count)]

    def pass_until_gone(self, silent, most=60.0, stopped=()):
        """Seconds until each process ends, as one is gone: by itself it is noticed, or by whoever noticed it."""
        gone = dict.fromkeys(silent, 0.0)
        passed = 0.0
        while passed < most:
            passed += BEAT_SECONDS
            for rank, beats in enumerate(self.beats):
                if rank not in gone and beats.beat(rank in stopped):
                    gone[rank] = passed
                    beats.say(FAILED)
        return gone


def test_nobody_is_gone_while_all_are_there():
    processes = Processes(3)
    assert processes.pass_until_gone([], most=1000.0) == {}


def test_all_end_within_30_seconds_of_any_that_is_gone():
    for silent in (0, 1, 3):
        processes = Processes(4)
        processes.pass_until_gone([], most=10.0)
        gone = processes.pass_until_gone([silent])
        assert set(gone) == {0, 1, 2, 3}
        assert max(gone.values()) < 30


def test_processes_that_were_suspended_together_go_on(monkeypatch):
    """As SLURM suspends the jobs of a queue for those of another, or Ctrl-Z all of a terminal, for minutes."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    processes = Processes(2)
    processes.pass_until_gone([], most=10.0)
    clock[0] = 600.0
    assert processes.pass_until_gone([]) == {}


def test_one_that_has_not_come_yet_is_waited_for():
    assert Processes(2).pass_until_gone([1], most=1000.0) == {1: 0.0}


def test_one_that_failed_is_noticed_at_once_and_one_that_ended_is_not():
    processes = Processes(3)
    processes.pass_until_gone([], most=10.0)
    processes.beats[1].say(ENDED)
    assert processes.pass_until_gone([1], most=1000.0) == {1: 0.0}
    processes.beats[2].say(FAILED)
    assert processes.pass_until_gone([1, 2], most=10.0)[0] <= BEAT_SECONDS


def test_one_that_a_signal_ended_does_not_end_others_that_have_it_too():
    """The first one may still copy the run to a store, and requeue its job. Without the signal, it cannot go on."""
    for stopped in ([0, 2], []):
        processes = Processes(3)
        processes.pass_until_gone([], most=10.0)
        processes.beats[1].say(STOPPED)
        gone = processes.pass_until_gone([1], most=300.0, stopped=stopped)
        assert set(gone) == {1} if stopped else {0, 1, 2}
        assert stopped or 10 < gone[0] < 30, "its own signal may still be on its way"


@pytest.fixture
def two(monkeypatch):
    """Two processes that a launcher has started, of which this is the one of some rank; beats are short."""
    store = Store()
    for module in (distributed, heartbeat):
        monkeypatch.setattr(module, "store", lambda: store)
        monkeypatch.setattr(module, "started_together", lambda: True)
    monkeypatch.setattr(heartbeat, "connect", lambda: store)
    monkeypatch.setattr(heartbeat, "is_connected", lambda: True)
    monkeypatch.setattr(heartbeat, "world", lambda: 2)
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "LAST_SECONDS", 0.0)
    monkeypatch.setattr(heartbeat, "TIME_TO_SAY", 0.0)

    def act_as(rank):
        monkeypatch.setattr(heartbeat, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        return store

    return act_as


def watched(block, error=Exception):
    with pytest.raises(error), heartbeat.watching_ranks():
        block()


def test_what_a_process_says_at_its_end(two):
    def fail():
        raise InputError("of this process alone")

    def fail_all():
        raise SharedError("of all")

    def fail_first():
        from_first_rank("name", fail)

    def stop():
        raise signals.Interrupted(15)

    store = two(rank=0)
    for block, says in ((fail, FAILED), (fail_all, ENDED), (fail_first, ENDED), (stop, STOPPED)):
        watched(block, (InputError, signals.Interrupted))
        assert store["alive/0"].decode() == says
    with heartbeat.watching_ranks():
        pass
    assert store["alive/0"].decode() == ENDED


def test_a_store_that_is_gone_is_one_line(two):
    def ask():
        raise RuntimeError("[/gloo/transport/tcp/pair.cc] Connection closed by peer")

    two(rank=1)
    with pytest.raises(InputError, match="a process of this run is gone"), heartbeat.watching_ranks():
        ask()


class LostStore(Store):
    """A store on a machine that is gone after some calls: nothing closes the connection, so that calls wait."""

    def __init__(self, calls):
        super().__init__()
        self.calls, self.never = calls, threading.Event()

    def set(self, key, value):
        self.calls -= 1
        if self.calls < 0:
            self.never.wait()
        super().set(key, value)


@pytest.mark.parametrize("calls", [0, 5])
def test_a_store_that_does_not_answer_ends_a_process(two, monkeypatch, capfd, calls):
    """It waits itself for something of the first one."""
    ended, store = threading.Event(), LostStore(calls)
    two(rank=1)
    monkeypatch.setattr(heartbeat, "connect", lambda: store)
    monkeypatch.setattr(heartbeat, "MOST_TO_SAY", 0.0)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    with heartbeat.watching_ranks():
        assert ended.wait(300)
    assert "the process that keeps the store of this run is gone, so this one ends too" in capfd.readouterr().err
    store.never.set()


def test_a_store_may_end_with_the_first_process(two, monkeypatch):
    """After that has said so. However long this one still needs."""
    store, ended, beats = two(rank=1), [], itertools.count()
    store.set("alive/0", ENDED)

    def lose(key, value):
        if next(beats):
            raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(store, "set", lose)
    monkeypatch.setattr(os, "_exit", ended.append)
    with heartbeat.watching_ranks():
        for thread in threading.enumerate():
            if thread.name == "heartbeat":
                thread.join(300)
                assert not thread.is_alive()
    assert ended == []


def test_a_process_is_heard_from_its_start_on(two, monkeypatch):
    """One that is killed before its second beat is missed too."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 1e6)
    monkeypatch.setattr(threading.Thread, "join", lambda self, seconds=None: None)
    store = two(rank=1)
    with heartbeat.watching_ranks():
        while "alive/1" not in store:
            time.sleep(0.01)


@pytest.mark.parametrize("word", [ENDED, STOPPED, FAILED])
def test_the_first_process_ends_before_the_others(two, monkeypatch, word):
    """However long it takes: a launcher would end it as soon as one of the others has ended."""
    store, ended, beats = two(rank=1), [], itertools.count()

    def pass_time(seconds):
        store.set("alive/0", str(beat) if (beat := next(beats)) < 1000 else word)

    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(sleep=pass_time))
    monkeypatch.setattr(os, "_exit", ended.append)
    end_after_first_rank(143)
    assert ended == [143]
    assert store["alive/0"].decode() == word
    assert dict.get(store, "alive/1") == (None if word == FAILED else b"left"), (
        "a store that may be gone is asked no more"
    )


def test_the_first_process_keeps_its_store_until_the_others_ask_no_more(two, monkeypatch):
    """torch prints a stack trace where a store is asked that is gone."""

    def stop():
        raise signals.Interrupted(15)

    store, beats = two(rank=0), itertools.count(1)
    watched(stop, signals.Interrupted)
    store.set("alive/1", STOPPED)
    monkeypatch.setattr(heartbeat, "LAST_SECONDS", 100)

    def pass_time(seconds):
        if next(beats) == 50:
            store.set("alive/1", "left")

    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(sleep=pass_time, monotonic=lambda: 0))
    heartbeat.end_last()
    assert next(beats) == 51
    store.set("alive/1", STOPPED)  # and is killed
    clock = SimpleNamespace(sleep=lambda seconds: None, monotonic=lambda: next(beats))
    monkeypatch.setattr(heartbeat, "time", clock)
    heartbeat.end_last()
    assert 150 < next(beats) < 160


def test_the_first_process_of_a_run_that_ends_well_or_failed_alone_waits_no_more(two, monkeypatch):
    two(rank=0)
    monkeypatch.setattr(heartbeat, "store", lambda: pytest.fail("it asks"))
    with heartbeat.watching_ranks():
        pass
    heartbeat.end_last()
    watched(lambda: [][0])
    heartbeat.end_last()


RANK = """
import os, sys
from fastconv.system import heartbeat
from fastconv.system.distributed import from_first_rank, rank
from fastconv.system.signals import Interrupted
heartbeat.LAST_SECONDS = 600.0
try:
    with heartbeat.watching_ranks():
        from_first_rank("ready", bool)
        raise Interrupted(15)
except Interrupted:
    if rank():
        sys.stdin.readline()
        heartbeat.end_after_first_rank(143)
    print("over", flush=True)
    heartbeat.end_last()
sys.exit(143)
"""


@pytest.mark.slow
def test_two_processes_that_a_signal_ends_print_no_trace():
    """The second one comes late: it asks whether the first one has ended, which keeps the store."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        mpich = {"PMI_SIZE": 2, "MPI_LOCALNRANKS": 2, "PMI_RANK": rank, "MPI_LOCALRANKID": rank, "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in mpich.items()}}
        command = [sys.executable, "-c", RANK]
        piped = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(command, env=environment, cwd=REPOSITORY, text=True, **piped))
    first, second = started
    try:
        assert first.stdout.readline() == "over\n"
        with suppress(subprocess.TimeoutExpired):
            first.wait(TIME_TO_END)
        assert [each.communicate("\n", timeout=600)[1] for each in (second, first)] == ["", ""]
        assert [each.returncode for each in started] == [143, 143]
    finally:
        for process in started:
            process.kill()


def test_a_first_process_that_is_silent_is_not_waited_for(two, monkeypatch):
    store, ended, slept = two(rank=1), [], []
    store.set("alive/0", "7")
    removed = []
    monkeypatch.setattr(heartbeat, "remove_copies", lambda: removed.append(len(ended)))
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setattr(os, "_exit", ended.append)
    end_after_first_rank(143)
    assert ended == [143]
    assert sum(slept) < 10 * heartbeat.BEAT_SECONDS
    assert removed == [0], "the copies of the first one's files, before the end"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("other", "goes_on"), [(FAILED, True), (ENDED, True), (LOST, False), (STOPPED, False), ("7", False), ("", False)]
)
def test_ranks_go_on_with_a_sweep_if_all_have_left_the_job(two, monkeypatch, rank, other, goes_on):
    """One that says no more may have been killed."""
    store, slept = two(rank), []
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(sleep=slept.append))
    store.set(f"alive/{rank}", FAILED)
    if other:
        store.set(f"alive/{1 - rank}", other)
    assert have_all_left_job() == goes_on
    assert bool(slept) == (other in ("7", "")), "it waits only to know"


def test_a_process_that_ends_since_another_is_gone_says_so(two, monkeypatch):
    store, said, ended = two(rank=1), [], threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: said.append(store["alive/1"].decode()) or ended.set())
    store.set("alive/0", FAILED)
    with heartbeat.watching_ranks():
        assert ended.wait(300)
    assert said[0] == LOST


def test_a_first_process_that_never_comes_is_waited_for_only_for_a_while(two, monkeypatch):
    """One that a signal ended in a job of a sweep does not come to the next one, in which this process waits for it."""
    ended, slept = [], itertools.count()
    two(rank=1)
    most = 2 * heartbeat.WAIT_FOR_FIRST_RANK / heartbeat.BEAT_SECONDS * heartbeat.OFTEN
    wait = SimpleNamespace(sleep=lambda seconds: next(slept) < most or os._exit("it waits"))
    monkeypatch.setattr(heartbeat, "time", wait)
    monkeypatch.setattr(os, "_exit", lambda code: ended.append(code) or sys.exit())
    with pytest.raises(SystemExit):
        end_after_first_rank(143)
    assert ended == [143]


def test_a_first_process_that_never_began_is_not_waited_for(two, monkeypatch):
    """As torchrun ends the others of a wrong launch, which the first process has refused."""
    store, ended, slept = two(rank=1), [], itertools.count()
    monkeypatch.setattr(heartbeat, "is_connected", lambda: False)
    wait = SimpleNamespace(sleep=lambda seconds: next(slept) < 10 or pytest.fail("it waits"))
    monkeypatch.setattr(heartbeat, "time", wait)
    monkeypatch.setattr(os, "_exit", ended.append)
    end_after_first_rank(143)
    assert ended == [143]
    assert not store


def test_a_process_whose_input_is_wrong_says_so_to_the_others(two, command, monkeypatch):
    """Before it has read its images: they would wait for it, as those of srun are not ended with it."""
    store = two(rank=0)
    monkeypatch.setattr("fastconv.train.check_world", lambda devices, nodes: None)
    ended = command("train", "dataset=digits", "outputs=/dev/null/runs")
    assert (ended.code, store["alive/0"].decode()) == (1, FAILED), ended.err
