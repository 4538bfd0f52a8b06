"""What the text of a source says: where SAEs are, which of them are meant, and how they are to be read.

path/to/folder                                        a file, a folder of layers, nested or flat
path/layer_{layer}/*/average_l0_{l0}?l0=near:100      a pattern, and which one of each layer is meant
hf://organisation/name@revision/path/in/{layer}       a repository of the Hugging Face Hub
saelens://release/id?width=16k                        what an installed sae-lens knows by this name
list.yaml                                             a list of such texts, or a mapping of layers to them
sample                                                the SAEs that ship with the package
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode

from saematch.errors import MatchError

READING = {
    "allow": "read what cannot be compared as it is: the name that its refusal gives",
    "family": "the format, where it is not recognised",
    "k": "of a TopK SAE whose files do not say it",
    "scale": "of the activations that the weights are for, relative to raw ones",
}
ALLOWABLE = (
    "attention", "batch-wise", "constant_norm_rescale", "covariance_whitening", "layer_norm", "neurons", "signed",
    "token-wise", "transcoder", "unknown_scale",
)  # fmt: skip
CHOOSING = {
    "layer": "layers, like 8-13 or 8,9",
    "l0": "one SAE a layer by its L0: a number or name, near:100, min or max",
    "width": "as the path says it, like 16k",
}
SAMPLE, HUB, REGISTRY = "sample", "hf://", "saelens://"
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_SPECIAL = re.compile(r"(\{[A-Za-z_]\w*\}|\*\*/?|\*)")


@dataclass(frozen=True)
class Address:
    """A source, taken apart: `where` it is, and its options by name."""

    where: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, source: str | os.PathLike[str]) -> Address:
        """A path that is there is taken as it is, whatever its letters. Raises `MatchError` for unknown options."""
        if not isinstance(source, str):
            return cls(os.path.join(os.curdir, source) if os.fspath(source) == SAMPLE else os.fspath(source), {})
        where, _, query = source.partition("?")
        if os.path.lexists(source) and where != SAMPLE:
            return cls(source, {})
        if os.path.lexists(source.rpartition("?")[0]):  # its name has a ? too
            where, _, query = source.rpartition("?")
        try:
            given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError as error:
            raise MatchError(f"{source}: after ? come options like l0=near:100&width=16k") from error
        options = dict(given)
        for name, times in Counter(name for name, _ in given).most_common(1):
            if times > 1:
                raise MatchError(f"{source}: the option {name} is given {times} times; give it once")
        if "://" in where and not where.startswith((HUB, REGISTRY)):
            raise MatchError(f"{source}: SAEs are read from paths, from {HUB}organisation/name and {REGISTRY}release")
        known = [*READING, *CHOOSING, *(["revision"] if where.startswith((HUB, REGISTRY)) else [])]
        known += [name for name in _PLACEHOLDER.findall(where) if name not in known]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise MatchError(f"{source}: there is no option {unknown[0]!r}; there are {', '.join(known)}")
        strange = [name for name in options.get("allow", ALLOWABLE[0]).split(",") if name not in ALLOWABLE]
        if strange:
            raise MatchError(f"{source}: allow={strange[0]} is not known; known are {', '.join(ALLOWABLE)}")
        return cls(where if "://" in where else os.path.expanduser(where), options)

    def __str__(self) -> str:
        return self.where + ("?" + urlencode(self.options, safe=":,/") if self.options else "")

    @property
    def reading(self) -> dict[str, str]:
        """The options that say how an SAE is to be read."""
        return {name: value for name, value in self.options.items() if name in READING}

    @property
    def choosing(self) -> dict[str, str]:
        """The options that say which SAEs are meant."""
        return {name: value for name, value in self.options.items() if name not in READING and name != "revision"}

    def split(self) -> tuple[Path, str]:
        """The folder that a local path begins with, and the pattern below it; "" where it has none."""
        parts = Path(self.where).parts
        plain = next((at for at, part in enumerate(parts) if _SPECIAL.search(part)), len(parts))
        if os.path.lexists(self.where):
            plain = len(parts)
        return Path(*parts[:plain]), "/".join(parts[plain:])

    def matcher(self, pattern: str) -> re.Pattern[str]:
        """That of a pattern of this address; what is no path may have letters of names escaped."""
        return matcher(pattern, unquote if self.where.startswith((HUB, REGISTRY)) else str)

    def repository(self) -> tuple[str, str | None, str]:
        """Of a `hf://` address: the repository, its revision if one is given, and the pattern. Raises `MatchError`."""
        found = re.fullmatch(r"([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?", self.where.removeprefix(HUB))
        if found is None:
            raise MatchError(f"{self}: expected hf://organisation/name, and a path in it if you like")
        revision = self.options.get("revision")
        if found[2] and revision not in (None, found[2]):
            raise MatchError(f"{self}: two revisions, {found[2]} and {revision}; give one")
        return found[1], found[2] or revision, re.sub("/+", "/", found[3] or "").strip("/")


def escaped(name: str) -> str:
    """A name as an address has it, where it would be a pattern, end before its options or break the line."""
    return re.sub(r"[%?*{}\x00-\x1f\x7f]", lambda letter: f"%{ord(letter[0]):02X}", name)


def matcher(pattern: str, plain: Callable[[str], str] = str) -> re.Pattern[str]:
    """What the names of files match that are meant by a pattern, or lie in a folder that is (then `below` is not None).

    `*` stands for letters within a name, `**` for any folders, `{layer}` for a number and `{anything}` for a name; a
    placeholder that comes twice is the same both times. `plain` says what the rest stands for: `unquote` in an address.
    """
    made, seen = "", set()
    for part in _SPECIAL.split(pattern):
        placeholder = _PLACEHOLDER.fullmatch(part)
        if placeholder:
            name = placeholder[1]
            made += f"(?P={name})" if name in seen else f"(?P<{name}>{r'[0-9]+' if name == 'layer' else '[^/]+'})"
            seen.add(name)
        else:
            made += {"*": "[^/]*", "**": ".*", "**/": "(?:.*/)?"}.get(part, re.escape(plain(part)))
    return re.compile(f"{made}(?P<below>/.*)?" if pattern else "(?P<below>.*)", re.DOTALL)
