"""The pages of the reference, made from the commands' own help and from docstrings.

`python docs/reference.py` writes them, and fails with `--check` if one of them is not current. They are committed, so
that they can be read where the repository is shown.
"""

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import saematch
import saematch.dictionaries
from saematch.activations import procrustes
from saematch.analysis.export import export
from saematch.analysis.flow import Flow, LayerFlow, find_predecessors
from saematch.analysis.predecessors import Predecessors, predecessors_of
from saematch.cli.main import make_parser
from saematch.evaluation import evaluate
from saematch.report import write_report
from saematch.sources import Names

HERE = Path(__file__).parent
MARK = "<!-- Below this line, the page is made by `make reference`. -->\n"
PUBLIC = {
    **{f"saematch.{name}": getattr(saematch, name) for name in (
        "load", "load_layers", "SAE", "Map", "Space", "match", "assign", "certify", "Matching", "match_layers", "Chain",
        "Step", "Progress", "consistency", "Consistency",
    )},
    **{f"saematch.dictionaries.{name}": getattr(saematch.dictionaries, name) for name in (
        "PairConsistency", "NullModel", "ConsistencyProgress", "draw_figures", "compare_heads", "HeadComparison",
    )},
    "saematch.activations.procrustes": procrustes,
    "saematch.sources.Names": Names,
    "saematch.evaluation.evaluate": evaluate,
    "saematch.analysis.export.export": export,
    "saematch.analysis.flow.find_predecessors": find_predecessors,
    "saematch.analysis.flow.Flow": Flow,
    "saematch.analysis.flow.LayerFlow": LayerFlow,
    "saematch.analysis.predecessors.predecessors_of": predecessors_of,
    "saematch.analysis.predecessors.Predecessors": Predecessors,
    "saematch.report.write_report": write_report,
    "saematch.MatchError": saematch.MatchError,
    "saematch.NotCertified": saematch.NotCertified,
}  # fmt: skip
CONSTRUCTED = (saematch.SAE, saematch.Map, saematch.Chain)  # classes that users construct
SECTIONS = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises"}


def main() -> None:
    """Write the pages, or check that they are current."""
    pages = {"commands.md": commands(), "python.md": re.sub(r"\n{3,}", "\n\n", "\n".join(python())).rstrip() + "\n"}
    for name, made in pages.items():
        path = HERE / name
        head, _, current = path.read_text().partition(MARK)
        if current == made:
            continue
        if "--check" in sys.argv:
            sys.exit(f"{path} is not current: run `make reference`, and commit what it changes")
        path.write_text(head + MARK + made)


def commands() -> str:
    """Return the page of the commands, from their help."""
    (added,) = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    parts = []
    for name, parser in added.choices.items():
        given = [action.metavar or action.dest for action in parser._get_positional_actions()]
        usage = " ".join(["saematch", name, *given, "[options]"])
        parts.append(f"\n## saematch {name}\n\n{' '.join(parser.description.split())}\n\n```text\n{usage}\n```\n")
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if action.dest != "help"]
            if actions:
                parts.append(f"\n| {group.title} | |\n|---|---|\n" + "".join(map(_command_row, actions)))
    return "".join(parts)


def _command_row(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    names = [f"`{option}{value}`" for option in action.option_strings] or [f"`{action.metavar or action.dest}`"]
    help = str(action.help) % {"default": action.default}
    return f"| {', '.join(names)} | {_prose(help).replace('|', '&#124;')} |\n"


def python() -> Iterator[str]:
    """Yield the lines of the reference of all public names."""
    for name, value in PUBLIC.items():
        yield from _entry("##", name, value)
        if inspect.isclass(value):
            for member, defined in vars(value).items():
                if not member.startswith("_") and _function(defined) is not None and _function(defined).__doc__:
                    yield from _entry("###", f"{name}.{member}", defined)


def _entry(level: str, name: str, value: Any) -> Iterator[str]:
    function = value if inspect.isclass(value) else _function(value)
    yield from ("", f'<a id="{name}"></a>', "", f"{level} {name}", "")
    has_signature = value in CONSTRUCTED if inspect.isclass(value) else inspect.isroutine(value) or _is_method(value)
    if has_signature:
        yield from ("```python", _signature(name.rpartition(".")[2], function), "```", "")
    yield from _markdown(inspect.cleandoc(function.__doc__ or ""))


def _is_method(value: Any) -> bool:
    return isinstance(value, classmethod | staticmethod)


def _function(value: Any) -> Any:
    """Return the function behind a method or a property; None for anything else."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, cached_property):
        return value.func
    if _is_method(value):
        return value.__func__
    return value if inspect.isroutine(value) else None


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    shown = []
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind == parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        annotation = str(parameter.annotation).replace('"', "").replace("'", "")
        value = "..." if inspect.isroutine(parameter.default) else repr(parameter.default).replace("'", '"')
        default = "" if parameter.default is parameter.empty else f" = {value}"
        shown.append(f"{parameter.name}: {annotation}{default}")
    has_result = signature.return_annotation not in (signature.empty, "None")
    result = f" -> {signature.return_annotation}" if has_result else ""
    line = f"{name}({', '.join(shown)}){result}"
    return line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {each},\n" for each in shown) + f"){result}"


def _markdown(docstring: str) -> Iterator[str]:
    """Yield the lines of a docstring in Markdown."""
    for block in re.split(r"\n\n(?=\w+:\n    )", docstring):
        title, _, body = block.partition(":\n")
        if title == "Examples":
            yield from ("**Examples**", "", *_examples(textwrap.dedent(body)), "")
        elif title == "Returns":
            yield from (f"**Returns** {_prose(textwrap.dedent(body))}", "")
        elif title in SECTIONS:
            yield from (f"**{SECTIONS[title]}**", "", *_items(textwrap.dedent(body)), "")
        else:
            yield from (_prose(block), "")


def _items(body: str) -> Iterator[str]:
    """Yield a list of `name: text`, in which a text may go on in indented lines."""
    for line in body.splitlines():
        item = re.match(r"([*]{0,2}[\w, ]+): (.*)", line)
        yield f"- `{item[1]}`: {_prose(item[2])}" if item else _prose(line)


def _examples(body: str) -> Iterator[str]:
    """Yield examples, with prose between them outside of the fences."""
    for block in body.strip().split("\n\n"):
        yield from ("```pycon", block, "```", "") if block.startswith(">>>") else (_prose(block), "")


def _prose(text: str) -> str:
    """Return a text in which no "<" begins a tag of HTML, except in code."""
    parts = text.split("`")
    return "`".join(part if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(parts))


if __name__ == "__main__":
    main()
