"""Repositories of the Hugging Face Hub, each at one commit, through its client, the library `huggingface_hub`.

The client provides token, cache, retries and offline mode. Two notes are kept in the client's folder for assets, so
that
a source means the same SAEs without the network: the commit of a branch or tag, and the names of all files of a commit.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

from typing_extensions import override

from saematch.errors import MatchError, refuse_out_of_memory
from saematch.sources.address import escaped
from saematch.sources.locations import Location
from saematch.storage.folders import write_whole
from saematch.text import first_line

_HEADER_BLOCK = 2**15  # bytes of a remote file that are requested at a time
_COMMIT = re.compile("[0-9a-f]{40}")
_NOT_CACHED = "it is not in the cache, and the hub was not asked: check HF_HUB_OFFLINE and HF_HOME"
_LOG_IN = "log in with hf auth login, or set HF_TOKEN"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class HubRepository(Location):
    """A repository of the Hub, at a commit."""

    repo: str
    commit: str

    @classmethod
    def at_revision(cls, repo: str, revision: str | None) -> HubRepository:
        """Return the repository at a branch, tag or commit; by default, at the main branch.

        Offline, the commit is the one that the branch or tag was last seen at. Raises `MatchError`.
        """
        import huggingface_hub as hub

        shown = f"hf://{repo}" + (f"?revision={revision}" if revision else "")
        if _offline():
            commit = revision if revision and _COMMIT.fullmatch(revision) else _last_seen(repo, revision)
            if commit is None:
                raise MatchError(f"{shown}: {_NOT_CACHED}")
            return cls(repo, commit)
        commit = ask(shown, lambda: str(hub.HfApi().repo_info(repo, revision=revision).sha))
        if commit != revision:
            _write_note(_notes_folder(repo) / _ref(revision), commit)
        return cls(repo, commit)

    @property
    @override
    def title(self) -> str:
        return self.repo

    @cached_property
    def _names(self) -> frozenset[str]:
        """The names of all files of the commit, whether they are in the cache or not.

        A choice among SAEs is thus always made among all of them. Raises `MatchError`.
        """
        import huggingface_hub as hub

        note = _notes_folder(self.repo) / f"{self.commit}.json"
        try:
            names = json.loads(note.read_text(encoding="utf-8"))
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return self._checked(names)
        except (OSError, ValueError):
            pass  # there is no note yet, or it is damaged: the hub is asked again
        if _offline():
            return self._checked(self._names_in_cache())
        names = ask(f"hf://{self.repo}", lambda: hub.HfApi().list_repo_files(self.repo, revision=self.commit))
        _write_note(note, json.dumps(sorted(names)))
        return self._checked(names)

    def _checked(self, names: Iterable[str]) -> frozenset[str]:
        """Return the names. Raises `MatchError` if one leads out of the repository, which git permits to no name."""
        names = frozenset(names)
        outside = [name for name in names if not {"", ".", ".."}.isdisjoint(name.split("/"))]
        if outside:
            raise MatchError(f"hf://{self.repo}@{self.commit}: lists {min(outside)!r}, which is not a file in it")
        return names

    def _names_in_cache(self) -> list[str]:
        """Return the names of all files as the client remembers them.

        A newer client remembers them after it downloaded several files at once. Raises `MatchError` otherwise.
        """
        import huggingface_hub as hub

        try:
            return [file.path for file in hub.get_cached_repo_tree(self.repo, revision=self.commit)]
        except Exception as error:  # an older client has no such function, and a damaged cache may raise anything
            refuse_out_of_memory(error, f"hf://{self.repo}")
            folder, why = _cache_folder(self.repo) / "snapshots" / self.commit, _NOT_CACHED
            if folder.is_dir():
                why = (
                    "without the network it is not known what else it holds; call saematch.load_layers once with the "
                    f"network, or name what was fetched as a folder: {folder}"
                )
            notes = sorted(_notes_folder(self.repo).glob("*.json"), key=lambda note: note.stat().st_mtime_ns)
            if notes:
                why += f"; the files of another commit are known: ?revision={notes[-1].stem}"
            raise MatchError(f"hf://{self.repo}@{self.commit}: {why}") from error

    @override
    def names(self) -> list[str]:
        return sorted(self._names)

    @override
    def has(self, name: str) -> bool:
        return name in self._names

    @override
    def shown(self, name: str) -> str:
        return f"hf://{self.repo}@{self.commit}/{escaped(name)}"

    @override
    def address(self, name: str) -> str:
        return self.shown(name)

    @override
    def open(self, name: str) -> BinaryIO:
        import huggingface_hub as hub

        where, shown = f"{self.repo}@{self.commit}/{name}", self.shown(name)
        cached = ask(shown, lambda: hub.try_to_load_from_cache(self.repo, name, revision=self.commit))
        if isinstance(cached, str) or _offline():
            return self.fetch(name).open("rb")
        remote = ask(shown, lambda: hub.HfFileSystem().open(where, "rb", block_size=_HEADER_BLOCK))
        return cast(BinaryIO, _RemoteFile(remote, shown))

    @override
    def fetch(self, name: str) -> Path:
        import huggingface_hub as hub

        return Path(ask(self.shown(name), lambda: hub.hf_hub_download(self.repo, name, revision=self.commit)))

    @override
    def stamp(self, name: str) -> str:
        return self.commit


class _RemoteFile(io.RawIOBase):
    """A file on the hub. A refusal of the hub is a `MatchError`, so that no parser takes it for a damaged file."""

    def __init__(self, file: Any, shown: str) -> None:
        super().__init__()
        self._file, self._shown = file, shown

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        content = ask(self._shown, lambda: self._file.read(len(buffer)))
        buffer[: len(content)] = content
        return len(content)

    @override
    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    @override
    def tell(self) -> int:
        return int(self._file.tell())

    @override
    def close(self) -> None:
        self._file.close()
        super().close()


def ask(shown: str, question: Callable[[], Answer]) -> Answer:
    """Return the hub's answer to a question about `shown`. Raises `MatchError`, with advice, if there is no answer."""
    try:
        return question()
    except Exception as error:  # the client, and the libraries that it uses, may raise anything
        refuse_out_of_memory(error, shown)
        raise MatchError(f"{shown}: {_wrong_and_remedy(error)}") from error


def _wrong_and_remedy(error: BaseException) -> str:
    """Say what is wrong, and what to do, for an exception of the client."""
    from huggingface_hub import errors

    # The exceptions that led to this one. The last thing that the client says is that a file is not in the cache
    # either, whatever the hub said before: that counts only if there is no other cause.

    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    causes = [cause for cause in causes if not isinstance(cause, errors.LocalEntryNotFoundError)] or causes
    # A file of the cache that cannot be read or written: this is not an answer of the hub.
    for cause in causes:
        if isinstance(cause, OSError) and (cause.filename is not None or cause.errno in _DISK_FULL):
            where = f" ({cause.filename})" if cause.filename is not None else ""
            return f"the cache cannot be used: {cause.strerror}{where}; check HF_HOME and the free space on its disk"
    # The errors of the client's own classes.
    remedies: list[tuple[Any, str]] = [
        ((errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError), _NOT_CACHED),
        (errors.RevisionNotFoundError, "there is no such revision"),
        (errors.GatedRepoError, f"it is gated: accept its terms on huggingface.co, then {_LOG_IN}"),
        (errors.RepositoryNotFoundError, f"there is no such repository, or it is private: {_LOG_IN}"),
        ((errors.EntryNotFoundError, FileNotFoundError), "there is no such file in it"),
        (errors.HFValidationError, "that is not the name of a repository: expected hf://organisation/name/path/in/it"),
    ]
    for kinds, remedy in remedies:
        if any(isinstance(cause, kinds) for cause in causes):
            return remedy
    # Any other answer of the hub.
    statuses = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]
    reason = first_line(causes[0])
    if 401 in statuses or 403 in statuses:
        return f"the hub refuses ({reason}); your token may be wrong or may not read it: {_LOG_IN}"
    return f"the hub cannot be read ({reason}); try again, or set HF_HUB_OFFLINE=1 to use what is in the cache"


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _cache_folder(repo: str) -> Path:
    """Return the client's folder for a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / constants.REPO_ID_SEPARATOR.join(["models", *repo.split("/")])


def _notes_folder(repo: str) -> Path:
    """Return the folder for the notes of this package on a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "saematch" / _cache_folder(repo).name


def _ref(revision: str | None) -> PurePosixPath:
    """Return the path of the note with the commit of a branch or tag, relative to either of the two folders.

    Raises `MatchError` for a revision that would lead out of the folder.
    """
    from huggingface_hub import constants

    named = PurePosixPath(revision or constants.DEFAULT_REVISION)
    if named.is_absolute() or ".." in named.parts:
        raise MatchError(f"?revision={revision}: is not the name of a branch, tag or commit")
    return PurePosixPath("refs") / named


def _last_seen(repo: str, revision: str | None) -> str | None:
    """Return the commit of a branch or tag that the client or this package noted last; None without a note."""
    seen = []
    for file in (_cache_folder(repo) / _ref(revision), _notes_folder(repo) / _ref(revision)):
        with suppress(OSError, ValueError):
            seen.append((file.stat().st_mtime_ns, file.read_text(encoding="utf-8").strip()))
    return next((commit for _, commit in sorted(seen, reverse=True) if _COMMIT.fullmatch(commit)), None)


def _write_note(file: Path, text: str) -> None:
    """Write a note, if the cache can be written. Only work without the network needs the note."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text.encode())
    except (OSError, MatchError) as error:
        _log.info("%s", error)
