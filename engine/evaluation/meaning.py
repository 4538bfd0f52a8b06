"""Measurements of meaning: a judge reads the explanations of matched features and grades how alike they are."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
from typing_extensions import override

from saematch.analysis.tables import METHOD, PAIR, Row, Schema, finite_mean
from saematch.errors import refusals
from saematch.evaluation.methods import MethodPermutation
from saematch.evaluation.uncertainty import LEVEL, RESAMPLES, bootstrap_counts, interval, mean_ratio
from saematch.numeric.rounding import Floats, Indices
from saematch.options import VerdictStatus
from saematch.runs.plan import Pair
from saematch.storage.folders import local_path
from saematch.storage.reading import refuse_pointer_at

JUDGED = 200  # pairs of features that are read for each pair of layers
QUARTERS = 4

PairOfFeatures = tuple[int, int, int, int]  # source layer, target layer, source feature, target feature


class Grade(IntEnum):
    """How alike the meanings of two features are, from their explanations."""

    DIFFERENT = 1
    MAYBE = 2
    SAME = 3


class Verdict(NamedTuple):
    """The verdict of a judge on two explanations.

    Attributes:
        grade: the grade, or None without one.
        status: `"graded"`, `"unparsed"` if the answer names no grade, or `"unanswered"`.
    """

    grade: Grade | None
    status: VerdictStatus = "graded"


class Judge(Protocol):
    """A judge reads explanations in pairs."""

    name: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return one verdict for each pair of explanations."""


class TokenOverlap(Judge):
    """A proxy for a judge that counts the tokens that two features have in common.

    The explanations must be lists of tokens that are separated by commas, like the labels of the packaged sample. The
    grade is SAME if the Jaccard index of the two sets is at least 1/2, and MAYBE if it is above 0.

    Examples:
        >>> judge = TokenOverlap()
        >>> judge.verdicts([("March, April", "April, March"), ("March, April, May", "May, June"), ("March", "cat")])
        [Verdict(grade=<Grade.SAME: 3>, status='graded'), Verdict(grade=<Grade.MAYBE: 2>, status='graded'),
         Verdict(grade=<Grade.DIFFERENT: 1>, status='graded')]
    """

    name = "token overlap (proxy)"

    @override
    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        return [Verdict(_grade(token_overlap(a, b))) for a, b in pairs]


def token_overlap(a: str, b: str) -> float:
    """Return the Jaccard index of two lists of tokens that are separated by commas."""
    x, y = ({token.strip() for token in label.split(",")} for label in (a, b))
    return len(x & y) / len(x | y)


_INTERVAL = {
    side: f"{side_name} end of the {LEVEL:.0%} bootstrap interval, {RESAMPLES} resamples of the pairs of features"
    for side, side_name in (("low", "lower"), ("high", "upper"))
}
JUDGEMENTS = Schema(
    "judgements",
    "Explanations of matched features, and the grades of a judge",
    {
        **PAIR,
        **METHOD,
        "feature": "feature of the source layer",
        "partner": "feature of the target layer",
        "rank": "rank of the pair's mse among all pairs of the method, from 0 (the cheapest) to 1",
        "mse": "mean over elements of (source - target)^2, folded weights",
        "source_explanation": "text",
        "target_explanation": "text",
        "judge": "name of the judge",
        "grade": "3 SAME, 2 MAYBE, 1 DIFFERENT",
        "status": "graded, unparsed (the answer names no grade) or unanswered",
    },
)
MEANING = Schema(
    "meaning",
    "Grades of matched features, by quarter of their mse",
    {
        **PAIR,
        **METHOD,
        "judge": "name of the judge",
        "quarter": "quarter of the mse, from 1 (the cheapest) to 4 (the most expensive); 0: all pairs",
        "judged": "number of pairs of features with a grade, drawn evenly over the mse; averaged over",
        "unparsed": "number of answers that name no grade; left out",
        "unanswered": "number of pairs that were not asked about, or got no answer; left out",
        "unexplained": "number of matched pairs without two explanations, left out before drawing; in quarter 0",
        "same": "share graded SAME",
        "maybe": "share graded MAYBE",
        "different": "share graded DIFFERENT",
        "value": "mean grade, 1 to 3",
        **_INTERVAL,
    },
)
AGREEMENT = Schema(
    "judge_agreement",
    "Cohen's kappa between the judge and a person",
    {
        "judge": "name of the judge",
        "pairs": "number of pairs of features that both have graded",
        "agreement": "share with the same grade",
        "value": "kappa, the agreement beyond chance: 1 if they always agree, 0 if they agree as often as by chance",
        **_INTERVAL,
    },
)


class _Summary(TypedDict):
    """The columns of `MEANING` that summarise some verdicts."""

    judged: int
    unparsed: int
    unanswered: int
    same: float
    maybe: float
    different: float
    value: float | None
    low: float | None
    high: float | None


def read_grades(path: str | os.PathLike[str]) -> dict[PairOfFeatures, Grade]:
    r"""Read a person's grades from a CSV file with columns source, target, feature, partner and grade.

    A grade is a number from 1 to 3 or its name: DIFFERENT, MAYBE or SAME.

    Raises:
        MatchError: if the file cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("grades.csv").write_text("source,target,feature,partner,grade\n8,9,17,4,SAME\n")
        >>> read_grades("grades.csv")
        {(8, 9, 17, 4): <Grade.SAME: 3>}
    """
    path = local_path(path)
    refuse_pointer_at(path)
    kinds = (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error)
    names = "grade (1, 2, 3 or DIFFERENT, MAYBE, SAME)"
    expected = f"expected CSV with columns source, target, feature, partner and {names}"
    with refusals("no grades can be read", path, *kinds, remedy=expected):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        grades = {}
        for row in rows:
            grade = row["grade"].strip().upper()
            a, b, i, j = (int(row[name]) for name in ("source", "target", "feature", "partner"))
            grades[a, b, i, j] = Grade[grade] if grade in Grade.__members__ else Grade(int(grade))
        return grades


def measure_meaning(
    pair: Pair,
    permutations: Sequence[tuple[MethodPermutation, Floats]],
    explanations: Sequence[Mapping[int, str]],
    judge: Judge,
    judged: int = JUDGED,
) -> dict[str, list[Row]]:
    """Judge some pairs of features of each permutation, evenly spread over their errors.

    Args:
        pair: the pair of layers.
        permutations: permutations, each with the mean squared error of every source feature, `(F_A,)`.
        explanations: feature -> explanation, of the source and of the target.
        judge: the judge.
        judged: the number of pairs of features to judge for each permutation.
    """
    rows: dict[str, list[Row]] = {JUDGEMENTS.name: [], MEANING.name: []}
    for permutation, errors in permutations:
        perm = permutation.perm
        features, ranks, unexplained = _spread(perm, errors, explanations, judged)
        texts = [(explanations[0][int(i)], explanations[1][int(perm[i])]) for i in features]
        verdicts = judge.verdicts(texts)
        method = {"method": permutation.method, "seed": permutation.seed}
        names = {"source": pair[0], "target": pair[1], **method, "judge": judge.name}
        # One row for each pair of features that was judged.
        for i, rank, (a, b), verdict in zip(features, ranks, texts, verdicts, strict=True):
            partners = {"feature": int(i), "partner": int(perm[i]), "source_explanation": a, "target_explanation": b}
            grade = None if verdict.grade is None else int(verdict.grade)
            cost = {"rank": float(rank), "mse": float(errors[i])}
            row = JUDGEMENTS.row(**names, **partners, **cost, grade=grade, status=verdict.status)
            rows[JUDGEMENTS.name].append(row)
        # One row for all of them, and one for each quarter of the errors.
        quarters = np.minimum((ranks * QUARTERS).astype(int) + 1, QUARTERS)
        for quarter in range(QUARTERS + 1):
            chosen = [verdict for verdict, own in zip(verdicts, quarters, strict=True) if quarter in (0, own)]
            counted = {"unexplained": unexplained if quarter == 0 else None}
            rows[MEANING.name].append(MEANING.row(**names, quarter=quarter, **counted, **_summary(chosen)))
    return rows


def measure_agreement(judgements: Sequence[Row], human: Mapping[PairOfFeatures, Grade]) -> dict[str, list[Row]]:
    """Measure the agreement of the judge with a person, over the pairs of features that both have graded."""
    grades: dict[PairOfFeatures, tuple[int, int]] = {}
    for row in judgements:
        key = row["source"], row["target"], row["feature"], row["partner"]
        if row["grade"] is not None and key in human:
            grades[key] = row["grade"], int(human[key])
    judge = judgements[0]["judge"] if judgements else None
    both = np.array(list(grades.values()), dtype=int).reshape(-1, 2)
    # One row per pair of features, with a 1 in the cell of the table of both grades that the pair belongs to.
    cells = np.zeros((len(both), len(Grade) ** 2))
    cells[np.arange(len(both)), (both[:, 0] - 1) * len(Grade) + both[:, 1] - 1] = 1
    kappa = interval(_kappa, cells, counts=bootstrap_counts(len(both))) if len(both) else None
    agreement = finite_mean((both[:, 0] == both[:, 1]).astype(float))
    values = vars(kappa) if kappa else dict.fromkeys(("value", "low", "high"))
    return {AGREEMENT.name: [AGREEMENT.row(judge=judge, pairs=len(both), agreement=agreement, **values)]}


def _spread(
    perm: Indices, errors: Floats, explanations: Sequence[Mapping[int, str]], most: int
) -> tuple[Indices, Floats, int]:
    """Choose at most `most` matched source features with two explanations, evenly spread over the errors.

    Returns the features, the rank of each among all matched features, and the number of those without explanations.
    """
    order = np.nonzero(perm >= 0)[0]
    order = order[np.argsort(errors[order], kind="stable")]
    explained = np.array([int(i) in explanations[0] and int(perm[i]) in explanations[1] for i in order], dtype=bool)
    places = np.nonzero(explained)[0]
    if len(places) > most:
        places = places[np.linspace(0, len(places) - 1, most).astype(int)]
    return order[places], (places + 0.5) / max(1, len(order)), int((~explained).sum())


def _summary(verdicts: Sequence[Verdict]) -> _Summary:
    grades = np.array([verdict.grade for verdict in verdicts if verdict.grade is not None], dtype=float)
    statuses = [verdict.status for verdict in verdicts]
    estimate = None
    if len(grades):
        estimate = interval(mean_ratio, grades, np.ones(len(grades)), counts=bootstrap_counts(len(grades)))
    return {
        "judged": len(grades),
        "unparsed": statuses.count("unparsed"),
        "unanswered": statuses.count("unanswered"),
        "same": finite_mean((grades == Grade.SAME).astype(float)),
        "maybe": finite_mean((grades == Grade.MAYBE).astype(float)),
        "different": finite_mean((grades == Grade.DIFFERENT).astype(float)),
        "value": estimate.value if estimate else None,
        "low": estimate.low if estimate else None,
        "high": estimate.high if estimate else None,
    }


def _kappa(cells: Floats) -> Floats:
    """Return Cohen's kappa for tables of counts, `(n, grades^2)`: one table per row.

    With the share p of equal grades and the share e that chance would give, kappa is (p - e) / (1 - e).
    """
    table = cells.reshape(len(cells), len(Grade), len(Grade)) / cells.sum(axis=1)[:, None, None]
    agreed = np.trace(table, axis1=1, axis2=2)
    chance = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1)
    kappa: Floats = np.divide(agreed - chance, 1 - chance, out=np.full(len(cells), np.nan), where=chance < 1)
    return kappa


def _grade(overlap: float) -> Grade:
    return Grade.SAME if overlap >= 0.5 else Grade.MAYBE if overlap > 0 else Grade.DIFFERENT
