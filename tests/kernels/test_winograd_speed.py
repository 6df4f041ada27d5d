"""Whether Winograd's convolutions are faster here: a test of a layer, made once for all processes."""

import itertools
import threading
from types import SimpleNamespace

import pytest
import torch

from fastconv.kernels import winograd, winograd_speed


def clock(*passes):
    """A clock in which the passes of `measure` take these seconds, (direct, Winograd's), and all others the last."""
    now, seconds = 0.0, [each for turn in passes for each in turn]
    for at in itertools.count():
        yield now
        now += seconds[at] if at < len(seconds) else seconds[at % 2 - 2]
        yield now


@pytest.fixture
def fresh(user_cache):
    winograd_speed.is_faster.cache_clear()
    yield user_cache
    winograd_speed.is_faster.cache_clear()


@pytest.mark.parametrize(
    ("seconds", "faster"),
    [
        ([(2.0, 1.0)], True),
        ([(1.0, 2.0)], False),
        ([(1.0, 0.95)], False),  # not worth other roundings
        ([(2.0, 9.0), (0.1, 9.0), (2.0, 1.0)], False),  # the fastest pass of each counts
        ([(0.1, 9.0), (2.0, 9.0), (2.0, 1.0)], True),  # but not the first
    ],
)
def test_the_fastest_passes_of_a_layer_decide(monkeypatch, seconds, faster):
    if why := winograd.obstacle():
        pytest.skip(why)
    passing = clock(*seconds)
    monkeypatch.setattr(winograd_speed, "time", SimpleNamespace(perf_counter=lambda: next(passing)))
    before = torch.get_rng_state()
    assert winograd_speed.measure() is faster
    assert torch.equal(torch.get_rng_state(), before)


def test_all_processes_take_the_first_result(fresh, monkeypatch):
    """So a run that goes on computes as it began, whatever else the machine does now."""
    for found in (True, False):
        monkeypatch.setattr(winograd_speed, "measure", lambda found=found: found)
        assert winograd_speed.is_faster()
        winograd_speed.is_faster.cache_clear()
    (kept,) = fresh.glob("winograd-is-faster-*")
    kept.write_bytes(b"0")
    assert not winograd_speed.is_faster()


def test_another_processor_or_torch_is_measured_anew(fresh, monkeypatch):
    monkeypatch.setattr(winograd_speed, "measure", lambda: True)
    assert winograd_speed.is_faster()
    for change in (
        lambda: monkeypatch.setattr(winograd_speed, "processor_features", lambda: "another"),
        lambda: monkeypatch.setattr(torch, "__version__", "99"),
    ):
        change()
        monkeypatch.setattr(winograd_speed, "measure", lambda: False)
        winograd_speed.is_faster.cache_clear()
        assert not winograd_speed.is_faster()


def test_without_a_cache_each_process_measures(fresh, monkeypatch):
    fresh.parent.mkdir()
    fresh.write_text("no folder")
    for found in (True, False):
        monkeypatch.setattr(winograd_speed, "measure", lambda found=found: found)
        winograd_speed.is_faster.cache_clear()
        assert winograd_speed.is_faster() is found


def test_processes_that_measure_at_once_take_one_result(fresh, monkeypatch):
    """Ranks begin together, and each slows the other down: they are to compute alike all the same."""
    found, other_began, others = [], threading.Event(), []

    def measure():
        found.append(len(found) == 0)
        if found[1:]:
            other_began.set()
            return False
        others.append(threading.Thread(target=lambda: found.append(winograd_speed.is_faster.__wrapped__())))
        others[0].start()
        other_began.wait(0.3)
        return True

    monkeypatch.setattr(winograd_speed, "measure", measure)
    assert winograd_speed.is_faster()
    others[0].join()
    assert found == [True, True]


@pytest.mark.parametrize("content", [b"", b"x", b"10"])
def test_a_damaged_result_is_measured_anew(fresh, monkeypatch, content):
    monkeypatch.setattr(winograd_speed, "measure", lambda: True)
    assert winograd_speed.is_faster()
    (kept,) = fresh.glob("winograd-is-faster-*")
    kept.write_bytes(content)
    winograd_speed.is_faster.cache_clear()
    assert winograd_speed.is_faster()
    assert kept.read_bytes() == b"1"
