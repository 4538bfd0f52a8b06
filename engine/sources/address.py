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
_PLACEHOLDER = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}")
_SPECIAL = re.compile(r"(\{[A-Za-z][A-Za-z0-9_]*\}|\*\*/?|\*)")
_BELOW = "_below"  # no placeholder is called that
_MOST_WILD, _MOST_DEEP = 3, 2  # in one name, and ** in all: with more, a name that does not match may take for ever


@dataclass(frozen=True)
class Address:
    """A source, taken apart: `where` it is, and its options by name."""

    where: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, source: str | os.PathLike[str]) -> Address:
        """A path that is there is taken as it is, whatever its letters. Raises `MatchError` for unknown options."""
        if not isinstance(source, str):
            path = os.fspath(source) if os.path.lexists(source) else os.path.expanduser(source)
            return cls(os.path.join(os.curdir, path) if path == SAMPLE else path, {})
        if not os.path.lexists(source):
            source = at_home(source)
        if os.path.lexists(source) and source != SAMPLE:
            return cls(source, {})
        if not source.partition("?")[0]:
            raise MatchError(f"{source!r}: names no file, folder or address")
        at = _options_begin(source)
        where, options = source[:at], _options(source, source[at + 1 :])
        found = cls(where, options)
        found._check(source)
        return found

    def _check(self, source: str) -> None:
        """Raise `MatchError` for options that mean nothing here."""
        if "://" in self.where and not self._is_remote:
            raise MatchError(f"{source}: SAEs are read from paths, from {HUB}organisation/name and {REGISTRY}release")
        placeholders = _PLACEHOLDER.findall(self.where if self._is_remote else self.split()[1])
        known = [*READING, *CHOOSING, *(["revision"] if self._is_remote else [])]
        taken = [name for name in placeholders if name in (*READING, "revision")]
        if taken:
            raise MatchError(
                f"{source}: ?{taken[0]}= says how to read; give the placeholder {{{taken[0]}}} another name"
            )
        known += [name for name in placeholders if name not in known]
        unknown = [name for name in self.options if name not in known]
        if unknown:
            raise MatchError(f"{source}: there is no option {unknown[0]!r}; there are {', '.join(known)}")
        strange = [name for name in self.options.get("allow", ALLOWABLE[0]).split(",") if name not in ALLOWABLE]
        if strange:
            raise MatchError(f"{source}: allow={strange[0]} is not known; known are {', '.join(ALLOWABLE)}")

    @property
    def _is_remote(self) -> bool:
        return self.where.startswith((HUB, REGISTRY))

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
        there = next(at for at in range(len(parts), -1, -1) if at == 0 or os.path.lexists(Path(*parts[:at])))
        plain = next((at for at in range(there, len(parts)) if _SPECIAL.search(parts[at])), len(parts))
        return Path(*parts[:plain]), "/".join(parts[plain:])

    def matcher(self, pattern: str) -> re.Pattern[str]:
        """That of a pattern of this address; what is no path may have letters of names escaped."""
        return matcher(pattern, unquote if self._is_remote else str)

    def repository(self) -> tuple[str, str | None, str]:
        """Of a `hf://` address: the repository, its revision if one is given, and the pattern. Raises `MatchError`."""
        found = re.fullmatch(r"([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?", self.where.removeprefix(HUB))
        if found is None:
            raise MatchError(f"{self}: expected hf://organisation/name, and a path in it if you like")
        revision = self.options.get("revision")
        if found[2] and revision not in (None, found[2]):
            raise MatchError(f"{self}: two revisions, {found[2]} and {revision}; give one")
        return found[1], found[2] or revision, re.sub("/+", "/", found[3] or "").strip("/")


def at_home(source: str) -> str:
    """An address with `~` and `~user` expanded, where it begins with them."""
    path, mark, options = source.partition("?")
    return os.path.expanduser(path) + mark + options


def _options_begin(source: str) -> int:
    """Where the ? before the options is, or the end: names of folders and files that are there may have one too."""
    folder = "" if "://" in source else source.rpartition("/")[0]
    while folder and not os.path.lexists(folder):
        folder = folder.rpartition("/")[0]
    places = [at for at, letter in enumerate(source) if letter == "?" and at >= len(folder)]
    return next((at for at in reversed(places) if os.path.lexists(source[:at])), min(places, default=len(source)))


def _options(source: str, query: str) -> dict[str, str]:
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise MatchError(f"{source}: after ? come options like l0=near:100&width=16k") from error
    for name, times in Counter(name for name, _ in given).most_common(1):
        if times > 1:
            raise MatchError(f"{source}: the option {name} is given {times} times; give it once")
    return dict(given)


def escaped(name: str) -> str:
    """A name as an address has it, where it would be a pattern, end before its options or break the line."""
    return re.sub(r"[%?*{}\x00-\x1f\x7f]", lambda letter: f"%{ord(letter[0]):02X}", name)


def matcher(pattern: str, plain: Callable[[str], str] = str) -> re.Pattern[str]:
    """What the names of files match that are meant by a pattern, or lie in a folder that is (then `_below` has more).

    `*` stands for letters within a name, `**` for any folders, `{layer}` for a number and `{anything}` for a name; a
    placeholder that comes twice is the same both times. `plain` says what the rest stands for: `unquote` in an address.
    Raises `MatchError` for more of them than can be matched in time.
    """
    wild = max(len(_SPECIAL.findall(part)) for part in pattern.split("/"))
    if wild > _MOST_WILD or pattern.count("**") > _MOST_DEEP:
        raise MatchError(f"{pattern}: at most {_MOST_WILD} of * and {{…}} in one name, and {_MOST_DEEP} ** in all")
    made, seen = "", set()
    for part in _SPECIAL.split(pattern):
        placeholder = _PLACEHOLDER.fullmatch(part)
        if placeholder:
            name = placeholder[1]
            letters = "[0-9]{1,4}" if name == "layer" else "[^/]+"
            made += f"(?P={name})" if name in seen else f"(?P<{name}>{letters})"
            seen.add(name)
        else:
            made += {"*": "[^/]*", "**": ".*", "**/": "(?:.*/)?"}.get(part, re.escape(plain(part)))
    return re.compile(f"{made}(?P<{_BELOW}>/.*)?" if pattern else f"(?P<{_BELOW}>.*)", re.DOTALL)


def matched(match: re.Match[str]) -> tuple[dict[str, str], bool]:
    """What the placeholders stand for in a name, and whether it is only below what the pattern means."""
    said = match.groupdict()
    return said, said.pop(_BELOW) is not None
