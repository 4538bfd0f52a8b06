"""The result of a comparison of SAEs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from saematch.analysis.tables import Row
from saematch.dictionaries.decisions import DECISIONS, Partners, by_firing_rate, decisions_of, others_of
from saematch.dictionaries.definitions import DEFINITIONS, NULLS, SCHEMA
from saematch.dictionaries.files import write_all
from saematch.dictionaries.measures import MCC, STATISTICS
from saematch.dictionaries.reading import NOT_OURS, read_all
from saematch.errors import refusals
from saematch.numeric.rounding import Floats
from saematch.storage.folders import LocalFolder
from saematch.text import html_table

# "matched" or the name of a null model -> kind -> counts of the bins
Histograms = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True, repr=False)
class NullModel:
    """The numbers of a pair if one of its SAEs is replaced by a null model, over several seeds.

    Attributes:
        seeds: the number of seeds.
        certified: whether every matching with the null model is proved to be optimal.
        mean: name of a number -> its mean.
        spread: name -> its standard deviation; None for one seed.
        gap: name -> the number of the pair itself minus the mean, in units of the spread; None without a spread.
    """

    seeds: int
    certified: bool
    mean: dict[str, float]
    spread: dict[str, float | None]
    gap: dict[str, float | None]

    def __repr__(self) -> str:
        return f"NullModel(mcc_decoder={self.mean['mcc_decoder']:.4f}, seeds={self.seeds}, certified={self.certified})"


@dataclass(frozen=True, repr=False)
class PairConsistency:
    """The numbers of one pair of SAEs; `definitions` of `Consistency` says what each of them means.

    Attributes:
        a: the name of SAE A.
        b: the name of SAE B.
        features_a: the number of features of A.
        features_b: the number of features of B.
        certified: whether every matching of the two, also with null models, is proved to be optimal.
        null_random: the numbers with B replaced by random directions; None without null models.
        null_rotated: the numbers with B turned at random.
        histograms: the counts of the table `similarities`.
    """

    a: str
    b: str
    features_a: int
    features_b: int
    mcc_decoder: float
    mcc_encoder: float
    mcc_joint: float
    mcc_decoder_absolute: float
    mcc_encoder_absolute: float
    mcc_joint_absolute: float
    mmcs_ab: float
    mmcs_ba: float
    shared: float
    same_partner: float
    uniqueness_ab: float
    uniqueness_ba: float
    certified: bool
    null_random: NullModel | None = None
    null_rotated: NullModel | None = None
    histograms: Histograms = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """Return the numbers of the pair by name."""
        return {name: getattr(self, name) for name in STATISTICS}

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the histograms for JSON."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "histograms"}
        return values | {name: vars(values[name]) for name in NULLS if values[name] is not None}

    def __repr__(self) -> str:
        numbers = f"mcc_decoder={self.mcc_decoder:.4f}, shared={self.shared:.4f}, certified={self.certified}"
        return f"PairConsistency({self.a!r}, {self.b!r}, {numbers})"


@dataclass(frozen=True, repr=False)
class Consistency:
    """How far SAEs agree, by their weights. `saematch.consistency` returns it.

    Attributes:
        schema: the version of the format of `as_dict`.
        axis: what the SAEs differ in, such as "seed" or "step".
        threshold: the cosine above which matched features are shared.
        reference: the name of the SAE that all others are compared with; None if all pairs were compared.
        certified: whether every matching behind the numbers is proved to be optimal.
        pw_mcc_decoder: the mean of `mcc_decoder` over the pairs; likewise the other five.
        shared_with_all: name of an SAE -> share of its features that are shared with all SAEs it was compared with.
        shared_with_some: the share that is shared with some of them, and not with all.
        shared_with_none: the share that is shared with none.
        decisions: name -> shares of features that are "shared" with some SAE, "unique" compared with all, "uncertain".
        pairs: the numbers of each pair.
        firing_rates: the rows of the table of this name; empty unless firing rates were given.
        saes: name and record of each SAE: path or address (with the commit of a hub), hashes, shape.
        definitions: name of a number -> its version and its definition.
        provenance: versions of packages, the machine, and the options of the comparison.
        partners: (name, other name) -> columns of the table `partners`, as arrays with one entry a feature. Entries of
            "decision" are places in ("shared", "unique", "uncertain").
        rates: name -> firing rates, where they were given.

    Examples:
        >>> import saematch as sm
        >>> result = sm.consistency({8: "sample?layer=8", 9: "sample?layer=9"}, nulls=0)
        >>> round(result.pw_mcc_decoder, 3), result.certified
        (0.396, True)
        >>> columns = result.partners["8", "9"]
        >>> int(columns["partner"][384]), round(float(columns["similarity"][384]), 3)
        (455, 0.967)
    """

    schema: int
    axis: str
    threshold: float
    reference: str | None
    certified: bool
    pw_mcc_decoder: float
    pw_mcc_encoder: float
    pw_mcc_joint: float
    pw_mcc_decoder_absolute: float
    pw_mcc_encoder_absolute: float
    pw_mcc_joint_absolute: float
    shared_with_all: dict[str, float]
    shared_with_some: dict[str, float]
    shared_with_none: dict[str, float]
    decisions: dict[str, dict[str, float]]
    pairs: list[PairConsistency]
    firing_rates: list[Row]
    saes: list[dict[str, Any]]
    definitions: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    partners: Partners = field(default_factory=dict)
    rates: Mapping[str, Floats] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the columns of single features, for JSON: the content of `consistency.json`.

        Examples:
            >>> import saematch as sm
            >>> result = sm.consistency({8: "sample?layer=8", 9: "sample?layer=9"}, nulls=0)
            >>> result.as_dict()["pairs"][0]["mcc_decoder"] == result.pairs[0].mcc_decoder
            True
        """
        left_out = ("partners", "rates")
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in left_out}
        return values | {"pairs": [pair.as_dict() for pair in self.pairs]}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `consistency.json` and the tables to a folder, as CSV and, if pyarrow is installed, as Parquet.

        Raises:
            MatchError: if the folder cannot be written.

        Examples:
            >>> import saematch as sm
            >>> sm.consistency({8: "sample?layer=8", 9: "sample?layer=9"}, nulls=0).save("seeds")
        """
        write_all(self, LocalFolder(folder))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Consistency:
        """Read a comparison from a folder that `save` or `saematch.consistency(…, out=folder)` wrote.

        Raises:
            MatchError: if the folder has no comparison, another version wrote it, or its files are damaged.

        Examples:
            >>> import saematch as sm
            >>> _ = sm.consistency({8: "sample?layer=8", 9: "sample?layer=9"}, nulls=0, out="seeds")
            >>> result = sm.Consistency.load("seeds")
            >>> round(result.pw_mcc_decoder, 3), int(result.partners["8", "9"]["partner"][384])
            (0.396, 455)
        """
        where = LocalFolder(folder)
        values = read_all(where)
        with refusals(NOT_OURS, where, TypeError, KeyError):
            return cls(**values | {"pairs": [_pair_of(pair) for pair in values["pairs"]]})

    def __repr__(self) -> str:
        numbers = f"pw_mcc_decoder={self.pw_mcc_decoder:.4f}, certified={self.certified}"
        return f"Consistency({len(self.saes)} SAEs, {len(self.pairs)} pairs, {numbers})"

    def _repr_html_(self) -> str:
        head = ["a", "b", *STATISTICS, "certified"]
        rows = [[*(f"{value:.4f}" for value in pair.numbers().values()), pair.certified] for pair in self.pairs]
        return html_table(
            repr(self), head, [[pair.a, pair.b, *row] for pair, row in zip(self.pairs, rows, strict=True)]
        )


def _pair_of(values: dict[str, Any]) -> PairConsistency:
    nulls = {name: None if values[name] is None else NullModel(**values[name]) for name in NULLS}
    return PairConsistency(**values | nulls)


def null_model_of(numbers: Mapping[str, float], values: Sequence[Mapping[str, float]], certified: bool) -> NullModel:
    """Return the null model of a pair with these numbers, from the numbers of each seed."""
    mean, spread, gap = dict[str, float](), dict[str, float | None](), dict[str, float | None]()
    for name, number in numbers.items():
        column = np.array([of_seed[name] for of_seed in values])
        deviation = float(column.std(ddof=1)) if len(column) > 1 else None
        mean[name], spread[name] = float(column.mean()), deviation
        gap[name] = (number - mean[name]) / deviation if deviation else None
    return NullModel(len(values), certified, mean, spread, gap)


def consistency_of(
    pairs: list[PairConsistency],
    partners: Partners,
    rates: Mapping[str, Floats],
    *,
    axis: str,
    threshold: float,
    reference: str | None,
    saes: list[dict[str, Any]],
    provenance: dict[str, Any],
) -> Consistency:
    """Return the result of all pairs."""
    means = {f"pw_{name}": math.fsum(getattr(pair, name) for pair in pairs) / len(pairs) for name in MCC}
    with_all, with_some, with_none = (dict[str, float]() for _ in range(3))
    decisions = {}
    for name in dict.fromkeys(sae for sae, _ in partners):
        shared_with, decided = decisions_of(partners, name)
        others = len(others_of(partners, name))
        with_all[name], with_none[name] = float((shared_with == others).mean()), float((shared_with == 0).mean())
        with_some[name] = float(((shared_with > 0) & (shared_with < others)).mean())
        decisions[name] = {text: float((decided == place).mean()) for place, text in enumerate(DECISIONS)}
    return Consistency(
        schema=SCHEMA,
        axis=axis,
        threshold=threshold,
        reference=reference,
        certified=all(pair.certified for pair in pairs),
        **means,
        shared_with_all=with_all,
        shared_with_some=with_some,
        shared_with_none=with_none,
        decisions=decisions,
        pairs=pairs,
        firing_rates=list(by_firing_rate(partners, rates)),
        saes=saes,
        definitions={name: {"version": v, "definition": text} for name, (v, text) in DEFINITIONS.items()},
        provenance=provenance,
        partners=partners,
        rates=rates,
    )
