"""Numba's cache saves time and never causes an error, even if it is damaged or cannot be written."""

import importlib.util
import pickle
import resource
import shutil

import numba
import pytest

MODULE = """
from saematch.numeric.compiled import compiled

@compiled
def doubled(value):
    return value + value
"""


@pytest.fixture
def load(tmp_path):
    """Return the function of a module file as a new process sees it: not compiled yet."""
    file = tmp_path / "loops.py"
    file.write_text(MODULE)

    def load():
        spec = importlib.util.spec_from_file_location("loops", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.doubled

    function = load()
    assert [function(2), function(2.5)] == [4, 5.0]
    assert sum(function.stats.cache_misses.values()) == 2
    return load


def hits(load):
    """Return how many of the two signatures come from the cache, and check the results."""
    function = load()
    assert [function(2), function(2.5)] == [4, 5.0]
    return sum(function.stats.cache_hits.values())


def cached(tmp_path, kind):
    return sorted((tmp_path / "__pycache__").glob(f"*.{kind}"))


def test_the_second_process_compiles_nothing(load, tmp_path):
    assert len(cached(tmp_path, "nbi")) == 1
    assert len(cached(tmp_path, "nbc")) == 2
    assert hits(load) == 2


def header(content):
    return pickle.dumps(numba.__version__, protocol=-1) + pickle.dumps(content)


INDEXES = {
    "empty": lambda whole: b"",
    "cut short": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "noise": lambda whole: bytes(range(256)) * 8,
    "a number": lambda whole: header(5),
    "rubbish": lambda whole: header(("stamp", "rubbish", 3)),
    "unknown classes": lambda whole: b"\x80\x04cno.such.module\nName\n.",
    "nested": lambda whole: b"(" * 100_000,
}


@pytest.mark.parametrize("damage", INDEXES)
def test_a_damaged_index_is_begun_anew(load, tmp_path, damage):
    (index,) = cached(tmp_path, "nbi")
    index.write_bytes(INDEXES[damage](index.read_bytes()))
    assert hits(load) == 0
    assert hits(load) == 2


CODES = {
    "empty": lambda whole: b"",
    "cut short": lambda whole: whole[:100],
    "cut short at the end": lambda whole: whole[:-1],
    "zeros": lambda whole: bytes(len(whole)),
    "zeros in its middle": lambda whole: whole[:2000] + bytes(2000) + whole[4000:],
    "noise": lambda whole: bytes(range(256)) * 8,
    "a number": lambda whole: pickle.dumps(5),
    "rubbish": lambda whole: pickle.dumps(("hash", b"rubbish")),
}


@pytest.mark.parametrize("damage", CODES)
def test_damaged_code_is_compiled_again(load, tmp_path, damage):
    first, _ = cached(tmp_path, "nbc")
    content = first.read_bytes()
    assert len(content) > 4000
    first.write_bytes(CODES[damage](content))
    assert hits(load) < 2
    assert hits(load) == 2


def test_code_of_another_signature_is_not_run(load, tmp_path):
    """Two processes that write one index at the same time leave such a cache."""
    first, second = cached(tmp_path, "nbc")
    shutil.copy(second, first)
    assert hits(load) < 2
    assert hits(load) == 2


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_what_can_neither_be_read_nor_replaced_is_left_alone(load, tmp_path, kind):
    for file in cached(tmp_path, kind):
        file.unlink()
        file.mkdir()
        (file / "inside").touch()
    assert hits(load) == 0


def test_a_cache_that_cannot_be_written_is_no_cache(load, tmp_path):
    for file in [*cached(tmp_path, "nbi"), *cached(tmp_path, "nbc")]:
        file.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as a quota: a file cannot grow
    try:
        assert hits(load) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cached(tmp_path, "nbi") == []


def test_a_folder_that_is_gone_is_no_cache(load, tmp_path):
    function = load()
    shutil.rmtree(tmp_path / "__pycache__")
    (tmp_path / "__pycache__").write_text("a file in its place")
    assert [function(2), function(2.5)] == [4, 5.0]
