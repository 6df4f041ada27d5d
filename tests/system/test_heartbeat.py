"""Processes that notice, in simulated time, that another one is gone."""

from fastconv.system.distributed import ENDED, FAILED
from fastconv.system.heartbeat import BEAT_SECONDS, Heartbeat


class Store(dict):
    def set(self, key, value):
        self[key] = value.encode()

    def check(self, keys):
        return all(key in self for key in keys)


class Processes:
    """As many as there are, and the time, which passes a beat at a time."""

    def __init__(self, count):
        self.now, self.store = 0.0, Store()
        self.beats = [Heartbeat(self.store, rank, count, lambda: self.now) for rank in range(count)]

    def pass_until_gone(self, silent, most=60.0):
        """Seconds until each process ends, as one is gone: by itself it is noticed, or by whoever noticed it."""
        gone = dict.fromkeys(silent, 0.0)
        began = self.now
        while self.now - began < most:
            self.now += BEAT_SECONDS
            for rank, heartbeat in enumerate(self.beats):
                if rank not in gone and heartbeat.beat():
                    gone[rank] = self.now - began
                    heartbeat.say(FAILED)
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


def test_one_that_has_not_come_yet_is_waited_for():
    assert Processes(2).pass_until_gone([1], most=1000.0) == {1: 0.0}


def test_one_that_failed_is_noticed_at_once_and_one_that_ended_is_not():
    processes = Processes(3)
    processes.pass_until_gone([], most=10.0)
    processes.beats[1].say(ENDED)
    assert processes.pass_until_gone([1], most=1000.0) == {1: 0.0}
    processes.beats[2].say(FAILED)
    assert processes.pass_until_gone([1, 2], most=10.0)[0] <= BEAT_SECONDS
