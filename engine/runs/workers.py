"""The workers of a run: threads of this process, one process for each device, or the tasks of an executor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch

from saematch.errors import MatchError
from saematch.matching.backend import choose_backend
from saematch.options import BackendName, PrecisionName
from saematch.runs.executors import on_devices, through_executor
from saematch.runs.pipeline import match_pairs
from saematch.runs.plan import Pair
from saematch.runs.ray_executor import RayExecutor
from saematch.runs.records import Outcome, Progress
from saematch.runs.results import Results
from saematch.runs.work import Work, pairs_at_once

Device = str | torch.device | None


@dataclass(frozen=True)
class Workers:
    """The workers that match the pairs of a run.

    Attributes:
        devices: the devices of this machine to use, one process for each if there are several; None for a device
            stands for the default one.
        executor: what runs the pairs instead, one task per pair: "ray", or a `concurrent.futures.Executor`.
        remote_gpu: whether only the workers of the executor, and not this process, have a GPU.
    """

    devices: tuple[Device, ...] = (None,)
    executor: Executor | str | None = None
    remote_gpu: bool = False

    @classmethod
    def checked(
        cls,
        device: Device | Sequence[Device],
        executor: Executor | str | None,
        backend: BackendName,
        precision: PrecisionName,
    ) -> Workers:
        """Return the workers for the `device=` and `executor=` that a caller gives.

        Raises:
            MatchError: if a device cannot be used, if the executor is unknown or forks this process, or if there are
                both several devices and an executor.
        """
        _check_executor(executor)
        remote_gpu = executor is not None and str(device or "").startswith("cuda") and not torch.cuda.is_available()
        if remote_gpu and backend == "auto":
            device = None  # each worker finds its own GPU
        devices = (device,) if device is None or isinstance(device, str | torch.device) else tuple(device)
        if not devices or (len(devices) > 1 and executor is not None):
            raise MatchError("give one device or several, and several without an executor")
        for one in devices:
            choose_backend(backend, one, precision)
        return cls(devices, executor, remote_gpu)

    def pairs_at_once(self, work: Work, pairs: Sequence[Pair]) -> int:
        """Return how many pairs each device has in work at the same time. A task of an executor has one."""
        return 1 if self.executor is not None else pairs_at_once(work, pairs, len(self.devices))

    @contextmanager
    def events(
        self, work: Work, pairs: Sequence[Pair], number: int, results: Results
    ) -> Iterator[Iterator[Progress | Outcome]]:
        """Match pairs, `number` at a time on each device: provide an iterator of their events and outcomes.

        The workers stop when the context ends.
        """
        if not pairs:
            yield iter(())
        elif self.executor is None:
            names = [str(device) for device in self.devices]
            local = match_pairs(work, pairs, number) if len(names) == 1 else on_devices(work, pairs, names, number)
            with closing(local) as events:
                yield events
        elif isinstance(self.executor, Executor):
            with closing(through_executor(self.executor, work, pairs, results)) as events:
                yield events
        else:
            backend = choose_backend(work.solver.backend, work.solver.device, work.solver.precision)
            gpu = self.remote_gpu or backend.device.type == "cuda"
            with RayExecutor(work, pairs, gpu) as ray, closing(through_executor(ray, work, pairs, results)) as events:
                yield events


def _check_executor(executor: Executor | str | None) -> None:
    """Raise `MatchError` for an object that is not an executor, and for a pool of forked processes."""
    if not (executor is None or executor == "ray" or isinstance(executor, Executor)):
        raise MatchError(f'executor is {executor!r}; give "ray" or a concurrent.futures.Executor')
    context = getattr(executor, "_mp_context", None)  # of a ProcessPoolExecutor; there is no public way to ask for it
    if context is not None and context.get_start_method() == "fork":
        raise MatchError(
            "the executor forks this process, and a fork has none of its threads, only the locks that they hold; "
            'give ProcessPoolExecutor mp_context=multiprocessing.get_context("spawn")'
        )
