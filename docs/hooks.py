"""What the site has from elsewhere in the repository: the commands' own help, and the pictures of measurements."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from saematch.cli.main import make_parser

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "paper"


def on_startup(**_: Any) -> None:
    """The package as it is laid out when it is installed, for the reference to be read from."""
    tree = ROOT / "build" / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT / "engine", tree / "saematch", ignore=shutil.ignore_patterns("sample", "assets"))
    shutil.copytree(ROOT / "kernels", tree / "saematch" / "kernels")


def on_files(files: Files, config: Any) -> Files:
    """Pictures that pages show."""
    for picture in RESULTS.rglob("*.png"):
        name = f"results/{picture.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links into the repository become links into the site; the help of every command stands where it is asked for."""
    markdown = markdown.replace("../bench/results/paper/", "results/").replace("](docs/", "](")
    return markdown.replace("{commands}", _commands()) if "{commands}" in markdown else markdown


def _commands() -> str:
    whole = make_parser()
    (added,) = [action for action in whole._actions if isinstance(action, argparse._SubParsersAction)]
    parts = []
    for name, command in added.choices.items():
        command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        parts.append(f"## saematch {name}\n\n```text\n{command.format_help()}```\n")
    return "\n".join(parts)
