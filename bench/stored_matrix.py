"""The numbers that say how far two SAEs agree, each from its definition, by SciPy on the stored matrices."""

import numpy as np
from scipy.optimize import linear_sum_assignment

THRESHOLD = 0.7


def unit(rows):
    """Return rows of norm 1 in float64; rows of zeros stay."""
    rows = rows.double().numpy()
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > 0, rows / np.where(norms > 0, norms, 1), 0)


def numbers_by_scipy(a, b):
    """Return every number of a pair of SAEs by name."""
    decoder, encoder = unit(a.W_dec) @ unit(b.W_dec).T, unit(a.W_enc.T) @ unit(b.W_enc.T).T
    matrices = {"decoder": decoder, "encoder": encoder, "joint": (decoder + encoder) / 2}
    numbers, pairs = {}, {}
    for kind, matrix in matrices.items():
        pairs[kind] = linear_sum_assignment(matrix, maximize=True)  # of the smaller side, all features are matched
        numbers[f"mcc_{kind}"] = matrix[pairs[kind]].mean()
        absolute = np.abs(matrix)
        numbers[f"mcc_{kind}_absolute"] = absolute[linear_sum_assignment(absolute, maximize=True)].mean()
    numbers["mmcs_ab"], numbers["mmcs_ba"] = decoder.max(axis=1).mean(), decoder.max(axis=0).mean()
    for name, axis in (("uniqueness_ab", 1), ("uniqueness_ba", 0)):
        numbers[name] = len(np.unique(np.abs(decoder).argmax(axis=axis))) / decoder.shape[1 - axis]
    smaller, larger = (0, 1) if decoder.shape[0] <= decoder.shape[1] else (1, 0)
    by_feature = {}
    for kind, matched in pairs.items():
        order = np.argsort(matched[smaller])
        by_feature[kind] = matched[larger][order], matrices[kind][matched][order]
    (by_decoder, cosine), (by_encoder, encoder_cosine) = by_feature["decoder"], by_feature["encoder"]
    above = (cosine > THRESHOLD) & (encoder_cosine > THRESHOLD)
    return numbers | {"shared": above.mean(), "same_partner": (by_decoder == by_encoder).mean()}
