"""Writing files atomically: a reader sees either the old content or the new content of a file, never a mix."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath

from typing_extensions import override

from saematch.errors import MatchError, refusals


def local_path(given: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder of this machine, with `~` and `~user` expanded.

    A path that this function returned is returned unchanged.

    Raises:
        MatchError: for an object that is not a path, an empty path, and a path with letters that no name can have; and
            for a path that is not UTF-8, because the library that reads tensors cannot open such a file.

    >>> local_path("saes/layer_8").as_posix()
    'saes/layer_8'
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text or not _is_encodable(text):
        raise MatchError(f"{given!r:.200} names no file or folder; give a path")
    path = Path(os.path.expanduser(text))
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise MatchError(f"{path}: the name is not valid UTF-8, so no tensors can be read there; rename it") from error
    # In ./~/x, ~ is the name of a folder. Path drops the dot, and the next call would expand the name.
    return path.absolute() if str(path).startswith("~") else path


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, which replaces an old one in one step. Raises `MatchError` if the file cannot be written."""
    with replacing(path) as aside:
        aside.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces the file at `path` in one step when the block ends.

    After an error, the temporary file is removed, and the file at `path` is as before. If `path` is a link, the file
    that it leads to is replaced, and the link stays. Raises `MatchError` if the file cannot be written.

    >>> with replacing(Path("table.csv")) as aside:
    ...     _ = aside.write_text("a,b")
    >>> Path("table.csv").read_text()
    'a,b'
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
    """Return the path of the file that would be replaced or made at `path`: links are followed.

    Raises `MatchError` if `path` is not a regular file, such as a pipe or a device, which no file may replace.
    """
    with refusals("cannot be written", path, OSError), suppress(FileNotFoundError):  # also for a link to no file
        if not stat.S_ISREG(path.stat().st_mode):
            raise MatchError(f"{path}: cannot be written (it is not a regular file); choose another name")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


class Folder(ABC):
    """A folder on a disk of this machine, or in a remote store. Names of files are relative to it, with slashes.

    Every method raises `MatchError` if the disk or the store refuses.
    """

    @abstractmethod
    def names(self, inside: str = ".") -> set[str]:
        """Return the names of the files in the folder, or in one of its folders; none if that folder does not exist."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file, which should be small."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file in one step, and make its folder if need be."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file."""

    @abstractmethod
    def local(self, name: str) -> AbstractContextManager[Path]:
        """Return a context that yields the path of a file on this machine with the content of `name`."""


class LocalFolder(Folder):
    """A folder of a file system of this machine, including mounted file systems."""

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
    """A folder in a store that fsspec reaches: s3://, gs://, memory:// and others. Stores replace objects whole."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        with refusals("cannot be reached", url):  # the client of a store may raise anything, or be missing
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
    """Return the folder at a path or URL. Raises `MatchError` if a store cannot be reached."""
    if isinstance(where, str) and "://" in where and not where.startswith("file://"):
        return RemoteFolder(where)
    return LocalFolder(where.removeprefix("file://") if isinstance(where, str) else where)
