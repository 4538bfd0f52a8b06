"""Repositories of the Hugging Face Hub, each at one commit, through `huggingface_hub`.

Token, cache, retries and offline mode are the client's. So that a source means the same without the network, two notes
are kept among the client's assets: the commit that a branch or tag was at, and the names of all files of a commit.
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

_HEADER_BLOCK = 2**15  # bytes asked for at a time of a file that is far away
_COMMIT = re.compile("[0-9a-f]{40}")
_ABSENT = "it is not in the cache, and the hub was not asked: check HF_HUB_OFFLINE and HF_HOME"
_LOG_IN = "log in with hf auth login, or set HF_TOKEN"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class HubRepository(Location):
    """A repository of the Hub at a commit."""

    repo: str
    commit: str

    @classmethod
    def at(cls, repo: str, revision: str | None) -> HubRepository:
        """The repository at a branch, tag or commit, by default as it is now; offline, as last seen."""
        import huggingface_hub as hub

        shown = f"hf://{repo}" + (f"?revision={revision}" if revision else "")
        if _offline():
            commit = revision if revision and _COMMIT.fullmatch(revision) else _last_seen(repo, revision)
            if commit is None:
                raise MatchError(f"{shown}: {_ABSENT}")
            return cls(repo, commit)
        commit = asked(shown, lambda: str(hub.HfApi().repo_info(repo, revision=revision).sha))
        if commit != revision:
            _keep(_notes(repo) / _ref(revision), commit)
        return cls(repo, commit)

    @property
    @override
    def title(self) -> str:
        return self.repo

    @cached_property
    def _names(self) -> frozenset[str]:
        """What the commit holds, which is not what the cache holds of it: a choice is made among all that there is."""
        import huggingface_hub as hub

        kept = _notes(self.repo) / f"{self.commit}.json"
        try:
            names = json.loads(kept.read_text(encoding="utf-8"))
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return self._inside(names)
        except (OSError, ValueError):
            pass  # not looked at yet, or damaged: it is asked for again
        if _offline():
            return self._inside(self._names_known_to_the_client())
        names = asked(f"hf://{self.repo}", lambda: hub.HfApi().list_repo_files(self.repo, revision=self.commit))
        _keep(kept, json.dumps(sorted(names)))
        return self._inside(names)

    def _inside(self, names: Iterable[str]) -> frozenset[str]:
        """These names. Raises `MatchError` if one leads out of the repository: git knows none such."""
        names = frozenset(names)
        outside = [name for name in names if not {"", ".", ".."}.isdisjoint(name.split("/"))]
        if outside:
            raise MatchError(f"hf://{self.repo}@{self.commit}: lists {min(outside)!r}, which is no file in it")
        return names

    def _names_known_to_the_client(self) -> list[str]:
        """A newer client keeps them where it fetched several files at once. Raises `MatchError` elsewhere."""
        import huggingface_hub as hub

        try:
            return [each.path for each in hub.get_cached_repo_tree(self.repo, revision=self.commit)]
        except Exception as error:  # an older client, or whatever a damaged cache makes of it
            refuse_out_of_memory(error, f"hf://{self.repo}")
            folder, why = _cache(self.repo) / "snapshots" / self.commit, _ABSENT
            if folder.is_dir():
                why = (
                    "without the network it is not known what else it holds; look at it once with the network "
                    f"(saematch layers --dry-run), or name what was fetched as a folder: {folder}"
                )
            seen = sorted(_notes(self.repo).glob("*.json"), key=lambda note: note.stat().st_mtime_ns)
            why += f"; another commit was looked at: ?revision={seen[-1].stem}" if seen else ""
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
        cached = asked(shown, lambda: hub.try_to_load_from_cache(self.repo, name, revision=self.commit))
        if isinstance(cached, str) or _offline():
            return self.fetch(name).open("rb")
        far = asked(shown, lambda: hub.HfFileSystem().open(where, "rb", block_size=_HEADER_BLOCK))
        return cast(BinaryIO, _FarFile(far, shown))

    @override
    def fetch(self, name: str) -> Path:
        import huggingface_hub as hub

        return Path(asked(self.shown(name), lambda: hub.hf_hub_download(self.repo, name, revision=self.commit)))

    @override
    def stamp(self, name: str) -> str:
        return self.commit


class _FarFile(io.RawIOBase):
    """A file on the hub. What the hub refuses is said as such, and not taken for damage by those who parse it."""

    def __init__(self, file: Any, shown: str) -> None:
        super().__init__()
        self._file, self._shown = file, shown

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = asked(self._shown, lambda: self._file.read(len(buffer)))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


def asked(what: str, question: Callable[[], Answer]) -> Answer:
    """What the hub answers. Raises `MatchError`, with what can be done about it, where it does not."""
    try:
        return question()
    except Exception as error:  # whatever the client, or the client's client, may raise
        refuse_out_of_memory(error, what)
        raise MatchError(f"{what}: {_remedy(error)}") from error


def _remedy(error: BaseException) -> str:
    from huggingface_hub import errors

    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    # That a file is not in the cache either is what the client says last, whatever the hub said before.
    causes = [each for each in causes if not isinstance(each, errors.LocalEntryNotFoundError)] or causes
    for each in causes:
        if isinstance(each, OSError) and (each.filename is not None or each.errno in _FULL):  # no answer of the hub's
            where = f" ({each.filename})" if each.filename is not None else ""
            return f"the cache cannot be used: {each.strerror}{where}; check HF_HOME and the room on its disk"
    remedies: list[tuple[Any, str]] = [
        ((errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError), _ABSENT),
        (errors.RevisionNotFoundError, "there is no such revision"),
        (errors.GatedRepoError, f"it is gated: accept its terms on huggingface.co, then {_LOG_IN}"),
        (errors.RepositoryNotFoundError, f"there is no such repository, or it is private: {_LOG_IN}"),
        ((errors.EntryNotFoundError, FileNotFoundError), "there is no such file in it"),
        (errors.HFValidationError, "that is no name of a repository: hf://organisation/name/path/in/it"),
    ]
    for kinds, remedy in remedies:
        if any(isinstance(each, kinds) for each in causes):
            return remedy
    statuses = [getattr(getattr(each, "response", None), "status_code", None) for each in causes]
    reason = first_line(causes[0])
    if 401 in statuses or 403 in statuses:
        return f"the hub refuses ({reason}); your token may be wrong or may not read it: {_LOG_IN}"
    return f"the hub cannot be read ({reason}); try again, or set HF_HUB_OFFLINE=1 to use what is in the cache"


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _cache(repo: str) -> Path:
    """The client's folder of a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / constants.REPO_ID_SEPARATOR.join(["models", *repo.split("/")])


def _notes(repo: str) -> Path:
    """Our folder of a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "saematch" / _cache(repo).name


def _ref(revision: str | None) -> PurePosixPath:
    """The file that notes the commit of a branch or tag, in the client's folder and in ours."""
    from huggingface_hub import constants

    named = PurePosixPath(revision or constants.DEFAULT_REVISION)
    if named.is_absolute() or ".." in named.parts:
        raise MatchError(f"?revision={revision}: is no name of a branch, tag or commit")
    return PurePosixPath("refs") / named


def _last_seen(repo: str, revision: str | None) -> str | None:
    """The commit that a branch or tag was at when the client or we last looked."""
    seen = []
    for file in (_cache(repo) / _ref(revision), _notes(repo) / _ref(revision)):
        with suppress(OSError, ValueError):
            seen.append((file.stat().st_mtime_ns, file.read_text(encoding="utf-8").strip()))
    return next((commit for _, commit in sorted(seen, reverse=True) if _COMMIT.fullmatch(commit)), None)


def _keep(file: Path, text: str) -> None:
    """Leave a note, if the cache can be written; it is missed without the network only."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text.encode())
    except (OSError, MatchError) as error:
        _log.info("%s", error)
