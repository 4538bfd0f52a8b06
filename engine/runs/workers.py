"""The workers of a run: threads of this process, a process for each device, or the tasks of an executor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch

from saematch.cost import BLOCK_BYTES
from saematch.errors import MatchError
from saematch.matching.backend import choose_backend, free_memory
from saematch.options import BackendName, PrecisionName
from saematch.runs.executors import on_devices, through_executor
from saematch.runs.pipeline import match_pairs
from saematch.runs.plan import Pair
from saematch.runs.ray_executor import RayExecutor
from saematch.runs.records import Outcome, Progress
from saematch.runs.results import Results
from saematch.runs.work import WORKERS, Work

Device = str | torch.device | None


@dataclass(frozen=True)
class Workers:
    """What matches the pairs of a run.

    Attributes:
        devices: the devices of this machine, each of which gets a process of its own if there are several; None stands
            for the one that is chosen.
        executor: what runs the pairs instead, one task each: "ray", or anything with the interface of
            `concurrent.futures`.
        remote_gpu: whether the workers of the executor have a GPU that this process does not have.
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
        """Raises `MatchError` unless these devices and this executor can match pairs."""
        _check_executor(executor)
        remote_gpu = executor is not None and str(device or "").startswith("cuda") and not torch.cuda.is_available()
        if remote_gpu and backend == "auto":
            device = None  # the workers find their GPUs; this process has none
        devices = (device,) if device is None or isinstance(device, str | torch.device) else tuple(device)
        if not devices or (len(devices) > 1 and executor is not None):
            raise MatchError("give one device or several, and several without an executor")
        for one in devices:
            choose_backend(backend, one, precision)
        return cls(devices, executor, remote_gpu)

    @contextmanager
    def events(self, work: Work, pairs: Sequence[Pair], results: Results) -> Iterator[Iterator[Progress | Outcome]]:
        """Match pairs, and give their events and outcomes as they come; the workers are stopped on leaving."""
        if not pairs:
            yield iter(())
        elif self.executor is None:
            names = [str(device) for device in self.devices]
            local = match_pairs(work, pairs) if len(names) == 1 else on_devices(work, pairs, names)
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


def share_of_memory(devices: Sequence[Device], backend: BackendName = "auto", precision: PrecisionName = "ieee") -> int:
    """Bytes for the products of one pair: half of what is free, divided among the pairs that are matched at once."""
    least = min(free_memory(choose_backend(backend, device, precision).device) for device in devices)
    return max(BLOCK_BYTES, least // 2 // (WORKERS * len(devices)))


def _check_executor(executor: Executor | str | None) -> None:
    """Raise `MatchError` for what is no executor, or a pool that forks."""
    if not (executor is None or executor == "ray" or isinstance(executor, Executor)):
        raise MatchError(f'executor is {executor!r}; give "ray" or a concurrent.futures.Executor')
    context = getattr(executor, "_mp_context", None)  # of a ProcessPoolExecutor, which does not say it otherwise
    if context is not None and context.get_start_method() == "fork":
        raise MatchError(
            "the executor forks this process, and a fork does not take threads along, only the locks that they hold; "
            'give ProcessPoolExecutor mp_context=multiprocessing.get_context("spawn")'
        )
