"""A search: trials that an Optuna study draws. Any number of processes work through them together.

A trial is a job of the sweep and has its folder. Optuna cannot run a trial again, so a job that failed, or whose
process died, gets a further trial of the study with the same settings and number.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastconv.config import schema
from fastconv.config.search_space import Dimension, overrides_of, points
from fastconv.config.search_storage import first_line, open_study, quiet, reached, require_optuna
from fastconv.runs.folder import is_pruned
from fastconv.system.errors import InputError, warn
from fastconv.system.files import locked, try_lock

if TYPE_CHECKING:
    from filelock import BaseFileLock

# The lock that is held while a trial is chosen. Trials are locked only by those who hold it.
LOCK = "search"
# User attributes of a trial: its number in the sweep, and of one that is run again, its settings and what the trial
# before it has reported.
JOB, AGAIN, REPORTED = "job", "again", "reported"
# Seconds between looks at a trial that another process runs.
POLL_SECONDS = 0.5
# Equal parts of the training at whose ends trials are compared.
PARTS = 20


@dataclass
class Trial:
    """A trial that this process runs."""

    number: int
    """Its number in the sweep, which names its folder."""
    overrides: list[str]
    """The settings that it was given."""
    drawn: Any
    """The study's trial."""
    held: "BaseFileLock"
    """Held while the trial is run: a process that can take it knows that the one before has died."""
    reported: set[int] = field(default_factory=set)
    in_rungs: bool = False
    """Whether the pruner compares trials by the first score that each has from some part on, as Hyperband does: it then
    must see the scores one by one. Others compare the last scores of all trials at the same part."""
    _pruned: bool = False

    def report(self, part: int, score: float) -> None:
        """Report the score at the end of one of the `PARTS` parts of the training, in [0, 1]; higher is better."""
        if part not in self.reported:  # a resumed run may come to it again
            self.reported.add(part)
            self._asked(lambda: self.drawn.report(score, part))
            self._pruned = self._pruned or (self.in_rungs and bool(self._asked(self.drawn.should_prune)))

    def is_hopeless(self) -> bool:
        """Whether the pruner would end it."""
        if self.in_rungs:
            return self._pruned
        return bool(self.reported and self._asked(self.drawn.should_prune))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """The answer of the study; None, with a warning, if it cannot be reached, so that training continues."""
        try:
            return ask()
        except Exception as error:  # whatever the driver of a database raises
            warn(f"a trial goes on without being compared, since its search cannot be reached: {first_line(error)}")
            return None


_running: Trial | None = None


def running_trial() -> Trial | None:
    """The trial that this process is running; None outside a search."""
    return _running


class Search:
    """The trials of one search, as one of its processes sees them.

    Args:
        folder: of the sweep, which all its processes share.
        settings: of the sweep.
        space: the settings to vary.
        fixed: the settings that all trials share, by key.

    Raises InputError for a folder that holds another search, and for a storage that cannot be opened.
    """

    def __init__(self, folder: Path, settings: schema.Sweep, space: Sequence[Dimension], fixed: dict[str, Any]) -> None:
        require_optuna()
        self._folder, self._settings, self._space = folder, settings, tuple(space)
        self.trials = settings.trials or 0
        with locked(folder, LOCK), quiet():
            self._study = open_study(folder, settings, space, fixed, PARTS)
        self._begun = False

    def __iter__(self) -> Iterator[Trial]:
        """Take the trials that are left, one by one. At the end, wait for those of other processes: should one of them
        die, its trial is taken too."""
        while True:
            trial, others = self._take()
            if trial is not None:
                yield trial
            elif others:
                which = f"trial{'s' * (len(others) > 1)} {', '.join(map(str, others))}"
                print(f"waiting for {which} of other processes", flush=True)
                while not self._has_ended(others[0]):
                    time.sleep(POLL_SECONDS)
            else:
                if self._is_exhausted(count := len(self._latest())) and count < self.trials:
                    print(f"the search ends after {count} trials: no other values are left to try", flush=True)
                return

    @contextlib.contextmanager
    def running(self, trial: Trial) -> Iterator[None]:
        """Within the block, `running_trial` is this one. After a signal or a kill it is left for others to take."""
        global _running
        _running = trial
        try:
            with quiet():
                yield
        except BaseException:
            trial.held.release()
            raise
        finally:
            _running = None

    def tell(self, trial: Trial, score: float | None) -> None:
        """Tell the study how a trial ended: its score, or None if it failed or was pruned."""
        from optuna.trial import TrialState

        number = trial.drawn.number
        with locked(self._folder, LOCK), quiet(), reached(self._folder, self._settings):
            if score is not None:
                self._study.tell(number, score)
            else:
                pruned = is_pruned(self._folder / str(trial.number))
                self._study.tell(number, state=TrialState.PRUNED if pruned else TrialState.FAIL)
            trial.held.release()

    def _take(self) -> tuple[Trial | None, list[int]]:
        """The next trial of this process, and, if there is none, the numbers of those that other processes run."""
        from optuna.trial import TrialState

        from fastconv.config.search_sampler import DistinctSampler

        with locked(self._folder, LOCK), quiet(), reached(self._folder, self._settings):
            latest = self._latest()
            retry, self._begun = not self._begun, True
            for number, found in latest.items():
                dead = found.state == TrialState.RUNNING and self._is_free(number)
                if dead:
                    self._study.tell(found.number, state=TrialState.FAIL)
                if dead or (retry and found.state == TrialState.FAIL):
                    # With what it has reported, for its run goes on from its last checkpoint.
                    values = {str(part): score for part, score in found.intermediate_values.items()}
                    # A process may die just when it begins a trial again, before Optuna has noted the settings.
                    point = found.user_attrs.get(AGAIN, found.params)
                    self._study.enqueue_trial(point, user_attrs={JOB: number, AGAIN: point, REPORTED: values})
            latest = self._latest()
            waiting = any(found.state == TrialState.WAITING for found in latest.values())
            tried = [found.params for found in latest.values()]
            if not waiting and (len(latest) >= self.trials or self._is_exhausted(len(tried))):
                return None, [number for number, found in latest.items() if found.state == TrialState.RUNNING]
            settings = self._settings
            self._study.sampler = DistinctSampler(
                settings.sampler, settings.seed, settings.startup_trials, self._space, len(latest), tried
            )
            drawn = self._study.ask({each.key: each.distribution() for each in self._space})
            number = drawn.user_attrs.get(JOB, len(latest))
            drawn.set_user_attr(JOB, number)
            held = try_lock(self._lock_of(number))
            if held is None:
                raise InputError(f"{self._folder / str(number)} is running in another process: wait for it, or end it")
            point = {each.key: drawn.params[each.key] for each in self._space}
            trial = Trial(number, overrides_of(point), drawn, held, in_rungs=settings.pruner == "hyperband")
            for part, score in drawn.user_attrs.get(REPORTED, {}).items():
                trial.report(int(part), score)
            return trial, []

    def _latest(self) -> dict[int, Any]:
        """The last of the study's trials for each number in the sweep.

        One without a number was drawn by a process that died there and then.
        """
        from optuna.trial import TrialState

        found = {}
        for each in self._study.get_trials(deepcopy=False):
            if isinstance(number := each.user_attrs.get(JOB), int):
                found[number] = each
            elif each.state == TrialState.RUNNING:
                self._study.tell(each.number, state=TrialState.FAIL)
        return dict(sorted(found.items()))

    def _is_exhausted(self, tried: int) -> bool:
        """Whether the space has no point that was not tried."""
        every = points(self._space)
        return every is not None and next((True for at, _ in enumerate(every) if at == tried), None) is None

    def _has_ended(self, number: int) -> bool:
        with locked(self._folder, LOCK):
            return self._is_free(number)

    def _is_free(self, number: int) -> bool:
        lock = try_lock(self._lock_of(number))
        if lock is not None:
            lock.release()
        return lock is not None

    def _lock_of(self, number: int) -> Path:
        return self._folder / ".locks" / f"trial-{number}"
