"""Pictures and links that the site has from elsewhere in the repository."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "paper"


def on_files(files: Files, config: Any) -> Files:
    """Pictures that pages show."""
    for picture in RESULTS.rglob("*.png"):
        name = f"results/{picture.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page whose links into the repository are links into the site."""
    return markdown.replace("../bench/results/paper/", "results/").replace("](docs/", "](")
