"""Pairs one after the other, two in work at once: SAEs are read ahead, each once, and never more than three are held.

While lapx solves the sparse problem of one pair on one core, the passes of the other keep the rest of the machine busy.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from saematch.assignment import Round
from saematch.errors import MatchError, about_memory, is_out_of_memory, reason_of
from saematch.matching.files import scalars
from saematch.matching.problem import Comparison, RowProblem, check_widths
from saematch.matching.result import Matching
from saematch.matching.solver import Solver
from saematch.numeric.rounding import Rows
from saematch.options import Stage
from saematch.runs.inputs import read_input
from saematch.runs.plan import Pair
from saematch.sources import Layers, SAEHandle

ROOM = 3  # SAEs in memory at once: those of two neighbouring pairs
LANES = 2  # pairs in work at once
_THREAD = "saematch-lane"
_FIXED, _PER_FEATURE = 400 * 10**6, 5_000  # bytes: compiled loops and tiles; lists, edges and prices of one lane


@dataclass(frozen=True)
class Work:
    """What is done with every pair. It can be sent to another process.

    Attributes:
        sources: the layers, or the layers of the first set of SAEs.
        against: the layers of a second set, whose SAEs are the targets; None where the targets are of the same set.
        comparison: how features are compared.
        solver: how each pair is solved.
    """

    sources: Layers
    against: Layers | None
    comparison: Comparison
    solver: Solver

    @property
    def targets(self) -> Layers:
        """The layers whose SAEs are targets."""
        return self.sources if self.against is None else self.against

    def problem(self, pair: Pair) -> RowProblem:
        """The rows of a pair, made anew."""
        return self.comparison.problem(self.sources[pair[0]], self.targets[pair[1]])

    def keys(self, pair: Pair) -> tuple[Key, Key]:
        """Where the two SAEs of a pair are: with one set of SAEs, a layer is the same on either side."""
        return Key(0, pair[0]), Key(0 if self.against is None else 1, pair[1])

    def handle(self, key: Key) -> SAEHandle:
        """The SAE that a key stands for."""
        return (self.targets if key.side else self.sources).handles[key.layer]


class Key(NamedTuple):
    """A layer of the sources (side 0) or of another set of targets (side 1)."""

    side: int
    layer: int


@dataclass(frozen=True)
class Progress:
    """News of a run.

    Attributes:
        stage: "start" of a run, or of a pair "reading" (its SAEs), "pass" (one over all pairs of features is done, see
            `round`), "done" (see `matching`, `seconds`) or "failed" (see `error`).
        of: pairs to be matched.
        finished: those that are done, in an earlier run too.
        pair: (source layer, target layer).
        bytes: at the start, the most memory that the run takes.
    """

    stage: Stage
    of: int = 0
    finished: int = 0
    pair: Pair | None = None
    round: Round | None = None
    matching: Matching | None = None
    seconds: float = 0.0
    error: str | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a pair: a matching and the record of it, or, without one, a record that says why."""

    pair: Pair
    record: dict[str, Any]
    matching: Matching | None = None

    @classmethod
    def failed(cls, pair: Pair, reason: str) -> Outcome:
        """A pair without a matching."""
        return cls(pair, {"source": pair[0], "target": pair[1], "failure": reason})


def stream(work: Work, pairs: Sequence[Pair]) -> Generator[Progress | Outcome, None, None]:
    """News and the outcome of every pair, as they come.

    A layer that cannot be read costs its pairs. Whoever stops asking stops the work, at the end of a pass.
    """
    shelf = _Shelf(work, pairs)
    news: queue.SimpleQueue[Progress | Outcome | BaseException | None] = queue.SimpleQueue()

    def lane() -> None:
        try:
            while (pair := shelf.take()) is not None:
                news.put(_matched(work, shelf, pair, partial(_pass_on, news.put, shelf)))
                shelf.give_back(pair)
            news.put(None)
        except BaseException as error:  # whatever it is, the caller must hear of it
            news.put(error)

    # No daemons: compiled code that is left running while the interpreter ends aborts the process.
    lanes = [threading.Thread(target=lane, name=_THREAD) for _ in range(min(LANES, len(pairs)))]
    running = 0
    try:
        for each in lanes:
            try:
                each.start()
                running += 1
            except RuntimeError:  # there is no memory for another thread: those that have started do all pairs
                if not running:
                    raise
        while running:
            told = news.get()
            if isinstance(told, BaseException):
                raise told
            if told is None:
                running -= 1
            else:
                yield told
    finally:
        shelf.close()


def match_pair(work: Work, pair: Pair) -> Outcome:
    """One pair alone, for a worker somewhere else."""
    return _matched(work, _Shelf(work, [pair]), pair, lambda _: None)


def memory_needed(work: Work, pairs: Sequence[Pair]) -> int:
    """The most memory, in bytes, that streaming these pairs takes beside what the process holds already.

    Three SAEs as rows, two as they are read, and for each pair in work float32 rows, lists and edges, and its products
    where they are kept. A layer whose header is not legible counts as none. With a GPU, some of it lies there.
    """
    sizes: dict[Key, int] = {}
    features: dict[Key, int] = {}
    read = 0
    for key in {key for pair in pairs for key in work.keys(pair)}:
        sae = work.handle(key).header()
        if sae is not None:
            sizes[key], features[key] = work.comparison.width(sae) * sae.F, sae.F
            read = max(read, sum(tensor.nbytes for tensor in sae.tensors().values()))
    rows = 8 * sum(sorted(sizes.values())[-ROOM:])

    def lane(pair: Pair) -> int:
        a, b = work.keys(pair)
        of = [features.get(a, 0), features.get(b, 0)]
        products = 4 * of[0] * of[1]
        kept = products if work.solver.memory is not None and products <= work.solver.memory else 0
        return 4 * (sizes.get(a, 0) + sizes.get(b, 0)) + _PER_FEATURE * sum(of) + kept

    lanes = sum(sorted(map(lane, pairs))[-LANES:])
    return _FIXED + rows + 2 * read + lanes


class _Stopped(Exception):
    """The caller has gone."""


class _Opened(NamedTuple):
    rows: Rows
    source: str
    d: int
    record: dict[str, Any]


class _Shelf:
    """The rows of the layers in use: read once for all pairs that need them, at most `ROOM` at a time."""

    def __init__(self, work: Work, pairs: Sequence[Pair]) -> None:
        self._work = work
        self._waiting = deque(pairs)
        self._busy: list[Pair] = []
        self._layers: dict[Key, Future[_Opened]] = {}
        self._changed = threading.Condition()
        self.closed = False

    def take(self) -> Pair | None:
        """The next pair, once its layers fit beside those in use; None when no more are to be done."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or not self._waiting or self._fits(self._waiting[0]))
            if self.closed or not self._waiting:
                return None
            pair = self._waiting.popleft()
            self._busy.append(pair)
            self._changed.notify_all()  # what waits behind it may fit too
            return pair

    def layer(self, key: Key) -> _Opened:
        """The rows of a layer of a pair that was taken. Raises what reading it raised, to all who ask."""
        with self._changed:
            mine = key not in self._layers
            future = self._layers.setdefault(key, Future())
        if mine:
            try:
                future.set_result(self._read(key))
            except BaseException as error:  # for whoever else waits for it
                future.set_exception(error)
        return future.result()

    def give_back(self, pair: Pair) -> None:
        """The pair is done: drop the layers that no pair in work, nor the next, needs."""
        with self._changed:
            self._busy.remove(pair)
            needed = self._keys([*self._busy, *list(self._waiting)[:1]])
            self._layers = {key: layer for key, layer in self._layers.items() if key in needed}
            self._changed.notify_all()

    def close(self) -> None:
        """No more pairs are to be done."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _fits(self, pair: Pair) -> bool:
        return not self._busy or len(self._keys([*self._busy, pair])) <= ROOM

    def _keys(self, pairs: Sequence[Pair]) -> set[Key]:
        return {key for pair in pairs for key in self._work.keys(pair)}

    def _read(self, key: Key) -> _Opened:
        sae, record = read_input(self._work.handle(key))
        return _Opened(self._work.comparison.rows(sae), sae.source, sae.d, record)


def _matched(work: Work, shelf: _Shelf, pair: Pair, tell: Callable[[Progress], None]) -> Outcome:
    tell(Progress("reading", pair=pair))
    began = time.perf_counter()
    try:
        x, y = (shelf.layer(key) for key in work.keys(pair))
        check_widths(x.d, x.source, y.d, y.source, "d")
        remake = partial(work.problem, pair)
        problem = RowProblem(x.rows, y.rows, work.comparison.max_cost, work.comparison.record(), remake)
        with_news = replace(work.solver, progress=lambda news: tell(Progress("pass", pair=pair, round=news)))
        matching = with_news.run(problem)
    except MatchError as error:
        return Outcome.failed(pair, str(error))
    except Exception as error:
        if is_out_of_memory(error):
            reason = f"{about_memory(error)}; give a smaller memory, or match smaller SAEs"
        elif isinstance(error, OSError):
            reason = f"{error.filename or 'its files'}: {reason_of(error)}"
        else:
            raise
        return Outcome.failed(pair, reason)
    record = {
        "source": pair[0],
        "target": pair[1],
        "inputs": [x.record, y.record],
        **scalars(matching),
        "seconds": round(time.perf_counter() - began, 3),
        "stats": matching.stats,
    }
    return Outcome(pair, record, matching)


def _pass_on(put: Callable[[Progress], None], shelf: _Shelf, news: Progress) -> None:
    if shelf.closed:
        raise _Stopped
    put(news)
