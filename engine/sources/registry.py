"""The registry of public SAEs in an installed sae-lens: releases, where they are published, and their L0."""

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
# The places that loaders of sae-lens state themselves, because some repositories have no configuration that does.
_PLACES = {"mwhanna_transcoder": {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}}


class Registered(NamedTuple):
    """One SAE of a release.

    Attributes:
        release: the name of the release.
        id: the id of the SAE in the release.
        path: the path of the SAE in the repository of the release.
        l0: the mean number of active features.
        scale: the scale of the activations that the weights are for, if the files need a scale and do not say it.
        neuronpedia: the name of the SAE on Neuronpedia.
        overrides: values that replace those of the SAE's configuration.
        defaults: values of a configuration that its repository may lack.
    """

    release: str
    id: str
    path: str
    l0: float | None
    scale: float | None
    neuronpedia: str | None
    overrides: Mapping[str, Any]
    defaults: Mapping[str, Any] = {}


@functools.cache
def release(name: str) -> tuple[str, tuple[Registered, ...]]:
    """Return the repository of a release, and its SAEs.

    Raises:
        MatchError: if there is no such release; the message lists similar names.
    """
    entry = _table().get(name)
    if not isinstance(entry, dict):
        similar = difflib.get_close_matches(name, map(str, _table()), 4, 0.4)
        raise MatchError(
            f"saelens://{name}: sae-lens knows no such release; names like it: {', '.join(similar) or 'none'}"
        )
    # The registry of another version may have other keys, or values of other types.
    kinds = (KeyError, TypeError, ValueError, AttributeError)
    remedy = "it may be newer than the versions that are understood here"
    with refusals("what sae-lens says of it is not understood", f"saelens://{name}", *kinds, remedy=remedy):
        # Layers of a cross-layer transcoder have their number for a path. Loaders know places that files do not say.
        path_of = "W_enc_{}.safetensors" if entry.get("conversion_func") == "mntss_clt_layer_transcoder" else "{}"
        defaults = _PLACES.get(str(entry.get("conversion_func")), {})
        return str(entry["repo_id"]), tuple(
            Registered(
                release=name,
                id=str(sae["id"]),
                path=posixpath.normpath(path_of.format(sae["path"])),
                l0=_number(sae.get("l0")),
                scale=_number(sae.get("norm_scaling_factor")),
                neuronpedia=sae.get("neuronpedia"),
                overrides=dict(entry.get("config_overrides") or {}),
                defaults=defaults,
            )
            for sae in entry["saes"]
        )


def neuronpedia_names(repo: str, file: str) -> list[str]:
    """Return the names on Neuronpedia of the SAE in a file of a repository, as an installed sae-lens knows them."""
    releases = [] if find_spec("sae_lens") is None else _table().items()
    registered: list[Registered] = []
    for name, entry in releases:
        if isinstance(entry, dict) and entry.get("repo_id") == repo:
            with suppress(MatchError):  # a release that is not understood has no names
                registered += release(name)[1]
    of_file = [sae for sae in registered if file == sae.path or file.startswith(f"{sae.path}/")]
    return [sae.neuronpedia for sae in of_file if sae.neuronpedia is not None]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


@functools.cache
def _table() -> dict[str, Any]:
    """Read the registry: release -> its entry. Raises `MatchError`.

    It is read as a file: to import sae-lens, with all that it trains with, takes many seconds.
    """
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
        raise MatchError(f"{file}: holds no releases; this sae-lens is newer than the versions understood here")
    return table
