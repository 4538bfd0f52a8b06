"""Matching of the pairs of a run in this process, several at a time, by threads that share the rows of the layers.

While some pairs solve their sparse problems on one core each, the passes of other pairs use the rest of the machine.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch

from saematch.errors import MatchError, about_memory, is_out_of_memory, reason_of
from saematch.matching.scalars import scalars
from saematch.numeric.threads import threads
from saematch.runs.plan import Pair
from saematch.runs.records import Outcome, PairRecord, Progress
from saematch.runs.row_cache import RowCache
from saematch.runs.work import Work

_THREAD = "saematch-worker"
_SHARES = 2  # of the threads, for the passes of each pair in work


class _Stopped(Exception):
    """The caller wants no more events."""


def match_pairs(work: Work, pairs: Sequence[Pair], number: int) -> Generator[Progress | Outcome, None, None]:
    """Match pairs, `number` at a time, and yield progress events and the outcome of every pair as they occur.

    If a layer cannot be read, its pairs fail, and the others continue. Closing the generator stops the workers at the
    end of their current pass.
    """
    cache = RowCache(work, pairs, number)
    # Each worker has twice its share of the threads, because only some workers make passes at a time, and at the end of
    # a run few workers are left.
    before = torch.get_num_threads()
    threads_each = min(threads(), -(-_SHARES * threads() // number))
    events: queue.SimpleQueue[Progress | Outcome | BaseException | None] = queue.SimpleQueue()

    def work_on_pairs() -> None:
        torch.set_num_threads(threads_each)  # of this worker alone, and of threads that begin to use torch meanwhile
        try:
            while (pair := cache.take()) is not None:
                events.put(_match(work, cache, pair, partial(_notify, events.put, cache)))
                cache.give_back(pair)
            events.put(None)
        except BaseException as error:  # of any kind: it is raised in the thread of the caller
            events.put(error)

    # Start the workers. They are not daemon threads: compiled code that still runs while the interpreter exits aborts
    # the process.
    workers = [threading.Thread(target=work_on_pairs, name=_THREAD) for _ in range(number)]
    running = 0
    try:
        for worker in workers:
            try:
                worker.start()
                running += 1
            except RuntimeError:  # no memory for another thread: the workers that run match all pairs
                if not running:
                    raise
        # Pass on their events. A worker reports its end with None, or with an error, which ends all workers.
        while running:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                running -= 1
            else:
                yield event
    finally:
        cache.close()
        torch.set_num_threads(before)


def match_pair(work: Work, pair: Pair) -> Outcome:
    """Match one pair by itself, without progress events, as the tasks of an executor do."""
    return _match(work, RowCache(work, [pair]), pair, lambda _: None)


def _match(work: Work, cache: RowCache, pair: Pair, notify: Callable[[Progress], None]) -> Outcome:
    notify(Progress("reading", pair=pair))
    began = time.perf_counter()
    # Match the pair, with the rows of its layers from the cache.
    try:
        x, y = (cache.layer(key) for key in work.keys(pair))
        problem = work.comparison.problem_of(x.features, y.features, remake=partial(work.problem, pair))
        solver = replace(work.solver, progress=lambda done: notify(Progress("pass", pair=pair, last_pass=done)))
        matching = solver.run(problem)
        map = work.maps.get(str(work.names.key(pair[0])))
        if map is not None:
            matching = replace(matching, options={**matching.options, "map": map})
    # A bad input or too little memory makes the pair fail. Any other error is a defect of this package, and is raised.
    except MatchError as error:
        return Outcome.failed(pair, str(error))
    except Exception as error:
        if is_out_of_memory(error):
            reason = f"{about_memory(error)}; match smaller SAEs, use fewer workers, or give the run more memory"
        elif isinstance(error, OSError):
            reason = f"{error.filename or 'its files'}: {reason_of(error)}"
        else:
            raise
        return Outcome.failed(pair, reason)
    # Record what was matched, and how.
    record = {
        "source": pair[0],
        "target": pair[1],
        "inputs": [x.record, y.record],
        **scalars(matching),
        "seconds": round(time.perf_counter() - began, 3),
        "stats": matching.stats,
    }
    return Outcome(pair, cast(PairRecord, record), matching)


def _notify(put: Callable[[Progress], None], cache: RowCache, event: Progress) -> None:
    if cache.closed:
        raise _Stopped
    put(event)
