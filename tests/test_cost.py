import numpy as np
import pytest
import torch

from contracts import costs_of_all_pairs
from problems import nasty
from saematch.cost import DistanceCost, MatrixCost
from saematch.cost.products import float32_product

CPU = torch.device("cpu")


def reduced_in_extended_precision(cost, x, y):
    """Return the reduced costs of all pairs, computed from the rows in 80-bit floats if the platform has them."""
    x, y = np.asarray(x, dtype=np.longdouble), np.asarray(y, dtype=np.longdouble)
    return -2 * cost.scale * (x - cost._x.centre) @ (y - cost._y.centre).T


@pytest.mark.parametrize("name", nasty())
def test_exact_values_are_within_their_stated_error(name):
    x, y = nasty()[name]
    cost = DistanceCost(x, y, CPU)
    rows, columns = (index.ravel() for index in np.indices(cost.shape))
    truth = reduced_in_extended_precision(cost, x, y).ravel()
    assert (np.abs(cost.exact(rows, columns) - truth) <= cost.exact_error(rows, columns, np.zeros(len(y)))).all()


def built_to_be_bad(n, width):
    """Return rows whose float32 products have the largest rounding: the signs agree, so every rounding adds up."""
    r = np.random.default_rng(0)
    ulp_up = 1 + (r.random((n, width)) * 0.4 + 0.3) * 2.0**-23
    sizes = 2.0 ** r.integers(-12, 13, (n, 1))
    return sizes * ulp_up * (1 + r.random((n, width)))


@pytest.mark.parametrize("width", [1, 7, 64, 1153])
def test_float32_filter_never_hides_a_pair(width):
    """Bounds stay below the true reduced cost of every unlisted pair, for rows that are built to round badly."""
    x, y = built_to_be_bad(90, width), built_to_be_bad(70, width)[::-1].copy()
    y[::3] *= -1
    cost = DistanceCost(x, y, CPU, tile=(32, 16))
    truth = reduced_in_extended_precision(cost, x, y)
    prices = np.asarray(truth.mean(axis=0), dtype=np.float64) * np.random.default_rng(1).uniform(-3, 3, len(y))
    reduced = truth - prices
    for k, quantile in ((1, 0.5), (3, 0.2), (8, 0.05)):
        potentials = np.asarray(np.quantile(reduced, quantile, axis=1), dtype=np.float64)
        scan = cost.scan(np.arange(len(x)), prices, np.zeros(len(y)), potentials, k)
        for i, listed in enumerate(scan.row_partners):
            for n in range(k):
                left_out = np.delete(reduced[i], listed[:n][listed[:n] >= 0])
                assert left_out.min(initial=np.inf) >= scan.floors[i, n]
        for j, listed in enumerate(scan.column_partners):
            for n in range(k):
                others = np.delete(reduced[:, j] - potentials, listed[:n][listed[:n] >= 0])
                assert others.min(initial=np.inf) >= scan.column_floors[j, n]
        left_out = reduced.copy()
        left_out[scan.pairs()] = np.inf
        assert (left_out.min(axis=1) >= scan.floors[:, -1]).all()
        assert ((left_out - potentials[:, None]).min(axis=0) >= scan.column_floors[:, -1]).all()


def test_filter_is_not_needlessly_wide():
    """The bound is not much larger than the rounding it covers: a few hundred times at this width, not millions."""
    x, y = np.random.default_rng(0).standard_normal((2, 200, 1153))
    cost = DistanceCost(x, y, CPU)
    truth = np.asarray(reduced_in_extended_precision(cost, x, y), dtype=np.float64)
    scan = cost.scan(np.arange(200), np.zeros(200), np.zeros(200), truth.min(axis=1), 1)
    pad = truth.min(axis=1) - scan.floors[:, 0]
    assert (pad < 1e-3 * np.abs(truth).max()).all()


def test_lists_are_the_cheapest_and_do_not_depend_on_tiles():
    r = np.random.default_rng(0)
    x, y = r.integers(-3, 4, (50, 6)).astype(float), r.integers(-3, 4, (40, 6)).astype(float)
    lists = []
    for tile in ((64, 64), (1, 64), (7, 5)):
        cost = DistanceCost(x, y, CPU, tile=tile)
        truth = cost.exact(*(index.ravel() for index in np.indices(cost.shape))).reshape(cost.shape)
        scan = cost.scan(np.arange(50), np.zeros(40), np.zeros(40), np.zeros(50), 4, np.inf)
        best = np.sort(truth, axis=1)[:, :4]
        np.testing.assert_array_equal(truth[np.arange(50)[:, None], scan.row_partners], best)
        best = np.sort(truth, axis=0)[:4].T
        listed = truth[scan.column_partners, np.arange(40)[:, None]]
        np.testing.assert_allclose(listed, best, rtol=1e-14)  # equal costs may differ in their last bit, and in order
        lists.append(scan.row_partners)
    np.testing.assert_array_equal(lists[0], lists[1])


def test_row_minima_are_proved_from_below():
    x, y = np.random.default_rng(0).standard_normal((2, 90, 33))
    cost = DistanceCost(x, y, CPU, tile=(16, 32))
    prices = np.random.default_rng(1).standard_normal(90) * 0.01
    rows = np.array([0, 7, 89])
    at, low = cost.row_minima(rows, prices, np.zeros(90))
    reduced = (reduced_in_extended_precision(cost, x, y) - prices)[rows]
    np.testing.assert_array_equal(at, reduced.argmin(axis=1))
    assert (low <= reduced.min(axis=1)).all()
    assert (reduced.min(axis=1) - low <= 1e-12).all()


def test_product_is_ieee_float32_whatever_the_host_program_asked_for():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((256, 1153)).astype(np.float32))
    before = torch.get_float32_matmul_precision()
    truth = (x.double() @ x.double().T).numpy()
    bound = 1153 * 2.0**-24 * (x.double().abs() @ x.double().abs().T).numpy()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = torch.empty(256, 256)
            float32_product(x, x, product)
    finally:
        torch.set_float32_matmul_precision(before)
    assert product.dtype == torch.float32
    assert (np.abs(product.numpy() - truth) <= bound).all()
    assert np.abs(product.numpy() - truth).max() < 1e-4 * np.abs(truth).max()


@pytest.mark.parametrize("name", ["ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"])
def test_product_is_made_in_float64_where_onednn_may_round_more(name, monkeypatch):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 300)).astype(np.float32))
    product, strict = torch.empty(64, 64), torch.empty(64, 64)
    monkeypatch.setenv(name, "strict")
    float32_product(x, x, strict)
    monkeypatch.setenv(name, "BF16")
    float32_product(x, x, product)
    assert torch.equal(product, (x.double() @ x.double().T).float())
    assert not torch.equal(product, strict)


@pytest.mark.parametrize("name", nasty())
def test_constants_complete_the_cost(name):
    """p_i + q_j + M_ij / scale is the squared distance, within the stated errors of unmatched costs."""
    x, y = nasty()[name]
    cost = DistanceCost(x, y, CPU)
    rows, columns = (index.ravel() for index in np.indices(cost.shape))
    unmatched = cost.unmatched(0.0, 0.0)
    long = [np.asarray(side, dtype=np.longdouble)[index] for side, index in ((x, rows), (y, columns))]
    truth = ((long[0] - long[1]) ** 2).sum(axis=1)
    reduced = reduced_in_extended_precision(cost, x, y).ravel()
    error = unmatched.row_error[rows] + unmatched.column_error[columns]
    assert (np.abs(reduced - unmatched.rows[rows] - unmatched.columns[columns] - truth * cost.scale) <= error).all()


def forms(x, y):
    """Return equal costs from rows, and from a matrix in both orders."""
    costs = costs_of_all_pairs(x, y)
    return {
        "rows": DistanceCost(x, y, CPU, tile=(16, 32)),
        "matrix": MatrixCost(costs, tile=(16, 32)),
        "transposed matrix": MatrixCost(np.asfortranarray(costs)),
    }


def test_all_forms_answer_alike():
    x, y = np.random.default_rng(0).standard_normal((2, 70, 9))
    costs, every = costs_of_all_pairs(x, y), np.arange(70)
    for name, cost in forms(x, y).items():
        p, q = cost.row_constant, cost.column_constant
        whole = cost.exact(*(index.ravel() for index in np.indices(cost.shape))).reshape(cost.shape)
        np.testing.assert_allclose(whole / cost.scale + p[:, None] + q, costs, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(cost.block(every, every), whole, atol=1e-12)
        scan = cost.scan(every, -q * cost.scale, np.zeros(70), -p * cost.scale, 5, np.inf)
        np.testing.assert_array_equal(scan.row_partners, np.argsort(costs, axis=1)[:, :5], err_msg=name)
        np.testing.assert_array_equal(scan.column_partners, np.argsort(costs, axis=0)[:5].T, err_msg=name)
        # Some rows and columns only.
        rows, columns = np.array([3, 40, 69]), np.arange(1, 70, 2)
        some = cost.scan(rows, -q * cost.scale, np.zeros(70), -p * cost.scale, 2, np.inf, columns)
        among = costs[np.ix_(rows, columns)]
        np.testing.assert_array_equal(some.row_partners, columns[np.argsort(among, axis=1)[:, :2]], err_msg=name)
        np.testing.assert_array_equal(some.column_partners, rows[np.argsort(among, axis=0)[:2].T], err_msg=name)
        assert cost.looked_at == 70 * 70 + 3 * 35


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_float32_filter_never_hides_an_entry_of_a_matrix(offset):
    r = np.random.default_rng(0)
    costs = r.standard_normal((40, 50)) * np.exp(4 * r.standard_normal((40, 1))) + offset * r.standard_normal((1, 50))
    costs[r.random((40, 50)) < 0.2] = np.inf
    cost = MatrixCost(costs, tile=(16, 32))
    exact = np.asarray(costs, dtype=np.longdouble)
    reduced = (exact - cost.row_constant[:, None] - cost.column_constant) * cost.scale
    finite = np.isfinite(costs)
    rows, columns = np.nonzero(finite)
    error = cost.exact_error(rows, columns, np.zeros(50))
    assert (np.abs(cost.exact(rows, columns) - reduced[rows, columns]) <= error).all()
    prices, potentials = 0.1 * r.standard_normal(50), 0.1 * r.standard_normal(40)
    scan = cost.scan(np.arange(40), prices, np.zeros(50), potentials, 6, np.inf)
    rest = reduced - prices
    rest[scan.pairs()] = np.inf
    assert (rest.min(axis=1) >= scan.floors[:, -1]).all()
    assert ((rest - potentials[:, None]).min(axis=0) >= scan.column_floors[:, -1]).all()
