"""Labels of features: the tokens that each feature fires on, from a `labels.json` next to the weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from saematch.errors import MatchError, refusals
from saematch.storage.jsonfile import read_json

_MOST_BYTES = 64 * 2**20
_EXPECTED = 'expected {"features": [{"feature": 0, "tokens": ["…"]}, …]}'
_log = logging.getLogger(__name__)


def read_labels(path: Path, shown: str, features: int) -> dict[int, str]:
    """Read feature -> label; a label lists the tokens of the feature, separated by commas.

    Labels of features that the SAE does not have are left out with a warning in the log.

    Args:
        path: the file.
        shown: the name of the file in messages.
        features: the number of features of the SAE.

    Raises:
        MatchError: if the file cannot be read, or has another content.
    """
    labels, _ = read_all_labels(path, shown)
    outside = [feature for feature in labels if not 0 <= feature < features]
    if outside:
        _log.warning(
            "%s: %d of %d labels are of features that the SAE does not have, the first of feature %d of %d: they are "
            "left out",
            shown,
            len(outside),
            len(labels),
            outside[0],
            features,
        )
    return {feature: label for feature, label in labels.items() if label and 0 <= feature < features}


def read_all_labels(path: Path, shown: str) -> tuple[dict[int, str], Any]:
    """Read feature -> label, "" for a feature without tokens, and the number of the layer, None if the file has none.

    Raises:
        MatchError: if the file cannot be read, or has another content.
    """
    with refusals(_EXPECTED, shown, TypeError, KeyError, ValueError, OverflowError):
        content = read_json(path, shown, _MOST_BYTES)
        if not isinstance(content, dict) or not isinstance(content.get("features"), list):
            raise MatchError(f'{shown}: {_EXPECTED}, and there is no list "features" in it')
        tokens = {int(row["feature"]): row["tokens"] for row in content["features"]}
        if not all(isinstance(listed, list) for listed in tokens.values()):
            raise TypeError("tokens is not a list")
    return {feature: ", ".join(map(str, listed)) for feature, listed in tokens.items()}, content.get("layer")
