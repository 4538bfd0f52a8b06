"""A forked process has no threads of its parent: it works with one thread, and waits for no other."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.through_passes

COMMON = """
import multiprocessing, os, signal, sys, threading
from concurrent.futures import ProcessPoolExecutor
import numpy as np, torch
import saematch as sm
torch.set_num_threads(2)

def matched(seed):
    signal.alarm(100)  # ends a process that waits for ever
    r = np.random.default_rng(seed)
    assert sm.assign(r.standard_normal((1200, 64)), r.standard_normal((1200, 64))).status == "optimal"
    assert seed == 0 or torch.get_num_threads() == 1
    return seed

def other_doors():
    signal.alarm(100)
    layers = sm.load_layers("sample")
    sae = sm.load("sample?layer=8")
    sae.decode(sae.encode(torch.ones(500, sae.d)))
    sae.fold().check_finite()
    chain = sm.match_layers({8: layers[8], 9: layers[9], 10: layers[10]})
    assert len(chain) == 2 and not chain.failures
    assert float(chain[8, 9].margins().bound.min()) >= 0

def in_child(function, *arguments):
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]
"""

WAYS = {
    "os.fork": "matched(0); print(in_child(matched, 1))",
    "every door": "matched(0); print(in_child(other_doors))",
    "more threads asked for": "matched(0); print(in_child(lambda: torch.set_num_threads(2) or matched(0)))",
    "a fork of a fork": "matched(0); print(in_child(lambda: os._exit(in_child(matched, 1))))",
    "multiprocessing": """
matched(0)
context = multiprocessing.get_context("fork")
with context.Pool(2) as pool, ProcessPoolExecutor(1, mp_context=context) as executor:
    print(sum(pool.map(matched, [1, 2])) + executor.submit(matched, 3).result() - 6)""",
    "torch alone in the parent": """
x = torch.ones(2000, 2000)
x @ x
print(in_child(matched, 1))""",
    "a fork while a thread compiles": """
from numba.core.compiler_lock import global_compiler_lock
from saematch.numeric.compiled import compiled
compiled(lambda x: np.linalg.inv(x))(np.eye(3))  # a module that a thread imports would be locked in the child
compiles = threading.Thread(target=lambda: compiled(lambda x: x + np.linalg.norm(np.linalg.inv(x)))(np.eye(3)))
compiles.start()
while compiles.is_alive() and global_compiler_lock._lock.acquire(blocking=False):  # until the thread holds it
    global_compiler_lock._lock.release()
def compile_too():
    signal.alarm(100)
    compiled(lambda x: x + 1)(2)
print(in_child(compile_too))
compiles.join()""",
}


def test_a_fork_that_imports_the_package_first_works_with_one_thread(tmp_path):
    program = """
import os, signal, torch
x = torch.ones(2000, 2000)
x @ x
child = os.fork()
if child == 0:
    signal.alarm(100)
    import numpy as np, saematch as sm
    r = np.random.default_rng(0)
    sm.assign(r.standard_normal((1200, 64)), r.standard_normal((1200, 64)))
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="no other system says that a process is a fork")
def test_a_program_of_its_own_is_no_fork():
    import saematch

    assert saematch._forked_before is False


@pytest.mark.parametrize("way", WAYS)
def test_a_fork_works_with_one_thread_and_comes_back(way, tmp_path):
    file = tmp_path / "program.py"
    file.write_text(f"{COMMON}\n{WAYS[way]}\n")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
