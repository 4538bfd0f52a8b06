"""The examples in docstrings run, and print the output that they show."""

import doctest
import importlib
import pkgutil

import pytest

import saematch
import saematch.kernels

FINDER = doctest.DocTestFinder()
# An editable installation keeps kernels/ apart from the other packages.
PATHS = {"saematch.": saematch.__path__, "saematch.kernels.": saematch.kernels.__path__}
MODULES = sorted(
    {
        module.name
        for prefix, path in PATHS.items()
        for module in pkgutil.walk_packages(path, prefix)
        if not module.name.endswith(("__main__", ".kernel", ".cost_tile"))  # Triton's functions are not Python's
    }
)


def examples():
    """Yield every docstring with an example, with the name of the object that it describes."""
    for name in MODULES:
        for found in FINDER.find(importlib.import_module(name)):
            if found.examples:
                yield pytest.param(found, id=found.name.removeprefix("saematch."))


@pytest.mark.parametrize("example", list(examples()))
def test_an_example_prints_what_it_says(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=said.append)
    assert not runner.failures, "".join(said)
