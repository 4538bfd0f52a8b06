"""Loops that share their work among threads, and how many threads there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from types import TracebackType

import numpy as np
import torch

import saematch
from saematch.resources import processors

_ALONE = 2**18  # entries; below, starting threads takes longer than the work


def _one_thread() -> None:
    """Keep torch to one thread in a forked process: it would wait for ever for the threads of its parent."""
    torch.set_num_threads(1)


def _forked() -> bool:
    return os.getpid() != saematch._process or saematch._forked_before


os.register_at_fork(after_in_child=_one_thread)
if _forked():  # before this module was imported
    _one_thread()


def threads() -> int:
    """The number of torch's threads, at most the number of processors that this process may use; 1 after a fork."""
    return 1 if _forked() else min(torch.get_num_threads(), processors())


@contextmanager
def torch_threads() -> Iterator[None]:
    """Hold torch's own operations to `threads()`: torch itself knows of no quota. It is a decorator too."""
    given, fewer = torch.get_num_threads(), threads()
    if fewer == given:
        yield
        return
    torch.set_num_threads(fewer)
    try:
        yield
    finally:
        torch.set_num_threads(given)


class Team:
    """`threads()` threads, or the calling one alone where there is little `work` to do."""

    def __init__(self, work: int) -> None:
        self.members = threads() if work > _ALONE else 1
        self._pool = ThreadPoolExecutor(self.members) if self.members > 1 else None

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def shares(self, length: int) -> list[slice]:
        """A part of the whole for each member."""
        cuts = np.linspace(0, length, self.members + 1).astype(int)
        return [slice(start, stop) for start, stop in pairwise(cuts.tolist())]

    def do(self, jobs: Iterable[Callable[[], object]]) -> None:
        """Do the jobs at the same time, and wait for all of them."""
        if self._pool is None:
            for job in jobs:
                job()
        else:
            for done in [self._pool.submit(job) for job in jobs]:
                done.result()
