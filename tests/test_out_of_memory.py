"""Errors of too little memory are recognised for every library: no file is blamed, and only the pair fails."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saematch.errors import MatchError, about_memory, is_out_of_memory, refuse_out_of_memory

pytestmark = pytest.mark.through_passes

TRIED = """
import ctypes, json, mmap, resource, sys, tempfile
import numpy as np, torch, numba
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import save_file
from saematch.errors import is_out_of_memory
torch.set_num_threads(1)
size = 2**27
folder = Path(sys.argv[1])
np.save(folder / "a.npy", np.zeros(size // 8))
torch.save({"a": torch.zeros(size // 4)}, folder / "a.pt")
save_file({"a": torch.zeros(size // 4)}, folder / "a.safetensors")
@numba.njit
def compiled(n):
    return np.ones(n).sum()
compiled(3)
opened = safe_open(folder / "a.safetensors", framework="pt")
_ = np.load(folder / "a.npy", mmap_mode="r"), torch.load(folder / "a.pt", mmap=True)  # what these import is there
tries = {
    "python": lambda: bytearray(size),
    "numpy": lambda: np.ones(size // 8),
    "torch": lambda: torch.zeros(size // 4),
    "torch, widened": lambda: torch.zeros(1).expand(size // 8).double(),
    "numba": lambda: compiled(size // 8),
    "mmap": lambda: mmap.mmap(-1, size),
    "numpy, file": lambda: np.load(folder / "a.npy"),
    "numpy, mapped file": lambda: np.load(folder / "a.npy", mmap_mode="r"),
    "torch, file": lambda: torch.load(folder / "a.pt"),
    "torch, mapped file": lambda: torch.load(folder / "a.pt", mmap=True),
    "safetensors": lambda: safe_open(folder / "a.safetensors", framework="pt"),
    "safetensors, slice": lambda: opened.get_slice("a")[:].double(),
}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
said = {}
for name, tried in tries.items():
    try:
        tried()
        said[name] = "there was memory"
    except BaseException as error:
        said[name] = True if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""

READ = """
import json, resource, sys
from pathlib import Path
import numpy as np, torch, saematch as sm
from saematch.cli.main import main
torch.set_num_threads(1)
folder, said = Path(sys.argv[1]), {}
files = {each.name: sm.load_layers(each) for each in sorted(folder.iterdir())}
for layers in files.values():
    layers[0]  # what this imports is there
sm.assign(np.eye(3), np.eye(3))
def limit(room):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY) if room else (-1, -1))
for name, layers in files.items():
    for room in range(1, 60, 5):
        limit(room * 2**20)
        try:
            layers[0]
            what = "read"
        except MemoryError:
            what = "no memory"
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
        limit(0)
        said.setdefault(name, {}).setdefault(what, 0)
        said[name][what] += 1
small = sm.SAE(torch.rand(3, 5), torch.rand(5), torch.rand(5, 3), torch.rand(3))
class Layers(dict):  # in which a layer is read when it is asked for
    def __getitem__(self, layer):
        return files["npz"][0] if layer == 1 and self.limited else small
    limited = False
layers = Layers.fromkeys(range(4))
news = []
def told(event):
    news.append(event.stage)
    if event.stage == "start":
        layers.limited = True
        limit(24 * 2**20)  # an SAE does not fit in
chain = sm.match_layers(layers, fold="none", progress=told)
limit(0)
limit(8 * 2**20)
code = main(["match", str(folder / "npz"), str(folder / "npz"), "--fold", "none"])
print(json.dumps([said, [list(pair) for pair in chain], {str(k): v for k, v in chain.failures.items()}, code]))
"""


def run(code, folder):
    # Without memory that the C library keeps for later: what is free and still mapped would escape the limits.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_every_library_that_runs_out_of_memory_is_understood(tmp_path):
    said, _ = run(TRIED, tmp_path)
    assert said == dict.fromkeys(said, True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_the_words_of_other_versions_and_machines_are_understood(error):
    assert is_out_of_memory(error)
    with pytest.raises(MemoryError, match=r"^not enough memory for the file \(.+\)$") as raised:
        refuse_out_of_memory(error, "the file")
    assert about_memory(raised.value) == str(raised.value)
    assert about_memory(error) == f"not enough memory ({error})"


@pytest.mark.parametrize(
    "error",
    [
        MatchError("/data/out of memory/params.npz: cannot be read"),
        ValueError("Cannot allocate memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("size mismatch, got input (3), mat (3x4)"),
    ],
)
def test_nothing_else_is_taken_for_it(error):
    assert not is_out_of_memory(error)
    refuse_out_of_memory(error, "the file")


@pytest.fixture
def files(tmp_path):
    """Write SAEs of 34 MB in float32, in three formats."""
    d, F = 256, 16_384
    W_enc, W_dec, b_enc, b_dec = torch.ones(d, F), torch.ones(F, d), torch.ones(F), torch.ones(d)
    for name in ("npz", "safetensors", "pt"):
        (tmp_path / name / "layer_0").mkdir(parents=True)
    gemma = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec, "threshold": b_enc}
    np.savez(tmp_path / "npz/layer_0/params.npz", **{name: each.numpy() for name, each in gemma.items()})
    halves = {name: each.bfloat16() for name, each in gemma.items()}
    save_file(halves, tmp_path / "safetensors/layer_0/sae_weights.safetensors")
    config = {"architecture": "jumprelu", "d_in": d, "d_sae": F, "hook_name": "blocks.0.hook_resid_post"}
    (tmp_path / "safetensors/layer_0/cfg.json").write_text(json.dumps(config))
    dictionary = {"encoder.weight": W_enc.T, "encoder.bias": b_enc, "decoder.weight": W_dec.T, "bias": b_dec}
    torch.save({name: each.contiguous() for name, each in dictionary.items()}, tmp_path / "pt/layer_0/ae.pt")
    return Path(tmp_path)


def test_no_file_is_blamed_and_a_run_loses_the_pairs_alone(files):
    (said, pairs, failures, code), stderr = run(READ, files)
    for name in ("npz", "safetensors", "pt"):
        assert set(said[name]) <= {"read", "no memory"}, name
        assert said[name]["no memory"] > 0, name
    assert pairs == [[2, 3]]
    assert set(failures) == {"(0, 1)", "(1, 2)"}
    assert all(reason.startswith("not enough memory for ") for reason in failures.values())
    assert code == 2
    assert "not enough memory for" in stderr
    assert "params.npz" in stderr
    assert "truncated" not in stderr


def test_compiled_loops_are_refused_where_their_libraries_would_wait_for_memory_for_ever():
    code = """
import resource, sys
from pathlib import Path
import numba, numpy, torch
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 40 * 2**20, resource.RLIM_INFINITY))
try:
    import saematch.numeric.compiled
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not enough memory for the compiled loops: ")
