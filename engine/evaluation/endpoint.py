"""A judge behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from typing_extensions import override

from saematch.errors import MatchError, refusals
from saematch.evaluation.meaning import Grade, Judge, Verdict
from saematch.numeric.numbers import checked_count
from saematch.storage.folders import local_path
from saematch.storage.reading import refuse_pointer_at
from saematch.text import first_line

AT_ONCE, RETRIES, TIMEOUT = 8, 5, 60.0  # calls, tries after the first, seconds
_KEY = "OPENAI_API_KEY"

INSTRUCTION = """You compare explanations of two features of a neural network. Each explanation says what text makes a \
feature fire. Decide whether the two features mean the same, and answer with one word:

SAME - both fire on the same thing, even where it is worded differently or one is a little broader
MAYBE - they overlap or are closely related, but it is not clear that they are the same
DIFFERENT - they fire on different things"""
EXAMPLES = (
    ("names of months", "mentions of months of the year, such as March or July", Grade.SAME),
    ("the word 'not' and other negations", "contractions that end in n't", Grade.MAYBE),
    ("opening brackets in source code", "words about cooking and recipes", Grade.DIFFERENT),
)


class EndpointJudge(Judge):
    """A language model that reads two explanations and answers SAME, MAYBE or DIFFERENT.

    The client library tries again, with growing pauses, where the endpoint is busy. Every answer is kept in `cache`, a
    line each, and not asked for again. After an error that stays, nothing more is asked in this run: `trouble` says
    why, and the next run goes on from there.

    Args:
        address: of the endpoint, for example "http://localhost:8000/v1".
        model: what the endpoint calls it.
        cache: a file of answers; it holds explanations and answers, and no key.
        calls: ask at most so often in this run.
        told: called after each answer, with how many there are in this run.

    Raises:
        MatchError: if the client library is not installed, or the cache is none.
    """

    def __init__(
        self,
        address: str,
        model: str,
        cache: str | os.PathLike[str],
        *,
        calls: int | None = None,
        at_once: int = AT_ONCE,
        retries: int = RETRIES,
        timeout: float = TIMEOUT,
        told: Callable[[int], None] | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise MatchError("--judge needs the package openai: pip install 'saematch[judge]'") from error
        self.name = model
        self.trouble: str | None = None
        self._refused: type[Exception] = openai.OpenAIError
        self._key = os.environ.get(_KEY) or "none"  # servers of one's own ask for none
        counts = f"calls is {calls!r:.40}, at_once {at_once!r:.40}, retries {retries!r:.40}; give whole numbers"
        retries = checked_count(retries, 0, counts)
        self._client = openai.OpenAI(base_url=address, api_key=self._key, max_retries=retries, timeout=timeout)
        self._cache = local_path(cache)
        self._answers = _read_cache(self._cache)
        self._left = None if calls is None else checked_count(calls, 0, counts)
        self._at_once, self._told = checked_count(at_once, 1, counts), told
        self._asked = 0
        self._lock = threading.Lock()

    @override
    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        messages = [_messages(a, b) for a, b in pairs]
        marks = [_mark(self.name, each) for each in messages]
        new = {mark: each for mark, each in zip(marks, messages, strict=True) if mark not in self._answers}
        with ThreadPoolExecutor(self._at_once) as pool:
            list(pool.map(self._ask, new, new.values()))
        return [_verdict(self._answers.get(mark)) for mark in marks]

    def _ask(self, mark: str, messages: Any) -> None:
        with self._lock:
            if self.trouble is not None:
                return
            if self._left is not None and self._asked >= self._left:
                self.trouble = f"the limit of {self._left:,} calls is reached"
                return
            self._asked += 1
        try:
            answer = self._client.chat.completions.create(model=self.name, messages=messages, temperature=0)
            text = str(answer.choices[0].message.content or "")
        except (self._refused, AttributeError, IndexError, TypeError, ValueError) as error:  # the latter: no answer
            with self._lock:
                reason = first_line(error).replace(self._key, "…")
                self.trouble = self.trouble or f"{self._client.base_url}: {reason}"
            return
        with self._lock:
            self._answers[mark] = text
            self._write({"mark": mark, "model": self.name, "asked": messages[-1]["content"], "answer": text})
            if self._told is not None:
                self._told(self._asked)

    def _write(self, row: dict[str, str]) -> None:
        with refusals("cannot be written", self._cache, OSError):
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            with self._cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def parse_grade(answer: str) -> Grade | None:
    """The one grade that an answer names; None where it names none, or several."""
    named = {name for name in re.findall(r"[A-Z]+", answer.upper()) if name in Grade.__members__}
    return Grade[named.pop()] if len(named) == 1 else None


def _verdict(answer: str | None) -> Verdict:
    if answer is None:
        return Verdict(None, "unanswered")
    grade = parse_grade(answer)
    return Verdict(grade, "unparsed") if grade is None else Verdict(grade)


def _messages(a: str, b: str) -> list[dict[str, str]]:
    """The instruction, an example of each grade, and the question."""
    said = [{"role": "system", "content": INSTRUCTION}]
    for first, second, grade in EXAMPLES:
        said += [{"role": "user", "content": _question(first, second)}, {"role": "assistant", "content": grade.name}]
    return [*said, {"role": "user", "content": _question(a, b)}]


def _question(a: str, b: str) -> str:
    return f"Explanation 1: {a}\nExplanation 2: {b}"


def _mark(model: str, messages: list[dict[str, str]]) -> str:
    return hashlib.sha256(json.dumps([model, messages]).encode()).hexdigest()


def _read_cache(path: Path) -> dict[str, str]:
    """The answers so far; a last line that was cut off is none, and is ended so that the next begins a line."""
    refuse_pointer_at(path)
    wrong, remedy = "not the answers of a judge", "remove it, or name another"
    with refusals(wrong, path, OSError, ValueError, KeyError, TypeError, remedy=remedy):
        content = path.read_text(encoding="utf-8") if path.exists() else ""
        if content and not content.endswith("\n"):
            content = content[: content.rfind("\n") + 1]
            path.write_text(content, encoding="utf-8")
        rows = [json.loads(line) for line in content.splitlines()]
        return {row["mark"]: str(row["answer"]) for row in rows}
