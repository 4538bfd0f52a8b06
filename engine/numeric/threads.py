"""The number of threads, and loops that share their work among threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from types import TracebackType
from typing import TypeVar

import torch

import saematch
from saematch.resources import processors

MULTIPLIED = 16  # pairs of float64 numbers that one thread multiplies and adds up in a nanosecond
_SMALL = 2**20  # nanoseconds; with fewer, starting threads takes longer than the work
T = TypeVar("T")


def _use_one_thread() -> None:
    """Keep torch to one thread in a forked process, where it would wait forever for the threads of its parent."""
    torch.set_num_threads(1)


def _is_forked() -> bool:
    return os.getpid() != saematch._process or saematch._forked_before


os.register_at_fork(after_in_child=_use_one_thread)
if _is_forked():  # before this module was imported
    _use_one_thread()


def threads() -> int:
    """Return the number of torch's threads, at most the number of processors that this process may use; 1 after a fork.

    >>> threads() >= 1
    True
    """
    return 1 if _is_forked() else min(torch.get_num_threads(), processors())


@contextmanager
def torch_threads() -> Iterator[None]:
    """Hold torch's own operations to `threads()`, because torch itself does not know quotas. It is a decorator too."""
    before, fewer = torch.get_num_threads(), threads()
    if fewer == before:
        yield
        return
    torch.set_num_threads(fewer)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadPool:
    """A pool of `threads()` threads, or only the calling thread if there is little `work`.

    Work is in nanoseconds of one thread, which reads about one entry of an array in each of them.

    With `most`, the pool has no more threads than that.

    >>> with ThreadPool(work=4) as pool:
    ...     pool.run([lambda: 1, lambda: 2])
    [1, 2]
    """

    def __init__(self, work: int, most: int | None = None) -> None:
        self.size = min(threads(), most or threads()) if work > _SMALL else 1
        self._executor = ThreadPoolExecutor(self.size) if self.size > 1 else None

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)  # after an error, jobs that have not begun are not done

    def split(self, length: int, most: int | None = None) -> list[slice]:
        """Split a length into one part per thread, or into `most` parts if there are more threads."""
        parts = self.size if most is None else min(self.size, most)
        return [slice(start, stop) for start, stop in pairwise(length * n // parts for n in range(parts + 1))]

    def run(self, jobs: Iterable[Callable[[], T]], torch_threads: int | None = None) -> list[T]:
        """Run the jobs at the same time, wait for all of them, and return their results.

        If jobs call torch, `torch_threads` says how many threads torch uses for each of them.
        """
        before = torch.get_num_threads()

        def run(job: Callable[[], T]) -> T:
            if torch_threads is not None:
                torch.get_num_threads()  # a thread that is new to torch takes over a number first, which others set
                torch.set_num_threads(torch_threads)  # for this thread, and for threads that have not used torch yet
            return job()

        try:
            if self._executor is None:
                return [run(job) for job in jobs]
            jobs = list(jobs)
            if len(jobs) == 1:  # for which no thread need be started
                return [run(jobs[0])]
            futures = [self._executor.submit(run, job) for job in jobs]
            return [future.result() for future in futures]
        finally:
            if torch_threads is not None:
                torch.set_num_threads(before)
