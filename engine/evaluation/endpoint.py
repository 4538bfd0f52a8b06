"""A judge that asks a language model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from saematch.errors import MatchError, refusals
from saematch.evaluation.meaning import Grade, Judge, Verdict
from saematch.numeric.numbers import checked_count
from saematch.storage.folders import local_path
from saematch.storage.reading import refuse_pointer_at
from saematch.text import first_line

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

CALLS_AT_ONCE = 8
RETRIES = 5  # attempts after the first
TIMEOUT = 60.0  # seconds
_KEY = "OPENAI_API_KEY"

INSTRUCTION = """You compare explanations of two features of a neural network. Each explanation says what text makes a \
feature fire. Decide whether the two features mean the same, and answer with one word:

SAME - both fire on the same thing, even where it is worded differently or one is a little broader
MAYBE - they overlap or are closely related, but it is not clear that they are the same
DIFFERENT - they fire on different things"""
EXAMPLE_JUDGEMENTS = (
    ("names of months", "mentions of months of the year, such as March or July", Grade.SAME),
    ("the word 'not' and other negations", "contractions that end in n't", Grade.MAYBE),
    ("opening brackets in source code", "words about cooking and recipes", Grade.DIFFERENT),
)


class EndpointJudge(Judge):
    """A language model that reads two explanations and answers SAME, MAYBE or DIFFERENT.

    If the endpoint is busy, the client library tries again after growing pauses. Every answer is added to the file
    `cache`, and the same question is not asked again. After an error that persists, no more questions are asked: the
    attribute `trouble` is the reason, and the next evaluation resumes from the cache. The key of the endpoint is read
    from the environment variable OPENAI_API_KEY and never written.

    Args:
        address: the address of the endpoint, for example `"http://localhost:8000/v1"`.
        model: the name of the model at the endpoint.
        cache: a file of answers, one line of JSON each. The file contains explanations and answers, and no key.
        calls: the largest number of questions to ask.
        at_once: the largest number of questions to ask at the same time.
        retries: the number of attempts after the first.
        timeout: the time to wait for an answer, in seconds.
        on_answer: a function that is called after each answer, with the number of questions so far.

    Raises:
        MatchError: if the client library is not installed, if a number is not valid, or if the cache is another file.

    Examples:
        >>> judge = EndpointJudge("http://localhost:8000/v1", "my-model", "judge.jsonl")
        >>> judge.verdicts([])
        []
    """

    def __init__(
        self,
        address: str,
        model: str,
        cache: str | os.PathLike[str],
        *,
        calls: int | None = None,
        at_once: int = CALLS_AT_ONCE,
        retries: int = RETRIES,
        timeout: float = TIMEOUT,
        on_answer: Callable[[int], None] | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise MatchError("a judge needs the package openai: pip install 'saematch[judge]'") from error
        self.name = model
        self.trouble: str | None = None
        self._refused: type[Exception] = openai.OpenAIError
        self._key = os.environ.get(_KEY) or "none"  # servers on one's own machine need no key
        counts = f"calls is {calls!r:.40}, at_once {at_once!r:.40}, retries {retries!r:.40}; give whole numbers"
        retries = checked_count(retries, 0, counts)
        self._client = openai.OpenAI(base_url=address, api_key=self._key, max_retries=retries, timeout=timeout)
        self._cache = local_path(cache)
        self._answers = _read_cache(self._cache)
        self._limit = None if calls is None else checked_count(calls, 0, counts)
        self._at_once, self._on_answer = checked_count(at_once, 1, counts), on_answer
        self._asked = 0
        self._lock = threading.Lock()

    @override
    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        questions = [_messages(a, b) for a, b in pairs]
        digests = [_digest(self.name, messages) for messages in questions]
        new = {
            digest: messages for digest, messages in zip(digests, questions, strict=True) if digest not in self._answers
        }
        with ThreadPoolExecutor(self._at_once) as pool:
            list(pool.map(self._ask, new, new.values()))
        return [_verdict(self._answers.get(digest)) for digest in digests]

    def _ask(self, digest: str, messages: Sequence[ChatCompletionMessageParam]) -> None:
        """Ask one question and keep the answer, unless the limit is reached or an earlier question has failed."""
        with self._lock:
            if self.trouble is not None:
                return
            if self._limit is not None and self._asked >= self._limit:
                self.trouble = f"the limit of {self._limit:,} calls is reached"
                return
            self._asked += 1
        # The last four errors are those of a response that is not a chat completion.
        try:
            answer = self._client.chat.completions.create(model=self.name, messages=messages, temperature=0)
            text = str(answer.choices[0].message.content or "")
        except (self._refused, AttributeError, IndexError, TypeError, ValueError) as error:
            with self._lock:
                reason = first_line(error).replace(self._key, "…")
                self.trouble = self.trouble or f"{self._client.base_url}: {reason}"
            return
        with self._lock:
            self._answers[digest] = text
            self._write({"mark": digest, "model": self.name, "asked": str(messages[-1]["content"]), "answer": text})
            if self._on_answer is not None:
                self._on_answer(self._asked)

    def _write(self, row: dict[str, str]) -> None:
        with refusals("cannot be written", self._cache, OSError):
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            with self._cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def parse_grade(answer: str) -> Grade | None:
    """Return the one grade that an answer names, or None if the answer names no grade or several.

    >>> parse_grade("**SAME** - both are active on months")
    <Grade.SAME: 3>
    """
    named = {name for name in re.findall(r"[A-Z]+", answer.upper()) if name in Grade.__members__}
    return Grade[named.pop()] if len(named) == 1 else None


def _verdict(answer: str | None) -> Verdict:
    if answer is None:
        return Verdict(None, "unanswered")
    grade = parse_grade(answer)
    return Verdict(grade, "unparsed") if grade is None else Verdict(grade)


def _messages(a: str, b: str) -> list[ChatCompletionMessageParam]:
    """Return the instruction, one example of each grade, and the question."""
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": INSTRUCTION}]
    for first, second, grade in EXAMPLE_JUDGEMENTS:
        messages.append({"role": "user", "content": _question(first, second)})
        messages.append({"role": "assistant", "content": grade.name})
    messages.append({"role": "user", "content": _question(a, b)})
    return messages


def _question(a: str, b: str) -> str:
    return f"Explanation 1: {a}\nExplanation 2: {b}"


def _digest(model: str, messages: Sequence[ChatCompletionMessageParam]) -> str:
    return hashlib.sha256(json.dumps([model, messages]).encode()).hexdigest()


def _read_cache(path: Path) -> dict[str, str]:
    """Read the answers so far.

    A last line without an end was cut off by an interruption. The line is removed, so that the next answer begins on a
    line of its own.
    """
    refuse_pointer_at(path)
    wrong, remedy = "not a file with the answers of a judge", "remove the file, or give another one"
    with refusals(wrong, path, OSError, ValueError, KeyError, TypeError, remedy=remedy):
        content = path.read_text(encoding="utf-8") if path.exists() else ""
        if content and not content.endswith("\n"):
            content = content[: content.rfind("\n") + 1]
            path.write_text(content, encoding="utf-8")
        rows = [json.loads(line) for line in content.splitlines()]
        return {row["mark"]: str(row["answer"]) for row in rows}
