"""One clock per run, cut into segments that never overlap."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastconv.config.schema import SEGMENTS


def now() -> float:
    """Monotonic time in seconds, which new clocks read; replace it to simulate the time of whole commands."""
    return time.monotonic()


class Clock:
    """Counts seconds into the segment that is open; a segment opened inside another pauses the outer one.

    Args:
        read: a monotonic time in seconds; `now` if None.
        start_seconds: seconds that the command took before this, since its process began: they belong to `setup`.
    """

    def __init__(self, read: Callable[[], float] | None = None, start_seconds: float = 0.0) -> None:
        self._now = read or now
        self._spent = dict.fromkeys(SEGMENTS, 0.0)
        self._spent["setup"] = start_seconds
        self._open = ["setup"]
        self._since = self._now()

    def now(self) -> float:
        """The monotonic time in seconds that the clock reads; other threads may ask for it too."""
        return self._now()

    def follow(self, wall: Callable[[], float]) -> None:
        """Count from now on also the time for which the monotonic time stands still, as in a machine that is suspended.

        Args:
            wall: the time of day in seconds. Where it is set back, the clock goes on.
        """
        read, began, at, behind = self._now, self._now(), wall(), 0.0

        def now() -> float:
            nonlocal behind
            day, passed = wall(), read()  # in this order: a pause between the two is no suspension
            behind = max(behind, (day - at) - (passed - began))
            return passed + behind

        self._now = now

    def enter(self, segment: str) -> None:
        """Open a segment and pause the one that is open."""
        self._settle()
        self._open.append(segment)

    def leave(self, segment: str) -> None:
        """Close the segment that is open, and go on with the one it paused.

        Raises ValueError if another segment is open.
        """
        if self._open[-1] != segment:
            raise ValueError(f"the open segment is {self._open[-1]}, not {segment}")
        self._settle()
        self._open.pop()

    def unwind(self) -> None:
        """Close all segments that an error left open."""
        self._settle()
        del self._open[1:]

    @contextmanager
    def segment(self, name: str) -> Iterator[None]:
        """Count the block into a segment. It closes however the block ends, with all that was left open inside."""
        depth = len(self._open)
        self.enter(name)
        try:
            yield
        finally:
            self._settle()
            del self._open[depth:]

    def add(self, seconds: dict[str, float]) -> None:
        """Count the seconds, by segment, that an earlier process spent on the same run."""
        for segment, spent in seconds.items():
            self._spent[segment] += spent

    def seconds(self) -> dict[str, float]:
        """Seconds of every segment so far."""
        self._settle()
        return dict(self._spent)

    def counted(self, segments: tuple[str, ...]) -> float:
        """Seconds so far in the given segments together."""
        self._settle()
        total = 0.0
        for segment in segments:  # a generator would take longer than the sum: a step asks some ten times
            total += self._spent[segment]
        return total

    def _settle(self) -> None:
        """Count the time since the last call into the segment that is open."""
        now = self._now()
        self._spent[self._open[-1]] += now - self._since
        self._since = now
