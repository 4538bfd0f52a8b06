"""Fixtures: the packaged sample, the real data if it is available, a browser, poisoned memory, and candidates."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: before anything imports one
# Read when torch is imported. Threads that wait for each other sleep: if they ran in a loop, they would keep other
# processes of tests from the processors for up to ten times as long as the tests themselves take.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
from hypothesis import settings

import saematch as sm
from browser import browser
from saematch.resources import available_memory, processors

# The same examples in every run, so that a check's verdict depends on the code alone.
# --hypothesis-profile=default searches further.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# The memory of a process of tests (1.6 GB have been measured) and of what it starts, such as a browser or a cluster.
PROCESS_BYTES = 3 * 2**30

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Return the number of processes of `--numprocesses auto`: one for each processor, if memory allows."""
    return max(1, min(processors(), available_memory() // PROCESS_BYTES))


@pytest.fixture(scope="module")
def opened():
    """Open the browser in which the tests of a file open pages."""
    with browser() as chromium:
        yield chromium


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Fill memory that the package allocates without values: with NaN, or with an index that is out of range."""
    empty = np.empty

    def poisoned(*args, **kwargs):
        array = empty(*args, **kwargs)
        array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).min // 2)
        return array

    for module in (
        "cost.base",
        "cost.bottleneck",
        "cost.distances",
        "cost.products",
        "cost.sides",
        "assignment.ties",
    ):  # a compiled loop keeps the numpy that it was compiled with
        monkeypatch.setattr(f"saematch.{module}.np", _Numpy(poisoned))


@pytest.fixture(autouse=True)
def candidates(request, monkeypatch):
    """Solve small problems by passes that list a few candidates, as large ones are, in tests marked `through_passes`.

    Otherwise all pairs of a small problem are candidates, so that no pass is needed. A module is marked by
    `pytestmark`; `@pytest.mark.through_passes(False)` exempts a test of such a module.
    """
    marker = request.node.get_closest_marker("through_passes")
    if marker is not None and marker.args != (False,):
        monkeypatch.setattr("saematch.assignment.column_generation.DENSE", 0)


class _Numpy:
    """The module numpy with another `empty`."""

    def __init__(self, empty):
        self.empty = empty

    def __getattr__(self, name):
        return getattr(np, name)


@pytest.fixture(scope="session")
def sample():
    return sm.load_layers("sample")


@pytest.fixture(scope="session")
def real_data():
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the real SAEs of ../shared are not next to this clone")
    return folder
