"""Where files lie, and what is asked of any such place; a folder of this machine is one."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from saematch.errors import MatchError, refusals

_MOST_FOLDERS = 100_000


class Location(ABC):
    """Files by name, relative and with slashes. Everything raises `MatchError` where the place refuses."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Its short name, which may say what lies in it."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names of all files."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether this file is there."""

    @abstractmethod
    def shown(self, name: str) -> str:
        """How to find a file again: a path or an address."""

    @abstractmethod
    def address(self, name: str) -> str:
        """The same from anywhere: an absolute path or an address."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A file to seek in, without bringing it here."""

    @abstractmethod
    def fetch(self, name: str) -> Path:
        """The file on this machine."""

    @abstractmethod
    def stamp(self, name: str) -> list[int] | str:
        """What changes when the file does, found without reading it."""


@dataclass(frozen=True)
class LocalLocation(Location):
    """A folder of this machine."""

    root: Path
    whole: Path = field(init=False, repr=False)  # wherever the program goes before weights are read

    def __post_init__(self) -> None:
        object.__setattr__(self, "whole", Path(os.path.abspath(self.root)))

    @property
    @override
    def title(self) -> str:
        return self.whole.name

    @override
    def names(self) -> list[str]:
        """Links are followed, hidden names are not."""
        inside = ((folder.relative_to(self.root), names) for folder, names in self.folders())
        return [(folder / name).as_posix() for folder, names in inside for name in names]

    def folders(self) -> list[tuple[Path, list[str]]]:
        """Every folder in it, itself among them, with the names of its files."""

        def unreadable(error: OSError) -> None:
            with refusals("cannot be read", error.filename):
                raise error

        found: list[tuple[Path, list[str]]] = []
        real: dict[str, str] = {}
        for folder, inside, names in os.walk(self.root, onerror=unreadable, followlinks=True):
            here = real[folder] = os.path.realpath(folder)
            if any(real[above] == here for above in map(str, Path(folder).parents) if above in real):
                inside[:] = []  # a link to a folder that it lies in
                continue
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            found.append((Path(folder), sorted(name for name in names if not name.startswith("."))))
            if len(found) > _MOST_FOLDERS:
                raise MatchError(
                    f"{self.root}: more than {_MOST_FOLDERS:,} folders in it; name one that holds the SAEs"
                )
        return found

    @override
    def has(self, name: str) -> bool:
        return (self.whole / name).is_file()

    @override
    def shown(self, name: str) -> str:
        return str(self.root / name)

    @override
    def address(self, name: str) -> str:
        return os.path.normpath(self.whole / name)

    @override
    def open(self, name: str) -> BinaryIO:
        with refusals("cannot be read", self.root / name, OSError):
            return self.fetch(name).open("rb")

    @override
    def fetch(self, name: str) -> Path:
        """What would block or never end when it is read is refused."""
        with refusals("cannot be read", self.root / name, OSError):
            try:
                mode = (self.whole / name).stat().st_mode
            except FileNotFoundError:
                return self.whole / name  # said where it is read
        if not stat.S_ISREG(mode):
            raise MatchError(f"{self.root / name}: is no regular file")
        return self.whole / name

    @override
    def stamp(self, name: str) -> list[int]:
        """Size in bytes and time of the last change in nanoseconds."""
        with refusals("cannot be read", self.whole / name, OSError):
            found = (self.whole / name).stat()
        return [found.st_size, found.st_mtime_ns]
