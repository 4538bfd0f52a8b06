"""The meaning of each number of a comparison, with a version that changes whenever the meaning does."""

from __future__ import annotations

from saematch.analysis.tables import Schema
from saematch.dictionaries.measures import STATISTICS

SCHEMA = 2  # of consistency.json and the tables
NULLS = ("null_random", "null_rotated")  # names of the null models
FEATURES, PARTNERS = "features", "partners"  # names of the tables with a row for each feature

# name -> (version, definition). `a_i`, `b_j` are directions of decoder rows.
DEFINITIONS: dict[str, tuple[int, str]] = {
    "mcc": (
        1,
        "mean similarity of the one-to-one matching with the largest sum of similarities; with different numbers of "
        "features, every feature of the smaller SAE is matched and the mean is over these",
    ),
    "mcc_decoder": (1, "MCC by the cosine of decoder rows (arXiv 2505.20254)"),
    "mcc_encoder": (1, "MCC by the cosine of encoder columns"),
    "mcc_joint": (1, "MCC by the mean of both cosines, matched by that mean"),
    "mcc_absolute": (1, "MCC by the absolute value of the similarity, matched by that value (as in SAELens)"),
    "pw_mcc": (1, "mean of the MCC over all pairs of SAEs, or over the pairs with the reference"),
    "mmcs_ab": (1, "mean over the features of A of the largest cosine of the decoder row with any of B, many to one"),
    "mmcs_ba": (1, "the same over the features of B"),
    "shared": (
        1,
        "share of features that the matching of decoders and the matching of encoders each give a partner with a "
        "cosine above the threshold (arXiv 2501.16615); of the smaller SAE, and of A if both are equally large",
    ),
    "same_partner": (1, "share of features of the smaller SAE to which both matchings give the same partner"),
    "uniqueness_ab": (
        1,
        "number of features of B that are the most similar one of some feature of A, by the absolute cosine of decoder "
        "rows, divided by the number of features of A (as in SAELens)",
    ),
    "uniqueness_ba": (1, "the same from B to A"),
    "null_random": (
        1,
        "the same numbers, with B replaced by random directions: normal with the mean and covariance of the directions "
        "of B, the encoder and decoder direction of a feature drawn together",
    ),
    "null_rotated": (1, "the same numbers, with B turned by a random orthogonal matrix"),
    "gap": (1, "the number minus its mean under the null, divided by the standard deviation of the null over seeds"),
    "shared_with_all": (1, "share of features of an SAE that are shared with each SAE that it was compared with"),
    "decision": (
        1,
        "shared: as defined; unique: no feature of the other SAE has a cosine above the threshold with it, by decoder "
        "or by encoder; uncertain: all others",
    ),
}

_PAIR = {"a": "name of SAE A", "b": "name of SAE B"}
_ONE = {"sae": "name of the SAE", "other": "name of the SAE that it is compared with"}


def _definition(statistic: str) -> str:
    name = "mcc_absolute" if statistic.endswith("_absolute") else statistic
    return DEFINITIONS[name][1]


PAIRS_TABLE = Schema(
    "pairs",
    "every pair of SAEs",
    {
        **_PAIR,
        "features_a": "number of features of A",
        "features_b": "number of features of B",
        **{name: _definition(name) for name in STATISTICS},
        **{f"{null}_{name}": f"mean of {name} under {null}" for null in NULLS for name in STATISTICS},
        "certified": "whether all matchings of the pair are proved to be optimal",
    },
)
SAES_TABLE = Schema(
    "saes",
    "every SAE",
    {
        "sae": "name of the SAE",
        "features": "number of features",
        "compared_with": "number of SAEs that it was compared with",
        "shared_with_all": "share of its features that are shared with all of these",
        "shared_with_some": "share of its features that are shared with some of these, not with all",
        "shared_with_none": "share of its features that are shared with none of these",
        "unique": "share of its features that are unique compared with all of these, see the decision of a feature",
    },
)
RATES_TABLE = Schema(
    "firing_rates",
    "shared features by firing rate",
    {
        **_ONE,
        "decile": "tenth of the features in order of firing rate, 1 for the least active",
        "features": "number of features in it",
        "low": "smallest firing rate in it",
        "high": "largest firing rate in it",
        "shared": "share of its features that are shared with the other SAE",
        "similarity": "mean cosine of decoder rows with the partner, over its features that have one",
    },
)
HISTOGRAM_TABLE = Schema(
    "similarities",
    "distribution of the similarity of matched features, and of both nulls",
    {
        **_PAIR,
        "kind": "decoder, encoder or joint: what is matched, by its signed similarity",
        "of": "matched, null_random or null_rotated",
        "low": "lower end of the bin",
        "high": "upper end of the bin",
        "features": "number of features in the bin; under a null, the mean over seeds",
    },
)
PARTNERS_TABLE = Schema(
    PARTNERS,
    "every feature and every SAE that its SAE is compared with",
    {
        **_ONE,
        "feature": "number of the feature",
        "decision": DEFINITIONS["decision"][1],
        "partner": "number of the partner by the matching of decoders; -1 without one",
        "similarity": "cosine of the decoder rows of the feature and this partner",
        "margin": "how far this cosine can fall before another matching of decoders is better, or a proved lower bound",
        "margin_exact": "1 if the margin is exact; 0 if it is a proved lower bound",
        "encoder_partner": "number of the partner by the matching of encoders; -1 without one",
        "encoder_similarity": "cosine of the encoder columns of the feature and this partner",
        "joint_partner": "number of the partner by the matching of both; -1 without one",
        "joint_similarity": "mean of both cosines with this partner",
        "nearest": "number of the feature with the largest cosine of decoder rows",
        "nearest_similarity": "that cosine",
        "nearest_encoder_similarity": "largest cosine of encoder columns with any feature",
    },
)
FEATURES_TABLE = Schema(
    FEATURES,
    "every feature, and in which other SAEs it is found",
    {
        "sae": "name of the SAE",
        "feature": "number of the feature",
        "compared_with": "number of SAEs that its SAE was compared with",
        "shared_with": "number of these in which it is shared",
        "decision": "shared with at least one SAE; unique compared with all; or uncertain",
        "found_in": "names of the SAEs in which it is shared, separated by ;",
        "partners": "numbers of its partners there, by the matching of decoders, separated by ;",
        "similarities": "cosines of decoder rows with these partners, separated by ;",
        "margins": "margins of these pairs, separated by ;",
        "margins_exact": "1 for each of these margins that is exact, 0 for a proved lower bound, separated by ;",
        "firing_rate": "firing rate of the feature, if it was given",
    },
)
