"""The locations in which files lie: the interface of every location, and folders of this machine."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from saematch.errors import MatchError, refusals

_MOST_FOLDERS = 100_000


class Location(ABC):
    """A location with files. Names of files are relative to it, with slashes.

    Every method raises `MatchError` if the location refuses.
    """

    @property
    @abstractmethod
    def title(self) -> str:
        """The short name of the location, which may say what lies in it."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all files."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether a file of this name exists."""

    @abstractmethod
    def shown(self, name: str) -> str:
        """Return the path or address by which messages name a file."""

    @abstractmethod
    def address(self, name: str) -> str:
        """Return a path or address that leads to a file from any folder."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open a file that can seek, without downloading it."""

    @abstractmethod
    def fetch(self, name: str) -> Path:
        """Return the path of a file on this machine, after downloading it if need be."""

    @abstractmethod
    def stamp(self, name: str) -> list[int] | str:
        """Return a value that changes when the file does, without reading the file."""


class LocalLocation(Location):
    """A folder of this machine.

    Attributes:
        root: the folder, as it was given.
        whole: the absolute path of the folder, which holds when the program changes its working folder later.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.whole = Path(os.path.abspath(root))

    @property
    @override
    def title(self) -> str:
        return self.whole.name

    @override
    def names(self) -> list[str]:
        """Return the names of all files. Links are followed; hidden files and folders are left out."""
        inside = ((folder.relative_to(self.root), names) for folder, names in self.folders())
        return [(folder / name).as_posix() for folder, names in inside for name in names]

    def folders(self) -> list[tuple[Path, list[str]]]:
        """Return every folder in this one, this one first, with the names of its files. Raises `MatchError`."""

        def refuse(error: OSError) -> None:
            with refusals("cannot be read", error.filename):
                raise error

        folders: list[tuple[Path, list[str]]] = []
        real: dict[str, str] = {}
        for folder, inside, names in os.walk(self.root, onerror=refuse, followlinks=True):
            # A link to a folder that holds the link leads in circles.
            here = real[folder] = os.path.realpath(folder)
            if any(real[above] == here for above in map(str, Path(folder).parents) if above in real):
                inside[:] = []
                continue
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            folders.append((Path(folder), sorted(name for name in names if not name.startswith("."))))
            if len(folders) > _MOST_FOLDERS:
                raise MatchError(
                    f"{self.root}: more than {_MOST_FOLDERS:,} folders in it; name the folder that holds the SAEs"
                )
        return folders

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
        """Return the path of a file. A pipe or a device is refused: to read it might block, or never end."""
        with refusals("cannot be read", self.root / name, OSError):
            try:
                mode = (self.whole / name).stat().st_mode
            except FileNotFoundError:
                return self.whole / name  # the reader reports that it is missing
        if not stat.S_ISREG(mode):
            raise MatchError(f"{self.root / name}: is not a regular file")
        return self.whole / name

    @override
    def stamp(self, name: str) -> list[int]:
        """Return the size of a file in bytes, and the time of its last change in nanoseconds."""
        with refusals("cannot be read", self.whole / name, OSError):
            status = (self.whole / name).stat()
        return [status.st_size, status.st_mtime_ns]
