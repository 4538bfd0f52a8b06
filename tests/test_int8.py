"""The int8 filter: its theorem in exact arithmetic, and answers that do not depend on it."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import saematch as sm
from contracts import assert_proved_optimal
from problems import nasty, noisy_copy
from saematch.assignment import column_generation
from saematch.cost import DistanceCost
from saematch.cost.gpu import stored_rows
from saematch.cost.products import MOST_INT32, Int8Products, int8_obstacle, integer_products
from saematch.cost.quantised import quantised
from saematch.cost.sides import make_sides
from saematch.cost.transform import BLOCK, Transform
from saematch.cost.walks import DeviceWalks, HostWalks
from saematch.numeric.rows import Rows

CPU = torch.device("cpu")
R = np.random.default_rng
needs_int8 = pytest.mark.skipif(int8_obstacle() is not None, reason=f"no int8 products: {int8_obstacle()}")


def sides_of(x, y):
    return make_sides((HostWalks(Rows.of(x)), HostWalks(Rows.of(y))))


def resisting(width):
    """Return the row that the transform turns into a single entry: the residual of a sum with it is largest."""
    order, signs = Transform.of(width)
    row = np.zeros(order.shape[1])
    row[5] = 1.0
    for turn in (1, 0):
        mixed = row.reshape(BLOCK, -1)
        for half in (1, 2, 4, 8, 16, 32):  # a Hadamard matrix is its own inverse, but for a factor
            pairs = mixed.reshape(-1, 2, half, mixed.shape[1])
            mixed = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(BLOCK, -1)
        row = np.zeros_like(row)
        row[order[turn]] = mixed.ravel() * signs[turn]
    return row[:width] / BLOCK


def adversarial(width=70):
    """Return name -> rows that are hard to quantise, for a width that is a multiple of no power of two."""
    x = R(0).standard_normal((24, width))
    spikes, spikes[:, ::3] = x * 1e-9, R(1).standard_normal((24, len(range(0, width, 3))))
    one_spike = np.eye(24, width) + 1e-7 * x
    outlier = x.copy()
    outlier[3] *= 1e6
    against = 1e-3 * x + np.outer(R(2).choice([-1.0, 1.0], 24), resisting(width))
    return {
        "ordinary": x,
        "one spike a row": one_spike,
        "spikes": spikes,
        "one outlier": outlier,
        "all equal": np.ones((24, width)),
        "alternating": np.where(np.arange(width) % 2 == 0, 1.0, -1.0) * (1 + x),
        "against the transform": against,
        "denormal": x * 1e-310,
        "largest": np.sign(x) * 1e150,
        "zero": np.zeros((24, width)),
        "mixed sizes": x * 10.0 ** R(3).integers(-12, 12, (24, 1)),
    }


def exact_products(cost):
    """Return M of all pairs as fractions: -2 scale <x_i - a, y_j - b>."""
    x, y = cost._x, cost._y
    left, right = (
        [[Fraction(v) - Fraction(c) for v, c in zip(row, s.centre, strict=True)] for row in s.rows.float64().tolist()]
        for s in (x, y)
    )
    factor = -2 * Fraction(cost.scale)
    return [[factor * sum(a * b for a, b in zip(one, two, strict=True)) for two in right] for one in left]


@needs_int8
@pytest.mark.parametrize("name", adversarial())
def test_no_value_is_further_from_the_truth_than_the_theorem_says(name):
    """The values of all pairs are within a_i + b_j of the exact product, in exact arithmetic."""
    x, y = adversarial()[name], adversarial()["ordinary"][::-1].copy()
    for source, target in ((x, y), (y, x), (x, -x)):
        cost = DistanceCost(source, target, CPU, precision="int8", tile=(7, 11))
        a, b = cost._pads()
        every = np.arange(24)
        truth = exact_products(cost)
        for tile in cost.passes.make_tiles(every, every):
            for i, row in zip(every[tile.rows], tile.values, strict=True):
                for j, value in zip(every[tile.columns], row, strict=True):
                    assert abs(Fraction(float(value)) - truth[i][j]) <= Fraction(a[i]) + Fraction(b[j])


@needs_int8
@pytest.mark.parametrize("name", adversarial())
def test_no_pair_below_its_bound_is_missed(name):
    x, y = adversarial()[name], adversarial()["against the transform"][::-1].copy()
    cost = DistanceCost(x, y, CPU, precision="int8", tile=(16, 8))
    truth = exact_products(cost)
    prices = np.array([float(min(row[j] for row in truth)) for j in range(24)]) * R(4).uniform(0, 2, 24)
    scan = cost.scan(np.arange(24), prices, np.zeros(24), np.zeros(24), 3, np.inf)
    for i, listed in enumerate(scan.row_partners):
        left_out = set(range(24)) - set(listed.tolist())
        assert min(truth[i][j] - Fraction(prices[j]) for j in left_out) >= Fraction(scan.floors[i, -1])
    for j, listed in enumerate(scan.column_partners):
        left_out = set(range(24)) - set(listed.tolist())
        assert min(truth[i][j] - Fraction(prices[j]) for i in left_out) >= Fraction(scan.column_floors[j, -1])


@needs_int8
def test_a_transform_flattens_rows_and_changes_no_norm():
    x = np.zeros((3, 1153))
    x[0, 7], x[1, :40], x[2] = 1.0, 1.0, R(0).standard_normal(1153)
    side, _ = sides_of(x, x)
    rows = quantised(side, -2.0)
    norm = np.linalg.norm(rows.values.numpy() * rows.scale[:, None].astype(float), axis=1)
    true = 2 * side.scale * np.linalg.norm(x - side.centre, axis=1)
    assert rows.values.shape == (3, 1216)
    assert (np.abs(norm - true) <= rows.residual).all()
    assert rows.largest_residual < 0.015


def test_a_row_against_the_transform_has_a_large_residual():
    """The row that the tests above rely on is as bad as they say."""
    x = np.zeros((40, 1152))
    x[0] = resisting(1152)
    rows = quantised(sides_of(x, x)[0], 1.0)
    largest = np.abs(rows.values.numpy()[0]) * rows.scale[0]
    assert largest.max() > 0.9 * np.linalg.norm(largest)
    x[0] += 1e-3 * R(0).standard_normal(1152)
    assert quantised(sides_of(x, x)[0], 1.0).largest_residual > 0.03


@needs_int8
def test_integer_products_are_exact_at_the_extremes():
    for width in (64, 4672, MOST_INT32, MOST_INT32 + 64, 2 * MOST_INT32 + 64):
        x = torch.full((3, width), 127, dtype=torch.int8)
        y = torch.stack([x[0], -x[0], torch.from_numpy(R(0).integers(-127, 128, width).astype(np.int8))])
        truth = x.numpy().astype(np.int64) @ y.numpy().astype(np.int64).T
        assert (integer_products(x, y).numpy() == truth).all()
        assert truth[0, 0] == 127**2 * width


@needs_int8
def test_values_are_rounded_from_exact_sums_in_a_fixed_order():
    """Each value is fl(fl(fl(sum) t_j) s_i), so that every device can make the same bits."""
    x, y = R(0).standard_normal((2, 40, 100))
    sides = sides_of(x, y)
    products, (left, right) = Int8Products(sides, (16, 8)), (quantised(sides[0], -2.0), quantised(sides[1], 1.0))
    sums = (left.values.numpy().astype(np.int64) @ right.values.numpy().astype(np.int64).T).astype(np.float32)
    some = np.array([0, 3, 17, 39])
    for tile in products.make_tiles(np.arange(40), some):
        wanted = (sums[tile.rows, some[tile.columns]] * right.scale[some[tile.columns]]) * left.scale[tile.rows, None]
        np.testing.assert_array_equal(tile.values, wanted)


@pytest.mark.parametrize("name", adversarial())
def test_a_gpu_makes_the_whole_numbers_that_the_processor_makes(name, monkeypatch):
    """The walks of a GPU, which torch can take on a CPU as well, in several parts."""
    monkeypatch.setattr("saematch.cost.walks._ENTRIES", 70 * 5)
    x, y = (Rows.of(rows) for rows in (adversarial()[name], adversarial()["ordinary"] + 0.3))
    host = HostWalks(x), HostWalks(y)
    device = tuple(DeviceWalks(walks.rows, stored_rows(walks, CPU)) for walks in host)
    for ours, theirs, later in zip(
        make_sides(host, whole=True), make_sides(device, whole=True), make_sides(host), strict=True
    ):
        far = ours.largest_distance + np.sqrt(ours.from_other.max())
        for field, size in (("distance", far), ("toward_other", far**2), ("from_other", far**2), ("sum_", 24 * far)):
            np.testing.assert_allclose(getattr(theirs, field), getattr(ours, field), rtol=0, atol=1e-14 * size)
        assert theirs.scale == ours.scale
        of_host = ours.whole()
        for other, rtol in ((theirs.whole(), 1e-5), (theirs.whole(), 1e-5), (later.whole(), 0)):
            np.testing.assert_array_equal(other.values.numpy(), of_host.values.numpy())
            np.testing.assert_array_equal(other.unit, of_host.unit)
            np.testing.assert_array_equal(other.scale, of_host.scale)
            np.testing.assert_allclose(other.square, of_host.square, rtol=rtol)
        np.testing.assert_array_equal(
            theirs.walks.float32(ours.centre, ours.scale).numpy(), ours.working_copy(1.0).numpy()
        )


def long_transform(rows, width):
    """Transform rows in extended precision, whose rounding is far below that of float32."""
    order, signs = Transform.of(width)
    padded = np.zeros((len(rows), order.shape[1]), dtype=np.longdouble)
    padded[:, :width] = rows
    for places, sign in zip(order, signs, strict=True):
        mixed = (padded[:, places] * sign).reshape(len(rows), BLOCK, -1)
        for half in (1, 2, 4, 8, 16, 32):
            pairs = mixed.reshape(len(rows), -1, 2, half, mixed.shape[2])
            mixed = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
            mixed = mixed.reshape(len(rows), BLOCK, -1)
        padded = mixed.reshape(len(rows), -1) / 8
    return padded


@pytest.mark.parametrize("width", [1, 64, 65, 4609])
def test_residuals_are_bounds_and_close(width):
    """Rows are transformed in float32. The bound covers that, and is above the residual by little."""
    r = R(width)
    x = r.standard_normal((16, width))
    spikes = x * 1e-9
    spikes[:, r.integers(width)] = 1.0
    mixed, offset = x * 10.0 ** r.integers(-30, 30, (16, 1)), x + 1e8
    for rows in (x, spikes, mixed, offset, x * 1e-100, x / np.arange(1, width + 1)):
        for side in sides_of(rows, rows[::-1].copy()):
            found = quantised(side, -2.0)
            centred = (side.rows.float64().astype(np.longdouble) - side.centre) * side.scale * -2
            true = long_transform(centred, width)
            left = true - found.scale[:, None].astype(np.longdouble) * found.values.numpy()
            residual, norm = np.sqrt((left**2).sum(axis=1)), np.sqrt((true**2).sum(axis=1))
            assert (residual <= found.residual).all()
            assert (norm <= found.norm).all()
            assert (found.residual - residual <= 4e-6 * norm)[~found.is_zero].all()


@needs_int8
@pytest.mark.parametrize("name", adversarial())
def test_the_kernel_lists_the_pairs_that_the_processor_lists(name, monkeypatch):
    """Both compare the same bits, so that lists and floors are the same, for all pairs and for some."""
    monkeypatch.setattr("saematch.cost.gpu.ROW_BLOCK_BYTES", 4 * 24 * 7)
    x, y = adversarial()[name], adversarial()["against the transform"][::-1].copy()
    for rows, columns in ((np.arange(24), np.arange(24)), (np.array([2, 3, 11, 23]), np.arange(1, 24, 2))):
        scans = []
        for backend in ("torch", "triton"):
            cost = DistanceCost(x, y, CPU, precision="int8", backend=backend, tile=(16, 8))
            prices, potentials = cost.by_cost()
            scans.append(cost.scan(rows, prices, np.zeros(24), potentials, 3, np.inf, columns))
        for field in ("row_partners", "column_partners", "floors", "column_floors"):
            np.testing.assert_array_equal(*(getattr(scan, field) for scan in scans), err_msg=field)


@needs_int8
@pytest.mark.through_passes
@pytest.mark.parametrize("name", nasty())
def test_answers_do_not_depend_on_the_filter(name):
    x, y = nasty()[name]
    by_int8, by_float32 = (sm.assign(x, y, precision=precision) for precision in ("int8", "float32"))
    assert_proved_optimal(by_int8, x, y)
    assert by_int8.cost == pytest.approx(by_float32.cost, rel=1e-12)
    assert by_int8.certified == by_float32.certified


@needs_int8
@pytest.mark.through_passes
def test_rows_that_resist_the_transform_are_matched_all_the_same():
    x, y, _ = noisy_copy(300, 1152, 0.4)
    x[::70] += 60 * resisting(1152)
    y[::50] -= 60 * resisting(1152)
    found = sm.assign(x, y, precision="int8")
    assert found.stats["largest_residual"] > 0.05
    assert_proved_optimal(found, x, y)


@needs_int8
@pytest.mark.through_passes
def test_stats_say_what_the_proof_rests_on():
    x, y, _ = noisy_copy(600, 96, 0.5)
    stats = sm.assign(x, y).stats
    assert stats["precision"] == "int8"
    assert 0.003 < stats["largest_residual"] < 0.02
    assert len(x) * column_generation.LISTED <= stats["exact_pairs"] < 600**2 / 2
    assert 1 < stats["products"] < 4
    assert sm.assign(x, y, precision="float32").stats["largest_residual"] == 2.0**-24


@pytest.mark.parametrize("seed", range(20))
def test_pairs_that_a_later_pass_leaves_out_are_above_their_bound(seed):
    """After any change of the prices, all pairs that are not to be looked at are at or above the new floors."""
    r = R(seed)
    x, y = r.standard_normal((2, 50, 6))
    cost = DistanceCost(x, y, CPU)
    unmatched = cost.unmatched(np.inf, np.inf)
    values = cost.block(np.arange(50), np.arange(50))
    prices = r.standard_normal(50)
    others = column_generation._Others((values - prices).min(axis=1), prices)
    for _ in range(4):
        moved = others.prices + r.standard_normal(50) * 10.0 ** r.integers(-3, 1) * (r.random(50) < r.random())
        wanted = np.quantile(values - moved, 0.02, axis=1)
        looks = others.follow(unmatched, moved, wanted)
        left_out = values - moved
        for rows, columns in looks:
            left_out[np.ix_(rows, columns)] = np.inf
        assert (left_out.min(axis=1) >= others.floors - 1e-12).all()
        settled = np.setdiff1d(np.arange(50), np.concatenate([rows for rows, _ in looks]))
        assert (others.floors[settled] >= wanted[settled]).all()
        others.floors = (values - moved).min(axis=1)


@needs_int8
@pytest.mark.through_passes
@pytest.mark.parametrize("dead", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_dead_features_do_not_widen_the_bounds_of_others(dead, value):
    """Many rows that are 0, or that all equal the centre, leave few pairs of the other rows to float64."""
    x, y, _ = noisy_copy(600, 64, 0.5)
    x, y = 1e6 * x, 1e6 * y
    for rows, seed in ((x, 1), (y, 2)):
        rows[R(seed).random(600) < dead] = value
    found = sm.assign(x, y)
    assert_proved_optimal(found, x, y)
    assert found.stats["largest_residual"] < 0.03
    assert found.stats["rounds"] < 10
    assert found.stats["products"] < 12


@needs_int8
@pytest.mark.through_passes
@pytest.mark.parametrize("spread", [0.1, 0.01])
def test_rows_in_narrow_groups_are_matched_by_float32_passes(spread):
    """Within a group, costs differ less than int8 products can tell: float32 takes over, and margins rank rightly."""
    r = R(0)
    groups = r.standard_normal((2, 64))
    x, y = (groups[r.integers(0, 2, 400)] + spread * r.standard_normal((400, 64)) for _ in range(2))
    by_int8, by_float32 = (sm.assign(x, y, precision=precision) for precision in ("int8", "float32"))
    assert_proved_optimal(by_int8, x, y)
    assert by_int8.stats["rounds"] <= by_float32.stats["rounds"] + 6
    assert by_int8.stats["precision"] == "float32"
    if spread > 0.01:
        assert not by_int8.margins().tied.any()
