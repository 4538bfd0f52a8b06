"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import saematch

FINDER = doctest.DocTestFinder()
MODULES = sorted(
    each.name for each in pkgutil.walk_packages(saematch.__path__, "saematch.") if "__main__" not in each.name
)


def examples():
    """Every docstring with an example, under the name of what it describes."""
    for name in MODULES:
        if name.startswith("saematch.kernels.") and name.endswith(("kernel", "cost_tile")):
            continue  # Triton's functions are no Python functions
        for found in FINDER.find(importlib.import_module(name)):
            if found.examples:
                yield pytest.param(found, id=found.name.removeprefix("saematch."))


@pytest.mark.usefixtures("dense_route")  # as for users
@pytest.mark.parametrize("example", list(examples()))
def test_an_example_prints_what_it_says(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=said.append)
    assert not runner.failures, "".join(said)
