"""Explanations of the features of a run, from files of one's own or from Neuronpedia's exports."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from saematch.errors import MatchError
from saematch.evaluation.explanation_files import find_files, read_file
from saematch.options import Side
from saematch.runs.chain import Chain
from saematch.runs.labels import TextsByLayer, check_features, features_of
from saematch.storage.folders import local_path
from saematch.text import listing


class Explanations(NamedTuple):
    """Explanations for the features of a run.

    Attributes:
        texts: layer -> feature -> explanation.
        sources: layer -> the name on Neuronpedia of the SAE whose features are explained, for lines that name one.
        skipped: the number of files in which no line is an explanation.
    """

    texts: TextsByLayer
    sources: dict[int, str]
    skipped: int

    @property
    def about(self) -> list[str]:
        """Remarks: the sources of the explanations, and the number of files that were skipped."""
        remarks = []
        if self.sources:
            remarks.append(f"explanations are of {listing(sorted(set(self.sources.values())))}")
        if self.skipped:
            remarks.append(f"files skipped, because none of their lines is an explanation: {self.skipped}")
        return remarks


def read_explanations(
    path: str | os.PathLike[str], source: str | None = None, layers: Collection[int] | None = None
) -> TextsByLayer:
    """Read explanations from a `.jsonl`, `.jsonl.gz` or `labels.json` file, or from a folder of such files.

    A line is `{"layer": 8, "feature": 17, "explanation": "…"}` or, as in Neuronpedia's exports, `{"modelId":
    "gemma-2-2b", "layer": "8-gemmascope-res-16k", "index": "17", "description": "…"}`. If a feature has several
    explanations, the first is used. The content of a `labels.json` is `{"layer": 8, "features": [{"feature": 17,
    "tokens": ["May", "June"]}]}`; without `"layer"`, its path names the layer, as in `layer_8/labels.json`. In a folder
    of exports, the files in folders whose name starts with `explanations` are read; in other folders, files in which
    no line is an explanation are skipped.

    Args:
        path: the file or folder.
        source: the name on Neuronpedia of the SAEs, if there are explanations for several SAEs of a layer, for example
            `"gemma-2-2b/{layer}-gemmascope-res-16k"`.
        layers: the layers to read; all by default.

    Returns:
        Layer -> feature -> explanation.

    Raises:
        MatchError: if there are no explanations, if only some lines of a file are explanations, or if a layer has
            explanations of several sources and `source` does not choose one.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("labels.jsonl").write_text('{"layer": 8, "feature": 17, "explanation": "names of months"}')
        >>> read_explanations("labels.jsonl")
        {8: {17: 'names of months'}}
    """
    return _read(path, layers, source, {}).texts


def explanations_of(
    chain: Chain, path: str | os.PathLike[str], source: str | None = None, side: Side = Side.SOURCE
) -> Explanations:
    """Read the explanations for the features of a run.

    Args:
        chain: the run.
        path: the file or folder, see `read_explanations`.
        source: the name on Neuronpedia of the SAEs; by default, the name that an installed sae-lens knows for them.
        side: for a run of two sets of SAEs, the set whose features are explained.

    Raises:
        MatchError: as `read_explanations`, and if the explanations are not for the features of the run.
    """
    if chain.names.names:
        raise MatchError(
            f"{path}: explanations in files are for layers, and the SAEs of this run have names; put a labels.json "
            "next to each SAE, or give Chain.labelled a mapping of names to labels"
        )
    known = _known_sources(chain, side) if source is None else {}
    explanations = _read(path, features_of(chain, side), source, known)
    check_features(explanations.texts, chain, str(path), side)
    return explanations


def _read(
    path: str | os.PathLike[str], layers: Collection[int] | None, source: str | None, known: Mapping[int, Sequence[str]]
) -> Explanations:
    """Read the explanations for some layers.

    Args:
        path: the file or folder.
        layers: the layers; None for all.
        source: the source to use, with `{layer}`; None for any.
        known: layer -> the sources to use if `source` is None; a layer that is missing may have any.

    Raises:
        MatchError: see `read_explanations`.
    """
    all_layers, skipped = _read_all(path)
    wanted_layers = {layer: sources for layer, sources in all_layers.items() if layers is None or layer in layers}
    # Choose one source for each layer. Lines without a source complement it.
    texts, sources = TextsByLayer(), dict[int, str]()
    without_source = []
    for layer, by_source in wanted_layers.items():
        wanted = _named(source, layer) or known.get(layer, ())
        chosen = _chosen(str(path), layer, [name for name in by_source if name], wanted)
        if chosen is None:
            without_source.append(layer)
            if source is None:
                raise _other_source(path, layer, by_source, f"its SAE is {listing(wanted)}")
        if chosen:
            sources[layer] = chosen
        of_layer = {**by_source.get(chosen or "", {}), **by_source.get("", {})}
        if of_layer:
            texts[layer] = of_layer
    # Some layers may lack explanations of the source that was asked for, but not all layers.
    if without_source and not sources:
        first = without_source[0]
        raise _other_source(path, first, wanted_layers[first], f"{source} is asked for")
    if not texts:
        found_layers = listing(map(str, sorted(all_layers)))
        raise MatchError(f"{path}: explanations for layers {found_layers}, none of which the run has")
    return Explanations(texts, sources, skipped)


def _read_all(path: str | os.PathLike[str]) -> tuple[dict[int, dict[str, dict[int, str]]], int]:
    """Return layer -> source -> feature -> the first explanation that is not empty, and the number of skipped files."""
    root = local_path(path)
    files, skipped = find_files(root, str(path))
    by_layer: dict[int, dict[str, dict[int, str]]] = {}
    for file in files:
        explanations = read_file(file, root)
        skipped += explanations is None
        for layer, name, feature, text in explanations or ():
            if text:
                by_layer.setdefault(layer, {}).setdefault(name, {}).setdefault(feature, text)
    if not by_layer:
        without = f" (files without one: {skipped})" if skipped else ""
        raise MatchError(
            f"{path}: no explanations there{without}; expected .jsonl, .jsonl.gz or labels.json, or a folder of such "
            "files"
        )
    return by_layer, skipped


def _chosen(shown: str, layer: int, names: list[str], wanted: Sequence[str]) -> str | None:
    """Return the source of a layer whose explanations are used.

    Args:
        shown: the file or folder, for messages.
        layer: the layer.
        names: the sources of the layer's explanations.
        wanted: the sources that may be used; any if there are none.

    Returns:
        The name of the source, "" if there are no names, or None if none of the names is wanted.

    Raises:
        MatchError: if several sources may be used.
    """
    possible = [name for name in names if not wanted or any(_is_same_source(name, other) for other in wanted)]
    if len(possible) > 1:
        raise MatchError(
            f"{shown}: explanations of {len(possible)} sources for layer {layer}: {listing(possible)}; choose one: "
            f"{_how_to_choose(layer, possible[0])}"
        )
    return possible[0] if possible else (None if names else "")


def _other_source(path: str | os.PathLike[str], layer: int, names: Collection[str], why: str) -> MatchError:
    """Return the error for a layer whose explanations are all of sources that are not wanted."""
    named = [name for name in names if name]
    return MatchError(
        f"{path}: the explanations for layer {layer} are of {listing(named)}, and {why}; to use them "
        f"nevertheless, give {_how_to_choose(layer, named[0])}"
    )


def _how_to_choose(layer: int, name: str) -> str:
    pattern = re.sub(rf"(^|/){layer}(?=-|$)", r"\1{layer}", name)
    return f"source='{pattern}'"


def _named(source: str | None, layer: int) -> Sequence[str]:
    return () if source is None else (source.replace("{layer}", str(layer)),)


def _is_same_source(name: str, other: str) -> bool:
    """Return whether two names are of the same source, if one of them may lack the model."""
    both_have_model = "/" in name and "/" in other
    return name == other if both_have_model else name.rpartition("/")[2] == other.rpartition("/")[2]


def _known_sources(chain: Chain, side: Side) -> dict[int, Sequence[str]]:
    """Return the names on Neuronpedia of the SAEs of a run, as far as an installed sae-lens knows them."""
    try:
        return {layer: handle.neuronpedia_names() for layer, handle in chain.inputs(side).handles.items()}
    except (MatchError, OSError):
        return {}  # SAEs that are missing have no known names
