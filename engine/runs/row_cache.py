"""The feature rows of the layers in use. Each layer is read once for all pairs that need it at the time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from saematch.runs.inputs import read_input
from saematch.runs.plan import Pair
from saematch.runs.records import InputRecord
from saematch.runs.work import Key, Work, saes_at_once


class CachedFeatures(NamedTuple):
    """The features of one SAE, see `Comparing.features`, and its record."""

    features: Any
    record: InputRecord


class RowCache:
    """Hands out the pairs of a run to workers, and holds the rows of the layers of these pairs.

    At most as many layers are held at a time as `number` successive pairs have: a pair is handed out only when its
    layers fit in. All methods are safe to call from several threads.
    """

    def __init__(self, work: Work, pairs: Sequence[Pair], number: int = 1) -> None:
        self._work = work
        self._most = saes_at_once(work, pairs, number)
        self._waiting = deque(pairs)
        self._in_work: list[Pair] = []
        self._layers: dict[Key, Future[CachedFeatures]] = {}
        self._changed = threading.Condition()
        self.closed = False

    def take(self) -> Pair | None:
        """Return the next pair, as soon as there is space for its layers; None if no pairs are left."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or not self._waiting or self._fits(self._waiting[0]))
            if self.closed or not self._waiting:
                return None
            pair = self._waiting.popleft()
            self._in_work.append(pair)
            self._changed.notify_all()  # there may be space for the next pair as well
            return pair

    def layer(self, key: Key) -> CachedFeatures:
        """Return the rows of a layer of a pair that was taken. An error of reading it is raised in every worker."""
        with self._changed:
            is_first = key not in self._layers
            future = self._layers.setdefault(key, Future())
        if is_first:
            try:
                future.set_result(self._read(key))
            except BaseException as error:  # which the workers that wait for this layer raise, too
                future.set_exception(error)
        return future.result()

    def give_back(self, pair: Pair) -> None:
        """Note that a pair is finished, and drop the layers that neither a pair in work nor the next pair needs."""
        with self._changed:
            self._in_work.remove(pair)
            needed = self._keys([*self._in_work, *list(self._waiting)[:1]])
            self._layers = {key: layer for key, layer in self._layers.items() if key in needed}
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out no more pairs."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _fits(self, pair: Pair) -> bool:
        return not self._in_work or len(self._keys([*self._in_work, pair])) <= self._most

    def _keys(self, pairs: Iterable[Pair]) -> set[Key]:
        return {key for pair in pairs for key in self._work.keys(pair)}

    def _read(self, key: Key) -> CachedFeatures:
        sae, record = read_input(self._work.handle(key))
        return CachedFeatures(self._work.comparison.features(sae, key.side, key.layer), record)
