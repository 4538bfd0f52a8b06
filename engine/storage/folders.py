"""Files of our own: a reader sees the old content of a name or the new, never a part of either."""

from __future__ import annotations

import csv
import os
import secrets
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, TextIO

from typing_extensions import override

from saematch.errors import MatchError, refusals


def local_path(given: str | os.PathLike[str]) -> Path:
    """The path of a file or folder of this machine, with `~` and `~user` expanded; of what it returns, itself.

    Raises `MatchError` for what names none: an empty text, one of letters that no name has, or another object; and for
    a name that is not UTF-8, by which the library that reads tensors opens no file.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text or not _is_encodable(text):
        raise MatchError(f"{given!r:.200} names no file or folder; give a path")
    path = Path(os.path.expanduser(text))
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise MatchError(f"{path}: the name is not valid UTF-8, so no tensors can be read there; rename it") from error
    # Path drops the dot of ./~/x, where ~ is the name of a folder, which is not to be expanded the next time.
    return path.absolute() if str(path).startswith("~") else path


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def well_formed(text: str) -> str:
    """Text that any file can hold: the halves of a surrogate pair are joined, and one alone is U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def csv_rows(file: TextIO) -> Any:
    """A `csv.writer` whose rows end with a line feed, and which quotes carriage returns in its fields, too."""
    # It quotes what its line ends consist of, and before Python 3.13 no other of the two.
    lines = SimpleNamespace(write=lambda row: file.write(row.removesuffix("\r\n") + "\n"))
    return csv.writer(lines, lineterminator="\r\n")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, replacing what is there in one step. Raises `MatchError` where it cannot be written."""
    with replacing(path) as aside:
        aside.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that then takes the place of another in one step; nothing is left of it after an error.

    A link stays, and what it leads to is replaced. Raises `MatchError` where it cannot be written.
    """
    path = regular_file(path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with refusals("cannot be written", path, OSError):
        try:
            yield aside
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def regular_file(path: Path) -> Path:
    """The file that is there or would be made, links followed.

    Raises `MatchError` for what is there and no regular file, such as a pipe or a device, which no file may replace.
    """
    with refusals("cannot be written", path, OSError), suppress(FileNotFoundError):  # so may be what a link leads to
        if not stat.S_ISREG(path.stat().st_mode):
            raise MatchError(f"{path}: cannot be written (it is not a regular file); choose another name")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


class Folder(ABC):
    """A folder on a disk of this machine or in somebody's store. Names are relative, with slashes.

    Everything raises `MatchError` where the disk or the store refuses.
    """

    @abstractmethod
    def names(self, inside: str = ".") -> set[str]:
        """The names of the files in the folder itself, or in one of its folders; none where it does not exist."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a small file."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file in one step, and the folder it lies in."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file that is there."""

    @abstractmethod
    def local(self, name: str) -> AbstractContextManager[Path]:
        """A file on this machine with that content, for as long as the context lasts."""


class LocalFolder(Folder):
    """A folder of a file system, mounted ones included."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_path(path)

    def __str__(self) -> str:
        return str(self.path)

    @override
    def names(self, inside: str = ".") -> set[str]:
        with refusals("cannot be read", self.path / inside, OSError):
            try:
                return {entry.name for entry in os.scandir(self.path / inside) if entry.is_file()}
            except FileNotFoundError:
                return set()

    @override
    def read(self, name: str) -> bytes:
        with refusals("cannot be read", self.path / name, OSError):
            return (self.path / name).read_bytes()

    @override
    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        with refusals("cannot be written", path.parent, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)

    @override
    def remove(self, name: str) -> None:
        with refusals("cannot be written", self.path / name, OSError):
            (self.path / name).unlink(missing_ok=True)

    @override
    def local(self, name: str) -> AbstractContextManager[Path]:
        return nullcontext(self.path / name)


class RemoteFolder(Folder):
    """A folder that fsspec reaches: s3://, gs://, memory:// and so on. Stores replace an object in one step."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        with refusals("cannot be reached", url):  # whatever the client of a store may raise, or its absence
            self._fs, self._root = url_to_fs(self.url)

    def __str__(self) -> str:
        return self.url

    @override
    def names(self, inside: str = ".") -> set[str]:
        with refusals("cannot be read", self.url):
            self._fs.invalidate_cache()
            try:
                listed = self._fs.ls(self._path(inside), detail=True)
            except FileNotFoundError:
                return set()
            return {PurePosixPath(entry["name"]).name for entry in listed if entry["type"] == "file"}

    @override
    def read(self, name: str) -> bytes:
        with refusals("cannot be read", self._url(name)):
            return bytes(self._fs.cat_file(self._path(name)))

    @override
    def write(self, name: str, content: bytes) -> None:
        with refusals("cannot be written", self._url(name)):
            self._fs.makedirs(str(PurePosixPath(self._path(name)).parent), exist_ok=True)
            self._fs.pipe_file(self._path(name), content)

    @override
    def remove(self, name: str) -> None:
        with refusals("cannot be written", self._url(name)):
            self._fs.rm_file(self._path(name))

    @contextmanager
    @override
    def local(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="saematch-") as folder:
            path = Path(folder) / PurePosixPath(name).name
            path.write_bytes(self.read(name))
            yield path

    def _path(self, name: str) -> str:
        return str(PurePosixPath(self._root) / name)

    def _url(self, name: str) -> str:
        return f"{self.url}/{name}"


def folder_at(where: str | os.PathLike[str]) -> Folder:
    """The folder of a path, or of a URL."""
    if isinstance(where, str) and "://" in where and not where.startswith("file://"):
        return RemoteFolder(where)
    return LocalFolder(where.removeprefix("file://") if isinstance(where, str) else where)
