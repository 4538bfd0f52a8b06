"""Rows that are computed from stored weights are the float64 numbers that folding the weights gives, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import saematch as sm
from saematch.cost import DistanceCost
from saematch.cost.upload import copy_in_parts
from saematch.numeric.loops import centred_products, dots_and_squares, squared_differences
from saematch.numeric.rows import Rows, over_pairs
from saematch.sae.features import as_targets, direction_rows, feature_rows, folded_rows
from saes import made_up

CPU = torch.device("cpu")
WEIGHTS = {"encoder": 2.0, "bias": 0.3, "decoder": 1.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("parts", [["encoder", "bias", "decoder"], ["bias"], ["decoder", "encoder"]])
def test_every_number_is_rounded_as_python_rounds_it(dtype, parts):
    sae = made_up(F=40, d=9, seed=1).to(dtype)
    scale = sae.scale("threshold", torch.float64).tolist()
    unfolded = {"encoder": sae.W_enc.T.tolist(), "bias": sae.b_enc[:, None].tolist(), "decoder": sae.W_dec.tolist()}
    expected = [
        [
            (value * scale[i] if part == "decoder" else value / scale[i]) * WEIGHTS[part] ** 0.5
            for part in ("encoder", "bias", "decoder")
            if part in parts
            for value in unfolded[part][i]
        ]
        for i in range(sae.F)
    ]
    rows = folded_rows(sae, parts, {part: WEIGHTS[part] for part in parts})
    assert rows.values.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert rows.float64().tolist() == expected
    assert rows.float64(np.array([7, 0, 7])).tolist() == [expected[7], expected[0], expected[7]]
    assert feature_rows(sae, parts, {part: WEIGHTS[part] for part in parts}).tolist() == expected


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_costs_have_the_bits_of_float64_rows(backend):
    """Listed pairs, constants, and values in twice the precision."""
    x, y = (folded_rows(made_up(F=size, d=33, seed=seed), weights=WEIGHTS) for size, seed in ((50, 3), (40, 4)))
    r = np.random.default_rng(0)
    pairs = np.sort(r.integers(0, 50, 200)), r.integers(0, 40, 200)
    stored = DistanceCost(x, y, CPU, backend=backend)
    plain = DistanceCost(x.float64(), y.float64(), CPU, backend=backend)
    for name in ("row_constant", "column_constant", "random_total", "largest_cost", "scale"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(plain, name))
    np.testing.assert_array_equal(stored.pair_cost(*pairs), plain.pair_cost(*pairs))
    # Products add up each part of the rows by itself.
    error = 2 * stored.exact_error(*pairs, np.zeros(40))
    assert (np.abs(stored.exact(*pairs) - plain.exact(*pairs)) <= error).all()
    np.testing.assert_array_equal(stored.block(*pairs), plain.block(*pairs))
    duals = r.standard_normal((2, 50)), r.standard_normal((1, 40))
    for found, expected in zip(stored.less(*pairs, *duals), plain.less(*pairs, *duals), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_sums_over_some_columns():
    rows = np.random.default_rng(0).standard_normal((2, 6, 11))
    x, y = (Rows.of(matrix) for matrix in rows)
    pairs = np.arange(6), np.arange(6)[::-1].copy()
    a, b = rows[0][pairs[0], 2:7], rows[1][pairs[1], 2:7]
    (squares,) = over_pairs(squared_differences, x, y, *pairs, 2, 7, -1.0)
    np.testing.assert_allclose(squares, ((a + b) ** 2).sum(axis=1), rtol=1e-13)
    found = over_pairs(dots_and_squares, x, y, *pairs, 2, 7, results=3)
    np.testing.assert_allclose(found, [(a * b).sum(1), (a**2).sum(1), (b**2).sum(1)], rtol=1e-12, atol=1e-14)


def test_sums_do_not_depend_on_the_number_of_threads():
    x = np.random.default_rng(0).standard_normal((5000, 60))
    x[3] *= 1e6  # an outlier, which the centre leaves out
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            rows = Rows.of(x)
            found.append([rows.square, rows.column_sums(rows.square < 1e6), rows.column_sums(rows.square >= 0)])
        finally:
            torch.set_num_threads(2)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(found[0][1], np.delete(x, 3, axis=0).sum(axis=0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e-30, 1.0, 1e250])
def test_directions_of_rows_of_any_size(size):
    """Squared distances of directions are 1 minus the mean cosine, also where squares of entries leave float64."""
    rows = np.array([[3.0, 4.0, 1.0], [4.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    x = direction_rows(Rows.of(rows * size), [2, 1], [1.0, 3.0])
    y = as_targets(direction_rows(Rows.of(rows), [2, 1], [1.0, 3.0]))
    a, b = x.float64(), y.float64()
    distances = ((a[:, None] - b) ** 2).sum(axis=2)
    cosines = np.array([[1.0, 0.96, 0.0], [0.96, 1.0, 0.0], [0.0, 0.0, 0.0]]) / 4
    cosines += np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]) * 0.75
    np.testing.assert_allclose(distances, 1 - cosines, atol=1e-15)


def test_a_matching_keeps_no_float64_copy_of_the_weights():
    """The memory of a match is below that of float64 rows, of which there would be two."""
    a, b = (made_up(F=3000, d=100, seed=seed).to(torch.float32) for seed in (0, 1))
    made: list[int] = []
    before = np.empty

    def watched(shape, *given, **options):
        array = before(shape, *given, **options)
        made.append(array.nbytes)
        return array

    sm.match(a, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", watched)
        assert sm.match(a, b).certified
    assert made, "arrays of rows are made by np.empty"
    assert max(made) < 8 * 3000 * 201


@pytest.mark.parametrize("size", [1, 7, 20, 21, 1000])
def test_weights_are_copied_in_parts(size):
    """The copy through two buffers, which a GPU reads, takes place on the CPU here; `bench/gpu.py` checks it on one."""
    source = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 7), dtype=np.float32))
    target = torch.zeros_like(source)
    copy_in_parts(source, target, size)
    assert torch.equal(source, target)


def test_products_keep_the_rounding_of_folded_entries():
    """A centre that is a folded row, as float64 rounds it, leaves nothing of that row."""
    r = np.random.default_rng(0)
    scales, factors = r.random((2, 20)) + 0.3, np.array([1.0, 0.7])
    values = r.standard_normal((20, 33), dtype=np.float32)
    y = Rows(values, np.array([20, 33]), np.array([False, True]), scales, factors)
    every = np.arange(33)
    for j, centre in enumerate(y.float64()):
        column = np.full(33, j)
        (found,) = over_pairs(centred_products, Rows.of(np.eye(33)), y, every, column, np.zeros(33), centre)
        np.testing.assert_array_equal(found, np.zeros(33))
