"""Run mypy on a copy of the tree in its installed layout, because mypy cannot follow an editable install."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

with tempfile.TemporaryDirectory() as copy:
    shutil.copytree(ROOT / "engine", Path(copy) / "saematch", ignore=shutil.ignore_patterns("sample"))
    shutil.copytree(ROOT / "kernels", Path(copy) / "saematch" / "kernels")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "saematch"]
    cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
    sys.exit(subprocess.run(command + cache, check=False, env={**os.environ, "MYPYPATH": copy}, cwd=copy).returncode)
