"""Matching of pairs in other processes: one worker for each device of this machine, or the tasks of an executor."""

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

_CONTEXT = multiprocessing.get_context("spawn")  # a forked process can use neither CUDA nor torch's threads


def on_devices(
    work: Work, pairs: Sequence[Pair], devices: Sequence[str], number: int
) -> Generator[Progress | Outcome, None, None]:
    """Match pairs like `match_pairs`, in one process per device, each with its own share of the pairs and the threads.

    If a worker dies, the pairs that it has not finished fail.
    """
    threads_each = max(1, threads() // len(devices))
    workers: dict[Connection, _Worker] = {}
    try:
        # Start one worker for each device that has a share of the pairs.
        for part, device in enumerate(devices, 1):
            share = share_of(list(pairs), part, len(devices))
            if share:
                receiver, worker = _start_worker(work, share, device, number, threads_each)
                workers[receiver] = worker
        # Pass on what the workers send, until all of them have ended.
        while workers:
            for receiver in [end for end in wait(list(workers)) if isinstance(end, Connection)]:
                worker = workers[receiver]
                try:
                    event = pickle.loads(receiver.recv_bytes())
                except (EOFError, OSError):  # the worker has ended, possibly while it sent an event
                    receiver.close()
                    del workers[receiver]
                    worker.process.join()
                    yield from worker.lost_pairs()
                    continue
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, Outcome):
                    worker.unfinished.remove(event.pair)
                yield event
    finally:
        for receiver, worker in workers.items():
            receiver.close()
            worker.process.terminate()
            worker.process.join()


def _start_worker(
    work: Work, share: list[Pair], device: str, number: int, thread_count: int
) -> tuple[Connection, _Worker]:
    """Start the worker of a device, and return the end of the pipe that its events arrive at."""
    on_device = replace(work, solver=replace(work.solver, device=device))
    # Each worker has its own pipe. A shared queue has a lock, which a worker that is killed while it holds the lock
    # would leave locked for all.
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    arguments = (on_device, share, min(number, len(share)), thread_count, sender)
    process = _CONTEXT.Process(target=_work_on_device, args=arguments, daemon=True)
    with _interrupts_ignored():
        process.start()
    sender.close()  # only the worker still has this end, so that the pipe ends when the worker does
    return receiver, _Worker(device, process, list(share))


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore interrupts, and have the processes that are started meanwhile ignore them.

    Ctrl-C reaches the workers as well as the caller, but it is the caller who ends the workers.
    """
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
        """Yield the outcomes of the pairs that the process, which has ended, has not finished."""
        code = self.process.exitcode or 0
        why = ": it was killed, perhaps because memory ran out" if code < 0 else "; its output says why"
        for pair in self.unfinished:
            yield Outcome.failed(pair, f"the worker on {self.device} ended with exit code {code}{why}")


def _work_on_device(work: Work, pairs: Sequence[Pair], number: int, thread_count: int, pipe: Connection) -> None:
    def send(event: Progress | Outcome | Exception) -> None:
        # Plain pickle copies tensors. That of multiprocessing would leave them in memory that ends with the worker.
        pipe.send_bytes(pickle.dumps(event))

    torch.set_num_threads(thread_count)
    try:
        for event in match_pairs(work, pairs, number):
            send(event)
    except BrokenPipeError:
        pass  # the caller has ended
    except Exception as error:
        send(error)


def through_executor(
    executor: Executor, work: Work, pairs: Sequence[Pair], results: Results
) -> Generator[Outcome, None, None]:
    """Match pairs as the tasks of an executor, one per pair, and yield their outcomes.

    A worker that can reach the run folder writes its matching there; any other worker sends its matching back. If a
    task is lost, and its executor does not repeat it, its pair fails.
    """
    location, id = results.location, results.record.get("id")
    tasks: dict[Future[Outcome], Pair] = {}
    try:
        for pair in pairs:
            try:
                tasks[executor.submit(run_task, work, pair, location, id)] = pair
            except RuntimeError as error:  # the executor is broken, and takes no more tasks
                yield _lost(pair, error)
        for task in as_completed(tasks):
            try:
                outcome = task.result()
            except Exception as error:  # of the executor or of its worker: one pair fails
                outcome = _lost(tasks[task], error)
            yield outcome
    finally:
        for task in tasks:
            task.cancel()


def _lost(pair: Pair, error: Exception) -> Outcome:
    return Outcome.failed(pair, f"{type(error).__name__}: {str(error).strip() or 'no reason given'}")


def run_task(work: Work, pair: Pair, location: str | None, id: str | None) -> Outcome:
    """Match a pair in a worker of an executor, and write its outcome if the worker can reach the run folder.

    Args:
        work: the work of the run.
        pair: (source layer, target layer).
        location: the run folder as the caller reaches it; None for a run in memory.
        id: the id of the run, since another folder may be there for this worker.
    """
    outcome = match_pair(work, pair)
    if location is not None:
        try:
            run = RunFolder.open(location)
        except MatchError:
            return outcome  # the disk of the worker has no such folder
        if run.record["id"] == id:
            run.add(outcome)
            return replace(outcome, matching=None)
    return outcome
