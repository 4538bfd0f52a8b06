"""Print the time from the start of each command to the first byte that it prints, the least of three starts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from saematch.cli.terminal import table

STARTS = 3

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
