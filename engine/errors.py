"""The one error class of the package, and its strict-mode child."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saematch.matching import Matching


class MatchError(ValueError):
    """Anything a user can put right: the message says what was given, what is wrong and what to do."""


class NotCertified(MatchError):
    """Raised under ``strict=True`` when the proof was not reached; ``.matching`` holds the best answer so far."""

    def __init__(self, message: str, matching: Matching) -> None:
        super().__init__(message)
        self.matching = matching
