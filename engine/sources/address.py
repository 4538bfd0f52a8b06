"""Addresses: texts that say where SAEs are, which of them are meant, and how they are to be read.

path/to/folder                                        a file, or a folder of layers, nested or flat
path/layer_{layer}/*/average_l0_{l0}?l0=near:100      a pattern, and the choice of one SAE of each layer
hf://organisation/name@revision/path/in/{layer}       a repository of the Hugging Face Hub
saelens://release/id?width=16k                        an SAE by its name in an installed sae-lens
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
from saematch.storage.folders import local_path

READING = {
    "allow": "permit to read an SAE that cannot be compared as it is, by the reason that its refusal gives",
    "family": "the file format, if it is not recognised",
    "head": "one head of a crosscoder: its number, or base or chat",
    "k": "the k of a TopK SAE whose files do not say it",
    "map": "a map into the basis of another model, in which the SAE is then: a file of saematch map, or a .npy matrix",
    "scale": "the scale of the activations that the weights are for, relative to raw activations",
    "to": "the layer that a layer of a cross-layer transcoder writes, by default the same layer",
}
ALLOWABLE = (
    "attention", "batch-wise", "constant_norm_rescale", "covariance_whitening", "layer_norm", "neurons", "signed",
    "token-wise", "transcoder", "unknown_scale",
)  # fmt: skip
CHOOSING = {
    "layer": "layers, like 8-13 or 8,9",
    "l0": "one SAE of each layer by its L0: a number or name, near:100, min or max",
    "width": "the number of features as the path says it, like 16k",
}
SAMPLE, HUB, REGISTRY = "sample", "hf://", "saelens://"
_PLACEHOLDER = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}")
_SPECIAL = re.compile(r"(\{[A-Za-z][A-Za-z0-9_]*\}|\*\*/?|\*)")
_BELOW = "_below"  # the group for the names below a pattern; no placeholder begins with an underscore
# The most wildcards in one name, and ** in all: with more, a name that does not match may take for ever.
_MOST_WILD, _MOST_DEEP = 3, 2


@dataclass(frozen=True)
class Address:
    """One address, split at its options.

    Attributes:
        where: the path, pattern or URL.
        options: the options after the question mark, by name.
    """

    where: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, source: str | os.PathLike[str]) -> Address:
        """Parse an address. A path that exists is taken literally, whatever letters it has.

        Raises:
            MatchError: for an empty address, and for options that do not exist.
        """
        # An object that stands for a path has no options, and is never the sample.
        if not isinstance(source, str):
            path = os.fspath(source) if os.path.lexists(source) else os.path.expanduser(source)
            return cls(os.path.join(os.curdir, path) if path == SAMPLE else path, {})
        if not os.path.lexists(source):
            source = at_home(source)
        if os.path.lexists(source) and source != SAMPLE:
            return cls(source, {})
        if not source.partition("?")[0]:
            raise MatchError(f"{source!r}: names no file, folder or address")
        mark = _question_mark(source)
        address = cls(source[:mark], _parsed_options(source, source[mark + 1 :]))
        address._check(source)
        if "map" not in address.options:
            return address
        return cls(address.where, {**address.options, "map": permanent_path(address.options["map"])})

    def _check(self, source: str) -> None:
        """Raise `MatchError` for an unknown scheme, and for options that mean nothing in this address."""
        if "://" in self.where and not self._is_remote:
            raise MatchError(f"{source}: SAEs are read from paths, from {HUB}organisation/name and {REGISTRY}release")
        # Every placeholder of the pattern is an option too, unless an option of another meaning has its name.
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
        unknown = [name for name in self.options.get("allow", ALLOWABLE[0]).split(",") if name not in ALLOWABLE]
        if unknown:
            raise MatchError(f"{source}: allow={unknown[0]} is not known; known are {', '.join(ALLOWABLE)}")

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
        """Split a local path into the folder that it begins with and the pattern below it, which may be empty."""
        parts = Path(self.where).parts
        existing = next(n for n in range(len(parts), -1, -1) if n == 0 or os.path.lexists(Path(*parts[:n])))
        plain = next((n for n in range(existing, len(parts)) if _SPECIAL.search(parts[n])), len(parts))
        return Path(*parts[:plain]), "/".join(parts[plain:])

    def matcher(self, pattern: str) -> re.Pattern[str]:
        """Return the matcher of a pattern of this address. Unlike a path, a URL may have letters escaped."""
        return matcher(pattern, unquote if self._is_remote else str)

    def repository(self) -> tuple[str, str | None, str]:
        """Split a `hf://` address into the repository, its revision if one is given, and the pattern.

        Raises:
            MatchError: for another address, and for two revisions.
        """
        match = re.fullmatch(r"([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?", self.where.removeprefix(HUB))
        if match is None:
            raise MatchError(f"{self}: expected hf://organisation/name, and a path in it if you like")
        revision = self.options.get("revision")
        if match[2] and revision not in (None, match[2]):
            raise MatchError(f"{self}: two revisions, {match[2]} and {revision}; give one")
        return match[1], match[2] or revision, re.sub("/+", "/", match[3] or "").strip("/")


def permanent_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a file, which holds from any folder. Raises `MatchError` for anything but a path."""
    return os.path.abspath(local_path(path))


def at_home(source: str) -> str:
    """Return an address with `~` and `~user` expanded, if it begins with one of them."""
    path, mark, options = source.partition("?")
    return os.path.expanduser(path) + mark + options


def _question_mark(source: str) -> int:
    """Return the index of the ? before the options, or the length of an address without options.

    Names of folders and files may have a ? too: the mark is after the part of the path that exists, and if the path of
    a file ends at one of several marks, it is that one.
    """
    folder = "" if "://" in source else source.rpartition("/")[0]
    while folder and not os.path.lexists(folder):
        folder = folder.rpartition("/")[0]
    marks = [index for index, letter in enumerate(source) if letter == "?" and index >= len(folder)]
    return next((mark for mark in reversed(marks) if os.path.lexists(source[:mark])), min(marks, default=len(source)))


def _parsed_options(source: str, query: str) -> dict[str, str]:
    """Return the options of a query by name. Raises `MatchError` for an option that is given twice, and for others."""
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise MatchError(f"{source}: after ? come options like l0=near:100&width=16k") from error
    for name, times in Counter(name for name, _ in given).most_common(1):
        if times > 1:
            raise MatchError(f"{source}: the option {name} is given {times} times; give it once")
    return dict(given)


def escaped(name: str) -> str:
    """Escape the letters of a name that would be a pattern, begin the options, or break the line of an address."""
    return re.sub(r"[%?*{}\x00-\x1f\x7f]", lambda letter: f"%{ord(letter[0]):02X}", name)


def matcher(pattern: str, plain: Callable[[str], str] = str) -> re.Pattern[str]:
    """Return a regular expression that matches the names of files that match a pattern, or lie below a match.

    `*` stands for any letters within a name, `**` for any folders, `{layer}` for a number and `{anything}` for a name.
    A placeholder that comes twice has the same value both times.

    Args:
        pattern: the pattern; an empty pattern matches every name.
        plain: the function that decodes the other parts of the pattern, such as `unquote`.

    Raises:
        MatchError: for more wildcards than can be matched in reasonable time.
    """
    # A regular expression with many wildcards tries all ways to share the letters among them.
    wild = max(len(_SPECIAL.findall(part)) for part in pattern.split("/"))
    if wild > _MOST_WILD or pattern.count("**") > _MOST_DEEP:
        raise MatchError(f"{pattern}: at most {_MOST_WILD} of * and {{…}} in one name, and {_MOST_DEEP} ** in all")
    # Each wildcard and placeholder becomes a group; a placeholder that comes again refers to its first group.
    expression, seen = "", set()
    for part in _SPECIAL.split(pattern):
        placeholder = _PLACEHOLDER.fullmatch(part)
        if placeholder:
            name = placeholder[1]
            letters = "[0-9]{1,4}" if name == "layer" else "[^/]+"
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>{letters})"
            seen.add(name)
        else:
            expression += {"*": "[^/]*", "**": ".*", "**/": "(?:.*/)?"}.get(part, re.escape(plain(part)))
    return re.compile(f"{expression}(?P<{_BELOW}>/.*)?" if pattern else f"(?P<{_BELOW}>.*)", re.DOTALL)


def placeholder_values(match: re.Match[str]) -> tuple[dict[str, str], bool]:
    """Return the values of the placeholders in a match of `matcher`, and whether the name lies below the pattern."""
    values = match.groupdict()
    return values, values.pop(_BELOW) is not None
