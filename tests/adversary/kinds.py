"""The kinds of problems: rows, and costs, that have misled a solver or may do so."""

from __future__ import annotations

import math

import numpy as np

from adversary.problems import costs, normal, rows, sides, size, up_to_sign


@rows
def ordinary_rows(r):
    return normal(r)


@rows
def same_rows_in_another_order(r):
    x, _ = normal(r)
    return x, x[r.permutation(len(x))]


@rows
def nearly_the_same_rows(r):
    x, _ = normal(r)
    return x, x[r.permutation(len(x))] + 10.0 ** -r.uniform(5, 17) * r.standard_normal(x.shape)


@rows
def nearly_one_row(r):
    x, y = normal(r)
    spread = 10.0 ** -r.uniform(3, 17)
    return 1 + spread * x, 1 + spread * y


@rows
def common_offsets(r):
    x, y = normal(r)
    return x + 10.0 ** r.uniform(0, 12), y + 10.0 ** r.uniform(0, 12)


@rows
def offsets_in_one_direction(r):
    x, y = normal(r)
    x[:, 0] += 10.0 ** r.uniform(0, 12)
    return x, y


@rows
def one_outlier(r):
    x, y = normal(r)
    x[r.integers(len(x))] *= 10.0 ** r.uniform(0, 14)
    return x, y


@rows
def outliers_on_both_sides(r):
    x, y = normal(r)
    for side in (x, y):
        side[r.random(len(side)) < 0.3] *= 10.0 ** r.uniform(0, 14)
    return x, y


@rows
def offsets_and_an_outlier(r):
    x, y = normal(r)
    x, y = x + 10.0 ** r.uniform(0, 9), y + 10.0 ** r.uniform(0, 9)
    x[0] *= 10.0 ** r.uniform(0, 6)
    return x, y


@rows
def rows_of_every_size(r):
    x, y = normal(r)
    return x * 10.0 ** r.uniform(-10, 10, (len(x), 1)), y * 10.0 ** r.uniform(-10, 10, (len(y), 1))


@rows
def columns_of_every_size(r):
    x, y = normal(r)
    scale = 10.0 ** r.uniform(-10, 10, x.shape[1])
    return x * scale, y * scale


@rows
def orthonormal_rows(r):
    n = size(r)
    q = np.linalg.qr(r.standard_normal((n, n)))[0]
    return q, q[r.permutation(n)]


@rows
def two_orthonormal_bases(r):
    n = size(r)
    return np.linalg.qr(r.standard_normal((n, n)))[0], np.linalg.qr(r.standard_normal((n, n)))[0]


@rows
def unit_vectors_of_axes(r):
    n = size(r)
    return np.eye(n), np.eye(n)[r.permutation(n)][: size(r)]


@rows
def sparse_unit_rows(r):
    (n, m), width = sides(r), 12
    x, y = (np.where(r.random((k, width)) < 0.2, r.random((k, width)), 0.0) for k in (n, m))
    return tuple(side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9) for side in (x, y))


@rows
def rows_of_zeros_and_ones(r):
    (n, m), width = sides(r), int(r.integers(1, 5))
    return r.integers(0, 2, (n, width)).astype(float), r.integers(0, 2, (m, width)).astype(float)


@rows
def zero_rows(r):
    x, y = normal(r)
    x[r.random(len(x)) < 0.4] = 0
    y[r.random(len(y)) < 0.4] = 0
    return x, y


@rows
def duplicated_rows(r):
    x, y = normal(r)
    return x[r.integers(0, len(x), len(x))], y[r.integers(0, len(y), len(y))]


@rows
def duplicates_within_rounding(r):
    x, y = normal(r)
    x, y = x[r.integers(0, len(x), len(x))], y[r.integers(0, len(y), len(y))]
    return x * (1 + 2.0**-52 * r.integers(-1, 2, x.shape)), y * (1 + 2.0**-52 * r.integers(-1, 2, y.shape))


@rows
def points_on_a_line(r):
    n, m = sides(r)
    return r.standard_normal((n, 1)) * 10.0 ** r.uniform(-6, 6), r.standard_normal((m, 1))


@rows
def lattice_points_with_offsets(r):
    (n, m), width = sides(r), int(r.integers(1, 4))
    far = 2.0 ** r.integers(0, 40, 2)
    return r.integers(0, 3, (n, width)) + far[0], r.integers(0, 3, (m, width)) + far[1]


@rows
def tiny_rows(r):
    x, y = normal(r)
    factor = 10.0 ** -r.uniform(60, 170)
    return x * factor, y * factor


@rows
def tiny_rows_and_an_ordinary_one(r):
    x, y = normal(r)
    factor = 10.0 ** -r.uniform(20, 170)
    x, y = x * factor, y * factor
    x[0] = r.standard_normal(x.shape[1])
    return x, y


@rows
def huge_rows(r):
    x, y = normal(r)
    factor = 10.0 ** r.uniform(60, 150)
    return x * factor, y * factor


@rows
def subnormal_numbers(r):
    x, y = normal(r)
    return x * 2.0 ** -r.integers(500, 1074), y * 2.0 ** -r.integers(500, 1074)


@rows
def single_precision(r):
    x, y = normal(r)
    return x.astype(np.float32), (y * 10.0 ** r.uniform(-20, 18)).astype(np.float32)


@rows
def no_columns_or_no_rows(r):
    x, y = normal(r)
    return (x[:, :0], y[:, :0]) if r.random() < 0.5 else (x[:0], y)


@rows
def nearly_tied_swaps(r):
    n, width = size(r), int(r.integers(1, 4))
    base = r.standard_normal((1, width))
    x = base + 10.0 ** -r.uniform(0, 16) * r.standard_normal((n, width))
    y = -base + 10.0 ** -r.uniform(0, 16) * r.standard_normal((n, width))
    return x, y


@rows
def a_hub(r):
    x, y = normal(r)
    y[0] = 0
    return 0.1 * x, y


@costs
def ordinary_costs(r, n, m):
    return r.standard_normal((n, m))


@costs
def zeros_and_ones(r, n, m):
    return r.integers(0, 2, (n, m))


@costs
def few_values(r, n, m):
    return r.choice(r.standard_normal(3), (n, m))


@costs
def decimals(r, n, m):
    return r.integers(0, 20, (n, m)) / 10


@costs
def decades(r, n, m):
    return np.exp(r.uniform(0, r.uniform(10, 70), (n, m)))


@costs
def many_decades(r, n, m):
    return np.exp(r.uniform(0, r.uniform(70, 300), (n, m)))


@costs
def log_normal(r, n, m):
    return np.exp(r.uniform(1, 20) * r.standard_normal((n, m)))


@costs
def inverse_probabilities(r, n, m):
    return np.minimum(1 / (r.dirichlet(np.full(m, 0.05), n) + 1e-300), 1e30)


@costs
def decades_less_one(r, n, m):
    return np.exp(r.uniform(0, 60, (n, m))) - 1e3 * r.random()


@costs
def mostly_a_constant(r, n, m):
    cost = r.random((n, m))
    cost[r.random((n, m)) < 0.7] = 10.0 ** r.uniform(0, 30)
    return cost


@costs
def mostly_an_irrational_constant(r, n, m):
    cost = np.full((n, m), math.sqrt(2))
    cost[r.random((n, m)) < 0.2] = r.random()
    return cost


@costs
def forbidden_pairs(r, n, m):
    cost = r.integers(0, 9, (n, m)) / 7
    cost[r.random((n, m)) < 0.4] = np.inf
    return cost


@costs
def forbidden_pairs_and_decades(r, n, m):
    cost = 10.0 ** r.uniform(-9, 20, (n, m))
    cost[r.random((n, m)) < 0.3] = np.inf
    return cost


@costs
def sums_of_rows_and_columns(r, n, m):
    return r.standard_normal((n, 1)) + r.standard_normal((1, m))


@costs
def sums_and_rounding(r, n, m):
    return 10.0 ** r.uniform(0, 16) * (r.standard_normal((n, 1)) + r.standard_normal((1, m))) + r.random((n, m))


@costs
def huge_rows_of_costs(r, n, m):
    cost = r.random((n, m))
    cost[r.random(n) < 0.4] += 10.0 ** r.uniform(5, 25)
    return cost


@costs
def huge_columns_of_costs(r, n, m):
    cost = r.random((n, m))
    cost[:, r.random(m) < 0.4] += 10.0 ** r.uniform(5, 25)
    return cost


@costs
def large_whole_numbers(r, n, m):
    base = r.integers(0, 2**20, (n, 1)) + r.integers(0, 2**20, (1, m))
    return base * 2.0**31 + r.integers(0, 3, (n, m)) * 2.0**26 + r.integers(0, 2, (n, m)) * 0.25


@costs
def whole_numbers_that_differ_by_one(r, n, m):
    return 2.0**52 + r.integers(0, 3, (n, m))


@costs
def tiny_costs(r, n, m):
    return r.random((n, m)) * 10.0 ** -r.uniform(250, 320)


@costs
def tiny_costs_among_ordinary_ones(r, n, m):
    return r.random((n, m)) * 10.0 ** -r.uniform(0, 320, (n, m))


@costs
def huge_costs(r, n, m):
    return r.standard_normal((n, m)) * 10.0 ** r.uniform(100, 139)


@costs
def single_precision_costs(r, n, m):
    return (10.0 ** r.uniform(-30, 30, (n, m))).astype(np.float32)


@costs
def answers_of_cost_zero(r, n, m):
    cost = r.random((n, m)) - 0.3 * r.random()
    cost[np.arange(min(n, m)), r.permutation(m)[: min(n, m)]] = 0.0
    return cost


@costs
def squared_differences_of_large_numbers(r, n, m):
    a, b = r.random((n, 1)) * 1e8, r.random((1, m)) * 1e8
    return (a - b) ** 2


for kind_of_rows in (
    ordinary_rows,
    nearly_the_same_rows,
    nearly_one_row,
    one_outlier,
    orthonormal_rows,
    sparse_unit_rows,
    zero_rows,
    duplicates_within_rounding,
    points_on_a_line,
    nearly_tied_swaps,
):
    up_to_sign(kind_of_rows)
