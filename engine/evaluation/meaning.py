"""Whether matched features mean the same: their explanations, read by a judge."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import numpy as np
from typing_extensions import override

from saematch.analysis.tables import METHOD, PAIR, Row, Schema, mean
from saematch.errors import refusals
from saematch.evaluation.methods import Matched
from saematch.evaluation.uncertainty import DRAWS, LEVEL, draws, interval, mean_ratio
from saematch.numeric.rounding import Floats, Indices
from saematch.runs.plan import Pair
from saematch.storage.folders import local_path
from saematch.storage.reading import refuse_pointer_at

JUDGED = 200  # pairs of features read for each pair of layers
QUARTERS = 4

PairOfFeatures = tuple[int, int, int, int]  # source layer, target layer, source feature, target feature


class Grade(IntEnum):
    """What a judge says of two explanations."""

    DIFFERENT = 1
    MAYBE = 2
    SAME = 3


class Verdict(NamedTuple):
    """A grade, or why there is none: "unparsed" (an answer that names no grade) or "unanswered"."""

    grade: Grade | None
    status: str = "graded"


class Judge(Protocol):
    """Reads explanations two by two."""

    name: str

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One for each pair of explanations."""


class TokenOverlap(Judge):
    """A proxy, not a reader: how many of the tokens that two features fire on most are the same.

    With labels of tokens parted by commas: Jaccard index of the two sets; from 1/2 on SAME, above 0 MAYBE.
    """

    name = "token overlap (proxy)"

    @override
    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        return [Verdict(_grade(token_overlap(a, b))) for a, b in pairs]


def token_overlap(a: str, b: str) -> float:
    """Jaccard index of two lists of tokens parted by commas."""
    x, y = ({token.strip() for token in label.split(",")} for label in (a, b))
    return len(x & y) / len(x | y)


JUDGEMENTS = Schema(
    "judgements",
    "Explanations of matched features, and what a judge says of them",
    {
        **PAIR,
        **METHOD,
        "feature": "of the source",
        "partner": "feature of the target",
        "rank": "of the pair's mse among all of the method's, from 0 (the cheapest) to 1",
        "mse": "mean over elements of (source - target)^2, folded weights",
        "source_explanation": "text",
        "target_explanation": "text",
        "judge": "who reads them",
        "grade": "3 SAME, 2 MAYBE, 1 DIFFERENT",
        "status": "graded, unparsed (the answer names no grade) or unanswered",
    },
)
MEANING = Schema(
    "meaning",
    "Grades of matched features, by the quarter of their mse",
    {
        **PAIR,
        **METHOD,
        "judge": "who reads them",
        "quarter": "of the mse, 1 the cheapest to 4; 0 all",
        "judged": "pairs of features with a grade, drawn evenly over the mse; averaged over",
        "unparsed": "answers that name no grade, left out",
        "unanswered": "not asked, or without an answer, left out",
        "unexplained": "matched pairs without two explanations, left out before drawing; in quarter 0",
        "same": "share graded SAME",
        "maybe": "share graded MAYBE",
        "different": "share graded DIFFERENT",
        "value": "mean grade, 1 to 3",
        "low": f"lower end of the {LEVEL:.0%} bootstrap interval, {DRAWS} draws of pairs of features",
        "high": f"upper end of the {LEVEL:.0%} bootstrap interval, {DRAWS} draws of pairs of features",
    },
)
AGREEMENT = Schema(
    "judge_agreement",
    "Cohen's kappa between the judge and a person",
    {
        "judge": "who reads them",
        "pairs": "of features that both have graded",
        "agreement": "share with the same grade",
        "value": "kappa: agreement beyond chance; 1 always, 0 as by chance",
        "low": f"lower end of the {LEVEL:.0%} bootstrap interval, {DRAWS} draws of pairs of features",
        "high": f"upper end of the {LEVEL:.0%} bootstrap interval, {DRAWS} draws of pairs of features",
    },
)


def read_grades(path: str | os.PathLike[str]) -> dict[PairOfFeatures, Grade]:
    """A person's grades: CSV with columns source, target, feature, partner and grade (1 to 3, or its name).

    Raises `MatchError`.
    """
    path = local_path(path)
    refuse_pointer_at(path)
    kinds = (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error)
    grades = "grade (1, 2, 3 or DIFFERENT, MAYBE, SAME)"
    expected = f"expected CSV with columns source, target, feature, partner and {grades}"
    with refusals("no grades can be read", path, *kinds, remedy=expected):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = {}
        for row in rows:
            given = row["grade"].strip().upper()
            a, b, i, j = (int(row[name]) for name in ("source", "target", "feature", "partner"))
            found[a, b, i, j] = Grade[given] if given in Grade.__members__ else Grade(int(given))
        return found


def measure_meaning(
    pair: Pair,
    matchings: Sequence[tuple[Matched, Floats]],
    explained: Sequence[Mapping[int, str]],
    judge: Judge,
    judged: int = JUDGED,
) -> dict[str, list[Row]]:
    """Judge some pairs of features of each matching, spread evenly over their errors.

    Args:
        pair: the layers.
        matchings: with the mean squared error of each pair, `(F_A,)`.
        explained: feature -> explanation, of the source and of the target.
        judge: who reads them.
        judged: how many of each matching.
    """
    rows: dict[str, list[Row]] = {JUDGEMENTS.name: [], MEANING.name: []}
    for matched, errors in matchings:
        features, ranks, unexplained = _drawn(matched.perm, errors, explained, judged)
        texts = [(explained[0][int(i)], explained[1][int(matched.perm[i])]) for i in features]
        verdicts = judge.verdicts(texts)
        names = {
            "source": pair[0],
            "target": pair[1],
            "method": matched.method,
            "seed": matched.seed,
            "judge": judge.name,
        }
        for i, rank, (a, b), verdict in zip(features, ranks, texts, verdicts, strict=True):
            grade = None if verdict.grade is None else int(verdict.grade)
            rows[JUDGEMENTS.name].append(
                JUDGEMENTS.row(
                    **names,
                    feature=int(i),
                    partner=int(matched.perm[i]),
                    rank=float(rank),
                    mse=float(errors[i]),
                    source_explanation=a,
                    target_explanation=b,
                    grade=grade,
                    status=verdict.status,
                )
            )
        quarter_of = np.minimum((ranks * QUARTERS).astype(int) + 1, QUARTERS)
        for quarter in range(QUARTERS + 1):
            those = [verdict for verdict, own in zip(verdicts, quarter_of, strict=True) if quarter in (0, own)]
            counted = {"unexplained": unexplained if quarter == 0 else None}
            rows[MEANING.name].append(MEANING.row(**names, quarter=quarter, **counted, **_summary(those)))
    return rows


def measure_agreement(judgements: Sequence[Row], human: Mapping[PairOfFeatures, Grade]) -> dict[str, list[Row]]:
    """Agreement of the judge with a person, over the pairs of features that both have graded."""
    grades: dict[PairOfFeatures, tuple[int, int]] = {}
    for row in judgements:
        key = row["source"], row["target"], row["feature"], row["partner"]
        if row["grade"] is not None and key in human:
            grades[key] = row["grade"], int(human[key])
    judge = judgements[0]["judge"] if judgements else None
    both = np.array(list(grades.values()), dtype=int).reshape(-1, 2)
    cells = np.zeros((len(both), len(Grade) ** 2))  # one pair of features a row: which cell of the table it falls in
    cells[np.arange(len(both)), (both[:, 0] - 1) * len(Grade) + both[:, 1] - 1] = 1
    found = interval(_kappa, cells, draws=draws(len(both))) if len(both) else None
    agreement = mean((both[:, 0] == both[:, 1]).astype(float))
    values = vars(found) if found else dict.fromkeys(("value", "low", "high"))
    return {AGREEMENT.name: [AGREEMENT.row(judge=judge, pairs=len(both), agreement=agreement, **values)]}


def _drawn(
    perm: Indices, errors: Floats, explained: Sequence[Mapping[int, str]], most: int
) -> tuple[Indices, Floats, int]:
    """Source features spread evenly over the errors, their ranks among all, and how many lack an explanation."""
    order = np.nonzero(perm >= 0)[0]
    order = order[np.argsort(errors[order], kind="stable")]
    known = np.array([int(i) in explained[0] and int(perm[i]) in explained[1] for i in order], dtype=bool)
    places = np.nonzero(known)[0]
    if len(places) > most:
        places = places[np.linspace(0, len(places) - 1, most).astype(int)]
    return order[places], (places + 0.5) / max(1, len(order)), int((~known).sum())


def _summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    grades = np.array([verdict.grade for verdict in verdicts if verdict.grade is not None], dtype=float)
    statuses = [verdict.status for verdict in verdicts]
    found = interval(mean_ratio, grades, np.ones(len(grades)), draws=draws(len(grades))) if len(grades) else None
    values = vars(found) if found else dict.fromkeys(("value", "low", "high"))
    shares = {grade.name.lower(): mean((grades == grade).astype(float)) for grade in Grade}
    return {
        "judged": len(grades),
        "unparsed": statuses.count("unparsed"),
        "unanswered": statuses.count("unanswered"),
        **shares,
        **values,
    }


def _kappa(cells: Floats) -> Floats:
    """Cohen's kappa of tables of counts, one a row `(n, grades^2)`."""
    table = cells.reshape(len(cells), len(Grade), len(Grade)) / cells.sum(axis=1)[:, None, None]
    agreed = np.trace(table, axis1=1, axis2=2)
    chance = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1)
    kappa: Floats = np.divide(agreed - chance, 1 - chance, out=np.full(len(cells), np.nan), where=chance < 1)
    return kappa


def _grade(overlap: float) -> Grade:
    return Grade.SAME if overlap >= 0.5 else Grade.MAYBE if overlap > 0 else Grade.DIFFERENT
