"""Repositories of the Hugging Face Hub, each at one commit, through `huggingface_hub`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from saematch.errors import MatchError
from saematch.sources.places import Place

_HEADER_BLOCK = 2**15  # bytes asked for at a time of a file that is far away
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class HubRepository(Place):
    """A repository of the Hub at a commit. Token, cache, retries and offline mode are those of `huggingface_hub`."""

    repo: str
    commit: str

    @classmethod
    def at(cls, repo: str, revision: str | None) -> HubRepository:
        """The repository as it is now, or at a branch, tag or commit; offline, as it is in the cache."""
        import huggingface_hub as hub

        def commit() -> str:
            if _offline():
                return _newest_cached(repo) if revision is None else _cached(repo, revision).name
            return str(hub.HfApi().repo_info(repo, revision=revision).sha)

        found = asked(f"hf://{repo}" + (f"?revision={revision}" if revision else ""), commit)
        return cls(repo, found)

    @property
    def title(self) -> str:
        """See `Place`."""
        return self.repo

    @cached_property
    def _names(self) -> frozenset[str]:
        import huggingface_hub as hub

        def names() -> list[str]:
            if _offline():
                folder = _cached(self.repo, self.commit)
                return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            return hub.HfApi().list_repo_files(self.repo, revision=self.commit)

        return frozenset(asked(f"hf://{self.repo}", names))

    def names(self) -> list[str]:
        """See `Place`."""
        return sorted(self._names)

    def has(self, name: str) -> bool:
        """See `Place`."""
        return name in self._names

    def shown(self, name: str) -> str:
        """See `Place`."""
        return f"hf://{self.repo}@{self.commit}/{name}"

    def address(self, name: str) -> str:
        """See `Place`."""
        return self.shown(name)

    def open(self, name: str) -> BinaryIO:
        """See `Place`."""
        import huggingface_hub as hub

        cached = hub.try_to_load_from_cache(self.repo, name, revision=self.commit)
        if isinstance(cached, str) or _offline():
            return self.fetch(name).open("rb")
        where = f"{self.repo}@{self.commit}/{name}"
        opened = asked(f"hf://{where}", lambda: hub.HfFileSystem().open(where, "rb", block_size=_HEADER_BLOCK))
        return cast(BinaryIO, opened)

    def fetch(self, name: str) -> Path:
        """See `Place`."""
        import huggingface_hub as hub

        return Path(asked(self.shown(name), lambda: hub.hf_hub_download(self.repo, name, revision=self.commit)))

    def stamp(self, name: str) -> str:  # noqa: ARG002 (a commit never changes)
        """See `Place`."""
        return self.commit


def asked(what: str, question: Callable[[], Answer]) -> Answer:
    """What the hub answers. Raises `MatchError`, with what can be done about it, where it does not."""
    from huggingface_hub import errors

    remedies: list[tuple[Any, str]] = [
        ((errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled), "it is not in the cache, and the hub was not "
         "asked or not reached: check HF_HUB_OFFLINE, HF_HOME and the network"),
        (errors.EntryNotFoundError, "there is no such file in it"),
        (errors.RevisionNotFoundError, "there is no such revision"),
        (errors.GatedRepoError, "it is gated: accept its terms on huggingface.co, then log in with hf auth login"),
        (errors.RepositoryNotFoundError, "there is no such repository, or it is private: hf auth login"),
        (errors.HFValidationError, "that is no name of a repository: hf://organisation/name/path/in/it"),
    ]  # fmt: skip
    try:
        return question()
    except Exception as error:  # whatever the client, or the client's client, may raise
        for kinds, remedy in remedies:
            if isinstance(error, kinds):
                raise MatchError(f"{what}: {remedy}") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MatchError(f"{what}: the hub cannot be read ({reason}); try again") from error


def _cached(repo: str, revision: str | None) -> Path:
    """The folder of what is in the cache of a revision."""
    import huggingface_hub as hub

    return Path(hub.snapshot_download(repo, revision=revision, local_files_only=True))


def _newest_cached(repo: str) -> str:
    """The commit that the cache was last given files of: what is fetched by commit leaves no note of the branch."""
    import huggingface_hub as hub

    folder = Path(hub.constants.HF_HUB_CACHE) / hub.constants.REPO_ID_SEPARATOR.join(["models", *repo.split("/")])
    commits = sorted((folder / "snapshots").glob("*"), key=lambda each: each.stat().st_mtime)
    return commits[-1].name if commits else _cached(repo, None).name


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
