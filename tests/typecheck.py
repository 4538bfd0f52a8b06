"""mypy over an installed copy: it cannot see packages through an editable install of this shape."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

with tempfile.TemporaryDirectory() as copy:
    install = ["pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, "-m", *install, "--target", copy, str(ROOT)], check=True)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "saematch"]
    cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
    sys.exit(subprocess.run(command + cache, check=False, env={**os.environ, "MYPYPATH": copy}, cwd=copy).returncode)
