"""Small helpers for text: what may be printed, lists of names in messages, and names that sort as people expect."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text of unknown origin without control characters, which could steer the terminal."""
    return "".join(character if character.isprintable() else "·" for character in text)
