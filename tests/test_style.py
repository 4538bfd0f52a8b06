"""The style of the text, as far as a program can judge it: see the house rules in CONTRIBUTING.md."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import saematch
import saematch.analysis.export
import saematch.dictionaries
import saematch.evaluation
import saematch.kernels
import saematch.report

ROOT = Path(__file__).parent.parent
SOURCES = [path for name in ("engine", "kernels") for path in sorted((ROOT / name).rglob("*.py"))]
TEXTS = [*SOURCES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Private words that the glossary has replaced.
PRIVATE = re.compile(
    r"\b(somebody|anybody|nobody|whoever|giants?|dear(er|est)?|strangers?'?|shelf|goes on|taken up|parted by|beside)\b",
    re.IGNORECASE,
)
VERBLESS = re.compile(r"(What(ever)?|Of|The same|Those|Whoever|See `)\b")
PUBLIC = {
    **{f"saematch.{name}": getattr(saematch, name) for name in saematch.__all__},
    **{f"evaluation.{name}": getattr(saematch.evaluation, name) for name in saematch.evaluation.__all__},
    **{f"dictionaries.{name}": getattr(saematch.dictionaries, name) for name in saematch.dictionaries.__all__},
    **{f"report.{name}": getattr(saematch.report, name) for name in saematch.report.__all__},
    **{f"kernels.{name}": getattr(saematch.kernels, name) for name in saematch.kernels.__all__},
    "analysis.export.export": saematch.analysis.export.export,
}


def docstrings(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_begin_with_a_sentence(path):
    for line, text in docstrings(path):
        assert not VERBLESS.match(text), f"{path}:{line}: {text.splitlines()[0]}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_words_are_the_fields(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = PRIVATE.search(line)
        assert not found, f"{path}:{number}: {found[0]!r}, see docs/glossary.md: {line.strip()}"


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isroutine(value)])
def test_a_public_function_has_an_example(name):
    if name == "evaluation.draw_all":
        name = "evaluation.evaluate"  # whose example draws, too: it takes seconds to evaluate
    assert ">>> " in (PUBLIC[name].__doc__ or "")


def is_table(node):
    """Return whether a statement is a table of data, or the launch of a kernel."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Subscript)
    value = getattr(node, "value", None)
    return isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Dict | ast.List | ast.Set | ast.Tuple)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_tables_and_launches_are_exempt_from_the_formatter(path):
    text = path.read_text()
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "# fmt: skip" in line]
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    for line in lines:
        assert any(node.end_lineno == line and is_table(node) for node in statements), f"{path}:{line}"
