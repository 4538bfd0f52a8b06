"""The loops over CSR edges against sets, sorting, and the formulas on whole arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saematch.assignment.edges import edges_of_pairs, least_of_rows, merge, missing_pairs, row_minima
from saematch.numeric.csr import transposed
from saematch.numeric.rounding import at_least


@st.composite
def graph_and_pairs(draw):
    """Draw the size of a graph, its edges in order, and pairs in any order, some of them several times."""
    shape = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    pairs = st.lists(st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1)), max_size=40)
    return shape, sorted(set(draw(pairs))), draw(pairs)


def arrays(pairs):
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return rows.copy(), columns.copy()


@given(graph_and_pairs())
def test_missing_pairs_are_merged_in_order(drawn):
    shape, edges, pairs = drawn
    rows, columns = arrays(edges)
    starts = np.searchsorted(rows, np.arange(shape[0] + 1))
    new_rows, new = missing_pairs(starts, columns.astype(np.int32), *arrays(pairs), shape[1])
    expected = sorted(set(pairs) - set(edges))
    assert list(zip(new_rows.tolist(), new.tolist(), strict=True)) == expected

    every = sorted({*edges, *expected})
    all_rows, all_columns = arrays(every)
    after = np.searchsorted(all_rows, np.arange(shape[0] + 1))
    value = {pair: float(n) for n, pair in enumerate([*edges, *expected])}
    old = columns.astype(np.int32), np.arange(len(edges), dtype=float), -np.arange(len(edges), dtype=float)
    added = np.arange(len(edges), len(every), dtype=float)
    merged = np.full(len(every), -1, dtype=np.int32), np.full(len(every), np.nan), np.full(len(every), np.nan)
    merge(starts, old, new_rows, (new.astype(np.int32), added, -added), after, merged)
    np.testing.assert_array_equal(merged[0], all_columns)
    np.testing.assert_array_equal(merged[1], [value[pair] for pair in every])
    np.testing.assert_array_equal(merged[2], [-value[pair] for pair in every])
    found = np.full(len(every), -1)
    edges_of_pairs(after, merged[0], all_rows, all_columns, found)
    np.testing.assert_array_equal(found, np.arange(len(every)))


@pytest.mark.parametrize("seed", range(10))
def test_transposed_edges_against_sorting(seed):
    r = np.random.default_rng(seed)
    n = int(r.integers(1, 12))
    rows, columns = np.nonzero(r.random((n, n)) < 0.4)
    costs = r.random(len(rows))
    starts = np.searchsorted(rows, np.arange(n + 1))
    first, of_columns, by_column = transposed(starts, columns.astype(np.int32), costs, n)
    order = np.lexsort((rows, columns))
    np.testing.assert_array_equal(first, np.searchsorted(columns[order], np.arange(n + 1)))
    np.testing.assert_array_equal(of_columns, rows[order])
    np.testing.assert_array_equal(by_column, costs[order])


@pytest.mark.parametrize("seed", range(40))
def test_row_minima_against_whole_arrays(seed):
    r = np.random.default_rng(seed)
    n, m = r.integers(1, 9, 2)
    dense = r.random((n, m)) < 0.5
    rows, columns = np.nonzero(dense)
    starts = np.searchsorted(rows, np.arange(n + 1))
    costs, prices = r.integers(-4, 5, len(rows)) / 3, r.integers(-4, 5, m) / 3
    errors, price_error, rounding = (size * r.integers(0, 2, k) for size, k in ((1e-15, len(rows)), (1e-15, m), (1, n)))
    permutation, potentials = r.integers(-1, m, n), r.integers(-4, 5, n) / 3
    minima, others = np.full((2, n), np.nan)
    undercut = row_minima(
        starts, columns.astype(np.int32), costs, errors, permutation, prices, price_error, potentials, rounding, 1e-15,
        minima, others,
    )  # fmt: skip
    reduced, error = costs - prices[columns], errors + price_error[columns]
    lower = np.where(permutation[rows] == columns, np.inf, at_least(reduced, error))
    below = potentials[rows] - reduced
    size = np.abs(costs) + np.abs(potentials)[rows] + np.abs(prices)[columns]
    below = below[below > error + rounding[rows] + 1e-15 * size]
    assert undercut == below.max(initial=0)
    for i in range(n):
        assert minima[i] == reduced[rows == i].min(initial=np.inf)
        assert others[i] == lower[rows == i].min(initial=np.inf)
    np.testing.assert_array_equal(least_of_rows(reduced, starts), minima)
