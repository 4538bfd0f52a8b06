"""Pairs in other processes: a worker for each device of this machine, or whatever an executor reaches."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch

from saematch.errors import MatchError
from saematch.numeric.threads import threads
from saematch.runs.folder import RunFolder
from saematch.runs.pipeline import Outcome, Progress, Work, match_pair, memory_needed, stream
from saematch.runs.plan import Pair, share_of

_CONTEXT = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, nor torch's threads


def on_devices(work: Work, pairs: Sequence[Pair], devices: Sequence[str]) -> Generator[Progress | Outcome, None, None]:
    """`stream` in one process a device, each with its own share of the pairs.

    A worker that dies costs the pairs it had not finished.
    """
    shares = [share_of(list(pairs), number, len(devices)) for number in range(1, len(devices) + 1)]
    each = max(1, threads() // max(1, sum(torch.device(device).type == "cpu" for device in devices)))
    workers: dict[Connection, _Worker] = {}
    try:
        for device, share in zip(devices, shares, strict=True):
            if share:
                there = replace(work, solver=replace(work.solver, device=device))
                # A pipe each: a queue's lock would stay locked for all when a worker is killed while it holds it.
                ours, theirs = _CONTEXT.Pipe(duplex=False)
                process = _CONTEXT.Process(target=_work_on_device, args=(there, share, each, theirs), daemon=True)
                with _deaf_to_interrupts():
                    process.start()
                theirs.close()  # the worker's copy is the only one, so that the pipe ends with it
                workers[ours] = _Worker(device, process, list(share))
        while workers:
            for ours in [end for end in wait(list(workers)) if isinstance(end, Connection)]:
                worker = workers[ours]
                try:
                    told = pickle.loads(ours.recv_bytes())
                except (EOFError, OSError):  # it has ended, perhaps in the middle of a sentence
                    ours.close()
                    del workers[ours]
                    worker.process.join()
                    for pair in worker.unfinished:
                        code = worker.process.exitcode or 0
                        why = ": killed, perhaps for want of memory" if code < 0 else "; what it printed says why"
                        yield Outcome.failed(pair, f"the worker on {worker.device} ended with exit code {code}{why}")
                    continue
                if isinstance(told, BaseException):
                    raise told
                if isinstance(told, Outcome):
                    worker.unfinished.remove(told.pair)
                yield told
    finally:
        for ours, worker in workers.items():
            ours.close()
            worker.process.terminate()
            worker.process.join()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C is for the caller alone, who ends its workers: a process started in here never hears of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Worker(NamedTuple):
    device: str
    process: BaseProcess
    unfinished: list[Pair]


def _work_on_device(work: Work, pairs: Sequence[Pair], number: int, news: Connection) -> None:
    def tell(told: Progress | Outcome | Exception) -> None:
        # Plain pickle copies tensors; multiprocessing's own would leave them in memory that goes when the worker does.
        news.send_bytes(pickle.dumps(told))

    torch.set_num_threads(number)
    try:
        for told in stream(work, pairs):
            tell(told)
    except BrokenPipeError:
        pass  # the caller is gone
    except Exception as error:
        tell(error)


def check_executor(executor: Executor | str | None) -> None:
    """Raise `MatchError` for what is no executor, or a pool that forks."""
    if not (executor is None or executor == "ray" or isinstance(executor, Executor)):
        raise MatchError(f'executor is {executor!r}; give "ray" or a concurrent.futures.Executor')
    context = getattr(executor, "_mp_context", None)  # of a ProcessPoolExecutor, which does not say it otherwise
    if context is not None and context.get_start_method() == "fork":
        raise MatchError(
            "the executor forks this process, and a fork does not take threads along, only the locks that they hold; "
            'give ProcessPoolExecutor mp_context=multiprocessing.get_context("spawn")'
        )


def through(
    executor: Executor, work: Work, pairs: Sequence[Pair], run: RunFolder | None
) -> Generator[Outcome, None, None]:
    """One task a pair. A worker that sees the run folder writes its answer there; others send it back.

    A task that is lost, and not tried again by its executor, costs its pair.
    """
    where, id = (str(run.folder), run.record["id"]) if run is not None else (None, None)
    tasks: dict[Future[Outcome], Pair] = {}
    try:
        for pair in pairs:
            try:
                tasks[executor.submit(run_task, work, pair, where, id)] = pair
            except RuntimeError as error:  # the executor is broken: no other takes its pairs
                yield _lost(pair, error)
        for task in as_completed(tasks):
            try:
                outcome = task.result()
            except Exception as error:  # of the executor, or of the worker: one pair's worth
                outcome = _lost(tasks[task], error)
            yield outcome
    finally:
        for task in tasks:
            task.cancel()


def _lost(pair: Pair, error: Exception) -> Outcome:
    return Outcome.failed(pair, f"{type(error).__name__}: {str(error).strip() or 'no reason given'}")


def run_task(work: Work, pair: Pair, where: str | None, id: str | None) -> Outcome:
    """What a worker does with a pair: match it, and write it if `where` is the folder of the run from here too."""
    outcome = match_pair(work, pair)
    if where is not None:
        try:
            run = RunFolder.open(where)
        except MatchError:
            return outcome  # the worker has a disk of its own
        if run.record["id"] == id:
            run.add(outcome)
            return replace(outcome, matching=None)
    return outcome


class RayExecutor(Executor):
    """Tasks on a Ray cluster, whose address Ray finds in its own environment (`RAY_ADDRESS`), else on this machine.

    Each task asks for its memory, and for a GPU if its passes run on one; Ray repeats it where a worker or a node dies.
    Ray's own setting of threads, one a CPU asked for, holds inside of them.

    Raises:
        MatchError: if ray is not installed, or its cluster cannot be reached.
    """

    def __init__(self, work: Work, pairs: Sequence[Pair], gpu: bool, retries: int = 3) -> None:
        try:
            import ray
        except ImportError as error:
            raise MatchError("--executor ray needs the package ray: pip install 'saematch[ray]'") from error
        self._mine = not ray.is_initialized()
        if self._mine:
            try:
                ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise MatchError(f"Ray cannot be reached: {error}") from error
        memory = max(memory_needed(work, [pair]) for pair in pairs)
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        most = max((node["Resources"].get("memory", 0) for node in nodes if node["Alive"]), default=0)
        if memory > most:
            self.shutdown()
            raise MatchError(
                f"a pair needs {memory / 1e9:.1f} GB, and no node of the Ray cluster offers more than {most / 1e9:.1f} "
                "GB; give a smaller memory (--memory), or larger nodes"
            )
        resources = {"num_cpus": 1, "num_gpus": 1 if gpu else 0, "memory": memory, "max_retries": retries}
        self._task = ray.remote(run_task).options(**resources)
        self._work = ray.put(work)  # sent once, however many pairs there are

    def submit(self, task: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        """Start `run_task`, with a work that was given when the executor was made."""
        assert task is run_task
        assert not options
        future: Future[Any] = self._task.remote(self._work, *arguments[1:]).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Leave the cluster, if this executor joined it."""
        import ray

        if self._mine:
            ray.shutdown()
