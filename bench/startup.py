"""Print the time from the start of each command to the first byte that it prints, the least of three starts.

Also print the time of the first matching after an installation, which compiles the loops that it needs, and of a later
one in another process: without imports, the least of three.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from saematch.cli.terminal import table

STARTS = 3
FIRST = """
import sys, time
import numpy as np
import saematch as sm
x, y = np.random.default_rng(0).standard_normal((2, int(sys.argv[1]), 64))
sm.assign
began = time.perf_counter()
sm.assign(x, y)
print(time.perf_counter() - began)
"""


def first_call(features: int, cache: str) -> float:
    """Return the seconds of the first matching of a process whose compiled loops are stored in the folder `cache`."""
    command = [sys.executable, "-c", FIRST, str(features)]
    done = subprocess.run(command, env=os.environ | {"NUMBA_CACHE_DIR": cache}, capture_output=True, check=True)
    return float(done.stdout)


with tempfile.TemporaryDirectory() as folder:
    run, csv = str(Path(folder) / "run"), str(Path(folder) / "features.csv")
    program = [sys.executable, "-m", "saematch"]
    subprocess.run([*program, "layers", "sample", "-o", run, "--quiet"], check=True)
    commands = {
        "show RUN": ["show", run],
        "top RUN": ["top", run],
        "top RUN --alike 10": ["top", run, "--alike", "10"],
        "path RUN": ["path", run, "--layer", "8", "--feature", "384"],
        "export RUN": ["export", run, "-o", csv, "--overwrite"],
        "info SOURCE": ["info", "sample"],
        "layers SOURCE": ["layers", "sample", "-o", f"{run}2", "--overwrite"],
        "--help": ["--help"],
    }
    rows = []
    for name, command in commands.items():
        seconds = []
        for _ in range(STARTS):
            began = time.perf_counter()
            with subprocess.Popen([*program, *command], stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.read(1)
                seconds.append(time.perf_counter() - began)
                process.stdout.read()
            assert process.returncode == 0, name
        rows.append([name, f"{min(seconds):.2f}"])
    print(table(("command", "seconds to the first byte"), rows))

rows = []
for features in (64, 4096):
    seconds = []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as cache:
            seconds.append((first_call(features, cache), first_call(features, cache)))
    rows.append([f"{features:,}", *(f"{min(times):.2f}" for times in zip(*seconds, strict=True))])
print(table(("features", "seconds of the first matching", "of the first one in a later process"), rows))
