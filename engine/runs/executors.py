"""Pairs in other processes: a worker for each device of this machine, or the tasks of an executor."""

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
from typing import NamedTuple

import torch

from saematch.errors import MatchError
from saematch.numeric.threads import threads
from saematch.runs.folder import RunFolder
from saematch.runs.pipeline import match_pair, match_pairs
from saematch.runs.plan import Pair, share_of
from saematch.runs.records import Outcome, Progress
from saematch.runs.results import Results
from saematch.runs.work import Work

_CONTEXT = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, nor torch's threads


def on_devices(work: Work, pairs: Sequence[Pair], devices: Sequence[str]) -> Generator[Progress | Outcome, None, None]:
    """`match_pairs` in one process per device, each with its own share of the pairs.

    If a worker dies, the pairs that it had not finished fail.
    """
    shares = [share_of(list(pairs), number, len(devices)) for number in range(1, len(devices) + 1)]
    on_cpu = sum(torch.device(device).type == "cpu" for device in devices)
    threads_each = max(1, threads() // max(1, on_cpu))
    workers: dict[Connection, _Worker] = {}
    try:
        for device, share in zip(devices, shares, strict=True):
            if share:
                on_device = replace(work, solver=replace(work.solver, device=device))
                # A pipe each: a queue's lock would stay locked for all when a worker is killed while it holds it.
                ours, theirs = _CONTEXT.Pipe(duplex=False)
                arguments = (on_device, share, threads_each, theirs)
                process = _CONTEXT.Process(target=_work_on_device, args=arguments, daemon=True)
                with _interrupts_ignored():
                    process.start()
                theirs.close()  # the worker's copy is the only one, so that the pipe ends with it
                workers[ours] = _Worker(device, process, list(share))
        while workers:
            for ours in [end for end in wait(list(workers)) if isinstance(end, Connection)]:
                worker = workers[ours]
                try:
                    event = pickle.loads(ours.recv_bytes())
                except (EOFError, OSError):  # the worker has ended, perhaps in the middle of an event
                    ours.close()
                    del workers[ours]
                    worker.process.join()
                    yield from worker.lost_pairs()
                    continue
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, Outcome):
                    worker.unfinished.remove(event.pair)
                yield event
    finally:
        for ours, worker in workers.items():
            ours.close()
            worker.process.terminate()
            worker.process.join()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Start processes that ignore Ctrl-C: it is for the caller alone, who ends its workers."""
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

    def lost_pairs(self) -> Iterator[Outcome]:
        """The outcomes of the pairs that the process, which has ended, had not finished."""
        code = self.process.exitcode or 0
        why = ": killed, perhaps for want of memory" if code < 0 else "; what it printed says why"
        for pair in self.unfinished:
            yield Outcome.failed(pair, f"the worker on {self.device} ended with exit code {code}{why}")


def _work_on_device(work: Work, pairs: Sequence[Pair], thread_count: int, pipe: Connection) -> None:
    def send(event: Progress | Outcome | Exception) -> None:
        # Plain pickle copies tensors; multiprocessing's own would leave them in memory that goes when the worker does.
        pipe.send_bytes(pickle.dumps(event))

    torch.set_num_threads(thread_count)
    try:
        for event in match_pairs(work, pairs):
            send(event)
    except BrokenPipeError:
        pass  # the caller has ended
    except Exception as error:
        send(error)


def through_executor(
    executor: Executor, work: Work, pairs: Sequence[Pair], results: Results
) -> Generator[Outcome, None, None]:
    """One task per pair. A worker that sees the run folder writes its answer there; others send it back.

    If a task is lost, and not tried again by its executor, its pair fails.
    """
    location, id = results.location, results.record.get("id")
    tasks: dict[Future[Outcome], Pair] = {}
    try:
        for pair in pairs:
            try:
                tasks[executor.submit(run_task, work, pair, location, id)] = pair
            except RuntimeError as error:  # the executor is broken, and takes no more pairs
                yield _lost(pair, error)
        for task in as_completed(tasks):
            try:
                outcome = task.result()
            except Exception as error:  # of the executor, or of the worker: it costs one pair
                outcome = _lost(tasks[task], error)
            yield outcome
    finally:
        for task in tasks:
            task.cancel()


def _lost(pair: Pair, error: Exception) -> Outcome:
    return Outcome.failed(pair, f"{type(error).__name__}: {str(error).strip() or 'no reason given'}")


def run_task(work: Work, pair: Pair, location: str | None, id: str | None) -> Outcome:
    """Match a pair in a worker, and write it if `location` is the folder of the run from here too."""
    outcome = match_pair(work, pair)
    if location is not None:
        try:
            run = RunFolder.open(location)
        except MatchError:
            return outcome  # the worker has a disk of its own
        if run.record["id"] == id:
            run.add(outcome)
            return replace(outcome, matching=None)
    return outcome
