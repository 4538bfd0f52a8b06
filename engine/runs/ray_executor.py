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
    """An executor whose tasks run on a Ray cluster.

    The cluster is the one whose address Ray finds in its environment (`RAY_ADDRESS`), or else this machine. Each task
    requests its memory, and a GPU if its passes run on one. Ray repeats a task if its worker or its node dies, and sets
    the number of threads of a task to the number of CPUs that the task requests, which is one.

    Args:
        work: the work of the run, which is sent to the cluster once.
        pairs: the pairs that will be submitted; the largest decides how much memory is requested.
        gpu: whether each task requests a GPU.
        retries: how often Ray repeats a task.

    Raises:
        MatchError: if ray is not installed, its cluster cannot be reached, or no node has enough memory.
    """

    def __init__(self, work: Work, pairs: Sequence[Pair], gpu: bool, retries: int = 3) -> None:
        try:
            import ray
        except ImportError as error:
            raise MatchError("executor=\"ray\" needs the package ray: pip install 'saematch[ray]'") from error
        self._joined = not ray.is_initialized()
        if self._joined:
            try:
                ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise MatchError(f"Ray cannot be reached: {error}") from error
        memory = max(memory_needed(work, [pair], 1) for pair in pairs)
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        most = max((node["Resources"].get("memory", 0) for node in nodes if node["Alive"]), default=0)
        if memory > most:
            self.shutdown()
            raise MatchError(
                f"a pair needs {memory / 1e9:.1f} GB, and no node of the Ray cluster offers more than {most / 1e9:.1f} "
                "GB; match smaller SAEs, or use larger nodes"
            )
        resources = {"num_cpus": 1, "num_gpus": 1 if gpu else 0, "memory": memory, "max_retries": retries}
        self._task = ray.remote(run_task).options(**resources)
        self._work = ray.put(work)

    def submit(self, task: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        """Submit `run_task`. Its first argument, the work, was sent when the executor was made."""
        assert task is run_task
        assert not options
        future: Future[Any] = self._task.remote(self._work, *arguments[1:]).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Leave the cluster if this executor has joined it."""
        import ray

        if self._joined:
            ray.shutdown()
