"""Every claim about the answers to a problem, compared with exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

import saematch as sm
from adversary.oracle import Truth
from adversary.problems import Given
from saematch.assignment import column_generation

TOLERANCE = Fraction(10**-9)  # of `certified`, relative to the cost of the answer and to the gain of matching
UNIT = Fraction(2) ** -53


@dataclass
class Findings:
    """The findings about one problem.

    Attributes:
        wrong: the claims that exact arithmetic refutes.
        timid: whether the answer is an optimum that was not certified.
        refused: the message with which the problem was refused, or None.
    """

    wrong: list[str]
    timid: bool = False
    refused: str | None = None


def check(given: Given, number: int, same_verdict: bool = True) -> Findings:
    """Solve a problem and equivalent ones, and compare every claim with exact arithmetic.

    Problems with an even number are solved like large problems, by passes that list a few pairs of each row; for every
    other one of these, the passes list only one pair of each row.

    Args:
        given: the problem.
        number: its number, which decides how it is solved.
        same_verdict: whether equivalent problems must be certified alike.
    """
    names = "DENSE", "LISTED", "LISTED_OF_RISEN"
    before = {name: getattr(column_generation, name) for name in names}
    if number % 2 == 0:
        column_generation.DENSE = 0
    if number % 4 == 0:
        column_generation.LISTED = column_generation.LISTED_OF_RISEN = 1
    try:
        return _checked(given, np.random.default_rng(number), same_verdict)
    finally:
        vars(column_generation).update(before)


def _checked(given: Given, r: np.random.Generator, same_verdict: bool) -> Findings:
    findings = Findings([])
    truth = Truth.of(given)
    try:
        best = given.assign()
    except sm.MatchError as error:
        findings.refused = str(error)
        if truth.optimum is not None and not _says_why(str(error)):
            findings.wrong.append(f"refused: {error}")
        return findings
    if truth.optimum is None:
        return Findings(["answered where there is no matching"])
    _check_claims(given, truth, best, findings, "assign")
    exact = truth.objective(best.perm.tolist())
    findings.timid = exact == truth.optimum and not best.certified
    for other, name in _equivalent(given, r):
        verdict = other.assign()
        if same_verdict and verdict.certified != best.certified:
            findings.wrong.append(f"certified is {best.certified}, and {verdict.certified} {name}")
    for perm in _other_answers(best.perm.tolist(), given, r):
        _check_claims(given, truth, given.certify(perm), findings, "certify")
    for method in ("greedy", "mutual_nearest", "nearest"):
        given.assign(method=method)
    if best.certified:
        _check_margins(truth, best, findings, same_verdict)
    return findings


def _says_why(message: str) -> bool:
    return any(word in message for word in ("leave float64", "vanish in float64", "beyond 1e+140", "underflows: give"))


def _check_claims(given: Given, truth: Truth, answer: sm.Matching, findings: Findings, call: str) -> None:
    assert truth.optimum is not None
    perm = answer.perm.tolist()
    used = [j for j in perm if j >= 0]
    if len(set(used)) < len(used):
        findings.wrong.append(f"{call}: not one-to-one")
        return
    objective = truth.objective(perm)
    gap = objective - truth.optimum
    claimed = Fraction(answer.gap) + Fraction(answer.rounding_error)
    if gap < 0:
        findings.wrong.append(f"{call}: less than the optimum: not a matching as asked for")
    if gap > claimed:
        findings.wrong.append(f"{call}: {float(gap):.3g} above the optimum, gap + error are {float(claimed):.3g}")
    if math.isfinite(answer.lower_bound) and Fraction(answer.lower_bound) > truth.optimum:
        above = Fraction(answer.lower_bound) - truth.optimum
        findings.wrong.append(
            f"{call}: the lower bound is {float(above):.3g} above the optimum {float(truth.optimum):.6g}"
        )
    if answer.certified and gap > 0:
        paid = sum((abs(truth.costs[i][j] or 0) for i, j in enumerate(perm) if j >= 0), Fraction(0))
        paid += (truth.max_cost or 0) / 2 * (sum(truth.shape) - 2 * len(used))
        if gap > TOLERANCE * paid * (1 + TOLERANCE):
            findings.wrong.append(f"{call}: certified, {float(gap):.3g} above the optimum, and costs {float(paid):.3g}")
    if (answer.status == "optimal") != answer.certified:
        findings.wrong.append(f"{call}: {answer.status}, certified {answer.certified}")
    if answer.status == "suboptimal" and gap == 0:
        findings.wrong.append(f"{call}: called suboptimal, and is the optimum")
    for i, (j, cost) in enumerate(zip(perm, answer.pair_cost.tolist(), strict=True)):
        exact = Fraction(0) if j < 0 else truth.costs[i][j]
        assert exact is not None
        width = 0 if given.x is None else given.x.shape[1] + 8
        if abs(Fraction(cost) - exact) > width * UNIT * exact + Fraction(2) ** -1060 * width:
            findings.wrong.append(f"{call}: pair_cost[{i}] is {cost!r}, exactly {float(exact)!r}")


def _equivalent(given: Given, r: np.random.Generator) -> Iterator[tuple[Given, str]]:
    yield given.transposed(), "transposed"
    n = len(given.cost if given.cost is not None else given.x)  # type: ignore[arg-type]
    yield given.reordered(np.arange(n)[::-1].copy()), "with its rows in reverse"
    yield given.reordered(r.permutation(n)), "with its rows in another order"


def _other_answers(perm: list[int], given: Given, r: np.random.Generator) -> Iterator[list[int]]:
    """Yield the answer with two partners exchanged."""
    matched = [i for i, j in enumerate(perm) if j >= 0]
    if len(matched) < 2:
        return
    for _ in range(2):
        i, k = r.choice(matched, 2, replace=False)
        other = list(perm)
        other[i], other[k] = perm[k], perm[i]
        if given.cost is None or np.isfinite(given.cost[[i, k], [other[i], other[k]]]).all():
            yield other


def _check_margins(truth: Truth, best: sm.Matching, findings: Findings, precise: bool) -> None:
    assert truth.optimum is not None
    try:
        bound, tied = best.margins().bound.tolist(), best.margins().tied.tolist()
        is_exact = best.margins().is_exact.tolist()
        values = best.margins().exact(range(len(bound))).tolist()
    except sm.MatchError as error:
        findings.wrong.append(f"margins of a certified matching are refused: {error}")
        return
    slack = Fraction(best.gap) + Fraction(best.rounding_error)
    paid = sum((abs(truth.costs[i][j] or 0) for i, j in enumerate(best.perm.tolist()) if j >= 0), Fraction(0))
    for i, j in enumerate(best.perm.tolist()):
        other = truth.optimum_without(i, j)
        if other is None:
            continue
        margin = other - truth.optimum
        if Fraction(bound[i]) > margin + slack:
            findings.wrong.append(f"margin[{i}] is {bound[i]!r}, exactly {float(margin)!r}")
        # If pairs are forbidden, a value may be a lower bound of the margin, unless it is called exact.
        if not math.isfinite(values[i]):
            findings.wrong.append(f"margins().exact([{i}]) is {values[i]!r}, exactly {float(margin)!r}")
            continue
        if Fraction(values[i]) > margin * (1 + TOLERANCE) + slack + Fraction(1, 10**12) * paid:
            findings.wrong.append(f"margins().exact([{i}]) is {values[i]!r}, exactly {float(margin)!r}")
        forbids = any(cost is None for row in truth.costs for cost in row)
        if (
            precise
            and (is_exact[i] or not forbids)
            and Fraction(values[i]) < margin * (1 - 10**5 * TOLERANCE) - slack - Fraction(1, 10**12) * paid
        ):
            findings.wrong.append(f"margins().exact([{i}]) is {values[i]!r}, and exactly {float(margin)!r}")
        if margin == 0 and not tied[i]:
            findings.wrong.append(f"feature {i} is tied and not called so")
