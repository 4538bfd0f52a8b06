"""The schedule of long work: which measurements there are, and how long those that are left will take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from saematch.runs.records import Progress


@dataclass(frozen=True)
class Measurement:
    """A measurement of an evaluation that begins or proceeds.

    Attributes:
        name: what is measured; before the first measurement, what the evaluation takes.
        number: the number of the measurement, from 1; 0 before the first one.
        total: the number of measurements of the evaluation.
        seconds_left: an estimate of the seconds until the evaluation is finished; None if nothing is known yet.
        run: the progress of the run that the measurement consists of; None if it is not a run.
    """

    name: str
    number: int
    total: int
    seconds_left: float | None = None
    run: Progress | None = None


@dataclass
class Schedule:
    """The measurements of an evaluation, or of other long work, by kind, and the time that they have taken so far.

    Attributes:
        counts: kind of measurement -> how many there are.
        guesses: kind of measurement -> how long one takes, in seconds on some machine, before any was made.
        known: kind of measurement -> about how many seconds one takes, if a trial has told before any was made.
    """

    counts: Mapping[str, int]
    guesses: Mapping[str, float]
    known: Mapping[str, float] = field(default_factory=dict)
    _begun: dict[str, int] = field(default_factory=dict)
    _seconds: dict[str, list[float]] = field(default_factory=dict)  # of the measurements that were made
    _current: tuple[str, float] | None = None

    @property
    def total(self) -> int:
        """The number of measurements."""
        return sum(self.counts.values())

    @property
    def number(self) -> int:
        """The number of measurements that have begun."""
        return sum(self._begun.values())

    def begin(self, kind: str) -> None:
        """Begin a measurement, which ends the one before."""
        self._end()
        self._begun[kind] = self._begun.get(kind, 0) + 1
        self._current = (kind, time.monotonic())

    def skip(self) -> None:
        """Note that the current measurement was made by an earlier call, so that its time says nothing."""
        self._current = None

    def seconds_left(self) -> float | None:
        """Estimate the seconds until the last measurement ends; None if none has ended, and no trial was made."""
        if not self._seconds and not self.known:
            return None
        # A kind that has not been measured takes its guess, scaled by what the guesses of other kinds were worth.
        made = [(seconds, self.guesses[kind]) for kind, times in self._seconds.items() for seconds in times]
        scale = sum(seconds for seconds, _ in made) / sum(guess for _, guess in made) if made else 1.0
        left = 0.0
        for kind, count in self.counts.items():
            times = self._seconds.get(kind)
            each = sum(times) / len(times) if times else self.known.get(kind, scale * self.guesses[kind])
            left += (count - self._begun.get(kind, 0)) * each
            if self._current is not None and self._current[0] == kind:
                left += max(0.0, each - (time.monotonic() - self._current[1]))
        return left

    def _end(self) -> None:
        if self._current is not None:
            kind, began = self._current
            self._seconds.setdefault(kind, []).append(time.monotonic() - began)
        self._current = None
