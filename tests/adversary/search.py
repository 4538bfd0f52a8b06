"""The findings about a problem of the search, and the smallest problem that has them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from adversary import kinds  # noqa: F401 # registers the kinds
from adversary.claims import Findings, check
from adversary.problems import BEYOND, Given, problem


def findings(name: str, number: int, given: Given | None = None) -> Findings:
    """Return the findings of `check` about a problem, or about a simpler one in its place. A crash is wrong, too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return check(problem(name, number) if given is None else given, number, name not in BEYOND)
    except Exception as error:
        return Findings([f"{type(error).__name__}: {error}"])


def smaller(name: str, number: int) -> Given:
    """Return the smallest problem found with a wrong claim: without rows and columns, and with rounder numbers."""
    given, again = problem(name, number), True
    while again:
        again = False
        for other in _simpler(given):
            if findings(name, number, other).wrong:
                given, again = other, True
                break
    return given


def _simpler(given: Given) -> Iterator[Given]:
    if given.max_cost is not None:
        yield replace(given, max_cost=None)
    for name in ("x", "y", "cost"):
        values = getattr(given, name)
        if values is None:
            continue
        for i in range(len(values)):
            yield replace(given, **{name: np.delete(values, i, axis=0)})
        if name == "cost":
            for j in range(values.shape[1]):
                yield replace(given, cost=np.delete(values, j, axis=1))
        for place in np.ndindex(values.shape):
            for digits in (0, 1, 3, 6):
                rounded = float(f"{values[place]:.{digits}e}") if np.isfinite(values[place]) else values[place]
                for simple in (0.0, rounded):
                    if simple != values[place] and len(repr(float(simple))) < len(repr(float(values[place]))):
                        changed = values.copy()
                        changed[place] = simple
                        yield replace(given, **{name: changed})
    if given.x is not None and given.y is not None and given.x.shape[1] == given.y.shape[1]:
        for k in range(given.x.shape[1]):
            yield replace(given, x=np.delete(given.x, k, axis=1), y=np.delete(given.y, k, axis=1))
