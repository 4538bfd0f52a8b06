"""What an installed sae-lens knows of public SAEs: releases, where they are published, their L0."""

from __future__ import annotations

import difflib
import functools
import posixpath
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from saematch.errors import MatchError, refusals

_FILE = "pretrained_saes.yaml"


class Registered(NamedTuple):
    """One SAE of a release: its id, its path in the repository, what else is known of it.

    `scale` is that of the activations it is for, where files need one and do not say it; `overrides` take the place of
    what its configuration says.
    """

    release: str
    id: str
    path: str
    l0: float | None
    scale: float | None
    neuronpedia: str | None
    overrides: Mapping[str, Any]


@functools.cache
def release(name: str) -> tuple[str, tuple[Registered, ...]]:
    """The repository of a release, and its SAEs. Raises `MatchError`, with names that are close, if there is none."""
    found = _table().get(name)
    if not isinstance(found, dict):
        close = difflib.get_close_matches(name, map(str, _table()), 4, 0.4)
        raise MatchError(
            f"saelens://{name}: sae-lens knows no such release; names like it: {', '.join(close) or 'none'}"
        )
    not_understood = refusals(
        "what sae-lens says of it is not understood",
        f"saelens://{name}",
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        remedy="it may be newer than what is known of it here",
    )
    with not_understood:
        return str(found["repo_id"]), tuple(
            Registered(
                release=name,
                id=str(each["id"]),
                path=posixpath.normpath(str(each["path"])),
                l0=_number(each.get("l0")),
                scale=_number(each.get("norm_scaling_factor")),
                neuronpedia=each.get("neuronpedia"),
                overrides=dict(found.get("config_overrides") or {}),
            )
            for each in found["saes"]
        )


def neuronpedia_names(repo: str, file: str) -> list[str]:
    """All that Neuronpedia calls the SAE in a file of a repository, as far as an installed sae-lens knows it."""
    releases = [] if find_spec("sae_lens") is None else _table().items()
    listed: list[Registered] = []
    for name, found in releases:
        if isinstance(found, dict) and found.get("repo_id") == repo:
            with suppress(MatchError):  # a release that is not understood says nothing
                listed += release(name)[1]
    here = [each for each in listed if file == each.path or file.startswith(f"{each.path}/")]
    return [each.neuronpedia for each in here if each.neuronpedia is not None]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


@functools.cache
def _table() -> dict[str, Any]:
    """Read as a file: importing sae-lens, with all that it trains with, takes many seconds."""
    spec = find_spec("sae_lens")
    if spec is None or spec.origin is None:
        raise MatchError("saelens:// asks sae-lens, which is not installed: pip install 'saematch[saelens]'")
    file = Path(spec.origin).with_name(_FILE)
    with (
        refusals("cannot be read", file, OSError, ValueError, yaml.YAMLError, remedy="install sae-lens again"),
        file.open(encoding="utf-8") as text,
    ):
        table = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(table, dict):
        raise MatchError(f"{file}: holds no releases; this sae-lens is newer than what is known of it here")
    return table
