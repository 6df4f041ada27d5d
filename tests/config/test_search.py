"""A search's trials: drawn, pruned, taken over from dead processes, and run once each, by any number of processes."""

import importlib.metadata
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastconv.config import search as searching
from fastconv.config import search_storage
from fastconv.config.overrides import parse_override
from fastconv.config.schema import Sweep
from fastconv.config.search import Search, running_trial
from fastconv.config.search_sampler import DistinctSampler
from fastconv.config.search_space import dimension
from fastconv.runs.results import PRUNED, Results
from fastconv.system.errors import InputError, RunWarning
from fastconv.system.files import try_lock

# 25 points: drawn at random, two of 20 trials would have the same one.
DISCRETE = ("quality=range(0,5)", "kind=choice(a,b,c,d,e)")
CONTINUOUS = ("rate=tag(log, interval(0.01,1))", "kind=choice(a,b)")
TRIALS = 20


def search(folder, *space, trials=TRIALS, fixed=None, **settings):
    return Search(folder, Sweep(trials=trials, **settings), [dimension(parse_override(text)) for text in space],
                  fixed or {})  # fmt: skip


def simulate(one, folder, stop_at=None):
    """A trial whose score rises to what its `quality` says. Returns it; None if it was pruned."""
    quality = float(dict(each.split("=") for each in one.overrides)["quality"])
    for part in range(1, 20):
        if part == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        one.report(part, quality * part / 100)
        if one.is_hopeless():
            (folder / str(one.number)).mkdir(exist_ok=True)
            Results("digits", "davidnet", None, 0, 0, stop_reason=PRUNED).write(folder / str(one.number))
            return None
    return quality / 5


def work(folder, name, dies_in):
    """What each process does: run trials, note how they ended, and be killed in the middle of the n-th."""
    found = search(folder, *DISCRETE, sampler="random")
    with (folder / f"{name}.jsonl").open("w", buffering=1) as notes:
        for count, one in enumerate(found):
            notes.write(json.dumps([one.number, one.overrides, "begun", None]) + "\n")
            with found.running(one):
                score = simulate(one, folder, stop_at=10 if count == dies_in else None)
            found.tell(one, score)
            notes.write(json.dumps([one.number, one.overrides, "ended", score]) + "\n")


def test_four_processes_run_each_trial_once_though_one_is_killed(tmp_path):
    script = "import sys, test_search; test_search.work(test_search.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
    places = [Path(__file__).parent, Path(__file__).parents[1], *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    workers = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path, f"worker-{at}", "0" if at == 0 else "-1"],
                         env=environment, stdout=subprocess.DEVNULL)
        for at in range(4)
    ]  # fmt: skip
    assert [each.wait() for each in workers] == [-signal.SIGKILL, 0, 0, 0]
    notes = [[json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.glob("*.jsonl")]
    ended = [note for each in notes for note in each if note[2] == "ended"]
    begun = [note for each in notes for note in each if note[2] == "begun"]
    assert sorted(number for number, *_ in ended) == list(range(TRIALS))
    assert len({tuple(overrides) for _, overrides, *_ in ended}) == TRIALS, "no point twice"
    assert sum(score is None for *_, score in ended) >= 3
    (killed,) = (each for each in notes if len(each) == 1)
    assert sorted(number for number, *_ in begun) == sorted([*range(TRIALS), killed[0][0]])
    assert killed[0][:2] in [note[:2] for note in ended], "the others went on with it, with the same settings"
    again = search(tmp_path, *DISCRETE, sampler="random")
    assert list(again) == [], "nothing is left to do"


def points(found, most=TRIALS):
    """The settings of the trials that are left, each of which is scored by its rate: the lower, the better."""
    drawn = []
    for one in found:
        drawn.append(one.overrides)
        found.tell(one, -math.log(float(one.overrides[0].removeprefix("rate="))))
        if len(drawn) == most:
            break
    return drawn


def test_a_search_that_goes_on_draws_what_it_would_have_drawn(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = points(search(tmp_path / "whole", *CONTINUOUS, trials=9))
    assert len(whole) == 9
    parts = points(search(tmp_path / "parts", *CONTINUOUS, trials=4))
    parts += points(search(tmp_path / "parts", *CONTINUOUS, trials=9), most=3)  # a larger number adds
    parts += points(search(tmp_path / "parts", *CONTINUOUS, trials=9))
    assert parts == whole


def test_tpe_looks_where_results_are_good(tmp_path):
    """Of points drawn at random, half have a rate above 0.1, the middle of the interval's logarithms."""
    drawn = points(search(tmp_path, *CONTINUOUS, trials=24, startup_trials=8), most=24)
    later = [float(rate.removeprefix("rate=")) for rate, _ in drawn[8:]]
    assert sum(rate < 0.1 for rate in later) >= 13


def test_a_trial_that_failed_is_tried_again_by_the_next_process(tmp_path):
    first = search(tmp_path, *CONTINUOUS, trials=3)
    for one in first:
        with first.running(one):
            assert running_trial() is one
        first.tell(one, None if one.number == 1 else 0.5)
    assert running_trial() is None
    assert list(first) == [], "not by the same process"
    second = search(tmp_path, *CONTINUOUS, trials=3)
    (again,) = points(second)
    failed, retried = (each.params for each in second._study.get_trials() if each.user_attrs["job"] == 1)
    assert retried == failed
    assert again == [f"rate={failed['rate']}", f"kind={failed['kind']}"]
    assert points(search(tmp_path, *CONTINUOUS, trials=3)) == []


@pytest.mark.parametrize("worse", [True, False])
def test_hyperband_compares_trials_at_equal_parts(tmp_path, monkeypatch, worse):
    """One network validates after each part, the other, a slower one, only once after eight of them. At each part its
    score is a bit worse (better), so that it is ended (goes on), however many parts it has trained."""
    monkeypatch.setattr("optuna.pruners.HyperbandPruner._get_bracket_id", lambda *_: 0)
    fast, slow = itertools.islice(search(tmp_path, *CONTINUOUS, pruner="hyperband"), 2)
    for part in range(1, 20):
        fast.report(part, part / 100)
        assert not fast.is_hopeless()
    for part in range(1, 9):
        slow.report(part, (part - 0.5 if worse else part + 0.5) / 100)
    assert slow.is_hopeless() == worse


def test_what_a_dead_process_has_reported_is_kept(tmp_path):
    found = search(tmp_path, *CONTINUOUS, trials=1)
    one = next(iter(found))
    one.report(1, 0.2)
    one.held.release()  # as the system does when a process dies
    again = next(iter(search(tmp_path, *CONTINUOUS, trials=1)))
    assert (again.number, again.overrides, again.reported) == (one.number, one.overrides, {1})
    again.report(1, 0.9)
    again.report(2, 0.4)
    assert again.drawn.study.get_trials()[-1].intermediate_values == {1: 0.2, 2: 0.4}


def test_a_process_that_dies_just_when_it_tries_again_changes_no_settings(tmp_path, monkeypatch):
    found = search(tmp_path, *CONTINUOUS, trials=1)
    one = next(iter(found))
    one.held.release()  # as the system does when a process dies
    second = search(tmp_path, *CONTINUOUS, trials=1)

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("optuna.trial.Trial._suggest", dies)
        with pytest.raises(KeyboardInterrupt):
            next(iter(second))
    again = next(iter(search(tmp_path, *CONTINUOUS, trials=1)))
    assert (again.number, again.overrides) == (one.number, one.overrides)


def test_who_waits_for_a_trial_keeps_it_from_nobody(tmp_path, monkeypatch):
    """A process that held the lock of a trial for a moment, to see that its process has died, would end the one that
    just takes it."""
    found = search(tmp_path, *CONTINUOUS, trials=1)
    one = next(iter(found))
    alone, waited = [], threading.Event()

    def watched(path, *, wait=False):
        if path.name.startswith("trial-"):
            free = try_lock(tmp_path / ".locks" / searching.LOCK)
            alone.append(free is None)
            if free is not None:
                free.release()
            waited.set()
        return try_lock(path, wait=wait)

    monkeypatch.setattr(searching, "try_lock", watched)
    monkeypatch.setattr(searching, "POLL_SECONDS", 0.01)
    left = []
    other = threading.Thread(target=lambda: left.extend(search(tmp_path, *CONTINUOUS, trials=1)))
    other.start()
    assert waited.wait(60)
    found.tell(one, 0.5)
    other.join(60)
    assert left == []
    assert all(alone)


def test_a_disk_that_fails_for_a_moment_does_not_lock_the_journal(tmp_path, monkeypatch):
    (tmp_path / "trials.log").touch()
    lock, failing = search_storage._JournalLock(tmp_path / "trials.log"), [True]

    def open_file(path, *given):
        if failing and failing.pop():
            raise OSError(5, "Input/output error")
        return open(path, *given)

    monkeypatch.setattr(Path, "open", open_file)
    with pytest.raises(OSError, match="Input/output error"):
        lock.acquire()
    free = try_lock(tmp_path / ".locks" / "trials.log")
    assert free is not None
    free.release()
    assert lock.acquire()
    lock.release()


def test_a_space_that_is_used_up_ends_the_search(tmp_path, capsys):
    found = search(tmp_path, "quality=1,2", "kind=a,b")
    drawn = []
    for one in found:
        drawn.append(tuple(one.overrides))
        found.tell(one, 0.5)
    assert sorted(drawn) == [("quality=1", "kind=a"), ("quality=1", "kind=b"), ("quality=2", "kind=a"),
                             ("quality=2", "kind=b")]  # fmt: skip
    assert "the search ends after 4 trials: no other values are left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("space", "settings", "fixed", "line"),
    [
        (("rate=interval(0.1,1)", "kind=a,b"), {}, {}, "it has rate=tag(log, interval(0.01,1)), not interval(0.1,1)"),
        (CONTINUOUS, {"seed": 1}, {}, "it has sweep.seed=0, not 1"),
        (CONTINUOUS, {}, {"dataset.name": "mnist"}, "it has dataset.name=None, not mnist"),
        (CONTINUOUS, {"storage": "sqlite:///x.db"}, {}, "was started without sweep.storage: give the same"),
    ],
)
def test_the_folder_of_another_search_is_refused(tmp_path, space, settings, fixed, line):
    search(tmp_path, *CONTINUOUS)
    with pytest.raises(InputError) as refused:
        search(tmp_path, *space, fixed=fixed, **settings)
    assert line in str(refused.value)


def test_a_database_keeps_the_trials_and_no_file_its_password(tmp_path):
    database = f"sqlite:///{tmp_path}/trials.db?password=hunter22"
    folder = tmp_path / "sweep"
    folder.mkdir()
    assert len(points(search(folder, *CONTINUOUS, trials=2, storage=database))) == 2
    assert len(points(search(folder, *CONTINUOUS, trials=5, storage=database))) == 3
    assert not (folder / search_storage.JOURNAL).exists()
    assert not [path for path in folder.rglob("*") if path.is_file() and b"hunter22" in path.read_bytes()]


def test_a_database_that_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(InputError) as refused:
        search(tmp_path, *CONTINUOUS, storage=f"sqlite:///{tmp_path}/none/x.db?password=hunter22")
    assert "cannot be used" in str(refused.value)
    assert "hunter22" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgresql:/u:hunter22@host/x", "sweep.storage is not the URL of a database, such as postgresql+psycopg://"),
        ("postgresql+psycopg://u:hunter22@hun@host/x", "has an @ in its user or password: write %40 instead"),
        ("postgresql+psycopg://u:hunter22@host/x", "needs the package psycopg: pip install 'fastconv[postgresql]'"),
        ("postgre://u:hunter22@host/x", "sweep.storage=postgre://***@host/x cannot be used: Can't load plugin"),
        ("sqlite:////none/x.db?password=hunter22", "unable to open database file"),
    ],
)
def test_a_database_that_cannot_be_is_one_line_before_anything_is_written(monkeypatch, url, line):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError) as refused:
        search_storage.require_storage(url)
    assert line in str(refused.value)
    assert "hunter22" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_database_that_is_gone_ends_no_training(tmp_path, monkeypatch):
    """The trial is trained to its end; then a line says why the search does not go on."""
    database = f"sqlite:///{tmp_path}/trials.db?password=hunter22"
    found = search(tmp_path, *CONTINUOUS, trials=2, storage=database)
    one = next(iter(found))
    one.report(1, 0.5)

    def gone(*_, **__):
        raise ConnectionError(f"server closed the connection\n{database}")

    for name in ("set_trial_intermediate_value", "get_all_trials", "get_trial", "set_trial_state_values"):
        monkeypatch.setattr(found._study._storage, name, gone)
    with pytest.warns(RunWarning, match="goes on without being compared.*: server closed the connection$"):
        one.report(2, 0.5)
    with pytest.warns(RunWarning, match="goes on without being compared"):
        assert not one.is_hopeless()
    with pytest.raises(InputError, match=r"^sweep.storage=sqlite://.*cannot be used: server closed") as refused:
        found.tell(one, 0.5)
    assert "hunter22" not in str(refused.value)


def test_a_line_that_was_cut_off_does_not_end_a_search(tmp_path):
    points(search(tmp_path, *CONTINUOUS, trials=2))
    with (tmp_path / search_storage.JOURNAL).open("a") as journal:
        journal.write('{"op_code": 4, "worker')
    assert len(points(search(tmp_path, *CONTINUOUS, trials=4))) == 2
    assert len(search(tmp_path, *CONTINUOUS, trials=4)._study.get_trials()) == 4


@pytest.mark.parametrize("there", ["2.10.1", None])
def test_without_optuna_a_line_names_the_extra(monkeypatch, there):
    def version(name):
        if there is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return there

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(InputError, match=r"a search needs Optuna 4 or later.*: pip install 'fastconv\[search\]'"):
        search_storage.require_optuna()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=x,y,x", ["x", "y"]),
        ("a=shuffle(y,x)", ["x", "y"]),
        ("a=choice([1,2],[3])", ["[1,2]", "[3]"]),
        ("a=range(1,5)", [1, 2, 3, 4]),
        ("a=range(5,1,-2)", [3, 5]),
        ("a=range(0.25,1,0.25)", [0.25, 0.5, 0.75]),
        ("a=range(0.1,0.35,0.1)", [0.1, 0.2, 0.3]),
        ("a=range(0.4,0.05,-0.1)", [0.1, 0.2, 0.1 + 2 * 0.1, 0.4]),
        ("a=int(interval(1,3))", [1, 2, 3]),
        ("a=interval(1,3)", None),
    ],
)
def test_values_are_those_of_hydra(text, values):
    found = dimension(parse_override(text))
    assert (found.values() if values is None else list(found.values())) == values
    distribution = found.distribution()
    for value in values or (1.0, 2.5, 3.0):
        assert distribution._contains(distribution.to_internal_repr(value))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a=interval(1,1)", "give a smaller number, then a larger one"),
        ("a=tag(log, interval(0,1))", "have no logarithm"),
        ("a=tag(log, range(1,9,2))", "for steps of 1"),
    ],
)
def test_values_that_no_search_can_draw_are_refused(text, rule):
    with pytest.raises(InputError, match=rule):
        dimension(parse_override(text))


def test_the_sampler_knows_no_state():
    """What is drawn follows from the seed, the number and the trials that are there; other numbers draw otherwise."""
    import optuna

    space = [dimension(parse_override(text)) for text in CONTINUOUS]

    def draw(number, seed=0):
        study = optuna.create_study()
        study.sampler = DistinctSampler("tpe", seed, 5, space, number, [])
        return study.ask({each.key: each.distribution() for each in space}).params

    assert draw(3) == draw(3)
    assert draw(3)["rate"] != draw(4)["rate"] != draw(4, seed=1)["rate"]
