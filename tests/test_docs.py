"""The site is built with every warning as an error: links, anchors, and names in the reference."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saematch.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_the_pages_of_the_reference_are_current():
    command = [sys.executable, "docs/reference.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_and_door_has_its_reference(site):
    commands = (site / "commands" / "index.html").read_text()
    assert set(re.findall(r'<h2 id="saematch-(\w+)"', commands)) == set(COMMANDS)
    reference = (site / "python" / "index.html").read_text()
    for name in ("load_layers", "match", "Matching.margins", "Chain.path", "SAE.save"):
        assert f'id="saematch.{name}"' in reference


def test_nothing_of_a_page_comes_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]*)"', page.read_text())
        loaded += re.findall(r'<link[^>]* rel="(?:stylesheet|preload)"[^>]* href="(https?:[^"]*)"', page.read_text())
        assert loaded == [], page
