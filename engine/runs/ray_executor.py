"""An executor whose tasks run on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import Any

from saematch.errors import MatchError
from saematch.runs.executors import run_task
from saematch.runs.plan import Pair
from saematch.runs.work import Work, memory_needed


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
            raise MatchError("executor=\"ray\" needs the package ray: pip install 'saematch[ray]'") from error
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
                "GB; give a smaller memory=, or larger nodes"
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
