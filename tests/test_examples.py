"""The scripts and notebooks in `examples/` run as they are."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

import saematch as sm
from saes import write_model

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_job_array_completes_a_run_and_a_task_can_be_submitted_again(tmp_path):
    model, run = write_model(tmp_path / "model"), tmp_path / "run"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def submitted(*tasks):
        """Submit an array of the given tasks only."""
        jobs = [
            subprocess.Popen(
                ["bash", EXAMPLES / "array.sbatch", model, run, "3"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "PATH": path,
                    "SLURM_ARRAY_TASK_ID": str(task),
                    "SLURM_ARRAY_TASK_COUNT": str(len(tasks)),
                },
            )
            for task in tasks
        ]
        for job in jobs:
            _, errors = job.communicate(timeout=120)
            assert (job.returncode, errors) == (0, "")

    submitted(1, 3)
    assert not sm.Chain.load(run).complete
    submitted(2)
    assert sm.Chain.load(run).complete
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {f"run-{task}.jsonl" for task in (1, 2, 3)}


@pytest.mark.parametrize("notebook", sorted(path.name for path in EXAMPLES.glob("*.ipynb")))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Jupyter's own
def test_notebooks_run_on_the_packaged_sample(notebook, tmp_path):
    book = nbformat.read(EXAMPLES / notebook, as_version=4)
    said = [cell.get("outputs") for cell in book.cells]
    assert any(said), "it is committed with its outputs"
    with TemporaryDirectory() as folder:
        # Through sockets in a short folder: a port that is free may be taken before the kernel listens at it.
        sockets = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}, config=sockets).execute()
    assert [bool(cell.get("outputs")) for cell in book.cells] == [bool(outputs) for outputs in said]
